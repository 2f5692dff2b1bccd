"""What the names of folders and files tell: splits, what systems leave behind, and how names are shown."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

SPLIT_NAMES = {
    "train": ("train", "trains", "training", "trn"),
    "val": ("val", "vals", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "tests", "testing", "tst"),
}
# What stands around these: Train Set, train-images, train2017.
AROUND = re.compile(r"[\W\d_]+|(?<=[a-z])(set|split|data|dataset|folder|images?|imgs?|pictures|pics)$")
# What systems and tools leave in folders; names that begin with a dot are hidden anyway.
CLUTTER = frozenset(
    {
        *(
            "@eadir",
            "@recycle",
            "@tmp",
            "@__thumb",
            "#recycle",
            "#snapshot",
            "$recycle.bin",
            "system volume information",
        ),
        *("__macosx", "_macosx", "__pycache__", "lost+found", "thumbs.db", "desktop.ini"),
    }
)
# A class may be called so; a folder inside of one holds other copies of its images.
CLUTTER_INSIDE = frozenset(
    {"checkpoint", "checkpoints", "ckpt", "ckpts", "ipynb_checkpoints", "thumbs", "thumbnails"}
)
MARKS_INSIDE = ("@", "#", "$", "~")
CONTROL = re.compile("[\\x00-\\x1f\\x7f]")
ESCAPED = re.compile(rb"\\x([0189a-f][0-9a-f]|7f)")
MOST_NAMED = 4


def plain(name: str) -> str:
    """A folder's name without what stands around the words for splits."""
    return AROUND.sub("", AROUND.sub("", name.casefold()))


def is_clutter(name: str) -> bool:
    """Whether a file or folder is hidden or a system's."""
    return name.startswith(".") or name.casefold() in CLUTTER


def is_clutter_inside(name: str) -> bool:
    """Whether a folder in a class folder holds none of its images."""
    return is_clutter(name) or name.startswith(MARKS_INSIDE) or name.casefold() in CLUTTER_INSIDE


def alike(classes: Sequence[str]) -> tuple[str, ...]:
    """A note where names of classes differ in nothing that a reader sees as a difference."""
    same: dict[str, list[str]] = {}
    for name in classes:
        same.setdefault(unicodedata.normalize("NFKC", name).strip().casefold(), []).append(name)
    several = [names for names in same.values() if len(names) > 1]
    if not several:
        return ()
    pairs = "; ".join(" and ".join(map(ascii, names)) for names in several[:MOST_NAMED])
    return (f"Classes whose names are nearly the same count as different ones: {pairs}.",)


def quoted(names: Sequence[str]) -> str:
    """The first of these names, in quotes."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(f"'{shown(name)}'" for name in names[:MOST_NAMED]) + more


def shown(path: str | Path) -> str:
    """A path as it can be printed and stored: control characters and bytes that are not UTF-8 are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def as_on_disk(text: str) -> str:
    """The path that is `shown` so."""
    return os.fsdecode(ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), os.fsencode(text)))

"""Image files in class folders: to which split each belongs, what names tell, how they are shown."""

import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from nas.artifacts import open_regular
from nas.images.decoding import Scale, UnreadableError, image_of
from nas.images.seeds import mixed_seed
from search_spaces.errors import UsageError

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


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image: its path, the same from the root on with forward slashes, the class and the bytes."""

    path: Path
    relative: str
    label: int
    size: int

    @property
    def place(self) -> str:
        """Where it is, in words for a user."""
        return f"'{shown(self.path)}'"


@dataclass(frozen=True, slots=True)
class Row(ImageFile):
    """An image that is one of several in a file or folder: the one with this number.

    group: of which part of the data set its number is.
    """

    number: int
    group: str = ""

    @property
    def place(self) -> str:
        where = f"'{self.group}' of '{shown(self.path)}'" if self.group else f"'{shown(self.path)}'"
        return f"{self.number} of {where}"


def split(
    groups: Mapping[str, Sequence[ImageFile]],
    called: Callable[[ImageFile], str],
    *,
    seed: int,
    search: float,
    report: float,
) -> dict[str, list[ImageFile]]:
    """Divides each class at random into train, search and report; a `val` group into the last two only.

    called: an image's class, in words.
    search, report: their shares of all images; of a `val` group they divide the whole in proportion.
    Raises UsageError when a class has too few images to be in every split.
    """
    if "train" in groups:
        shares, rest, divided = {"search": search / (search + report)}, "report", groups["val"]
    else:
        shares, rest, divided = {"search": search, "report": report}, "train", groups["all"]
    parts = _by_shares(divided, called, seed, shares, rest=rest)
    return {"train": list(groups["train"])} | parts if "train" in groups else parts


def _by_shares(
    images: Sequence[ImageFile],
    called: Callable[[ImageFile], str],
    seed: int,
    shares: dict[str, float],
    *,
    rest: str,
) -> dict[str, list[ImageFile]]:
    parts: dict[str, list[ImageFile]] = {name: [] for name in (*shares, rest)}
    classes: dict[int, list[ImageFile]] = {}
    for image in images:
        classes.setdefault(image.label, []).append(image)
    for label, members in classes.items():
        counts = {name: max(1, round(share * len(members))) for name, share in shares.items()}
        if sum(counts.values()) >= len(members):
            raise UsageError(
                f"The {len(members)} images of {called(members[0])} are too few for "
                f"{' + '.join(f'{count} {name}' for name, count in counts.items())} and at least 1 {rest}.",
                "Add images, remove the class, or make the shares `search` and `report` smaller.",
            )
        generator = torch.Generator().manual_seed(mixed_seed(seed, label))
        order = torch.randperm(len(members), generator=generator).tolist()
        for name, count in counts.items():
            parts[name] += [members[i] for i in order[:count]]
            order = order[count:]
        parts[rest] += [members[i] for i in order]
    ordered = {name: sorted(part, key=lambda image: image.relative) for name, part in parts.items()}
    return ordered | {"search": _mixed(ordered["search"], seed)}


def _mixed(images: list[ImageFile], seed: int) -> list[ImageFile]:
    """In an order of which every first part is a sample of the whole: searches look at parts."""
    generator = torch.Generator().manual_seed(mixed_seed(seed, -1))
    return [images[i] for i in torch.randperm(len(images), generator=generator).tolist()]


def split_word(name: str) -> str:
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
    return CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def as_on_disk(text: str) -> str:
    """The path that is `shown` so."""
    return os.fsdecode(ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), os.fsencode(text)))


def decoded(path: Path, scale: Scale | None = None) -> Image.Image:
    """The image in the scale's mode; without a scale, by the range of its own values.

    Raises UnreadableError.
    """
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    return image_of(content, scale)

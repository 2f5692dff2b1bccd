"""Which files of a folder are images of which class; nothing is decoded here.

Links are followed, except those that lead back; a file counts once in its class. What is left out is counted.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from nas.datasets._image_files import ImageFile
from search_spaces._errors import UsageError

LAYOUT = (
    "Expected are root/<class>/<image> folders, or root/train/<class>/<image> and root/val/<class>/<image>."
)
TRAIN = ("train", "training", "train_set")
VALIDATION = ("val", "valid", "validation", "dev", "eval")
TEST = ("test", "testing", "test_set")
# What systems and tools leave in folders; names that begin with a dot are hidden anyway.
CLUTTER = frozenset(
    {
        *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin"),
        *("__macosx", "__pycache__", "lost+found", "thumbs.db", "desktop.ini"),
    }
)
BROKEN = -1  # the size of a link that leads nowhere

HIDDEN_FILES, HIDDEN_FOLDERS = "hidden or system files", "hidden or system folders"
LINKS_BACK, SAME_FILE, NOT_REGULAR = "links that lead back", "links to the same file", "no regular files"
BESIDE = "folders beside the splits"


@dataclass(frozen=True)
class Tree:
    """The class names and the images by folder: `all`, or `train` and `val`; sorted by relative paths.

    left_out: how many files were left out, by the reason or the ending.
    """

    classes: tuple[str, ...]
    groups: dict[str, list[ImageFile]]
    left_out: dict[str, int]


def find(root: Path) -> Tree:
    """The images below `root`. Raises UsageError when the tree does not have the expected layout."""
    where = (
        f"'{shown(root)}'" if root.is_absolute() else f"'{shown(root)}' (that is '{shown(root.absolute())}')"
    )
    if not root.is_dir():
        raise UsageError(
            f"There is no image folder {where}.",
            f"{LAYOUT} A job whose images are elsewhere now: nas resume JOB --data-root FOLDER.",
        )
    try:
        return _find(root)
    except OSError as error:
        raise UsageError(
            f"The image folder {where} cannot be read: {error}.", "Check its links and permissions."
        ) from error


def shown(path: str | Path) -> str:
    """A path as it can be printed and stored: bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _find(root: Path) -> Tree:
    left_out: Counter[str] = Counter()
    train, held_out = _split_folders(root, left_out)
    if train is None:
        classes = _classes(root, left_out)
        return Tree(classes, {"all": _images(root, root, classes, left_out)}, +left_out)
    assert held_out is not None, "a folder to train on comes with one that is held out"
    parts = {"train": root / train, "val": root / held_out}
    classes, held_out_classes = (_classes(folder, left_out) for folder in parts.values())
    if odd := sorted(set(classes) ^ set(held_out_classes)):
        missing = held_out if odd[0] in classes else train
        raise UsageError(
            f"Class '{shown(odd[0])}' of the image folder '{shown(root)}' has no folder in '{missing}'.",
            LAYOUT,
        )
    groups = {part: _images(root, folder, classes, left_out) for part, folder in parts.items()}
    return Tree(classes, groups, +left_out)


def _split_folders(root: Path, left_out: Counter[str]) -> tuple[str | None, str | None]:
    """The folders that are trained on and held out, by their usual names in any case; None: there are none.

    Where there are a validation and a test folder, the first is divided and the other is not used.
    """
    folders = [name for name in _folders(root, Counter()) if _folders(root / name, Counter())]
    kinds = {
        kind: [name for name in folders if name.casefold().replace("-", "_") in names]
        for kind, names in {"train": TRAIN, "val": VALIDATION, "test": TEST}.items()
    }
    for kind, names in kinds.items():
        if len(names) > 1 and (kind != "test" or not kinds["val"]):
            raise UsageError(
                f"The image folder '{shown(root)}' has both '{names[0]}' and '{names[1]}'.",
                "Keep one of them, or join them.",
            )
    found = sum(map(len, kinds.values()))
    if not kinds["train"]:
        if len(kinds["val"]) + len(kinds["test"]) > 1 and found == len(_folders(root, Counter())):
            raise UsageError(
                f"The image folder '{shown(root)}' has {' and '.join(repr(f) for f in folders)} "
                "but no 'train' folder.",
                LAYOUT,
            )
        return None, None
    if not kinds["val"] + kinds["test"]:
        raise UsageError(
            f"The image folder '{shown(root)}' has a '{kinds['train'][0]}' folder of classes "
            "but no 'val' folder.",
            LAYOUT,
        )
    left_out[BESIDE] += len(_folders(root, left_out)) - 2
    return kinds["train"][0], (kinds["val"] + kinds["test"])[0]


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.casefold() in CLUTTER


def _folders(root: Path, left_out: Counter[str]) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    left_out[HIDDEN_FOLDERS] += sum(map(_is_clutter, names))
    return [name for name in names if not _is_clutter(name)]


def _classes(root: Path, left_out: Counter[str]) -> tuple[str, ...]:
    classes = tuple(_folders(root, left_out)) if root.is_dir() else ()
    if not classes:
        raise UsageError(f"The image folder '{shown(root)}' has no class folders.", LAYOUT)
    if len(classes) < 2:
        raise UsageError(
            f"The image folder '{shown(root)}' has only one class folder ('{shown(classes[0])}'); "
            "at least 2 are needed.",
            LAYOUT,
        )
    return classes


def _images(root: Path, folder: Path, classes: Sequence[str], left_out: Counter[str]) -> list[ImageFile]:
    images: list[ImageFile] = []
    back = [root.resolve(), *root.resolve().parents, folder.resolve()]
    for label, name in enumerate(classes):
        visited = {_identity(os.stat(path)) for path in back}
        files: dict[tuple[int, int], str] = {}
        before = len(images)
        for path, status in _walk(str(folder / name), visited, left_out):
            same = files.setdefault(_identity(status), path) if status else path
            if same != path:
                left_out[SAME_FILE] += 1
                continue
            relative = Path(path).relative_to(root).as_posix()
            images.append(ImageFile(Path(path), relative, label, status.st_size if status else BROKEN))
        if len(images) == before:
            raise UsageError(
                f"The class folder '{shown(folder / name)}' has no images.",
                f"Images are files that end in {', '.join(IMG_EXTENSIONS)}.",
            )
    return sorted(images, key=lambda image: image.relative)


def _walk(
    folder: str, visited: set[tuple[int, int]], left_out: Counter[str]
) -> Iterator[tuple[str, os.stat_result | None]]:
    """The image files below a folder, real ones before links to them; None: a link that leads nowhere."""
    identity = _identity(os.stat(folder))
    if identity in visited:
        left_out[LINKS_BACK] += 1
        return
    visited.add(identity)
    entries = sorted(os.scandir(folder), key=lambda entry: (entry.is_symlink(), entry.name))
    for entry in entries:
        if entry.is_dir():
            if _is_clutter(entry.name):
                left_out[HIDDEN_FOLDERS] += 1
            else:
                yield from _walk(entry.path, visited, left_out)
        elif _is_clutter(entry.name):
            left_out[HIDDEN_FILES] += 1
        elif not entry.name.lower().endswith(IMG_EXTENSIONS):
            left_out[Path(entry.name).suffix.lower()[:12] or "files without an ending"] += 1
        else:
            try:
                status = entry.stat()
            except FileNotFoundError:
                yield entry.path, None
                continue
            if stat.S_ISREG(status.st_mode):
                yield entry.path, status
            else:
                left_out[NOT_REGULAR] += 1


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino

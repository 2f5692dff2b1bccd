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

from nas.images.files import (
    SPLIT_NAMES,
    ImageFile,
    alike,
    is_clutter,
    is_clutter_inside,
    quoted,
    shown,
    split_word,
)
from search_spaces.errors import UsageError

LAYOUT = (
    "Expected are root/<class>/<image> folders, or root/train/<class>/<image> and root/val/<class>/<image>."
)
BROKEN = -1  # the size of a link that leads nowhere

HIDDEN_FILES, HIDDEN_FOLDERS = "hidden or system files", "hidden or system folders"
LINKS_BACK, SAME_FILE, NOT_REGULAR = "links that lead back", "links to the same file", "no regular files"
BESIDE = "folders beside the splits"
OUTSIDE, NOWHERE = "images outside the class folders", "links that lead nowhere"


@dataclass(frozen=True)
class Tree:
    """The class names and the images by folder: `all`, or `train` and `val`; sorted by relative paths.

    left_out: how many files were left out, by the reason or the ending.  notes: what looks odd, sentences.
    """

    classes: tuple[str, ...]
    groups: dict[str, list[ImageFile]]
    left_out: dict[str, int]
    notes: tuple[str, ...] = ()


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


def _find(root: Path) -> Tree:
    left_out: Counter[str] = Counter()
    train, held_out = _split_folders(root, left_out)
    if train is None:
        classes = _classes(root, left_out)
        return Tree(classes, {"all": _images(root, root, classes, left_out)}, +left_out, _odd(root, classes))
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
    return Tree(classes, groups, +left_out, alike(classes))


def _odd(root: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """Notes on class folders that may be something else."""
    inside = [_folders(root / name, Counter()) for name in classes]
    notes = alike(classes)
    if len(inside[0]) > 1 and all(names == inside[0] for names in inside):
        notes += (
            f"The classes {quoted(classes)} all hold the same folders ({quoted(inside[0])}): if they are "
            "parts of the data and no classes, call those for training and validation 'train' and 'val'.",
        )
    return notes


def _split_folders(root: Path, left_out: Counter[str]) -> tuple[str | None, str | None]:
    """The folders that are trained on and held out, by their usual names in any case; None: there are none.

    Where there are a validation and a test folder, the first is divided and the other is not used.
    """
    folders = [name for name in _folders(root, Counter()) if _folders(root / name, Counter())]
    kinds = {
        kind: [name for name in folders if split_word(name) in names] for kind, names in SPLIT_NAMES.items()
    }
    for kind, names in kinds.items():
        if len(names) > 1 and (kind != "test" or not kinds["val"]):
            raise UsageError(
                f"The image folder '{shown(root)}' has both '{names[0]}' and '{names[1]}'.",
                "Keep one of them, or join them.",
            )
    named = sum(map(len, kinds.values()))
    if not kinds["train"]:
        if len(kinds["val"]) + len(kinds["test"]) > 1 and named == len(_folders(root, Counter())):
            raise UsageError(
                f"The image folder '{shown(root)}' has {quoted(folders)} but no 'train' folder.",
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
    _count_outside(root, left_out)
    return kinds["train"][0], (kinds["val"] + kinds["test"])[0]


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _folders(root: Path, left_out: Counter[str]) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(root) if _is_folder(entry))
    left_out[HIDDEN_FOLDERS] += sum(map(is_clutter, names))
    return [name for name in names if not is_clutter(name)]


def _count_outside(root: Path, left_out: Counter[str]) -> None:
    """Counts the images that lie where folders are expected, and the links to folders that are gone."""
    for entry in os.scandir(root):
        if is_clutter(entry.name) or _is_folder(entry):
            continue
        if entry.name.lower().endswith(IMG_EXTENSIONS):
            left_out[OUTSIDE] += 1
        elif entry.is_symlink() and not os.path.exists(entry.path):
            left_out[NOWHERE] += 1


def _classes(root: Path, left_out: Counter[str]) -> tuple[str, ...]:
    classes = tuple(_folders(root, left_out)) if root.is_dir() else ()
    _count_outside(root, left_out)
    if not classes:
        raise UsageError(f"The image folder '{shown(root)}' has no class folders.", LAYOUT)
    if len(classes) < 2:
        has_more = len(_folders(root / classes[0], Counter())) > 1
        raise UsageError(
            f"The image folder '{shown(root)}' has only one class folder ('{shown(classes[0])}'); "
            "at least 2 are needed.",
            (f"Is '{shown(root / classes[0])}' meant? " if has_more else "") + LAYOUT,
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
        if _is_folder(entry):
            if is_clutter_inside(entry.name):
                left_out[HIDDEN_FOLDERS] += 1
            else:
                yield from _walk(entry.path, visited, left_out)
        elif is_clutter(entry.name):
            left_out[HIDDEN_FILES] += 1
        elif not entry.name.lower().endswith(IMG_EXTENSIONS):
            left_out[Path(entry.name).suffix.lower()[:12] or "files without an ending"] += 1
        else:
            try:
                status = entry.stat()
            except OSError:  # a link that leads nowhere, or to itself
                yield entry.path, None
                continue
            if stat.S_ISREG(status.st_mode):
                yield entry.path, status
            else:
                left_out[NOT_REGULAR] += 1


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino

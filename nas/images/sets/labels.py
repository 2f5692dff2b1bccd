"""Images whose labels stand in a CSV file: which there are, of which class, perhaps in which split."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from torchvision.datasets.folder import IMG_EXTENSIONS

from nas.artifacts import open_regular
from nas.images.files import SPLIT_NAMES, ImageFile, alike, is_clutter, shown, split_word
from nas.images.scan import BROKEN, Tree
from search_spaces.errors import UsageError, did_you_mean

FILE, LABEL, SPLIT = "file", "label", "split"
HINT = (
    f"Its first line is `{FILE},{LABEL}`; each line after it names a file, from data.root on, and its class."
)
UNLISTED, NOT_USED = "images without a label", "images of a split that is not used"


def labelled(root: Path, table: object) -> Tree:
    """The images below `root` that a CSV file lists: all in one group, or by its column `split`.

    Whether the files are there is seen when they are read. Raises UsageError for a table that cannot be used.
    """
    if not isinstance(table, str | Path):
        raise UsageError(f"labels = {table!r} is not a path.", HINT)
    path = Path(table).expanduser()
    if not root.is_dir():
        raise UsageError(
            f"There is no image folder '{shown(root)}'.", "data.root is where the files of data.labels are."
        )
    rows = list(_rows(path))
    if not rows:
        raise UsageError(
            f"The labels in '{shown(path)}' are of no image: there is no line below the first.", HINT
        )
    classes = tuple(sorted({label for _, label, _ in rows}))
    if len(classes) < 2:
        raise UsageError(
            f"The labels in '{shown(path)}' are all '{classes[0]}'; at least 2 classes are needed.", HINT
        )
    numbers = {name: number for number, name in enumerate(classes)}
    images = [(split, _image(root, file, numbers[label])) for file, label, split in rows]
    groups, unused = in_groups([(split, image) for split, image in images])
    listed = {image.relative for _, image in images}
    unlisted = sum(file not in listed for file in _images_below(root))
    left_out = +Counter({UNLISTED: unlisted, NOT_USED: unused})
    return Tree(classes, groups, left_out, alike(classes))


def in_groups(images: Sequence[tuple[str, ImageFile]]) -> tuple[dict[str, list[ImageFile]], int]:
    """Images by their splits' names as groups of a tree, in their order, and how many are of none.

    Like folders: what is called as a validation split is held out, else what is called as a test split;
    where nothing is trained on or nothing is held out, all are one group.
    """
    kinds: dict[str, list[ImageFile]] = {}
    for name, image in images:
        kinds.setdefault(kind_of(name), []).append(image)
    train, held_out = kinds.get("train"), kinds.get("val") or kinds.get("test")
    if train is None or held_out is None:
        return {"all": [image for _, image in images]}, 0
    return {"train": train, "val": held_out}, len(images) - len(train) - len(held_out)


def kind_of(name: str) -> str:
    """`train`, `val` or `test`, as a split of this name is; empty: it is none."""
    word = split_word(name)
    return next((kind for kind, words in SPLIT_NAMES.items() if word in words), "")


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """File, label and split ("" where there is none) of each line. Raises UsageError."""
    lines = csv.DictReader(_lines(path), strict=True)
    columns = lines.fieldnames or []
    for column in (FILE, LABEL):
        if column not in columns:
            raise UsageError(
                f"The labels in '{shown(path)}' have no column '{column}': the first line is "
                f"'{shown(','.join(columns)[:100])}'.",
                did_you_mean(column, columns) or HINT,
            )
    seen: dict[str, int] = {}
    try:
        for row in lines:
            file, label, split = ((row.get(name) or "").strip() for name in (FILE, LABEL, SPLIT))
            where = f"Line {lines.line_num} of '{shown(path)}'"
            _check_row(row, file, label, where)
            name = PurePosixPath(file).as_posix()
            if name in seen:
                raise UsageError(f"{where} names '{shown(name)}' again, as line {seen[name]} does.", HINT)
            seen[name] = lines.line_num
            yield name, label, split
    except csv.Error as error:
        raise UsageError(f"'{shown(path)}' is no CSV file: {error} (line {lines.line_num}).", HINT) from error


def _check_row(row: Mapping[str | None, object], file: str, label: str, where: str) -> None:
    if None in row:
        raise UsageError(f"{where} has more columns than the first line.", HINT)
    if not file or not label:
        raise UsageError(f"{where} has no {FILE if not file else LABEL}.", HINT)
    if os.path.isabs(file) or ".." in PurePosixPath(file).parts or "\0" in file:
        raise UsageError(f"{where} names '{shown(file)}', which is not below data.root.", HINT)


def _lines(path: Path) -> list[str]:
    try:
        with open_regular(path) as file:
            return file.read().decode("utf-8-sig").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"The labels in '{shown(path)}' are not UTF-8 (byte {error.start:,}).", HINT
        ) from error
    except OSError as error:
        raise UsageError(
            f"The labels in '{shown(path)}' cannot be read: {error.strerror or error}.", HINT
        ) from error


def _image(root: Path, file: str, label: int) -> ImageFile:
    path = root / file
    try:
        size = path.stat().st_size
    except OSError:
        size = BROKEN
    return ImageFile(path, file, label, size)


def _images_below(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not is_clutter(name)]
        for name in files:
            if name.lower().endswith(IMG_EXTENSIONS) and not is_clutter(name):
                yield (Path(folder) / name).relative_to(root).as_posix()


def split_among(root: Path, files: Sequence[Path]) -> list[tuple[str, Path]]:
    """Files with the usual word for a split in their name or in those of their folders; "": there is none."""
    named = []
    for path in files:
        words = re.split(r"[^a-z]+", path.relative_to(root).with_suffix("").as_posix().lower())
        named.append((next((word for word in reversed(words) if kind_of(word)), ""), path))
    return named

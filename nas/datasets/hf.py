"""A folder of Hugging Face's `datasets`: saved to disk, out of its cache, or a repository's Parquet files.

Nothing is downloaded and no code of a data set is run; the library itself is not needed.
"""

import json
from pathlib import Path
from typing import Any

from nas.images.checked import Update
from nas.images.files import shown
from nas.images.options import folder_of
from nas.images.sets.image_options import ImageOptions, takes_image_options
from nas.images.sets.image_set import ImageSet
from nas.images.sets.labels import split_among
from nas.images.sets.tables import PARQUET, Tables, image_set, look_at_rows
from search_spaces.errors import NotHereError, UsageError

SAVED, ONE_SAVED, SNAPSHOTS = "dataset_dict.json", "state.json", "snapshots"
TEMPORARY = ("cache-", "tmp")  # how files begin that `map` and interrupted downloads leave
HINT = "It is what `save_to_disk` wrote, a folder of the cache of `datasets`, or one with .parquet files."


@takes_image_options
def build(
    *, root: str, image_column: str = "image", label_column: str = "label", images: ImageOptions
) -> ImageSet:
    """The rows below `root`, by the splits that there are; the names of classes are those of the data set.

    root: what `save_to_disk` wrote, a folder of the cache of `datasets`, or one with .parquet files.
    image_column: of the type `Image`.  label_column: of the type `ClassLabel`, whole numbers or words.
    Raises UsageError for a wrong option, a folder that cannot be used, or for what is refused.
    """
    return image_set("hf", _tables(root, image_column, label_column), images)


def prepare(
    update: Update,
    *,
    root: str,
    image_column: str = "image",
    label_column: str = "label",
    workers: int = 2,
    **others: object,
) -> None:
    """Reads and decodes every image that no data set has looked at before, so that `build` need not.

    update: hears how many are done, of how many.  Raises UsageError as `build` does for the folder.
    """
    look_at_rows(_tables(root, image_column, label_column), update, workers)


def _tables(root: str, image: str, label: str) -> Tables:
    folder = folder_of(root)
    return Tables(folder, _files(folder), image, label)


def _files(root: Path) -> list[tuple[str, Path]]:
    """The files with their splits' names. Raises UsageError for a folder that is none of the kinds."""
    if not root.is_dir():
        raise NotHereError(f"There is no folder '{shown(root)}'.", HINT)
    if (root / SAVED).is_file():
        splits = _json(root / SAVED, "splits")
        return [(split, file) for split in splits for file in _saved(root / split)]
    if (root / ONE_SAVED).is_file():
        return [("", file) for file in _saved(root)]
    if (root / SNAPSHOTS).is_dir():
        revisions = sorted((root / SNAPSHOTS).iterdir())
        if len(revisions) != 1:
            names = ", ".join(one.name for one in revisions[:4])
            raise UsageError(
                f"'{shown(root)}' has {len(revisions)} revisions in '{SNAPSHOTS}' ({names}).",
                "Give the folder of the one that is meant.",
            )
        root = revisions[0]
    for ending in (".arrow", PARQUET):
        files = [path for path in sorted(root.rglob(f"*{ending}")) if not path.name.startswith(TEMPORARY)]
        if files:
            return split_among(root, files)
    raise UsageError(f"There are no .arrow or .parquet files in '{shown(root)}'.", HINT)


def _saved(folder: Path) -> list[Path]:
    """The files of one split, in their order."""
    files = _json(folder / ONE_SAVED, "_data_files")
    names = [one.get("filename") if isinstance(one, dict) else None for one in files]
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UsageError(f"'{shown(folder / ONE_SAVED)}' does not name its files.", HINT)
    return [folder / str(name) for name in names]


def _json(path: Path, key: str) -> list[Any]:
    try:
        value = json.loads(path.read_bytes())[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"'{shown(path)}' cannot be read: it has no list '{key}'.", HINT) from error
    if not isinstance(value, list):
        raise UsageError(f"'{shown(path)}' has no list '{key}'.", HINT)
    return value

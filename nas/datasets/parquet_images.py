"""Images in Parquet files: a column of files' bytes, a column of labels."""

from nas.images.checked import Update
from nas.images.files import shown
from nas.images.options import folder_of
from nas.images.sets.image_options import ImageOptions, takes_image_options
from nas.images.sets.image_set import ImageSet
from nas.images.sets.labels import split_among
from nas.images.sets.tables import PARQUET, Tables, image_set, look_at_rows
from search_spaces.errors import NotHereError


@takes_image_options
def build(
    *, root: str, image_column: str = "image", label_column: str = "label", images: ImageOptions
) -> ImageSet:
    """The rows of a Parquet file, or of all those below a folder.

    Files whose names, or whose folders' names, have the usual words for splits in them (`train-0.parquet`,
    `val/0.parquet`) are of that split; else all rows are divided.
    root: the file, or the folder.
    image_column: the bytes of an image's file, or a struct with a field `bytes`.  label_column: whole numbers
    or words. Raises UsageError for a wrong option, files that cannot be used, or for what is refused.
    """
    return image_set("parquet_images", _tables(root, image_column, label_column), images)


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

    update: hears how many are done, of how many.  Raises UsageError as `build` does for the files.
    """
    look_at_rows(_tables(root, image_column, label_column), update, workers)


def _tables(root: str, image: str, label: str) -> Tables:
    place = folder_of(root)
    if place.is_file():
        return Tables(place.parent, [("", place)], image, label)
    if not place.is_dir():
        raise NotHereError(
            f"There is no file or folder '{shown(place)}'.", "Give a .parquet file or a folder."
        )
    return Tables(place, split_among(place, sorted(place.rglob(f"*{PARQUET}"))), image, label)

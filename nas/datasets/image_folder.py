"""A user's own images: one folder per class, or a table of labels; nothing is downloaded.

Layout `root/<class>/<image>`, divided by file into train, search and report; or `root/train/<class>/<image>`
and `root/val/<class>/<image>`, where the images of `val` are divided into search and report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.images.checked import Files, Update
from nas.images.digest import former_digest, read_otherwise
from nas.images.options import check_integers, folder_of, names_in
from nas.images.scan import Tree, find
from nas.images.selection import Selection, look, select
from nas.images.sets.image_options import ImageOptions, Inputs, images_used, inputs_of, takes_image_options
from nas.images.sets.image_set import ImageSet
from nas.images.sets.labels import labelled


@takes_image_options
def build(
    *,
    root: str,
    labels: str | None = None,
    skipped: Sequence[str] = (),
    added: Sequence[str] = (),
    images: ImageOptions,
) -> "ImageFolder":
    """The images below `root`.

    root: the folder with a folder for each class, or with `train` and `val` around those.
    labels: a CSV file with the columns `file` (from `root` on) and `label`, perhaps `split`; without one the
    folders are the classes.
    skipped, added: relative paths that a job that has begun does not use; the first keep their place in the
    split.
    Raises UsageError for a wrong option, a tree without usable classes, or for what is refused.
    """
    folder, choice, inputs = folder_of(root), images_used(images), inputs_of(images)
    choice = replace(choice, skipped=names_in("skipped", skipped), added=names_in("added", added))
    tree, source = _tree(folder, labels), Files(folder)
    selection = select(folder, tree, source, choice, lambda done, total: None, threads=images.workers)
    return ImageFolder(source, selection, inputs, images, listed=labels is not None)


def prepare(
    update: Update, *, root: str, labels: str | None = None, workers: int = 2, **others: object
) -> None:
    """Reads and decodes every image that no data set has looked at before, so that `build` need not.

    update: hears how many are done, of how many.  Raises UsageError as `build` does for the folder.
    """
    check_integers(workers=workers)
    folder = folder_of(root)
    look(_tree(folder, labels), Files(folder), update, threads=workers)


def moved(options: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The options with the images in another folder; labels that lie among them are there, too."""
    new = {**options, "root": str(root)}
    if isinstance(labels := options.get("labels"), str) and Path(labels).is_relative_to(options["root"]):
        new["labels"] = str(root / Path(labels).relative_to(options["root"]))
    return new


def _tree(folder: Path, labels: str | None) -> Tree:
    return find(folder) if labels is None else labelled(folder, labels)


class ImageFolder(ImageSet):
    """Images that are files in folders.

    former_digest: by the rule of jobs before version 0.2, which had the sizes of the files.  otherwise: what
    those read otherwise, in words, if anything.
    listed: whether a table says which images there are, which then has no place for one that is gone.
    """

    def __init__(
        self, source: Files, selection: Selection, inputs: Inputs, options: ImageOptions, *, listed: bool
    ) -> None:
        super().__init__("image_folder", source, selection, inputs, options, splits_anew=listed)
        self.former_digest = former_digest(selection, inputs.size, inputs.normal, inputs.shape)
        self.otherwise = read_otherwise(selection, self.scale)

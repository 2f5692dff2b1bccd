"""The data sets of torchvision that are images with one label each, by the name of their class."""

import hashlib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from nas.images.checked import Checked, Stamp, Update
from nas.images.decoding import Scale, UnreadableError, look_of, scaled
from nas.images.files import ImageFile, Row, alike, shown
from nas.images.options import check_integers, folder_of
from nas.images.scan import Tree
from nas.images.selection import look, select
from nas.images.sets.image_options import ImageOptions, images_used, inputs_of, takes_image_options
from nas.images.sets.image_set import ImageSet
from search_spaces.errors import NotHereError, UsageError, did_you_mean

TRAIN = ("train", "trainval", "train-standard")  # what classes call the split for training
HELD_OUT = ("val", "valid", "validation", "test")
LABELS = ("targets", "labels", "_labels", "y")  # where classes keep their labels, to be had without decoding
SAMPLES = ("samples", "_samples")  # pairs of a file and a label
# Arguments that are said otherwise, or are no plain data.
NOT_OPTIONS = ("root", "download", "train", "transform", "target_transform", "transforms", "loader")
# It unpickles a file beside the data; the others that do so compare its hash first.
REFUSED = ("LSUN", "LSUNClass")
HINT = "`torchvision.datasets` tells which there are."


@takes_image_options
def build(
    *,
    class_name: str,
    root: str,
    download: bool = False,
    options: Mapping[str, Any] | None = None,
    images: ImageOptions,
) -> ImageSet:
    """The data set `torchvision.datasets.<class_name>` below `root`.

    Its own validation or test split is divided into search and report, where it has one.
    class_name: such as `CIFAR10`.  root: the folder that torchvision keeps data in.
    download: whether it is fetched if it is not there.  options: further arguments of the class, such as
    `{split: letters}` of EMNIST.
    Raises UsageError for a wrong option, a class without labelled images, or for what is refused;
    NotHereError for data that are not there.
    """
    choice, inputs = images_used(images), inputs_of(images)
    source = _source(class_name, root, download, options)
    tree = source.tree()
    selection = select(source.root, tree, source, choice, lambda done, total: None, threads=images.workers)
    return ImageSet("torchvision", source, selection, inputs, images, splits_anew=True)


def prepare(
    update: Update,
    *,
    class_name: str,
    root: str,
    download: bool = False,
    options: Mapping[str, Any] | None = None,
    workers: int = 2,
    **others: object,
) -> None:
    """Reads every image that no data set has looked at before, so that `build` need not.

    update: hears how many are done, of how many.  Raises what `build` raises for the data.
    """
    check_integers(workers=workers)
    source = _source(class_name, root, download, options)
    look(source.tree(), source, update, threads=workers)


def _source(class_name: object, root: str, download: object, options: object) -> "_Torchvision":
    if not isinstance(download, bool):
        raise UsageError(f"download = {download!r} is neither true nor false.")
    if options is not None and not (
        isinstance(options, Mapping) and all(isinstance(name, str) for name in options)
    ):
        raise UsageError(f"options = {options!r} is no mapping of a class's arguments.")
    for name in options or {}:
        if name in NOT_OPTIONS:
            raise UsageError(f"options.{name} is no option: data.root and data.download say where data are.")
    source = _Torchvision(_checked_name(class_name), folder_of(root), dict(options or {}))
    source.find(download)
    return source


def _checked_name(name: object) -> str:
    import torchvision.datasets as offered  # noqa: PLC0415 - its classes alone, when one is asked for

    names = [
        one
        for one in offered.__all__
        if inspect.isclass(kind := getattr(offered, one))
        and issubclass(kind, offered.VisionDataset)
        and {"root"} <= _arguments(kind)
        and one not in ("VisionDataset", *REFUSED)
    ]
    if not isinstance(name, str) or name not in names:
        raise UsageError(
            f"class_name = {name!r} is no data set of images in torchvision.",
            did_you_mean(str(name), names) or HINT,
        )
    return name


def _arguments(kind: type) -> set[str]:
    """Of the class and of those that it hands further arguments to."""
    arguments: set[str] = set()
    for one in kind.__mro__:
        if "__init__" in vars(one):
            parameters = inspect.signature(one.__init__).parameters.values()  # type: ignore[misc]
            arguments |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return arguments


class _Torchvision:
    """The images of a class of torchvision's; see `nas.images.checked.Source`."""

    def __init__(self, name: str, root: Path, options: dict[str, Any]) -> None:
        self.root, self._name, self._options = root, name, options
        self.identity = f"{root.resolve()}\0torchvision {name} {sorted(options.items())}"
        self._arguments: dict[str, dict[str, Any]] = {}
        self._sets: dict[str, Any] = {}
        self._stamp: Stamp | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sets": {}}

    def find(self, download: bool) -> None:
        """Which parts there are: `train` and `val`, or `all`. Raises UsageError, NotHereError."""
        import torchvision.datasets as offered  # noqa: PLC0415 - as above

        takes = _arguments(getattr(offered, self._name))
        if "train" in takes and "train" not in self._options:
            asked: dict[str, list[dict[str, Any]]] = {"train": [{"train": True}], "val": [{"train": False}]}
        elif "split" in takes and "split" not in self._options:
            asked = {"train": [{"split": one} for one in TRAIN], "val": [{"split": one} for one in HELD_OUT]}
        else:
            asked = {"all": [{}]}
        downloads = download and "download" in takes
        for part, ways in asked.items():
            self._arguments[part] = next(
                (way for way in ways if self._is_taken(part, way, downloads)), ways[0]
            )
            if part not in self._sets:
                raise UsageError(
                    f"torchvision's {self._name} has no split called {' or '.join(map(repr, TRAIN))} and one "
                    f"of {', '.join(map(repr, HELD_OUT))}.",
                    "Name the one to be divided, as data.options: {split: NAME}.",
                )

    def _is_taken(self, part: str, way: Mapping[str, Any], download: bool) -> bool:
        """Whether the class takes the name of the split; then the part is there."""
        try:
            self._sets[part] = self._made(way, download=False)
        except (RuntimeError, OSError) as error:
            if not download:
                raise NotHereError(
                    f"torchvision's {self._name} is not in '{shown(self.root)}': {_words(error)}.",
                    "Give the folder in which torchvision has put it, or set data.download: true.",
                ) from error
            self._sets[part] = self._downloaded(way)
        except ValueError as error:
            if "split" in way and "Unknown value" in str(error):
                return False
            raise self._refused(error) from error
        except Exception as error:  # what a class makes of its arguments and of damaged files
            raise self._refused(error) from error
        return True

    def _downloaded(self, way: Mapping[str, Any]) -> Any:
        try:
            return self._made(way, download=True)
        except Exception as error:  # whatever network and packed files have in store
            raise UsageError(
                f"torchvision's {self._name} cannot be downloaded to '{shown(self.root)}': {_words(error)}.",
                "Put it there by hand, without data.download.",
            ) from error

    def _refused(self, error: Exception) -> UsageError:
        given = f" with {self._options}" if self._options else ""
        return UsageError(
            f"torchvision's {self._name} in '{shown(self.root)}' cannot be read{given}: "
            f"{type(error).__name__} {_words(error)}.",
            HINT,
        )

    def _made(self, way: Mapping[str, Any], *, download: bool) -> Any:
        import torchvision.datasets as offered  # noqa: PLC0415 - as above

        arguments = {"root": str(self.root), **self._options, **way} | (
            {"download": True} if download else {}
        )
        return getattr(offered, self._name)(**arguments)

    def tree(self) -> Tree:
        """The images of all parts. Raises UsageError where they are not images with one label each."""
        labels = {part: self._labels(part) for part in self._arguments}
        count = 1 + max((label for some in labels.values() for label in some), default=-1)
        if count < 2:
            raise UsageError(
                f"torchvision's {self._name} in '{shown(self.root)}' has images of {count} classes; at least "
                "2 are needed."
            )
        names = getattr(self._part(next(iter(labels))), "classes", None)
        is_named = isinstance(names, list | tuple) and len(names) == count
        classes = tuple(map(str, names if is_named and names is not None else range(count)))
        groups: dict[str, list[ImageFile]] = {
            part: [
                Row(self.root, f"{part}/{number}", label, 0, number, f"{self._name}, {part}")
                for number, label in enumerate(some)
            ]
            for part, some in labels.items()
        }
        return Tree(classes, groups, {}, alike(classes))

    def _labels(self, part: str) -> list[int]:
        images = self._part(part)
        try:
            first, label = images[0]
            is_labelled = isinstance(first, Image.Image) and int(label) >= 0
            kept = _kept_labels(images)
            labels = kept or [int(images[number][1]) for number in range(len(images))]
        except Exception as error:  # of targets that are no numbers, and of data without any
            raise self._refused(error) from error
        if not is_labelled or min(labels) < 0:
            raise UsageError(
                f"torchvision's {self._name} is no data set of images with one label each.", HINT
            )
        return labels

    def stamp(self, image: ImageFile) -> Stamp | None:
        """Of all files below the root: a class does not say which are its own."""
        if self._stamp is None:
            self._stamp = _stamp_below(self.root)
        return self._stamp

    def check(self, image: ImageFile) -> Checked:
        try:
            pixels = self._image(image)
            content = hashlib.sha256(f"{pixels.mode} {pixels.size}".encode() + pixels.tobytes())
            return Checked(content.hexdigest(), look_of(pixels))
        except UnreadableError as error:
            return Checked(problem=str(error))

    def decoded(self, image: ImageFile, scale: Scale) -> Image.Image:
        return scaled(self._image(image), scale)

    def _image(self, image: ImageFile) -> Image.Image:
        assert isinstance(image, Row), "they are numbered"
        try:
            pixels: Image.Image = self._part(image.relative.partition("/")[0])[image.number][0]
            pixels.load()
        except Exception as error:  # what torchvision's readers let through
            raise UnreadableError(_words(error)) from error
        return pixels

    def _part(self, part: str) -> Any:
        if part not in self._sets:
            self._sets[part] = self._made(self._arguments[part], download=False)
        return self._sets[part]


def _kept_labels(images: Any) -> list[int] | None:
    """The labels that a data set of torchvision's keeps in a list; None: it has none that is known."""
    for name in LABELS:
        if (labels := getattr(images, name, None)) is not None and len(labels) == len(images):
            return [int(label) for label in labels]
    for name in SAMPLES:
        if (samples := getattr(images, name, None)) is not None and len(samples) == len(images):
            return [int(sample[1]) for sample in samples]
    return None


def _stamp_below(root: Path) -> Stamp | None:
    """Bytes, latest times and number of the files below a folder, as if they were one."""
    size, modified, changed, files = 0, 0, 0, 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                status = os.stat(os.path.join(folder, name))
            except OSError:
                return None
            size, files = size + status.st_size, files + 1
            modified, changed = max(modified, status.st_mtime_ns), max(changed, status.st_ctime_ns)
    return size, modified, changed, files


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__

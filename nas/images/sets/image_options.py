"""The options that all data sets of images have, and what they mean."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from typing import Any, TypeVar

from nas.images.centre import Shape, shape_of
from nas.images.options import check_among, check_integers, choice_of, colour, height_and_width, is_number
from nas.images.preprocessing import AUTO, DEFAULTS
from nas.images.selection import Choice
from nas.images.sets.order import Balance
from search_spaces.errors import UsageError

AUGMENTATIONS = ("crop", "none")
MODES = {1: "L", 3: "RGB"}
CACHE_BYTES = 2**30

DataSetT = TypeVar("DataSetT")


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What becomes of images, and which are used: the same options of every data set of images.

    image_size: pixels of a side, or [height, width].  in_chans: 3 for RGB, 1 for grey.
    split_seed: by which images are divided, where the data set does not divide them itself.
    search, report: shares of the images of each class (where others are held out than are trained on: their
    proportion in those).
    mean, std, interpolation, crop, crop_mode: as timm has them (`crop` is its crop_pct). In a job `auto` is
    what the pretrained model needs; here ImageNet's mean and std, and the largest centred part of the shape,
    bilinearly.
    augmentation: `crop` is a random resized crop and a horizontal flip, `none` the centre crop that search
    and report get; or options of timm's transforms (`nas/images/augmentation.py`).
    balance: how often classes are drawn in the training: false: as they come; true: all equally often; sqrt:
    in proportion to the roots of how many images they have; or factors by class name.
    background: on which transparent images are blended.
    on_bad_image: `refuse` or `skip` what cannot be read, also what breaks while a network is trained on it.
    on_equal_images: `refuse` or `keep` equal ones of two classes.
    cache_bytes: of decoded images of search and report that a process keeps.  workers: threads that decode.
    """

    image_size: int | Sequence[int] = 64
    in_chans: int = 3
    split_seed: int = 0
    search: float = 0.1
    report: float = 0.1
    mean: Sequence[float] | str = AUTO
    std: Sequence[float] | str = AUTO
    interpolation: str = AUTO
    crop: float | str = AUTO
    crop_mode: str = AUTO
    augmentation: str | Mapping[str, Any] = "crop"
    balance: Balance = False
    background: str | Sequence[int] = "white"
    on_bad_image: str = "refuse"
    on_equal_images: str = "refuse"
    cache_bytes: int = CACHE_BYTES
    workers: int = 2


@dataclass(frozen=True)
class Inputs:
    """How images become inputs: height and width, mean and std of each channel, Pillow's mode."""

    size: tuple[int, int]
    normal: tuple[list[float], list[float]]
    shape: Shape
    mode: str
    background: tuple[int, int, int]


def inputs_of(options: ImageOptions) -> Inputs:
    """Raises UsageError for a wrong option."""
    size = height_and_width(options.image_size)
    check_integers(workers=options.workers)
    if type(options.cache_bytes) is not int or options.cache_bytes < 0:
        raise UsageError(f"cache_bytes = {options.cache_bytes!r} is no number of bytes.", "0 keeps nothing.")
    if not isinstance(options.augmentation, Mapping):
        check_among("augmentation", options.augmentation, AUGMENTATIONS)
    if type(options.in_chans) is not int or options.in_chans not in MODES:
        raise UsageError(f"in_chans = {options.in_chans!r} is neither 3 (colours) nor 1 (grey).")
    mean, std = options.mean, options.std
    normal = (
        _channels("mean", DEFAULTS.mean if mean == AUTO else mean, options.in_chans),
        _channels("std", DEFAULTS.std if std == AUTO else std, options.in_chans),
    )
    shape = shape_of(options.interpolation, options.crop, options.crop_mode)
    if min(normal[1]) <= 0:
        raise UsageError(f"std = {list(normal[1])} has a value that is not positive.")
    return Inputs(size, normal, shape, MODES[options.in_chans], colour(options.background))


def images_used(options: ImageOptions) -> Choice:
    """Raises UsageError for a wrong option."""
    return choice_of(
        options.split_seed, options.search, options.report, options.on_bad_image, options.on_equal_images
    )


def takes_image_options(build: Callable[..., DataSetT]) -> Callable[..., DataSetT]:
    """A data set's `build` with the options of ImageOptions in place of its argument `images`."""
    signature = inspect.signature(build)
    first = [one for one in signature.parameters.values() if one.name != "images"]
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
        )
        for field in fields(ImageOptions)
        if field.default is not MISSING
    ]
    names = {one.name for one in shared}

    @wraps(build)
    def built(**options: Any) -> DataSetT:
        images = ImageOptions(**{name: value for name, value in options.items() if name in names})
        return build(images=images, **{name: value for name, value in options.items() if name not in names})

    built.__signature__ = signature.replace(parameters=[*first, *shared])  # type: ignore[attr-defined]
    return built


def _channels(name: str, values: object, in_chans: int) -> list[float]:
    """One number for each channel; those of three colours make their mean for grey, as timm does it."""
    if (
        not isinstance(values, list | tuple)
        or len(values) not in (3, in_chans)
        or not all(map(is_number, values))
    ):
        raise UsageError(
            f"{name} = {values!r} is not a list of {in_chans if in_chans == 3 else '1 or 3'} numbers.",
            "Give one for each of red, green and blue.",
        )
    numbers = [float(value) for value in values]
    return numbers if len(numbers) == in_chans else [sum(numbers) / len(numbers)]

"""A user's own images: one folder per class, nothing is downloaded.

Layout `root/<class>/<image>`, divided by file into train, search and report; or `root/train/<class>/<image>`
and `root/val/<class>/<image>`, where the images of `val` are divided into search and report.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from nas.errors import JobFailedError
from nas.images.augmentation import Augmenter, repeats_of
from nas.images.centre import Shape, at_centre, shape_of
from nas.images.checked import Update
from nas.images.decoding import Scale, UnreadableError, depths_of
from nas.images.digest import digest, former_digest, manifest, read_otherwise
from nas.images.files import ImageFile, decoded, shown
from nas.images.options import (
    check_among,
    check_integers,
    choice_of,
    colour,
    folder_of,
    height_and_width,
    is_number,
    names_in,
)
from nas.images.preprocessing import AUTO, DEFAULTS, Preprocessing
from nas.images.seeds import mixed_seed
from nas.images.selection import Selection, look, select
from search_spaces.errors import UsageError

AUGMENTATIONS = ("crop", "none")
MODES = {1: "L", 3: "RGB"}
AREAS = (0.08, 1.0)
RATIOS = (3 / 4, 4 / 3)
TRIES = 10

Box = tuple[int, int, int, int]
Shaping = Callable[[Image.Image], Image.Image]


def build(
    *,
    root: str,
    image_size: int | Sequence[int] = 64,
    in_chans: int = 3,
    split_seed: int = 0,
    search: float = 0.1,
    report: float = 0.1,
    mean: Sequence[float] | str = AUTO,
    std: Sequence[float] | str = AUTO,
    interpolation: str = AUTO,
    crop: float | str = AUTO,
    crop_mode: str = AUTO,
    augmentation: str | Mapping[str, Any] = "crop",
    background: str | Sequence[int] = "white",
    on_bad_image: str = "refuse",
    on_equal_images: str = "refuse",
    skipped: Sequence[str] = (),
    added: Sequence[str] = (),
    workers: int = 2,
) -> "ImageFolder":
    """The images below `root` in `image_size` pixels, a side or [height, width], normalised by `mean`, `std`.

    in_chans: 3 for RGB, 1 for grey.  search, report: shares of the images of each class (with `train` and
    `val` folders: their proportion in `val`).
    mean, std, interpolation, crop, crop_mode: as timm has them (`crop` is its crop_pct). In a job `auto` is
    what the pretrained model needs; here ImageNet's mean and std, and the largest centred part of the shape,
    bilinearly.
    augmentation: `crop` is a random resized crop and a horizontal flip, `none` the centre crop that search
    and report get; or options of timm's transforms (`nas/images/augmentation.py`).
    background: on which transparent images are blended.
    on_bad_image: `refuse` or `skip` what cannot be read.  on_equal_images: `refuse` or `keep` equal ones of
    two classes.  skipped, added: relative paths that a job that has begun does not use; the first keep their
    place in the split.
    workers: threads that decode.  Raises UsageError for a wrong option, a tree without usable classes, or for
    what is refused.
    """
    folder, choice = folder_of(root), choice_of(split_seed, search, report, on_bad_image, on_equal_images)
    size = height_and_width(image_size)
    check_integers(workers=workers)
    if not isinstance(augmentation, Mapping):
        check_among("augmentation", augmentation, AUGMENTATIONS)
    if type(in_chans) is not int or in_chans not in MODES:
        raise UsageError(f"in_chans = {in_chans!r} is neither 3 (colours) nor 1 (grey).")
    normal = (
        _channels("mean", DEFAULTS.mean if mean == AUTO else mean, in_chans),
        _channels("std", DEFAULTS.std if std == AUTO else std, in_chans),
    )
    shape = shape_of(interpolation, crop, crop_mode)
    if min(normal[1]) <= 0:
        raise UsageError(f"std = {list(normal[1])} has a value that is not positive.")
    choice = replace(choice, skipped=names_in("skipped", skipped), added=names_in("added", added))
    ground = colour(background)
    selection = select(folder, choice, lambda done, total: None, threads=workers)
    depths = depths_of(
        selection.contents[f.relative].look for part in selection.splits.values() for f in part
    )
    scale = Scale(depths, ground, MODES[in_chans])
    return ImageFolder(selection, size, normal, shape, scale, augmentation=augmentation, workers=workers)


def prepare(update: Update, *, root: str, workers: int = 2, **others: object) -> None:
    """Reads and decodes every image that no data set has looked at before, so that `build` need not.

    update: hears how many are done, of how many.  Raises UsageError as `build` does for the folder.
    """
    check_integers(workers=workers)
    look(folder_of(root), update, threads=workers)


class ImageFolder:
    """Images that are read from their files when they are needed; only the list of files is held in memory.

    digest: SHA-256 over the relative paths with the hashes of their contents and their splits, the class
    names and the options that shape an input.  former_digest: by the rule of jobs before version 0.2, which
    had the sizes of the files.  otherwise: what those read otherwise, in words, if anything.
    """

    name = "image_folder"

    def __init__(
        self,
        selection: Selection,
        size: tuple[int, int],
        normal: tuple[list[float], list[float]],
        shape: Shape,
        scale: Scale,
        *,
        augmentation: str | Mapping[str, Any],
        workers: int,
    ) -> None:
        self.classes = tuple(map(shown, selection.classes))
        self.num_classes = len(self.classes)
        self.input_shape = (3 if scale.mode == "RGB" else 1, *size)
        self.sizes = {name: len(files) for name, files in selection.splits.items()}
        self.facts = selection.facts
        self.digest = digest(selection, size, normal, shape, scale)
        self.former_digest = former_digest(selection, size, normal, shape)
        self.otherwise = read_otherwise(selection, scale)
        self.preprocessing = Preprocessing(
            tuple(normal[0]),
            tuple(normal[1]),
            **shape.as_timm(),
            crop_first=shape.pct is None,
            background=scale.background,
            depths=scale.depths,
        )
        self._shape = shape
        self._splits, self._size, self._normal = selection.splits, size, normal
        self._selection, self._scale, self._workers = selection, scale, workers
        self._crop, self._augment, self._repeats = augmentation == "crop", None, 1
        if isinstance(augmentation, Mapping):
            self._repeats = repeats_of(augmentation)
            self._augment = Augmenter(
                augmentation,
                size,
                mean=tuple(normal[0]),
                std=tuple(normal[1]),
                interpolation=shape.interpolation.value,
                mode=scale.mode,
            )

    def manifest(self) -> list[list[Any]]:
        """See `DataSet`."""
        return manifest(self._selection)

    def train_batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Images (size, *input_shape), labels (size,): batch `step` over shuffled epochs.

        Raises JobFailedError for an image that cannot be decoded any more.
        """
        chosen = self._chosen(seed, step, size)
        if self._augment is not None:
            images = self._shaped(chosen, [_as_it_is] * size)
            tensors = [self._augment(image, mixed_seed(seed, step, i)) for i, image in enumerate(images)]
            return torch.stack(tensors), torch.tensor([file.label for file in chosen])
        if not self._crop:
            return self._load(chosen, [self._centre] * size)
        draws = torch.rand(
            size, TRIES + 1, 4, generator=torch.Generator().manual_seed(mixed_seed(seed, step))
        )
        return self._load(chosen, [self._augmented(draw) for draw in draws.tolist()])

    def clean_batch(self, seed: int, step: int, size: int) -> Tensor:
        """Centre crops of the images that `train_batch` takes; raises JobFailedError as it does."""
        return self._load(self._chosen(seed, step, size), [self._centre] * size)[0]

    def batches(self, split: str, size: int, images: slice | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The split, decoded batch by batch: `report` in the order of its paths, `search` in a mixed one.

        Raises JobFailedError for an image that cannot be decoded any more.
        """
        files = self._splits[split][images or slice(None)]
        for start in range(0, len(files), size):
            part = files[start : start + size]
            yield self._load(part, [self._centre] * len(part))

    def sources(self, split: str) -> None:
        return None

    def labels(self, split: str) -> Tensor:
        return torch.tensor([file.label for file in self._splits[split]])

    def _chosen(self, seed: int, step: int, size: int) -> list[ImageFile]:
        files = self._splits["train"]
        places = [place // self._repeats for place in range(step * size, (step + 1) * size)]
        return [
            files[_epoch_order(seed, place // len(files), len(files))[place % len(files)]] for place in places
        ]

    def _load(self, files: list[ImageFile], shapes: list[Shaping]) -> tuple[Tensor, Tensor]:
        images = torch.stack(list(map(transforms.pil_to_tensor, self._shaped(files, shapes))))
        mean, std = self._normal
        inputs = transforms.normalize(transforms.to_dtype(images, torch.float32, scale=True), mean, std)
        return inputs, torch.tensor([file.label for file in files])

    def _shaped(self, files: list[ImageFile], shapes: list[Shaping]) -> list[Image.Image]:
        """The files' images, each shaped in its way, by several threads."""

        def shaped(file: ImageFile, shape: Shaping) -> Image.Image:
            return shape(_decoded(file.path, self._scale))

        with warnings.catch_warnings(), ThreadPoolExecutor(self._workers) as pool:
            warnings.simplefilter("ignore")  # of Pillow, about files that were judged when the job began
            return list(pool.map(shaped, files, shapes))

    def _centre(self, image: Image.Image) -> Image.Image:
        if self._shape.pct is not None:
            return at_centre(image, self._size, self._shape)
        (width, height), (h, w) = image.size, self._size
        high, wide = min(height, max(1, width * h // w)), min(width, max(1, height * w // h))
        return self._resized(image, ((height - high) // 2, (width - wide) // 2, high, wide))

    def _augmented(self, draw: list[list[float]]) -> Shaping:
        *tries, (flip, *_) = draw

        def shape(image: Image.Image) -> Image.Image:
            cropped = self._resized(image, crop_box(image.height, image.width, tries, shape=self._size))
            flipped: Image.Image = transforms.horizontal_flip(cropped) if flip < 0.5 else cropped
            return flipped

        return shape

    def _resized(self, image: Image.Image, box: Box) -> Image.Image:
        size, filtering = list(self._size), self._shape.interpolation
        resized: Image.Image = transforms.resized_crop(image, *box, size, interpolation=filtering)
        return resized


def crop_box(
    height: int, width: int, tries: Sequence[Sequence[float]], *, shape: tuple[int, int] = (1, 1)
) -> Box:
    """Top, left, height, width of a random crop: the first that fits of `tries`, four numbers in [0, 1) each.

    shape: height and width of what becomes of it, from whose proportions the crop's differ by RATIOS.

    Source: torchvision's RandomResizedCrop (which draws from the global generator); the whole image where no
    try fits.
    """
    for area, ratio, top, left in tries:
        pixels = height * width * (AREAS[0] + (AREAS[1] - AREAS[0]) * area)
        aspect = RATIOS[0] * (RATIOS[1] / RATIOS[0]) ** ratio * (shape[1] / shape[0])
        h, w = round(math.sqrt(pixels / aspect)), round(math.sqrt(pixels * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    return 0, 0, height, width


@lru_cache(2)
def _epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    order: list[int] = torch.randperm(
        count, generator=torch.Generator().manual_seed(mixed_seed(seed, epoch, -1))
    ).tolist()
    return order


def _decoded(path: Path, scale: Scale | None = None) -> Image.Image:
    """The image as the scale has it. Raises JobFailedError: all were readable when the data set was built."""
    try:
        return decoded(path, scale)
    except UnreadableError as error:
        raise JobFailedError(
            f"The image '{shown(path)}' cannot be read: {error}.",
            "Repair the file and go on with `nas resume JOB`, or remove it: `nas resume JOB --accept-data`.",
        ) from error


def _as_it_is(image: Image.Image) -> Image.Image:
    return image


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

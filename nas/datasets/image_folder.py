"""A user's own images: one folder per class, nothing is downloaded.

Layout `root/<class>/<image>`, divided by file into train, search and report; or `root/train/<class>/<image>`
and `root/val/<class>/<image>`, where the images of `val` are divided into search and report.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from nas.datasets._centre import Shape, at_centre, shape_of
from nas.datasets._image_files import ImageFile, find, split
from nas.datasets._preprocessing import AUTO, DEFAULTS, Preprocessing
from nas.datasets._seeds import mixed_seed
from search_spaces._errors import UsageError

AUGMENTATIONS = ("crop", "none")
AREAS = (0.08, 1.0)
RATIOS = (3 / 4, 4 / 3)
TRIES = 10

Box = tuple[int, int, int, int]


def build(
    *,
    root: str,
    image_size: int = 64,
    split_seed: int = 0,
    search: float = 0.1,
    report: float = 0.1,
    mean: Sequence[float] | str = AUTO,
    std: Sequence[float] | str = AUTO,
    interpolation: str = AUTO,
    crop: float | str = AUTO,
    crop_mode: str = AUTO,
    augmentation: str = "crop",
    workers: int = 2,
) -> "ImageFolder":
    """The images below `root` as RGB squares of `image_size` pixels, normalised by `mean` and `std`.

    search, report: shares of the images of each class (with `train` and `val` folders: their proportion in
    `val`).
    mean, std, interpolation, crop, crop_mode: as timm has them (`crop` is its crop_pct). In a job `auto` is
    what the pretrained model needs; here ImageNet's mean and std, and the largest centred square, bilinearly.
    augmentation: `crop` is a random resized crop and a horizontal flip, `none` the centre crop that search
    and report get.
    workers: threads that decode.  Raises UsageError for a wrong option and for a tree without usable classes.
    """
    if not isinstance(root, str | Path):
        raise UsageError(
            f"root = {root!r} is not a path.", "Give the folder that holds one folder per class."
        )
    _check_integers(image_size=image_size, workers=workers)
    if not isinstance(split_seed, int) or isinstance(split_seed, bool):
        raise UsageError(f"split_seed = {split_seed!r} is not an integer.")
    if not all(_is_number(share) and 0 < share < 1 for share in (search, report)) or search + report >= 1:
        raise UsageError(
            f"search = {search!r} and report = {report!r} are not possible shares of the images.",
            "Both are positive, and together they leave a rest to train on (sum below 1).",
        )
    if augmentation not in AUGMENTATIONS:
        raise UsageError(
            f"augmentation = {augmentation!r} is unknown.", f"Options: {', '.join(AUGMENTATIONS)}."
        )
    normal = (
        _channels("mean", DEFAULTS.mean if mean == AUTO else mean),
        _channels("std", DEFAULTS.std if std == AUTO else std),
    )
    shape = shape_of(interpolation, crop, crop_mode)
    if min(normal[1]) <= 0:
        raise UsageError(f"std = {list(normal[1])} has a value that is not positive.")
    classes, groups = find(Path(root).expanduser())
    splits = split(groups, seed=split_seed, search=search, report=report)
    return ImageFolder(
        classes, splits, image_size, normal, shape, crop=augmentation == "crop", workers=workers
    )


class ImageFolder:
    """Images that are read from their files when they are needed; only the list of files is held in memory.

    digest: SHA-256 over the sorted relative paths with their file sizes and splits, the class names and the
    options that shape an input. It does not read the pixels: a file that is overwritten by another image of
    the same size in bytes goes unnoticed.
    """

    name = "image_folder"

    def __init__(
        self,
        classes: tuple[str, ...],
        splits: dict[str, list[ImageFile]],
        image_size: int,
        normal: tuple[list[float], list[float]],
        shape: Shape,
        *,
        crop: bool,
        workers: int,
    ) -> None:
        self.classes = classes
        self.num_classes = len(classes)
        self.input_shape = (3, image_size, image_size)
        self.sizes = {name: len(files) for name, files in splits.items()}
        self.digest = _digest(classes, splits, image_size, normal, shape)
        self.preprocessing = Preprocessing(tuple(normal[0]), tuple(normal[1]), **shape.told())
        self._shape = shape
        self._splits, self._side, self._normal, self._crop, self._workers = (
            splits,
            image_size,
            normal,
            crop,
            workers,
        )

    def train_batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Images (size, 3, image_size, image_size), labels (size,): batch `step` over shuffled epochs.

        Raises UsageError for an image that cannot be decoded.
        """
        chosen = self._chosen(seed, step, size)
        if not self._crop:
            return self._load(chosen, [self._centre] * size)
        draws = torch.rand(
            size, TRIES + 1, 4, generator=torch.Generator().manual_seed(mixed_seed(seed, step))
        )
        return self._load(chosen, [self._augmented(draw) for draw in draws.tolist()])

    def clean_batch(self, seed: int, step: int, size: int) -> Tensor:
        """Centre crops of the images that `train_batch` takes; raises UsageError as it does."""
        return self._load(self._chosen(seed, step, size), [self._centre] * size)[0]

    def batches(self, split: str, size: int, images: slice | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The split, decoded batch by batch: `report` in the order of its paths, `search` in a mixed one.

        Raises UsageError for a bad image.
        """
        files = self._splits[split][images or slice(None)]
        for start in range(0, len(files), size):
            part = files[start : start + size]
            yield self._load(part, [self._centre] * len(part))

    def sources(self, split: str) -> None:
        return None

    def _chosen(self, seed: int, step: int, size: int) -> list[ImageFile]:
        files = self._splits["train"]
        places = range(step * size, (step + 1) * size)
        return [
            files[_epoch_order(seed, place // len(files), len(files))[place % len(files)]] for place in places
        ]

    def _load(
        self, files: list[ImageFile], shapes: list[Callable[[Image.Image], Image.Image]]
    ) -> tuple[Tensor, Tensor]:
        def pixels(file: ImageFile, shape: Callable[[Image.Image], Image.Image]) -> Tensor:
            tensor: Tensor = transforms.pil_to_tensor(shape(_decoded(file.path)))
            return tensor

        with ThreadPoolExecutor(self._workers) as pool:
            images = torch.stack(list(pool.map(pixels, files, shapes)))
        mean, std = self._normal
        inputs = transforms.normalize(transforms.to_dtype(images, torch.float32, scale=True), mean, std)
        return inputs, torch.tensor([file.label for file in files])

    def _centre(self, image: Image.Image) -> Image.Image:
        if self._shape.pct is not None:
            return at_centre(image, (self._side, self._side), self._shape)
        width, height = image.size
        side = min(width, height)
        return self._resized(image, ((height - side) // 2, (width - side) // 2, side, side))

    def _augmented(self, draw: list[list[float]]) -> Callable[[Image.Image], Image.Image]:
        *tries, (flip, *_) = draw

        def shape(image: Image.Image) -> Image.Image:
            cropped = self._resized(image, crop_box(image.height, image.width, tries))
            flipped: Image.Image = transforms.horizontal_flip(cropped) if flip < 0.5 else cropped
            return flipped

        return shape

    def _resized(self, image: Image.Image, box: Box) -> Image.Image:
        size, filtering = [self._side, self._side], self._shape.interpolation
        resized: Image.Image = transforms.resized_crop(image, *box, size, interpolation=filtering)
        return resized


def crop_box(height: int, width: int, tries: Sequence[Sequence[float]]) -> Box:
    """Top, left, height, width of a random crop: the first that fits of `tries`, four numbers in [0, 1) each.

    Source: torchvision's RandomResizedCrop (which draws from the global generator); the whole image where no
    try fits.
    """
    for area, ratio, top, left in tries:
        pixels = height * width * (AREAS[0] + (AREAS[1] - AREAS[0]) * area)
        aspect = RATIOS[0] * (RATIOS[1] / RATIOS[0]) ** ratio
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


def _decoded(path: Path) -> Image.Image:
    """The image as RGB; 16-bit greyscale is scaled down, transparency is dropped."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16"):
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            return (
                image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")
            )
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"The image '{path}' cannot be read: {error}.", "Repair the file or remove it from the folder."
        ) from error


def _digest(
    classes: tuple[str, ...],
    splits: dict[str, list[ImageFile]],
    image_size: int,
    normal: tuple[list[float], list[float]],
    shape: Shape,
) -> str:
    files = [(file.relative, file.size, file.label, name) for name, part in splits.items() for file in part]
    # Jobs of before there was a choice of shapes know the digest without one.
    made = [classes, files, image_size, normal, *([] if shape.is_former else [shape.told(), shape.pct])]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()


def _check_integers(**options: object) -> None:
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{name} = {value!r} is not a positive integer.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _channels(name: str, values: object) -> list[float]:
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_number, values)):
        raise UsageError(
            f"{name} = {values!r} is not a list of 3 numbers.", "Give one for each of red, green and blue."
        )
    return [float(value) for value in values]

"""A data set of images, wherever they come from: decoded when needed, batches as functions of a seed."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info
from torchvision.transforms.v2 import functional as transforms

from nas.errors import JobFailedError
from nas.images.augmentation import Augmenter, repeats_of
from nas.images.centre import at_centre
from nas.images.checked import Source
from nas.images.decoding import Scale, UnreadableError, depths_of
from nas.images.digest import digest, manifest
from nas.images.files import ImageFile, shown
from nas.images.preprocessing import Preprocessing
from nas.images.seeds import mixed_seed
from nas.images.selection import Selection
from nas.images.sets.image_options import ImageOptions, Inputs
from nas.images.sets.order import Order, factors_of

AREAS = (0.08, 1.0)
RATIOS = (3 / 4, 4 / 3)
TRIES = 10
OTHERS = 8  # images that are tried in place of one that cannot be read any more
HINT = "Repair the file and go on with `nas resume JOB`, or remove it: `nas resume JOB --accept-data`."

Box = tuple[int, int, int, int]
Shaping = Callable[[Image.Image], Image.Image]
Made = TypeVar("Made", Image.Image, Tensor)


class ImageSet:
    """Images that are read when they are needed; in memory are their list and what `cache_bytes` allow.

    digest: SHA-256 over the names with the hashes of their contents and their splits, the class names and the
    options that shape an input.
    splits_anew: as of `DataSet`.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        selection: Selection,
        inputs: Inputs,
        options: ImageOptions,
        *,
        splits_anew: bool = False,
    ) -> None:
        self.name, self.splits_anew = name, splits_anew
        self.classes = tuple(map(shown, selection.classes))
        self.num_classes = len(self.classes)
        self.input_shape = (3 if inputs.mode == "RGB" else 1, *inputs.size)
        self.sizes = {split: len(files) for split, files in selection.splits.items()}
        self.facts = selection.facts
        used = (file for part in selection.splits.values() for file in part)
        depths = depths_of(selection.contents[file.relative].look for file in used)
        self.scale = Scale(depths, inputs.background, inputs.mode)
        self._size, self._normal, self._shape = inputs.size, inputs.normal, inputs.shape
        self.digest = digest(selection, self._size, self._normal, self._shape, self.scale)
        mean, std = map(tuple, inputs.normal)
        self.preprocessing = Preprocessing(
            mean,
            std,
            **inputs.shape.as_timm(),
            crop_first=inputs.shape.pct is None,
            background=self.scale.background,
            depths=self.scale.depths,
        )
        self._source, self._selection, self._splits = source, selection, selection.splits
        self._workers, self._skips = options.workers, options.on_bad_image == "skip"
        labels = [file.label for file in self._splits["train"]]
        counts = torch.bincount(torch.tensor(labels), minlength=self.num_classes).tolist()
        self._order = Order(labels, factors_of(options.balance, self.classes, counts))
        self._held = Held(self.sizes, math.prod(self.input_shape), options.cache_bytes)
        self._unreadable: dict[str, str] = {}
        self._crop, self._augment, self._repeats = options.augmentation == "crop", None, 1
        if isinstance(options.augmentation, Mapping):
            self._repeats = repeats_of(options.augmentation)
            self._augment = _augmenter(options.augmentation, inputs)

    def manifest(self) -> list[list[Any]]:
        """See `DataSet`."""
        return manifest(self._selection)

    def train_batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Images (size, *input_shape), labels (size,): batch `step` over shuffled epochs.

        Raises JobFailedError for an image that cannot be decoded any more, unless those are to be skipped.
        """
        return self.train_part(seed, step, size, range(size))

    def train_part(self, seed: int, step: int, size: int, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See `DataSet`: no other image is decoded."""
        images, labels = self.raw_part(seed, step, size, places)
        return self.normalised(images), labels

    def raw_part(self, seed: int, step: int, size: int, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The same before `normalised`: bytes, a quarter as large, but for noise that timm erases with."""
        if self._augment is not None:
            # Each right after it was decoded, while it is in the processor's cache.
            ways = [partial(self._augment, seed=mixed_seed(seed, step, place)) for place in places]
            tensors, labels = self._taken(seed, step, size, places, ways)
            return default_collate(tensors), labels  # in a loader's process right into shared memory
        shapes: list[Shaping] = [self._centre] * len(places)
        if self._crop:
            draws = torch.rand(
                size, TRIES + 1, 4, generator=torch.Generator().manual_seed(mixed_seed(seed, step))
            )
            shapes = [self._augmented(draw) for draw in draws[list(places)].tolist()]
        images, labels = self._taken(seed, step, size, places, shapes)
        return _stacked(images), labels

    def clean_batch(self, seed: int, step: int, size: int) -> Tensor:
        """Centre crops of the images that `train_batch` takes; raises JobFailedError as it does."""
        images, _ = self._taken(seed, step, size, range(size), [self._centre] * size)
        return self._inputs(_stacked(images))

    def batches(self, split: str, size: int, images: slice | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The split, decoded batch by batch: `report` in the order of its names, `search` in a mixed one.

        Raises JobFailedError for an image that cannot be decoded any more.
        """
        files = self._splits[split]
        places = range(len(files))[images or slice(None)]
        for start in range(0, len(places), size):
            part = places[start : start + size]
            labels = torch.tensor([files[place].label for place in part])
            yield self._inputs(self._centred(split, part)), labels

    def sources(self, split: str) -> None:
        return None

    def labels(self, split: str) -> Tensor:
        return torch.tensor([file.label for file in self._splits[split]])

    def unreadable(self) -> dict[str, str]:
        """Training images that could not be read any more, by where they are, and why; each is told once."""
        news, self._unreadable = self._unreadable, {}
        return news

    def _chosen(self, seed: int, step: int, size: int, places: Sequence[int]) -> list[ImageFile]:
        files = self._splits["train"]
        return [files[self._order(seed, (step * size + place) // self._repeats)] for place in places]

    def _taken(
        self,
        seed: int,
        step: int,
        size: int,
        places: Sequence[int],
        shapes: Sequence[Callable[[Image.Image], Made]],
    ) -> tuple[list[Made], Tensor]:
        """Images of a training batch, each shaped in its way, and their labels; by several threads."""

        def taken(place: int, file: ImageFile, shape: Callable[[Image.Image], Made]) -> Made:
            # Others in its place are of its class, so that labels are known and classes keep their shares.
            for number in range(OTHERS + 1):
                other = self._order.others(file.label, seed, step, place, number) if number else None
                chosen = file if other is None else self._splits["train"][other]
                try:
                    return shape(self._source.decoded(chosen, self.scale))
                except UnreadableError as error:
                    if not self._skips:
                        raise _gone(chosen, error) from error
                    self._unreadable[chosen.place] = str(error)
                    last = error
            raise JobFailedError(
                f"{OTHERS + 1} training images of class '{self.classes[file.label]}' in a row cannot be "
                f"read, the last one {chosen.place}: {last}.",
                "Look whether the images are still there, and go on with `nas resume JOB`.",
            )

        files = self._chosen(seed, step, size, places)
        images = self._mapped(taken, places, files, shapes)
        return images, torch.tensor([file.label for file in files])

    def _mapped(self, make: Callable[..., Made], *arguments: Sequence[Any]) -> list[Made]:
        # As many processes of a loader work at once as are to: threads would stand in each other's way.
        if self._workers == 1 or get_worker_info() is not None:
            with _quiet():
                return list(map(make, *arguments))
        with _quiet(), ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(make, *arguments))

    def _centred(self, split: str, places: range) -> Tensor:
        """Images (places, *input_shape) of uint8, as a split that is held out has them."""
        files, missing = self._splits[split], [place for place in places if not self._held.has(split, place)]

        def decoded(place: int) -> Tensor:
            try:
                image = self._source.decoded(files[place], self.scale)
            except UnreadableError as error:
                raise _gone(files[place], error) from error
            pixels: Tensor = transforms.pil_to_tensor(self._centre(image))
            return pixels

        images: dict[int, Tensor] = {}
        if missing:
            images = dict(zip(missing, self._mapped(decoded, missing), strict=True))
            self._held.keep(split, images)
        return torch.stack(
            [images[place] if place in images else self._held.image(split, place) for place in places]
        )

    def normalised(self, images: Tensor) -> Tensor:
        """What `raw_part` gives as inputs, on its device."""
        return self._inputs(images) if self._augment is None else self._augment.normalised(images)

    def _inputs(self, images: Tensor) -> Tensor:
        """Images (n, *input_shape) of bytes as inputs."""
        mean, std = self._normal
        inputs: Tensor = transforms.to_dtype(images, torch.float32, scale=True)
        transforms.normalize(inputs, mean, std, inplace=True)  # another large tensor costs most of it
        return inputs

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


class Held:
    """Decoded images of the splits that are held out, as many as fit: of `search` first, then of `report`.

    They are of this process: a copy in another one begins with none.
    """

    def __init__(self, sizes: Mapping[str, int], image_bytes: int, most_bytes: int) -> None:
        room = most_bytes // image_bytes
        self._room: dict[str, int] = {}
        for split in ("search", "report"):
            self._room[split] = min(sizes[split], room)
            room -= self._room[split]
        self._images: dict[tuple[str, int], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": {}}

    def has(self, split: str, place: int) -> bool:
        """Whether the image at that place of the split is held."""
        return (split, place) in self._images

    def image(self, split: str, place: int) -> Tensor:
        """Its pixels. Raises KeyError."""
        return self._images[split, place]

    def keep(self, split: str, images: Mapping[int, Tensor]) -> None:
        """Holds those of the first places of the split, for which there is room."""
        self._images |= {(split, place): one for place, one in images.items() if place < self._room[split]}


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


def _augmenter(options: Mapping[str, Any], inputs: Inputs) -> Augmenter:
    mean, std = map(tuple, inputs.normal)
    return Augmenter(
        options,
        inputs.size,
        mean=mean,
        std=std,
        interpolation=inputs.shape.interpolation.value,
        mode=inputs.mode,
    )


def _stacked(images: Sequence[Image.Image]) -> Tensor:
    return torch.stack(list(map(transforms.pil_to_tensor, images)))


def _gone(file: ImageFile, error: UnreadableError) -> JobFailedError:
    """All images were readable when the data set was built."""
    return JobFailedError(f"The image {file.place} cannot be read: {error}.", HINT)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings, about files that were judged when the job began."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

"""Images as timm's own transforms make them in its trainings: crops, RandAugment, jitter, erasing."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from nas.images.options import check_integers, is_number
from search_spaces.errors import UsageError, did_you_mean
from supernet.global_draws import seeded

REPEATS = "repeats"
# Of `timm.data.create_transform`: what is done to an image, not what it is made for.
OPTIONS = (
    *("scale", "ratio", "hflip", "vflip", "color_jitter", "color_jitter_prob", "grayscale_prob"),
    *("gaussian_blur_prob", "auto_augment", "re_prob", "re_mode", "re_count", "train_crop_mode"),
)
# What timm takes and makes nothing sensible of.
PROBABILITIES = ("hflip", "vflip", "color_jitter_prob", "grayscale_prob", "gaussian_blur_prob", "re_prob")
RANGES = ("scale", "ratio")
TRIED = 8  # images on which it is seen whether timm takes the options


def repeats_of(options: Mapping[str, Any]) -> int:
    """How often an image is in a batch, each time augmented anew (Hoffer et al., arXiv 1901.09335)."""
    repeats = options.get(REPEATS, 1)
    check_integers(**{f"augmentation.{REPEATS}": repeats})
    return int(repeats)


class Augmenter:
    """From an image and a seed to bytes (channels, *size), which `normalised` makes inputs of.

    They have one more channel where timm erases: 0 is an erased pixel. Where it erases with noise, which is
    laid over normalised images, there are no bytes, but inputs at once.
    options: arguments of `timm.data.create_transform`.  interpolation: timm's word.  mode: Pillow's, of the
    images.  Raises UsageError for options that timm does not have or take.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        size: tuple[int, int],
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: str,
        mode: str,
    ) -> None:
        from timm.data.random_erasing import RandomErasing  # noqa: PLC0415 - timm takes long to import
        from timm.data.transforms_factory import create_transform  # noqa: PLC0415

        given = {name: value for name, value in options.items() if name != REPEATS}
        _check(given)
        self._mean, self._std = list(mean), list(std)
        # timm jitters colours unless told not to, which surprises who has named all that is to be done.
        arguments: dict[str, Any] = {"color_jitter": None, **given, "interpolation": interpolation}
        make: Any = partial(create_transform, size, is_training=True, mean=mean, std=std, **arguments)
        try:
            whole = make()
            last = whole.transforms[-1]
            self._erasing: Any = last if isinstance(last, RandomErasing) else None
            is_noisy = self._erasing is not None and (last.rand_color or last.per_pixel)
            self._transform: Any = whole if is_noisy else make(normalize=False, re_prob=0.0)
            _keep_a_bit(self._transform)
            for seed in range(TRIED):
                self(Image.new(mode, (size[1] + 3, size[0] + 3)), seed)
        except Exception as error:  # timm asserts, looks up and converts
            raise UsageError(
                f"timm does not take augmentation = {given!r}: {type(error).__name__} {error}".rstrip(),
                "`timm.data.create_transform` tells what its options are.",
            ) from error

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        with seeded(seed):
            made: Tensor = self._transform(image)
            if self._erasing is None or made.dtype != torch.uint8:
                return made
            stays: Tensor = self._erasing(torch.ones((1, *made.shape[1:]), dtype=torch.uint8))
        return torch.cat([made, stays])

    def normalised(self, images: Tensor) -> Tensor:
        """Inputs (n, channels, *size) of several images, on their device: the bits that timm makes."""
        if images.dtype != torch.uint8:
            return images
        channels = len(self._mean)
        # A GPU multiplies by the inverse of a plain number, which rounds otherwise.
        inputs = images[:, :channels].float().div_(torch.tensor(255.0, device=images.device))
        transforms.normalize(inputs, self._mean, self._std, inplace=True)
        return inputs.masked_fill_(images[:, channels:] == 0, 0.0) if self._erasing is not None else inputs


def _check(options: Mapping[str, Any]) -> None:
    """Raises UsageError for an unknown option, and for a value by which timm would do nothing or anything."""
    for name, value in options.items():
        if name not in OPTIONS:
            raise UsageError(f"augmentation.{name} is unknown.", did_you_mean(name, (*OPTIONS, REPEATS)))
        if name in PROBABILITIES and is_number(value) and not 0 <= value <= 1:
            raise UsageError(f"augmentation.{name} = {value!r} is no probability.", "It is from 0 to 1.")
        if name in RANGES and value is not None and not _is_range(value):
            raise UsageError(
                f"augmentation.{name} = {value!r} is no range.", "Give the least and the most, both above 0."
            )
    if (scale := options.get("scale")) and scale[1] > 1 and "train_crop_mode" not in options:
        raise UsageError(f"augmentation.scale = {scale!r} are no shares of an image.", "They are at most 1.")
    for part in str(options.get("auto_augment", "")).split("-")[1:]:
        if not part.startswith("t") and not any(letter.isdigit() for letter in part):
            raise UsageError(
                f"augmentation.auto_augment has a part '{part}' that says no number.",
                "As in rand-m9-mstd0.5.",
            )


def _is_range(value: object) -> bool:
    if not isinstance(value, Sequence) or len(value) != 2 or not all(map(is_number, value)):
        return False
    return bool(0 < value[0] <= value[1])


def _keep_a_bit(transform: Any) -> None:
    """At high levels timm posterizes to no bits at all, which Pillow refuses in the middle of a training."""
    for step in getattr(transform, "transforms", ()):
        policies = [getattr(step, "ops", ()), *getattr(step, "policy", ())]
        for operation in (one for policy in policies for one in policy):
            if "Posterize" in getattr(operation, "name", ""):
                operation.level_fn = partial(_one_bit_at_least, operation.level_fn)


def _one_bit_at_least(level_fn: Any, level: float, hparams: Any) -> tuple[int, ...]:
    bits, *others = level_fn(level, hparams)
    return (max(1, bits), *others)

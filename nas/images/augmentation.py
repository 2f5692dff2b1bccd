"""Images as timm's own transforms make them in its trainings: crops, RandAugment, jitter, erasing."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from PIL import Image
from torch import Tensor

from nas.images.options import check_integers
from search_spaces.errors import UsageError, did_you_mean
from supernet.global_draws import seeded

REPEATS = "repeats"
# Of `timm.data.create_transform`: what is done to an image, not what it is made for.
OPTIONS = (
    *("scale", "ratio", "hflip", "vflip", "color_jitter", "color_jitter_prob", "grayscale_prob"),
    *("gaussian_blur_prob", "auto_augment", "re_prob", "re_mode", "re_count", "train_crop_mode"),
)
TRIED = 8  # images on which it is seen whether timm takes the options


def repeats_of(options: Mapping[str, Any]) -> int:
    """How often an image is in a batch, each time augmented anew (Hoffer et al., arXiv 1901.09335)."""
    repeats = options.get(REPEATS, 1)
    check_integers(**{f"augmentation.{REPEATS}": repeats})
    return int(repeats)


class Augmenter:
    """From an image and a seed to a normalised tensor (channels, *size).

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
        from timm.data.transforms_factory import create_transform  # noqa: PLC0415 - timm takes long to import

        given = {name: value for name, value in options.items() if name != REPEATS}
        for name in given:
            if name not in OPTIONS:
                hint = did_you_mean(name, (*OPTIONS, REPEATS))
                raise UsageError(f"augmentation.{name} is unknown.", hint)
        # timm jitters colours unless told not to, which surprises who has named all that is to be done.
        arguments: dict[str, Any] = {"color_jitter": None, **given}
        try:
            self._transform: Any = create_transform(
                size, is_training=True, mean=mean, std=std, interpolation=interpolation, **arguments
            )
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
            tensor: Tensor = self._transform(image)
        return tensor


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

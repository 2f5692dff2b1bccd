"""How an image becomes an input, as plain data: which part of it, how it is resized, how it is normalised.

The words are timm's: `crop_pct` is the share of the resized image that stays along each side, `crop_mode` how
it is made to fit.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nas.images.decoding import WHITE
from search_spaces.errors import UsageError
from supernet.normalisation import Normalisation, for_channels

AUTO = "auto"  # what a pretrained model needs, or else DEFAULTS
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SELDOM, LISTS = ("crop_first", "depths"), ("mean", "std", "background")


@dataclass(frozen=True)
class Preprocessing:
    """mean, std: of each channel, of pixels from 0 to 1.

    crop_first: the largest centred part of the shape is cut out before anything is resized, of which the rest
    is what timm comes nearest with.  background: on which transparent images are blended.  depths: the bits
    that values of more than 8 fill, by their kind (`nas.images.decoding.Scale`).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    crop_first: bool = False
    background: tuple[int, int, int] = WHITE
    depths: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON data: the last three where they are not as usual."""
        fields = {name: value for name, value in asdict(self).items() if value or name not in SELDOM}
        if self.background == WHITE:
            del fields["background"]
        return fields | {name: list(fields[name]) for name in LISTS if name in fields}

    def for_channels(self, count: int) -> "Preprocessing":
        """The same for images of `count` channels, on which colours count as their mean: timm's rule."""
        mean, std = (for_channels(values, count) for values in (self.mean, self.std))
        return replace(self, mean=mean, std=std)

    @property
    def normalisation(self) -> Normalisation:
        """Mean and std alone."""
        return Normalisation(self.mean, self.std)


DEFAULTS = Preprocessing(IMAGENET_MEAN, IMAGENET_STD)
UNCHANGED = Preprocessing((0.0,), (1.0,))  # grey images from 0 to 1, as they are


def from_mapping(fields: Mapping[str, Any]) -> Preprocessing:
    """What a `config.json` or timm says. Raises UsageError for values that are none."""
    try:
        read = Preprocessing(
            tuple(map(float, fields["mean"])),
            tuple(map(float, fields["std"])),
            str(fields["interpolation"]),
            float(fields["crop_pct"]),
            str(fields["crop_mode"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"What is said of its images cannot be read: {error}.") from error
    if not (read.mean and read.std and all(map(math.isfinite, read.mean)) and min(read.std) > 0):
        raise UsageError(f"Mean {fields['mean']!r} and std {fields['std']!r} normalise no image.")
    return read

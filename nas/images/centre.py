"""The middle of an image, resized and cropped as timm's evaluation does it, to the last bit."""

import math
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from nas.images.preprocessing import AUTO, DEFAULTS
from search_spaces.errors import UsageError

MODES = ("center", "squash")
LONGEST = 64  # times its share: of what is longer only the middle is resized, which would fill the memory
FILTERS = {mode.value: mode for mode in InterpolationMode if mode.value != "nearest-exact"}


@dataclass(frozen=True)
class Shape:
    """How an image is made to fit; pct None: the largest centred square is cut out first, then resized."""

    interpolation: InterpolationMode = InterpolationMode.BILINEAR
    pct: float | None = None
    mode: str = "center"

    @property
    def is_former(self) -> bool:
        """Whether it is the only one that there was before version 0.2."""
        return self == Shape()

    def as_timm(self) -> dict[str, Any]:
        """What timm comes nearest with."""
        pct = 1.0 if self.pct is None else self.pct
        return {"interpolation": self.interpolation.value, "crop_pct": pct, "crop_mode": self.mode}


def shape_of(interpolation: object, crop: object, crop_mode: object) -> Shape:
    """The shape of a data set's options. Raises UsageError for a wrong one."""
    chosen = DEFAULTS.interpolation if interpolation == AUTO else interpolation
    if not isinstance(chosen, str) or chosen not in FILTERS:
        raise UsageError(
            f"interpolation = {interpolation!r} is unknown.", f"Options: {', '.join([AUTO, *FILTERS])}."
        )
    mode = "center" if crop_mode == AUTO else crop_mode
    if mode not in MODES:
        raise UsageError(f"crop_mode = {crop_mode!r} is unknown.", f"Options: {', '.join([AUTO, *MODES])}.")
    if crop == AUTO:
        return Shape(FILTERS[chosen], None if crop_mode == AUTO else 1.0, str(mode))
    if not isinstance(crop, int | float) or isinstance(crop, bool) or not 0 < crop <= 1:
        raise UsageError(
            f"crop = {crop!r} is no share of an image.",
            "It is above 0 and at most 1: how much of the resized image stays along each side.",
        )
    return Shape(FILTERS[chosen], float(crop), str(mode))


def at_centre(image: Image.Image, size: tuple[int, int], shape: Shape) -> Image.Image:
    """The middle of the image in `size` (height, width), as timm's evaluation takes it.

    To the last bit unless one side is LONGEST times as long as its share.
    """
    pct = 1.0 if shape.pct is None else shape.pct
    wanted = [math.floor(side / pct) for side in size]
    if shape.mode == "center":
        image = _middle(image, wanted)
        wanted = _shorter_side(image, wanted)
    resized = transforms.resize(image, wanted, shape.interpolation)
    cropped: Image.Image = transforms.center_crop(resized, list(size))
    return cropped


def _middle(image: Image.Image, wanted: list[int]) -> Image.Image:
    ratio = min(image.height / wanted[0], image.width / wanted[1])
    kept = []
    for side, share in zip((image.height, image.width), wanted, strict=True):
        most = min(side, math.ceil(LONGEST * share * ratio))
        kept.append(most + (side - most) % 2)  # the centre stays where it is
    if kept == [image.height, image.width]:
        return image
    middle: Image.Image = transforms.center_crop(image, kept)
    return middle


def _shorter_side(image: Image.Image, wanted: list[int]) -> list[int]:
    """What `resize` is asked for so that the image's proportions stay and it covers `wanted`."""
    if wanted[0] == wanted[1]:
        return wanted[:1]
    ratio = min(image.height / wanted[0], image.width / wanted[1])
    return [round(image.height / ratio), round(image.width / ratio)]

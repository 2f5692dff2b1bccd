"""The middle of an image, resized and cropped as timm's evaluation does it, to the last bit."""

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torchvision.transforms import InterpolationMode

from nas.images.decoding import fitted
from nas.images.preprocessing import AUTO, DEFAULTS
from search_spaces.errors import UsageError

MODES = ("center", "squash")
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
    """The middle of the image in `size` (height, width), as timm's evaluation takes it; see `fitted`."""
    return fitted(image, size, **shape.as_timm())

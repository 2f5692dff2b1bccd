"""Images as pixels: decoded, oriented by EXIF, blended where transparent, resized; NumPy and Pillow only.

The `infer.py` of an extracted subnet holds this file, so that an image becomes there what it was in the job.
Values of more than 8 bits are scaled by the range of the whole data set, not of each image: a 12-bit camera
fills 12 of 16 bits in all its images, and a dark image is to stay darker than a light one.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

WHITE = (255, 255, 255)
DEPTHS = (8, 10, 12, 14, 16)  # bits of a value, as cameras and formats have them; beyond, what is needed
SIGNED_DEPTH = 15  # of positive values in 16 bits with a sign, which Pillow reads as integers of 32 bits
SIXTEEN, INTEGER, FLOAT, FULL = "I;16", "I", "F", "full 16"  # kinds of values of more than 8 bits
# By content, whatever a file is called; Pillow knows more, one of which (EPS) starts a program of its own.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
ORIENTATION = 0x0112
LARGEST_FLOAT = 255.0
LONGEST = 64  # times its share: of what is longer only the middle is resized, which would fill the memory


class UnreadableError(ValueError):
    """An image that cannot be used, in words that follow its name."""


@dataclass(frozen=True, slots=True)
class Look:
    """What decoding an image has told about its values.

    kind: of the values, "" for 8 bits.  bits: all integer values or-ed.  highest: of floats.
    otherwise: whether versions before 0.2 saw other pixels: they neither oriented nor blended nor scaled.
    frames: whether there are several, of which the first is used.
    """

    kind: str = ""
    bits: int = 0
    highest: float = 0.0
    otherwise: bool = False
    frames: bool = False


@dataclass(frozen=True)
class Scale:
    """How values become 8 bits: the bits that each kind of values fills in the whole data set."""

    depths: Mapping[str, int] = field(default_factory=dict)
    background: tuple[int, int, int] = WHITE
    mode: str = "RGB"


def depths_of(looks: Iterable[Look]) -> dict[str, int]:
    """The bits that each kind of values fills in all of these images together; floats up to 1 fill 0."""
    ones: dict[str, int] = {}
    highest = -1.0
    for look in looks:
        if look.kind == FLOAT:
            highest = max(highest, look.highest)
        elif look.kind:
            ones[look.kind] = ones.get(look.kind, 0) | look.bits
    depths = {kind: _depth(kind, bits) for kind, bits in ones.items()}
    return depths | ({} if highest < 0 else {FLOAT: 0 if highest <= 1 else 8})


def _depth(kind: str, bits: int) -> int:
    needed = bits.bit_length()
    left_aligned = needed > 8 and (bits & 0xFF == 0 or (bits & 0xF == 0 and needed > 12))
    if kind == FULL or (kind == SIXTEEN and left_aligned):
        return 16
    if kind == INTEGER and needed == SIGNED_DEPTH:
        return SIGNED_DEPTH
    return next((depth for depth in DEPTHS if depth >= needed), needed)


def other_range(look: Look, depths: Mapping[str, int]) -> bool:
    """Whether an image's values fill so little of the data set's range that it comes out nearly black."""
    if look.kind == FLOAT:
        return depths[FLOAT] == 8 and 0 < look.highest <= 1
    return look.kind in (SIXTEEN, INTEGER) and 0 < look.bits.bit_length() <= depths[look.kind] - 4


def look_at(content: bytes) -> Look:
    """Decodes a whole file. Raises UnreadableError."""
    if not content:
        raise UnreadableError("it is empty")
    look: Look = _decode(BytesIO(content), _looked)
    return look


def image_of(content: bytes, scale: Scale | None = None) -> Image.Image:
    """The image in a file with this content in the scale's mode; without one, by the range of its own values.

    Raises UnreadableError.
    """
    chosen = Scale(depths_of([look_at(content)])) if scale is None else scale
    image: Image.Image = _decode(BytesIO(content), lambda image: _pixels(image, chosen))
    return image


def look_of(image: Image.Image) -> Look:
    """As `look_at`, of an image that is decoded already. Raises UnreadableError."""
    with _in_words():
        return _looked(image)


def scaled(image: Image.Image, scale: Scale) -> Image.Image:
    """As `image_of`, of an image that is decoded already. Raises UnreadableError."""
    with _in_words():
        return _pixels(image, scale)


def _decode(content: BytesIO, use: Any) -> Any:
    with _in_words(), Image.open(content, formats=FORMATS) as image:
        image.load()
        return use(image)


@contextmanager
def _in_words() -> Iterator[None]:
    """What goes wrong in an image, as an UnreadableError."""
    try:
        yield
    except UnreadableError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableError("its content is no image that is known") from error
    except MemoryError as error:
        raise UnreadableError("there is not enough memory for it") from error
    except Exception as error:  # Pillow's plugins let through what the damage happens to cause
        raise UnreadableError(" ".join(str(error).split())[:200] or type(error).__name__) from error


def _kind(image: Image.Image) -> str:
    if image.mode == INTEGER and image.format == "PPM":
        return FULL  # Pillow has scaled them by the maximum that the file names
    return SIXTEEN if image.mode.startswith(SIXTEEN) else image.mode if image.mode in (INTEGER, FLOAT) else ""


def _looked(image: Image.Image) -> Look:
    kind = _kind(image)
    frames = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    turned = _is_turned(image)
    if not kind:
        _converted(image, "RGB")
        return Look(otherwise=turned or _is_transparent(image), frames=frames)
    values = np.asarray(image)
    if kind == FLOAT:
        return Look(kind, highest=_highest(values), otherwise=True, frames=frames)
    if values.size and int(values.min()) < 0:
        raise UnreadableError(f"it has negative values (down to {int(values.min())})")
    bits = int(np.bitwise_or.reduce(values, axis=None))
    otherwise = turned or kind != SIXTEEN or "transparency" in image.info
    return Look(kind, bits=bits, otherwise=otherwise, frames=frames)


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF says nothing; the pixels are whole
        return False


def _highest(values: np.ndarray[Any, Any]) -> float:
    if not np.isfinite(values).all():
        raise UnreadableError("it has values that are no finite numbers")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > LARGEST_FLOAT:
        raise UnreadableError(f"its numbers go from {low:g} to {high:g}, and not from 0 to 1 or to 255")
    return high


def _is_transparent(image: Image.Image) -> bool:
    if "transparency" not in image.info and image.mode not in ("RGBA", "LA", "PA", "La", "RGBa"):
        return False
    return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


def _pixels(image: Image.Image, scale: Scale) -> Image.Image:
    kind = _kind(image)
    oriented = ImageOps.exif_transpose(image) if _is_turned(image) else image
    if not kind:
        return _blended(oriented, scale) if _is_transparent(image) else _converted(oriented, scale.mode)
    values = np.asarray(oriented)
    depth = scale.depths[kind]
    eight = values >> (depth - 8) if kind != FLOAT else np.rint(values * (255 if depth == 0 else 1))
    grey = Image.fromarray(eight.clip(0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is None or kind == FLOAT:
        return grey.convert(scale.mode)
    grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return _blended(grey, scale)


def _blended(image: Image.Image, scale: Scale) -> Image.Image:
    ground = Image.new("RGBA", image.size, (*scale.background, 255))
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB").convert(scale.mode)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    # By way of RGBA where a palette or a colour counts as transparent: Pillow warns otherwise.
    if image.mode == mode and "transparency" not in image.info:
        return image  # to convert it would copy it
    return image.convert("RGBA").convert(mode) if "transparency" in image.info else image.convert(mode)


def fitted(
    image: Image.Image, size: Sequence[int], *, interpolation: str, crop_pct: float, crop_mode: str
) -> Image.Image:
    """The middle of the image in `size` (height, width), as timm's evaluation takes it; the words are timm's.

    To the last bit unless one side is LONGEST times as long as its share.
    """
    height, width = (math.floor(side / crop_pct) for side in size)
    if crop_mode == "center":
        image = _middle(image, height, width)
        height, width = _covering(image, height, width)
    resized = image.resize((width, height), Image.Resampling[interpolation.upper()])
    return _cropped(resized, size[0], size[1])


def _middle(image: Image.Image, height: int, width: int) -> Image.Image:
    ratio = min(image.height / height, image.width / width)
    kept = []
    for side, share in ((image.height, height), (image.width, width)):
        most = min(side, math.ceil(LONGEST * share * ratio))
        kept.append(most + (side - most) % 2)  # the centre stays where it is
    return image if kept == [image.height, image.width] else _cropped(image, kept[0], kept[1])


def _covering(image: Image.Image, height: int, width: int) -> tuple[int, int]:
    """The size in which the image keeps its proportions and covers what is wanted."""
    if height == width:  # the rounding of whoever names the shorter side alone
        short, long = sorted((image.height, image.width))
        longer = int(height * long / short)
        return (longer, width) if image.width <= image.height else (height, longer)
    ratio = min(image.height / height, image.width / width)
    return round(image.height / ratio), round(image.width / ratio)


def _cropped(image: Image.Image, height: int, width: int) -> Image.Image:
    top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
    return image.crop((left, top, left + width, top + height))

"""The options of an image folder, checked; each raises UsageError for what it does not take."""

import math
from collections.abc import Sequence
from pathlib import Path

from nas.images.selection import ON_BAD, ON_EQUAL, Choice
from search_spaces.errors import UsageError


def folder_of(root: object) -> Path:
    if not isinstance(root, str | Path):
        raise UsageError(
            f"root = {root!r} is not a path.", "Give the folder that holds one folder per class."
        )
    return Path(root).expanduser()


def choice_of(split_seed: int, search: float, report: float, on_bad: str, on_equal: str) -> Choice:
    if not isinstance(split_seed, int) or isinstance(split_seed, bool):
        raise UsageError(f"split_seed = {split_seed!r} is not an integer.")
    if not all(is_number(share) and 0 < share < 1 for share in (search, report)) or search + report >= 1:
        raise UsageError(
            f"search = {search!r} and report = {report!r} are not possible shares of the images.",
            "Both are positive, and together they leave a rest to train on (sum below 1).",
        )
    check_among("on_bad_image", on_bad, ON_BAD)
    check_among("on_equal_images", on_equal, ON_EQUAL)
    return Choice(split_seed, search, report, on_bad=on_bad, on_equal=on_equal)


def height_and_width(image_size: object) -> tuple[int, int]:
    if isinstance(image_size, list | tuple):
        if len(image_size) != 2:
            raise UsageError(f"image_size = {image_size!r} is neither a side nor [height, width].")
        check_integers(height=image_size[0], width=image_size[1])
        return image_size[0], image_size[1]
    check_integers(image_size=image_size)
    assert isinstance(image_size, int), "it is checked"
    return image_size, image_size


def names_in(option: str, value: object) -> frozenset[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise UsageError(f"{option} = {value!r} is not a list of relative paths.")
    return frozenset(value)


def check_among(name: str, value: object, options: Sequence[str]) -> None:
    if value not in options:
        raise UsageError(f"{name} = {value!r} is unknown.", f"Options: {', '.join(options)}.")


def check_integers(**options: object) -> None:
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{name} = {value!r} is not a positive integer.")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def colour(value: object) -> tuple[int, int, int]:
    """A background from a name, `#rrggbb` or three numbers. Raises UsageError."""
    from PIL import ImageColor  # noqa: PLC0415 - a table of names, for this alone

    if isinstance(value, str):
        try:
            red, green, blue = ImageColor.getrgb(value)[:3]
            return red, green, blue
        except ValueError:
            pass
    elif isinstance(value, list | tuple) and len(value) == 3 and all(type(p) is int for p in value):
        red, green, blue = value
        if min(value) >= 0 and max(value) <= 255:
            return red, green, blue
    raise UsageError(
        f"background = {value!r} is no colour.",
        "Give a name such as white, or [red, green, blue] of 0 to 255.",
    )

"""Folders with weights that others wrote: what is read of them, and what is refused before it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from search_spaces.errors import UsageError

CONFIG = "config.json"
LARGEST_CONFIG = 4 * 2**20  # bytes
# What libraries raise for files that are damaged or made to harm.
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    UnpicklingError,
    ValueError,
)


def check_regular(path: Path, *, most: int | None = None) -> int:
    """The bytes of a file. Raises UsageError for what is no regular file, which might never end, or is larger
    than `most` bytes, and OSError for one that is not there.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise UsageError(f"'{path}' is no regular file.")
    if most is not None and size > most:
        raise UsageError(f"'{path}' is {size:,} bytes long, and at most {most:,} are plausible.")
    return size


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json. Raises UsageError for one that is no JSON object, and OSError where none is."""
    path = folder / CONFIG
    check_regular(path, most=LARGEST_CONFIG)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"The {CONFIG} in '{folder}' cannot be read: {reason}.") from error
    if not isinstance(config, dict):
        raise UsageError(f"The {CONFIG} in '{folder}' holds no settings.")
    return config


def check_timm_folder(folder: Path) -> None:
    """Raises UsageError for a folder that timm did not write, or in which something is no regular file."""
    try:
        config = read_config(folder)
        for path in folder.iterdir():
            if not path.is_dir():
                check_regular(path)
    except OSError as error:
        raise UsageError(f"There is no {CONFIG} in the folder '{folder}'.") from error
    if not isinstance(config.get("architecture"), str):
        raise UsageError(f"The {CONFIG} in '{folder}' names no architecture of timm.")


def check_finite(whose: str, state: Mapping[str, Tensor]) -> None:
    """Raises UsageError that names the first weights that are not all finite numbers."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UsageError(f"The weights '{name}' of {whose} are not all finite numbers.")

"""Scikit-learn's handwritten digits (8x8, 1,797 images), split by image and augmented in whole batches."""

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces.bounds import short
from search_spaces.errors import UsageError

HELD_OUT = 300
SIDE = 8
NOISE = 0.1


@lru_cache(1)
def source_digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8) in [0, 1] and labels (1797,)."""
    rows = torch.from_numpy(np.loadtxt(_table(), delimiter=",", dtype=np.int64))
    images = rows[:, :-1].to(torch.float32).view(-1, 1, SIDE, SIDE) / 16
    return images, rows[:, -1].clone()


def _table() -> Path:
    """What `load_digits` reads; to import scikit-learn for it would cost every process two seconds."""
    spec = find_spec("sklearn")
    assert spec is not None, "scikit-learn is a dependency"
    assert spec.origin is not None, "and has an __init__.py"
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def split_indices(split_seed: int) -> dict[str, Tensor]:
    """Disjoint indices of the source images: 300 for search, 300 for report, the rest for training.

    Raises UsageError when `split_seed` is not an integer.
    """
    if type(split_seed) is not int or not -(2**63) <= split_seed < 2**64:
        raise UsageError(f"split_seed = {short(split_seed)} is not an integer of 64 bits.")
    order = torch.randperm(len(source_digits()[0]), generator=torch.Generator().manual_seed(split_seed))
    search, report, train = order.split([HELD_OUT, HELD_OUT, len(order) - 2 * HELD_OUT])
    return {"train": train, "search": search, "report": report}


def digest(*tensors: Tensor) -> str:
    """SHA-256 over the tensors' bytes."""
    state = hashlib.sha256()
    for tensor in tensors:
        state.update(tensor.contiguous().numpy().tobytes())
    return state.hexdigest()


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotation (+-15 degrees), shift (+-.08 of the side), scale (.85 to 1.1), shear (+-.1), noise (.1)."""
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle, shear = torch.deg2rad(uniform(-15, 15)), uniform(-0.1, 0.1)
    zoom = 1 / uniform(0.85, 1.1)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift_x, shift_y = uniform(-0.16, 0.16), uniform(-0.16, 0.16)  # affine_grid's unit is half a side
    rows = [torch.stack([cos, -sin + shear, shift_x], dim=1), torch.stack([sin, cos, shift_y], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    return moved + NOISE * torch.randn(moved.shape, generator=generator)

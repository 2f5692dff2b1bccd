"""Networks as they are written: in a precision, as graphs with any batch and of a decoder any tokens."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from nas.exported.forms import DTYPES
from search_spaces.bounds import short
from search_spaces.errors import UsageError


class InPrecision(nn.Module):
    """A network whose weights and arithmetic are of another type; inputs and outputs stay as they are."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = copy.deepcopy(module).to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.network(x.to(self.dtype) if x.is_floating_point() else x)
        return outputs.float()


def dtype_named(name: object) -> torch.dtype:
    """Torch's type of weights by the name that a folder gives it. Raises UsageError."""
    if name not in DTYPES.values():
        raise UsageError(f"{short(name)} is no type of weights.", f"Known are {', '.join(DTYPES.values())}.")
    dtype: torch.dtype = getattr(torch, str(name))
    return dtype


def in_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module as it computes with weights of that type; float32: itself."""
    return module if dtype is torch.float32 else InPrecision(module, dtype).eval()


def dynamic_shapes(example: Tensor) -> dict[int, Any]:
    """Which sides of an input vary; tokens up to the example's."""
    if example.is_floating_point():
        return {0: Dim("batch")}
    return {0: Dim("batch"), 1: Dim("tokens", max=example.shape[1])}

"""Networks as graphs with any batch, and of a decoder any number of tokens."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim


class InPrecision(nn.Module):
    """A network whose weights and arithmetic are of another type; inputs and outputs stay as they are."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = copy.deepcopy(module).to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.network(x.to(self.dtype) if x.is_floating_point() else x)
        return outputs.float()


def dynamic_shapes(example: Tensor) -> dict[int, Any]:
    """Which sides of an input vary; tokens up to the example's."""
    if example.is_floating_point():
        return {0: Dim("batch")}
    return {0: Dim("batch"), 1: Dim("tokens", max=example.shape[1])}

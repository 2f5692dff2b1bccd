"""How fast a subnet will be, and how good: devices, measurement, predictors of latency and of quality.

`layers_of(module, example)` are the layers of any torch module, for `predictors.any_model`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from predictors.devices import Example
    from search_spaces.layers import Layer


def layers_of(module: "nn.Module", example: "Example") -> "list[Layer]":
    """The layers of one sample of any module in evaluation, in the order of its forward pass.

    example: an input of any number of samples, or a tuple of positional ones; only shapes and types count.
    The module is neither run nor changed. Weights that two layers share count with the first.
    Raises UsageError for a module that cannot be traced, or that does not take the example.
    """
    from predictors.tracing.modules import traced  # noqa: PLC0415 - imports torch

    return traced(module, example)

"""What a traced network does, by the kernels that do it: finer than a space's features, and with prices to
begin with.

Twenty networks cannot tell some thirty prices apart, and one of a new family may need a kernel that none of
them has. So each kernel has a price relative to the others of its group (a MAC, a number moved, a launch, a
weight read); a fit finds the price of each group, and lets kernels differ from their group as far as the
networks tell.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from predictors.regression.features import ATTENTIONS, NORMS, Workload
from predictors.regression.metrics import Floats
from search_spaces.layers import Layer

GROUPS = ("macs", "elements", "launches", "weights", "streamed", "constant")
# Of its group, and at which price relative to that of a linear layer's MAC, of a number read or written by a
# plain copy, of a launch, of a weight. By what the kernels do (a 3x3 convolution needs fewer multiplications
# than MACs, a depthwise one leaves lanes unused, an exponential takes some passes, an error function more),
# and in size by timings of PyTorch on one CPU: see benchmarks/any_model.md.
KERNELS: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "linear_macs": ("macs", 1.0),
        "pointwise_macs": ("macs", 1.0),
        "convolution_macs": ("macs", 0.7),
        "grouped_macs": ("macs", 1.5),
        "depthwise_macs": ("macs", 2.0),
        "product_macs": ("macs", 1.5),
        "attention_macs": ("macs", 1.0),
        "linear_input": ("elements", 0.5),
        "linear_output": ("elements", 0.5),
        "pointwise_input": ("elements", 0.5),
        "pointwise_output": ("elements", 0.5),
        "convolution_input": ("elements", 0.5),
        "convolution_output": ("elements", 0.5),
        "grouped_elements": ("elements", 1.0),
        "depthwise_input": ("elements", 1.0),
        "depthwise_output": ("elements", 1.0),
        "attention_elements": ("elements", 1.0),
        "attention_scores": ("elements", 4.0),
        "product_elements": ("elements", 1.0),
        "softmax_elements": ("elements", 4.0),
        "layer_norm_elements": ("elements", 1.0),
        "batch_norm_elements": ("elements", 0.5),
        "smooth_elements": ("elements", 3.0),
        "exponential_elements": ("elements", 1.0),
        "clipped_elements": ("elements", 0.5),
        "pooled_elements": ("elements", 1.0),
        "copied_elements": ("elements", 1.0),
        "shifted_elements": ("elements", 1.0),
        "gathered_elements": ("elements", 1.0),
        "elementwise_elements": ("elements", 0.7),
        "launches": ("launches", 1.0),
        "attention_slices": ("launches", 0.1),
        "product_slices": ("launches", 0.05),
        "weights": ("weights", 1.0),
        "streamed_weights": ("streamed", 1.0),
        "constant": ("constant", 1.0),
    }
)
SMOOTH = frozenset(("", "gelu", "erf", "mish", "tanh"))
CLIPPED = frozenset(("relu", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu", "threshold", "clamp"))
MOVED = {"shift": "shifted_elements", "gather": "gathered_elements", "resample": "gathered_elements"}


@dataclass(frozen=True, slots=True)
class Run:
    """A workload and the cache that is there for it.

    cache_bytes: of the last level; weights that are more than that are read from memory in every pass. None:
    not known, and nothing is told of it.
    """

    workload: Workload = Workload()  # noqa: RUF009 - frozen
    cache_bytes: int | None = None


def kernel_features(layers: Iterable[Layer], run: Run) -> Floats:
    """One row `(kernels,)`, in the order of KERNELS, of a network given as its layers."""
    sums = dict.fromkeys(KERNELS, 0.0)
    for layer in layers:
        for name, value in _of_layer(layer, run.workload.batch).items():
            sums[name] += value
    sums["constant"] = 1.0
    weight_bytes = sums["weights"] * run.workload.element_bytes
    if run.cache_bytes is not None and weight_bytes > run.cache_bytes:
        sums["streamed_weights"] = sums["weights"]
    return np.array([sums[name] for name in KERNELS])


def _of_layer(layer: Layer, batch: int) -> dict[str, float]:
    """What one layer adds to which kernels in one batch."""
    read, written, macs = (batch * n for n in (layer.input_elements, layer.output_elements, layer.macs))
    work: dict[str, float] = {"launches": 1.0}
    weights = layer.output_elements if layer.kind == "embedding" else layer.params
    work["weights"] = float(weights)
    if layer.kind == "linear":
        return work | {"linear_macs": macs, "linear_input": read, "linear_output": written}
    if layer.kind == "conv2d":
        return work | _convolved(layer, macs, read, written)
    if layer.kind in ATTENTIONS:
        slices = batch * layer.slices
        scores = macs / max(2 * layer.shape[-1 if layer.kind == "causal_attention" else 3], 1)
        work |= {"attention_macs": macs, "attention_elements": read + written}
        return work | {"attention_scores": scores, "attention_slices": slices}
    if layer.kind == "matmul":
        return work | {
            "product_macs": macs,
            "product_elements": read + written,
            "product_slices": batch * layer.slices,
        }
    return work | {"linear_macs": macs, _moving(layer): _moved(layer, batch, read + written)}


def _convolved(layer: Layer, macs: float, read: float, written: float) -> dict[str, float]:
    n_in, kernel = layer.shape[2], layer.shape[4]
    groups = layer.shape[6] if len(layer.shape) > 6 else 1
    if groups == 1:
        name = "pointwise" if kernel == 1 else "convolution"
        return {f"{name}_macs": macs, f"{name}_input": read, f"{name}_output": written}
    if groups == n_in:
        return {"depthwise_macs": macs, "depthwise_input": read, "depthwise_output": written}
    return {"grouped_macs": macs, "grouped_elements": read + written}


def _moving(layer: Layer) -> str:
    """Which kernel a layer without products is for."""
    if layer.kind in NORMS:
        return "batch_norm_elements" if "batch_norm" in layer.operator else "layer_norm_elements"
    if layer.kind == "activation":
        if layer.operator in SMOOTH:
            return "smooth_elements"
        return "clipped_elements" if layer.operator in CLIPPED else "exponential_elements"
    if layer.kind in ("softmax", "pool"):
        return "softmax_elements" if layer.kind == "softmax" else "pooled_elements"
    return MOVED.get(layer.kind, "copied_elements" if layer.kind == "copy" else "elementwise_elements")


def _moved(layer: Layer, batch: int, moved: float) -> float:
    """How many numbers it moves; windows of a pooling that overlap are read as often as they are used."""
    if layer.kind == "pool":
        groups, rows, dim = layer.shape
        return batch * groups * rows * dim
    return batch * layer.output_elements if layer.kind == "softmax" else moved

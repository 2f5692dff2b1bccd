"""What the layers of a network do, as sums that latency is nearly linear in.

They are sums over layers, so those of a space's architectures are table look-ups (`SearchSpace.totals`), and
those of any other network follow from a plain list of `Layer`s, whoever made it:

    from predictors.regression.features import network_features
    from search_spaces.layers import attention, linear, norm

    layers = [norm("norm", 197, 192), linear("qkv", 197, 192, 576), attention("attn", 197, 3, 64)]
    row = network_features(layers, Workload(batch=8))
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from predictors.regression.metrics import Floats
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.layers import Layer
from search_spaces.space import Codes

GEMMS = ("linear", "conv2d")
ATTENTIONS = ("attention", "causal_attention")
NORMS = ("norm", "rms_norm")
WORK = (
    "launches",
    "linear_macs",
    "conv_macs",
    "attention_macs",
    "gemm_input_elements",
    "gemm_output_elements",
    "attention_elements",
    "softmax_elements",
    "attention_slices",
    "norm_elements",
    "activation_elements",
    "other_elements",
    "params",
)
MACS = ("linear_macs", "conv_macs", "attention_macs")
STEPS_MIB = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.5, 5.0, 8.0)
STEPS = tuple(f"bytes_above_{step:g}_mib" for step in STEPS_MIB)
FEATURES = (*WORK, *STEPS, "constant")

Features: TypeAlias = Callable[[Layer], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Workload:
    """How a network is run: samples in a batch, bytes of one number."""

    batch: int = 1
    element_bytes: int = 4


ONE_SAMPLE = Workload()


def network_features(layers: Iterable[Layer], workload: Workload = ONE_SAMPLE) -> Floats:
    """One row `(features,)`, in the order of FEATURES, of a network given as its layers."""
    rows = np.array([layer_features(layer, workload) for layer in layers], dtype=np.float64)
    return np.append(rows.reshape(-1, len(FEATURES) - 1).sum(axis=0), 1.0)


def space_features(space: SearchSpace, codes: Codes, workload: Workload) -> Floats:
    """The rows `(n, features)` of architectures of a space, in the order of FEATURES."""
    sums = space.totals(codes, _of_layer(workload))
    return np.concatenate([sums, np.ones((len(codes), 1))], axis=1)


def layer_features(layer: Layer, workload: Workload) -> tuple[int, ...]:
    """What one layer does in one batch, in the order of FEATURES without the constant.

    Operators of unknown kinds count as elementwise ones whose MACs run like those of a linear layer.
    `attention` needs the shape (windows, heads, queries, head_dim), and behind it the keys, if they are not
    as many; `causal_attention` that of its layer. Raises UsageError for an attention without it.
    """
    kind, batch = layer.kind, workload.batch
    moved = batch * (layer.input_elements + layer.output_elements)
    macs, written = batch * layer.macs, batch * layer.output_elements
    gemm, is_attention, is_norm = kind in GEMMS, kind in ATTENTIONS, kind in NORMS
    work = (
        1,
        macs if kind != "conv2d" and not is_attention else 0,
        macs if kind == "conv2d" else 0,
        macs if is_attention else 0,
        batch * layer.input_elements if gemm else 0,
        written if gemm else 0,
        moved if is_attention else 0,
        batch * layer.slices * _pairs(layer) if is_attention else 0,
        batch * layer.slices if is_attention else 0,
        moved if is_norm else 0,
        moved if kind == "activation" else 0,
        moved if not (gemm or is_attention or is_norm or kind == "activation") else 0,
        _weights_read(layer),
    )
    size = written * workload.element_bytes
    return (*work, *(size if size > step * 2**20 else 0 for step in STEPS_MIB))


@lru_cache(maxsize=64)
def _of_layer(workload: Workload) -> Features:
    """One function for each workload, by whose identity spaces keep their tables."""
    return lambda layer: layer_features(layer, workload)


def _weights_read(layer: Layer) -> int:
    """Parameters; of an embedding only the vectors that are looked up, of tied logits the embedding's."""
    if layer.kind == "embedding":
        return layer.output_elements
    return layer.params or (layer.shape[1] * layer.shape[2] if layer.kind == "linear" else 0)


def _pairs(layer: Layer) -> int:
    """Queries times keys of one window of an attention."""
    if layer.kind == "causal_attention":
        _, _, queries, keys, _ = layer.shape
        return queries * keys
    if len(layer.shape) < 4:
        raise UsageError(
            f"The attention '{layer.name}' has the shape {layer.shape}.",
            "It needs (windows, heads, queries, head_dim), and the keys where they are not as many.",
        )
    return layer.shape[2] * (layer.shape[4] if len(layer.shape) > 4 else layer.shape[2])

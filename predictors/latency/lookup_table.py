"""Latency as a sum of layers timed alone: the look-up table of ProxylessNAS and OFA, for comparison.

Every distinct layer of the space is timed (`tabulate`), which takes hundreds of small networks. Whole ones
are then needed only to correct the sum by a line (`fit`, from 3 on), since what happens between layers is in
no table:

    table = tabulate(device, distinct_layers(space), seed=0)
    predictor = build(space, table=table).fit(codes, latency_ms)

Source: Cai et al., "ProxylessNAS" (2019), section 3.3; Cai et al., "Once-for-All" (2020).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.devices import Device
from predictors.measurement.rounds import Failure, Measurement, measure
from predictors.regression.calibrated import Calibrated
from predictors.regression.linear import Line
from predictors.regression.metrics import Floats
from search_spaces import SearchSpace
from search_spaces.errors import NASError, UsageError
from search_spaces.layers import Layer
from search_spaces.space import Codes
from search_spaces.tables import Features, layers_of_each

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["build", "build_layer", "distinct_layers", "input_shapes", "layer_key", "sums", "tabulate"]

OF_LANGUAGE = ("embedding", "rotary", "causal_attention")
KINDS = (
    *("linear", "conv2d", "attention", "relative_positions", "norm", "activation", "add", "scale", "token"),
    *("pool", "rms_norm"),
    *OF_LANGUAGE,
)
VERSION = 1


def build(
    space: SearchSpace, *, table: Mapping[str, float], batch: int = 1, element_bytes: int = 4
) -> Calibrated:
    """A look-up table for networks of `space`, not fitted yet.

    table: milliseconds by `layer_key`, as `tabulate` gives.
    batch, element_bytes: how the device runs the networks.
    Raises UsageError for a layer of the space that the table lacks or that has no positive finite time.
    """
    for layer in distinct_layers(space):
        if layer_key(layer) not in table:
            raise UsageError(
                f"The look-up table lacks the layer '{layer_key(layer)}' ({layer.name}).",
                "Time it: tabulate(device, distinct_layers(space)).",
            )
        if not 0 < table[layer_key(layer)] < math.inf:
            raise UsageError(f"The look-up table's time of '{layer_key(layer)}' is no positive number.")
    return Calibrated(
        kind="lookup_table",
        version=VERSION,
        space=space,
        encode=partial(_encode, _of_layer(table)),
        regression=Line("ms of layers alone"),
        identity={"table": dict(table), "batch": batch, "element_bytes": element_bytes},
    )


def layer_key(layer: Layer) -> str:
    """What layers share that take equally long: kind, shape and numbers, not the name."""
    shape = "x".join(map(str, layer.shape))
    return (
        f"{layer.kind} {shape}, params {layer.params}, in {layer.input_elements}, out {layer.output_elements}"
    )


def distinct_layers(space: SearchSpace) -> list[Layer]:
    """One layer of each key that architectures of the space have."""
    by_key: dict[str, Layer] = {}
    for part in space.parts:
        for layers in layers_of_each(space.choices, part):
            for layer in layers:
                by_key.setdefault(layer_key(layer), layer)
    return list(by_key.values())


def tabulate(
    device: Device,
    layers: Iterable[Layer],
    *,
    seed: int,
    measure: Callable[..., Mapping[str, Measurement | Failure]] = measure,
    **options: Any,
) -> dict[str, float]:
    """The time of each layer alone on the device, in ms by `layer_key`.

    seed: of inputs and rounds.  options: more arguments of `measure`.
    Raises UsageError for a layer of an unknown kind, and NASError for one that cannot be timed.
    """
    import torch  # noqa: PLC0415 - torch is heavy, and predicting does not need it

    groups: dict[tuple[tuple[int, ...], ...], dict[str, Callable[[], nn.Module]]] = {}
    for layer in layers:
        groups.setdefault(input_shapes(layer), {})[layer_key(layer)] = partial(build_layer, layer)
    generator = torch.Generator().manual_seed(seed)
    table: dict[str, float] = {}
    for shapes, factories in groups.items():
        inputs = tuple(torch.randn(device.batch, *shape, generator=generator) for shape in shapes)
        example = inputs[0] if len(inputs) == 1 else inputs
        for key, result in measure(device, factories, example, seed=seed, extras=False, **options).items():
            if isinstance(result, Failure):
                raise NASError(f"The layer '{key}' cannot be timed: {result.reason}.")
            table[key] = result.latency_ms
            # One clean calibrator time for all groups, so that their layers compare.
            options = {"reference_ms": result.reference_ms} | options
    return table


def sums(space: SearchSpace, codes: Codes, table: Mapping[str, float]) -> Floats:
    """The plain sums `(n,)` in ms, without any measured network."""
    return _encode(_of_layer(table), space, codes)[:, 0]


def input_shapes(layer: Layer) -> tuple[tuple[int, ...], ...]:
    """The shapes of the tensors that `build_layer` takes, without the batch.

    Raises UsageError for an unknown kind.
    """
    kind, shape = layer.kind, layer.shape
    if kind == "conv2d":
        height, width, n_in, _, _, stride = shape
        return ((n_in, height * stride, width * stride),)
    if kind == "attention":
        windows, heads, queries, head_dim = shape[:4]
        keys = shape[4] if len(shape) > 4 else queries
        return tuple((windows, heads, tokens, head_dim) for tokens in (queries, keys, keys))
    if kind == "causal_attention":
        heads, kv_heads, queries, keys, head_dim = shape
        return (heads, queries, head_dim), (kv_heads, keys, head_dim), (kv_heads, keys, head_dim)
    if kind == "embedding":
        return (shape[:1],)
    if kind == "activation":
        return ((shape[0], layer.input_elements // shape[0]),)
    if kind == "relative_positions":
        return (shape[:3],)
    if kind == "linear":
        return (shape[:2],)
    if kind in KINDS:
        return (shape,) * (2 if kind == "add" else 1)
    raise UsageError(f"No module is known for layers of kind '{kind}'.", f"Kinds: {', '.join(KINDS)}.")


def build_layer(layer: Layer) -> "nn.Module":
    """A freshly initialised module of one layer; raises UsageError for an unknown kind.

    A layer's data does not tell everything: every norm is a layer norm here, every activation a GELU, every
    pool a mean, learned vectors are added, and ids of an embedding are numbers that are rounded.
    """
    from torch import nn  # noqa: PLC0415 - torch is heavy, and predicting does not need it

    kind, shape = layer.kind, layer.shape
    input_shapes(layer)
    if kind == "linear":
        return nn.Linear(shape[1], shape[2], bias=layer.params > shape[1] * shape[2])
    if kind == "conv2d":
        _, _, n_in, n_out, kernel, stride = shape
        padding = 0 if kernel == stride else kernel // 2
        bias = layer.params > n_in * n_out * kernel * kernel
        return nn.Conv2d(n_in, n_out, kernel, stride, padding=padding, bias=bias)
    if kind == "norm":
        return nn.LayerNorm(shape[1], bias=layer.params > shape[1])
    if kind == "rms_norm":
        return nn.RMSNorm(shape[1])
    if kind in OF_LANGUAGE:
        return _of_language(layer)
    return _relative_positions(layer) if kind == "relative_positions" else _functional(layer)


def _of_layer(table: Mapping[str, float]) -> Features:
    return lambda layer: (table.get(layer_key(layer), math.nan),)


def _encode(of_layer: Features, space: SearchSpace, codes: Codes) -> Floats:
    return np.stack([space.totals(codes, of_layer)[:, 0], np.ones(len(codes))], axis=1)


def _functional(layer: Layer) -> "nn.Module":
    """A module without one in torch."""
    import torch  # noqa: PLC0415 - see `build_layer`
    from torch import nn  # noqa: PLC0415
    from torch.nn import functional as F  # noqa: PLC0415

    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if layer.kind in ("scale", "token"):
                size = layer.shape if layer.kind == "token" else layer.shape[1:]
                self.weight = nn.Parameter(torch.ones(size))

        def forward(self, *inputs: "Tensor") -> "Tensor":
            x = inputs[0]
            if layer.kind == "attention":
                # As networks run it: windows count as samples.
                q, k, v = (tensor.flatten(0, 1) for tensor in inputs)
                return F.scaled_dot_product_attention(q, k, v)
            if layer.kind == "add":
                return x + inputs[1]
            if layer.kind == "scale":
                return x * self.weight
            if layer.kind == "token":
                return x + self.weight
            if layer.kind == "pool":
                return x.mean(dim=2)
            if x.shape[-1] == layer.shape[1]:
                return F.gelu(x)
            gate, value = x.chunk(2, dim=-1)
            return F.gelu(gate) * value

    return Single()


def _of_language(layer: Layer) -> "nn.Module":
    """What networks on tokens have and others do not."""
    import torch  # noqa: PLC0415 - see `build_layer`
    from torch import nn  # noqa: PLC0415
    from torch.nn import functional as F  # noqa: PLC0415

    class OfLanguage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if layer.kind == "embedding":
                self.weight = nn.Parameter(torch.ones(layer.shape[1:]))

        def forward(self, *inputs: "Tensor") -> "Tensor":
            x = inputs[0]
            if layer.kind == "embedding":
                return F.embedding(x.abs().long().clamp(max=layer.shape[1] - 1), self.weight)
            if layer.kind == "rotary":
                first, second = x.chunk(2, dim=-1)
                return torch.cat([first * 0.8 - second * 0.6, second * 0.8 + first * 0.6], dim=-1)
            # One query is the last token, which sees all keys; a whole text is masked.
            masked = layer.shape[2] == layer.shape[3]
            _, keys, values = inputs
            return F.scaled_dot_product_attention(x, keys, values, is_causal=masked, enable_gqa=True)

    return OfLanguage()


def _relative_positions(layer: Layer) -> "nn.Module":
    """What each query adds for the distance to each key, along rows and columns."""
    import torch  # noqa: PLC0415 - see `build_layer`
    from torch import nn  # noqa: PLC0415

    class RelativePositions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            _, tokens, head_dim, entries = layer.shape
            self.rows, self.columns = (nn.Parameter(torch.randn(entries, head_dim)) for _ in range(2))
            places = torch.arange(tokens)
            apart = (places - places[:, None] + entries // 2).clamp(0, entries - 1)
            self.apart = nn.Buffer(apart, persistent=False)

        def forward(self, x: "Tensor") -> "Tensor":
            vectors = self.rows[self.apart] + self.columns[self.apart]
            by_query: Tensor = x.permute(2, 0, 1, 3).flatten(1, 2) @ vectors.transpose(1, 2)
            positions: Tensor = by_query.unflatten(1, x.shape[:2])
            return positions.permute(1, 2, 0, 3)

    return RelativePositions()

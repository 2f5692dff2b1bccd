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

from predictors._calibrated import Calibrated
from predictors._layer_modules import build_layer, input_shapes
from predictors._line import Line
from predictors._measurement import Failure, Measurement, measure
from predictors._metrics import Floats
from predictors.devices import Device
from search_spaces import SearchSpace
from search_spaces._errors import JobFailedError, UsageError
from search_spaces._layers import Layer
from search_spaces._space import Codes
from search_spaces._tables import Features, layers_of_each

if TYPE_CHECKING:
    from torch import nn

VERSION = 1

__all__ = ["build", "build_layer", "distinct_layers", "layer_key", "sums", "tabulate"]


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
    found: dict[str, Layer] = {}
    for part in space.parts:
        for layers in layers_of_each(space.choices, part):
            for layer in layers:
                found.setdefault(layer_key(layer), layer)
    return list(found.values())


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
    Raises UsageError for a layer of an unknown kind, and JobFailedError for one that cannot be timed.
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
                raise JobFailedError(f"The layer '{key}' cannot be timed: {result.reason}.")
            table[key] = result.latency_ms
            # One clean calibrator time for all groups, so that their layers compare.
            options = {"reference_ms": result.reference_ms} | options
    return table


def sums(space: SearchSpace, codes: Codes, table: Mapping[str, float]) -> Floats:
    """The plain sums `(n,)` in ms, without any measured network."""
    return _encode(_of_layer(table), space, codes)[:, 0]


def _of_layer(table: Mapping[str, float]) -> Features:
    return lambda layer: (table.get(layer_key(layer), math.nan),)


def _encode(of_layer: Features, space: SearchSpace, codes: Codes) -> Floats:
    return np.stack([space.totals(codes, of_layer)[:, 0], np.ones(len(codes))], axis=1)

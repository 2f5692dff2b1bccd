"""A device's roofline card: what each kind of work costs on it, read off a saved roofline predictor.

for row in card(state):
    print(f"{row.term}: {row.cost:.3g} {row.unit}, {row.share:.0%} of the latency")
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from predictors.regression.features import FEATURES, STEPS, WORK, Workload, layer_features
from predictors.regression.ladder import saved_features, source_coefficients
from search_spaces.errors import UsageError
from search_spaces.layers import Layer

CONSTANT = "constant"
STEP = "ns per byte, in tensors above this size"
UNITS = {
    "launches": ("us per launch", 1e3),
    "attention_slices": ("us per slice", 1e3),
    "params": ("ns per parameter", 1e6),
    CONSTANT: ("ms", 1.0),
}


class Row(NamedTuple):
    """A term of the card: its cost in `unit`, and its share of the fitted networks' latency on average."""

    term: str
    cost: float
    unit: str
    share: float


def card(state: Mapping[str, Any]) -> list[Row]:
    """The terms that cost something, the greatest share first, of what a roofline's `to_json` gave.

    `auto` that took the roofline will do. Raises UsageError for another predictor and for damage.
    """
    state = _roofline(state)
    coefficients = source_coefficients(state)
    shares = coefficients * saved_features(state, "work_per_ms")
    rows = [
        Row(term, float(cost * factor), unit, float(share))
        for term, cost, share in zip(FEATURES, coefficients, shares, strict=True)
        if cost > 0
        for unit, factor in [_unit(term)]
    ]
    return sorted(rows, key=lambda row: -row.share)


def by_kind(
    state: Mapping[str, Any], layers: Iterable[Layer], workload: Workload | None = None
) -> dict[str, float]:
    """The latency in ms of one network by the kind of its layers, the greatest first; `constant` is the rest.

    They add up to the linear part of the prediction, without the process on its residuals. Raises as `card`.
    workload: the one that the predictor was fitted for, where it is not given.
    """
    layers = list(layers)
    times, constant = by_layer(state, layers, workload)
    kinds = {CONSTANT: constant}
    for layer, ms in zip(layers, times, strict=True):
        kinds[layer.kind] = kinds.get(layer.kind, 0.0) + ms
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def by_layer(
    state: Mapping[str, Any], layers: Iterable[Layer], workload: Workload | None = None
) -> tuple[list[float], float]:
    """The latency in ms of each layer of one network, in their order, and the constant, which is no layer's.

    They add up as those of `by_kind` do. Raises as `card`.
    """
    state = _roofline(state)
    coefficients = source_coefficients(state)
    run = _workload(state) if workload is None else workload
    rows = (np.array(layer_features(layer, run)) for layer in layers)
    times = [float(row @ coefficients[:-1]) for row in rows]
    return times, float(coefficients[FEATURES.index(CONSTANT)])


def _workload(state: Mapping[str, Any]) -> Workload:
    try:
        return Workload(int(state["batch"]), int(state["element_bytes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"The saved latency predictor is damaged: {error}.", "Fit it again.") from error


def is_roofline(state: Mapping[str, Any]) -> bool:
    """Whether what a predictor's `to_json` gave has a card."""
    return bool(_roofline(state).get("predictor") == "roofline")


def _roofline(state: Mapping[str, Any]) -> Mapping[str, Any]:
    taken = state.get("taken")
    return taken if state.get("predictor") == "auto" and isinstance(taken, Mapping) else state


def _unit(term: str) -> tuple[str, float]:
    """The unit of a term's cost, and how many of it one ms is."""
    if term in UNITS:
        return UNITS[term]
    if term in STEPS:
        return STEP, 1e6
    assert term in WORK, term
    return ("ns per MAC" if term.endswith("_macs") else "ns per element"), 1e6

"""Latency as a sum of physical terms: the default predictor, good from some ten measured networks on.

What the layers do (`FEATURES`) is summed exactly; a device's cost per unit of each is fitted, never negative.
The fit climbs a ladder and stays on the rung with the least leave-one-out error: MACs alone (from 3 networks
on), another device's predictor scaled (from 3 on), all work (from 8 on), with steps for large tensors, and a
Gaussian process on what is left (from 50 on). The coefficients are readable, as the device's roofline card.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from predictors.any_model import fit_layers
from predictors.regression.calibrated import Calibrated
from predictors.regression.features import FEATURES, Workload, space_features
from predictors.regression.ladder import Ladder, source_coefficients
from search_spaces import SearchSpace

__all__ = ["build", "fit_layers"]

VERSION = 1


def build(
    space: SearchSpace,
    *,
    batch: int = 1,
    element_bytes: int = 4,
    source: Mapping[str, Any] | None = None,
) -> Calibrated:
    """A roofline predictor for networks of `space`, not fitted yet.

    batch, element_bytes: how the device runs the networks.
    source: what `to_json` of another device's roofline predictor wrote; its coefficients are a rung.
    """
    workload = Workload(batch, element_bytes)
    prior = None if source is None else source_coefficients(source)
    return Calibrated(
        kind="roofline",
        version=VERSION,
        space=space,
        encode=partial(space_features, workload=workload),
        regression=Ladder(prior),
        identity={"features": list(FEATURES), "batch": batch, "element_bytes": element_bytes},
    )

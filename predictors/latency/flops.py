"""Latency as a line in multiply-accumulates: what most published searches assume, for comparison.

Slope and intercept are fitted on relative errors and never negative; good from 3 measured networks on, where
all networks do their work in the same kinds of layers.
"""

from functools import partial

import numpy as np

from predictors.regression.calibrated import Calibrated
from predictors.regression.linear import Line
from predictors.regression.metrics import Floats
from search_spaces import SearchSpace
from search_spaces.space import Codes

VERSION = 1


def build(space: SearchSpace, *, batch: int = 1, element_bytes: int = 4) -> Calibrated:
    """A line in MACs for networks of `space`, not fitted yet.

    batch, element_bytes: how the device runs the networks.
    """
    return Calibrated(
        kind="flops",
        version=VERSION,
        space=space,
        encode=partial(_encode, batch),
        regression=Line("GMAC", 1e9),
        identity={"batch": batch, "element_bytes": element_bytes},
    )


def _encode(batch: int, space: SearchSpace, codes: Codes) -> Floats:
    macs = batch * space.costs(codes)["macs"].astype(np.float64)
    return np.stack([macs, np.ones(len(codes))], axis=1)

"""Which architectures to measure: those that tell most about the coefficients of a linear latency model.

Source: greedy D-optimal design, Fedorov, "Theory of Optimal Experiments" (1972).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from predictors.regression.features import FEATURES, MACS, WORK, Workload, space_features
from predictors.regression.linear import RIDGE
from predictors.regression.metrics import Floats
from search_spaces import SearchSpace
from search_spaces.space import Codes


def d_optimal(rows: Floats, chosen: Sequence[int], count: int) -> list[int]:
    """Indices of `count` more rows `(n, features)` that, with the `chosen` ones, make the determinant of the
    information matrix large, one after the other; fewer when no row is left.
    """
    norms = np.linalg.norm(rows, axis=0)
    scaled = rows[:, norms > 0] / (norms[norms > 0] / np.sqrt(len(rows)))
    inverse = np.eye(scaled.shape[1]) / RIDGE**2
    taken: list[int] = []
    free = np.ones(len(rows), dtype=np.bool_)
    for index in [*chosen, *[-1] * count]:
        if index < 0:
            if not free.any():
                break
            gain = np.einsum("ij,jk,ik->i", scaled, inverse, scaled, optimize=True)
            index = int(np.argmax(np.where(free, gain, -np.inf)))
            taken.append(index)
        direction = inverse @ scaled[index]
        inverse = inverse - np.outer(direction, direction) / (1 + scaled[index] @ direction)
        free[index] = False
    return taken


def relative_work(space: SearchSpace, codes: Codes, workload: Workload) -> Floats:
    """Rows `(n, work)` of what architectures do, divided by their MACs: a guess of what they cost.

    Errors of latencies are relative, so what tells about coefficients is the work per time, not the work.
    """
    rows = space_features(space, codes, workload)
    kept = [*range(len(WORK)), FEATURES.index("constant")]
    macs = rows[:, [FEATURES.index(name) for name in MACS]].sum(axis=1)
    work: Floats = rows[:, kept] / np.maximum(macs, 1.0)[:, None]
    return work


def next_to_measure(
    space: SearchSpace, pool: Codes, measured: Codes, workload: Workload, *, count: int
) -> NDArray[np.int64]:
    """The codes `(count, choices)` of the pool that tell most beside those that are `measured` already."""
    both = np.concatenate([measured, pool])
    rows = relative_work(space, both, workload)
    taken = {tuple(code) for code in measured.tolist()}
    fresh = [i for i, code in enumerate(pool.tolist()) if tuple(code) not in taken]
    kept = [*range(len(measured)), *(len(measured) + i for i in fresh)]
    picks = d_optimal(rows[kept], range(len(measured)), count)
    return both[kept][picks]

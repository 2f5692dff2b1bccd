"""Bringing architectures inside limits that random ones hardly ever keep."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import INACTIVE, Codes, SearchSpace

Distance = Callable[[Codes], NDArray[np.float64]]
ROUNDS = 100
TRIES = 16


def repaired(space: SearchSpace, codes: Codes, distance: Distance, rng: np.random.Generator) -> Codes:
    """The architectures, each moved one choice at a time wherever that brings it closer to the limits.

    distance: codes -> (n,), how far outside of the limits they are; 0 for those that keep them, which stay as
    they are. At most ROUNDS moves each, of TRIES random ones the best; some may end outside.
    """
    codes = space.canonical(codes)
    far = distance(codes)
    for _ in range(ROUNDS):
        outside = np.flatnonzero(far > 0)
        if not len(outside):
            break
        moved = changed(space, np.repeat(codes[outside], TRIES, axis=0), rng)
        reached = distance(moved).reshape(len(outside), TRIES)
        best = reached.argmin(axis=1)
        rows = np.arange(len(outside))
        closer = reached[rows, best] <= far[outside]
        codes[outside[closer]] = moved.reshape(len(outside), TRIES, -1)[rows, best][closer]
        far[outside[closer]] = reached[rows, best][closer]
    return codes


def changed(space: SearchSpace, codes: Codes, rng: np.random.Generator) -> Codes:
    """Every architecture with one of its choices drawn anew; choices that become active are drawn, too."""
    # One of the choices that exist, each as likely as the others.
    column = np.where(codes == INACTIVE, -1.0, rng.random(codes.shape)).argmax(axis=1)
    return space.redrawn(rng, codes, np.arange(codes.shape[1]) == column[:, None])

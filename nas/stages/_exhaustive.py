"""Whether a search may simply look at everything."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from search_spaces import Architecture, SearchSpace
from search_spaces._space import Codes


def affordable(
    space: SearchSpace, feasible: Callable[[Codes], NDArray[np.bool_]] | None, budget: int
) -> list[Architecture] | None:
    """Every feasible architecture, in the order in which neighbours share their first layers.

    feasible: codes (n, choices) -> booleans (n,); None: all are.
    None when there are more than `budget`, and for a space that is too large to be listed.
    """
    if not space.listable or (feasible is None and space.size > budget):
        return None
    codes = space.all_codes()
    codes = codes if feasible is None else codes[feasible(codes)]
    return None if len(codes) > budget else sorted(space.decode(codes), key=lambda arch: str(arch.values))

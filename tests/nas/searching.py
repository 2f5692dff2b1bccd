"""Problems of exact costs, and whole searches."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from nas import searchers
from nas.limits import Limit
from nas.proposals.optuna_adapters import SearcherSampler
from nas.searchers import SearchProblem
from nas.spaces.job_space import exact_metrics
from search_spaces import Architecture, SearchSpace

Values = Callable[[Architecture], float | Sequence[float]]
LEARNED: Mapping[str, Any] = {"cost": "minimize", "loss": "minimize"}  # objectives of which nothing is known


def exact_problem(
    space: SearchSpace, objectives: Mapping[str, Any] = LEARNED, **settings: Any
) -> SearchProblem:
    """A problem whose costs are the exact ones, without a margin."""
    costs = partial(exact_metrics, space)
    return SearchProblem(space, objectives, costs, costs, **settings)


def macs_window(low: float, high: float) -> tuple[Limit, Limit]:
    """Limits on MACs from both sides."""
    return Limit("macs", ">=", low), Limit("macs", "<=", high)


def sampler(name: str, problem: SearchProblem, **options: Any) -> SearcherSampler:
    """A searcher for a study."""
    return SearcherSampler(problem, partial(searchers.build, name, problem, **options))


def search(
    name: str, problem: SearchProblem, count: int, values: Values, **options: Any
) -> list[Architecture]:
    """What the searcher proposes, at most `count` times, being told the `values` of each before the next."""
    searcher = searchers.build(name, problem, **options)
    archs: list[Architecture] = []
    while len(archs) < count and len(codes := searcher.ask(1)):
        archs += problem.space.decode(codes)
        searcher.tell(codes, np.reshape(values(archs[-1]), (1, -1)).astype(np.float64))
    return archs

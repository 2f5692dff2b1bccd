"""Searchers: one file each, `build(problem) -> optuna.samplers.BaseSampler`.

A searcher works through `study.ask` and `study.tell` of any Optuna study; it proposes canonical, feasible
architectures of its space, none of them twice, and raises `SpaceExhausted` when there is none left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces import Architecture, SearchSpace, _registry
from search_spaces._space import Codes

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class SpaceExhausted(Exception):
    """Every feasible architecture of the space has been proposed."""


@dataclass(frozen=True)
class SearchProblem:
    """What a searcher has to know beside the study.

    feasible: codes (n, choices) -> booleans (n,); the hard limits, exact or predicted.
    start: architectures that are proposed first.
    population: size of a generation, where the searcher has one.
    history: what an interrupted search has proposed; it is proposed again first, in this order. (Trials that
        are enqueued in the study instead never reach its sampler, which then knows no generations.)
    outside: codes -> how far they are from keeping the limits (n,), 0 for feasible ones; it leads into limits
        that random architectures hardly ever keep.
    budget: how many architectures are going to be evaluated, if that is known.
    """

    space: SearchSpace
    feasible: Callable[[Codes], NDArray[np.bool_]]
    start: tuple[Architecture, ...]
    population: int
    seed: int
    history: tuple[Architecture, ...] = ()
    outside: Callable[[Codes], NDArray[np.float64]] | None = None
    budget: int | None = None


def names() -> list[str]:
    """The searchers that there are."""
    return _registry.names(__name__)


def build(name: str, problem: SearchProblem, **options: Any) -> "BaseSampler":
    """The searcher of that name with its own options.

    Raises NotFoundError for an unknown one, UsageError for options that it does not take.
    """
    sampler: BaseSampler = _registry.call(__name__, name, problem, **options)
    return sampler


__all__ = ["SearchProblem", "SpaceExhausted", "build", "names"]

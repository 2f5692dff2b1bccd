"""Searchers: one file each, `build(problem) -> optuna.samplers.BaseSampler`.

A searcher works through `study.ask` and `study.tell` of any Optuna study; it proposes canonical, feasible
architectures of its space, none of them twice, and raises `SpaceExhausted` when there is none left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nas.conditions import Condition
from search_spaces import Architecture, SearchSpace, _registry
from search_spaces._space import Codes

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from torch import Tensor


STDERR = "stderrs"  # user attribute of a trial: standard errors of its values, by name of the objective


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
    metrics: codes -> what is known of architectures before an evaluation, by name, (n,) each; None: what the
        space knows.
    objectives: names of the study's objectives, in order; none: nobody knows what they mean.
    limits: the hard limits, where they have a form.
    known: codes -> objectives that need no evaluation, by name, (n,) each: exact costs, and latency as it is
        predicted (without the margin of what limits are applied to); None: those that `metrics` knows.
    batch: how many architectures are asked for before any of them is told.
    probe: for each architecture how strongly the network reacts when a block is left out, by block; it needs
        trained weights.
    """

    space: SearchSpace
    feasible: Callable[[Codes], NDArray[np.bool_]]
    start: tuple[Architecture, ...]
    population: int
    seed: int
    history: tuple[Architecture, ...] = ()
    outside: Callable[[Codes], NDArray[np.float64]] | None = None
    budget: int | None = None
    metrics: Callable[[Codes], Mapping[str, Any]] | None = None
    objectives: tuple[str, ...] = ()
    limits: tuple[Condition, ...] = ()
    known: Callable[[Codes], Mapping[str, Any]] | None = None
    batch: int = 16
    probe: Callable[[Sequence[Architecture]], Sequence[Mapping[str, float]]] | None = None


@runtime_checkable
class Learning(Protocol):
    """A searcher that learns something worth keeping.

    curve: one entry a round, with its number as `round`; the same rounds give the same entries.
    """

    @property
    def curve(self) -> list[dict[str, Any]]: ...

    def finish(self, study: "Study") -> None:
        """Learns a last time, from all that is finished."""

    def tensors(self) -> "dict[str, Tensor]":
        """What was learned."""


def names() -> list[str]:
    """The searchers that there are."""
    return _registry.names(__name__)


def build(name: str, problem: SearchProblem, **options: Any) -> "BaseSampler":
    """The searcher of that name with its own options.

    Raises NotFoundError for an unknown one, UsageError for options that it does not take.
    """
    sampler: BaseSampler = _registry.call(__name__, name, problem, **options)
    return sampler


__all__ = ["STDERR", "Learning", "SearchProblem", "SpaceExhausted", "build", "names"]

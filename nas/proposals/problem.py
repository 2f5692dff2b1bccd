"""What a searcher has to know, and what one that learns leaves."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nas.limits import Limit, distance, kind_of
from search_spaces import Architecture, SearchSpace
from search_spaces.moves import repaired
from search_spaces.space import Codes

if TYPE_CHECKING:
    from torch import Tensor

Code = NDArray[np.int64]  # one architecture, (choices,)
Metrics = Callable[[Codes], Mapping[str, Any]]
Direction = Literal["minimize", "maximize"]

STDERR = "stderrs"  # user attribute of an Optuna trial: standard errors of its values, by objective
DRAWS = 4096
MOVED = 64
NEIGHBOURS = 512


@dataclass(frozen=True, eq=False)
class SearchProblem:
    """What is searched: a space within hard limits, for objectives of which costs are known beforehand.

    objectives: names of what is optimised, in order, and whether each is minimised or maximised.
    costs: codes -> what is known of architectures without an evaluation, by name, (n,) each: exact costs, and
        latency as it is predicted. An objective among them is not learned.
    limited: the same names -> what limits are applied to: predictions have a margin.
    start: architectures that are proposed first, those that break a limit left out.
    budget: how many architectures are going to be evaluated, if that is known.
    population: size of a generation, where the searcher has one.
    batch: how many architectures are asked for before any of them is told.
    probe: for each architecture how strongly the network reacts when a block is left out, by block; it needs
        trained weights.
    expected: codes -> what is believed of the quality beforehand, but for an offset and a factor from 0 on:
        the less the better, (n,).
    """

    space: SearchSpace
    objectives: Mapping[str, Direction]
    costs: Metrics
    limited: Metrics
    limits: tuple[Limit, ...] = ()
    start: tuple[Architecture, ...] = ()
    seed: int = 0
    budget: int | None = None
    population: int = 16
    batch: int = 16
    probe: Callable[[Sequence[Architecture]], Sequence[Mapping[str, float]]] | None = None
    expected: Callable[[Codes], NDArray[np.float64]] | None = None

    @cached_property
    def signs(self) -> NDArray[np.float64]:
        """What makes values (n, objectives) ones that are minimised, (objectives,)."""
        return np.array([1.0 if way == "minimize" else -1.0 for way in self.objectives.values()])

    @cached_property
    def first(self) -> Codes:
        """`start` as far as it keeps the limits, (n, choices)."""
        codes = self.space.encode(self.start)
        return codes[self.within_limits(codes)]

    @cached_property
    def listed(self) -> Codes | None:
        """All architectures within the limits, of a space that is small enough to be listed."""
        if not self.space.listable:
            return None
        codes = self.space.all_codes()
        return codes[self.within_limits(codes)]

    @cached_property
    def parts(self) -> "Mapping[str, SearchProblem]":
        """The problem in each member of its space, by name; of a space that is no union itself alone."""
        names = list(self.space.members)
        return {"": self} if names == [""] else {name: self._part(name) for name in names}

    def _part(self, name: str) -> "SearchProblem":
        """With an equal share of the budget."""
        space = self.space
        start = [member_arch for member, member_arch in map(space.own, self.start) if member == name]
        budget = None if self.budget is None else -(-self.budget // len(space.members))
        return replace(
            self,
            space=space.members[name],
            costs=lambda codes: self.costs(space.joined_codes(name, codes)),
            limited=lambda codes: self.limited(space.joined_codes(name, codes)),
            start=tuple(start),
            budget=budget,
            expected=None,
        )

    def within_limits(self, codes: Codes) -> NDArray[np.bool_]:
        """Which architectures (n, choices) keep the hard limits, (n,)."""
        within: NDArray[np.bool_] = self.distance(codes) == 0
        return within

    def distance(self, codes: Codes) -> NDArray[np.float64]:
        """How far architectures (n, choices) are from keeping the hard limits, (n,); 0: they do."""
        return distance(self.limits, self.limited(codes) if self.limits else {}, len(codes))

    def moved(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Architectures (n, choices) moved choice by choice towards the limits; some may end outside."""
        return repaired(self.space, codes, self.distance, rng)

    def fresh(self, proposed: Collection[bytes], rng: np.random.Generator) -> Code | None:
        """A random architecture within the limits that was not proposed; None when none is left or found.

        A space too big to be listed is sampled; where that finds none, because the limits are tight, samples
        are moved towards the limits and neighbours of known architectures are tried.
        proposed: the bytes of the codes of each, in the order in which they were proposed.
        """
        candidates: Iterator[Code]
        if self.listed is not None:
            candidates = iter(rng.permutation(self.listed))
        else:
            candidates = chain(
                self._allowed(self.space.sample_choices(rng, DRAWS)),
                self._drawn_and_moved(rng),
                self._neighbours(proposed, rng),
            )
        return next((code for code in candidates if code.tobytes() not in proposed), None)

    def _drawn_and_moved(self, rng: np.random.Generator) -> Iterator[Code]:
        yield from self._allowed(self.moved(self.space.sample_choices(rng, MOVED), rng))

    def _neighbours(self, proposed: Collection[bytes], rng: np.random.Generator) -> Iterator[Code]:
        centres = [*self.first, *(np.frombuffer(key, dtype=np.int64) for key in proposed)]
        rate = 1 / len(self.space.choices)
        for _ in range(NEIGHBOURS if centres else 0):
            code = centres[rng.integers(len(centres))][None]
            which = rng.random(code.shape) < rate
            yield from self._allowed(self.space.redrawn(rng, code, which))

    def _allowed(self, codes: Codes) -> Iterator[Code]:
        return iter(codes[self.within_limits(codes)])


def with_directions(names: Iterable[str], quality: str) -> dict[str, Direction]:
    """Objectives by name: the quality goes where its task wants it, every cost is minimised."""
    way: Direction = "maximize" if kind_of(quality).goal == "max" else "minimize"
    return {name: way if name == quality else "minimize" for name in names}


@runtime_checkable
class Paced(Protocol):
    """A searcher that at times learns more when it is asked for less than a batch.

    pace: how many it is best asked for before it is told of them; more can be asked for.
    """

    @property
    def pace(self) -> int: ...


@runtime_checkable
class Learning(Protocol):
    """A searcher that learns something worth keeping.

    curve: one entry a round, with its number as `round`; the same rounds give the same entries.
    """

    @property
    def curve(self) -> list[dict[str, Any]]: ...

    def finish(self) -> None:
        """Learns a last time, from all that is finished."""

    def tensors(self) -> "dict[str, Tensor]":
        """What was learned."""

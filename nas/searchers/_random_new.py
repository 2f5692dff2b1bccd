"""Random architectures within the limits that were not proposed before, until there are none."""

from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import chain

import numpy as np

from nas.searchers import SearchProblem, SpaceExhausted
from search_spaces import Architecture
from search_spaces._repair import repaired
from search_spaces._space import Codes

DRAWS = 4096
MOVED = 64
NEIGHBOURS = 512


class RandomNew:
    """A random feasible new architecture at every call.

    start: what the problem begins with, as far as it is feasible.
    A space too big to be listed is sampled; where that finds none, because the limits are tight, samples are
    moved towards the limits and neighbours of known architectures are tried.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem, self._space = problem, problem.space
        feasible = problem.feasible(self._space.encode(problem.start))
        self.start = [arch for arch, ok in zip(problem.start, feasible, strict=True) if ok]

    def __call__(self, seen: Collection[Architecture], rng: np.random.Generator) -> Architecture:
        """Not in `seen`. Raises SpaceExhausted when none is left or found."""
        if self.listed is not None:
            archs = self._lazily(rng.permutation(self.listed))
        else:
            archs = chain(
                self.allowed(self._space.sample_choices(rng, DRAWS)),
                self._moved(rng),
                self._neighbours(seen, rng),
            )
        for arch in archs:
            if arch not in seen:
                return arch
        raise SpaceExhausted(f"No feasible architecture of space '{self._space.name}' is left to propose.")

    def allowed(self, codes: Codes) -> Iterator[Architecture]:
        """Those (of codes (n, choices)) that keep the limits, decoded as they are asked for."""
        return self._lazily(codes[self._problem.feasible(codes)])

    @cached_property
    def listed(self) -> Codes | None:
        """All feasible architectures of a space that is small enough to be listed."""
        if not self._space.listable:
            return None
        codes = self._space.all_codes()
        return codes[self._problem.feasible(codes)]

    def _moved(self, rng: np.random.Generator) -> Iterator[Architecture]:
        if self._problem.outside is not None:
            drawn = self._space.sample_choices(rng, MOVED)
            yield from self.allowed(repaired(self._space, drawn, self._problem.outside, rng))

    def _neighbours(self, seen: Collection[Architecture], rng: np.random.Generator) -> Iterator[Architecture]:
        known, rate = [*self.start, *seen], 1 / len(self._space.choices)
        for _ in range(NEIGHBOURS if known else 0):
            arch = self._space.mutate(rng, known[rng.integers(len(known))], rate=rate)
            yield from self.allowed(self._space.encode([arch]))

    def _lazily(self, codes: Codes) -> Iterator[Architecture]:
        return (self._space.decode(row[None])[0] for row in codes)

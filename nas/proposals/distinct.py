"""Searchers that make one proposal after the other, each new and within the limits."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nas.proposals.problem import MOVED, Code, SearchProblem
from nas.proposals.trials import Trials
from search_spaces.moves import changed
from search_spaces.space import INACTIVE, Codes

TRIES = 64
OPEN = -2  # in codes: a choice that is left to chance

Floats = NDArray[np.float64]


class OneByOne(ABC):
    """A `Searcher` that decides on one proposal at a time; what it decides depends on the trials before."""

    def __init__(self, problem: SearchProblem) -> None:
        self.problem, self.space, self.trials = problem, problem.space, Trials(problem)

    def ask(self, count: int) -> Codes:
        """See `nas.searchers.Searcher`."""
        codes = self.space.encode([])
        for _ in range(count):
            code = self._next()
            if code is None:
                break
            self.trials.add(code)
            codes = np.concatenate([codes, code[None]])
        return codes

    def tell(self, codes: Codes, values: Floats | None, errors: Floats | None = None) -> None:
        """See `nas.searchers.Searcher`."""
        for code in codes:
            if code.tobytes() not in self.trials.numbers:
                self._adopt(code)
        if values is None:
            return
        unknown = np.full(np.shape(values), np.nan)
        rows = zip(codes, values, unknown if errors is None else errors, strict=True)
        for code, value, error in rows:
            self.trials.tell(code, value, error)

    def _adopt(self, code: Code) -> None:
        """Takes note of a proposal that somebody else has made, as if it had made it itself."""
        self.trials.add(code)

    @abstractmethod
    def _next(self) -> Code | None:
        """The next proposal; None when nothing is left."""


Draw = Callable[[], Code]


class Distinct(OneByOne):
    """Draws until a proposal is new and keeps the limits.

    Every trial begins with a seed derived from (seed, number of the trial). A proposal is therefore a pure
    function of the seed and the trials before: a search that is told again what it was told goes on as if it
    had never stopped.

    always: something is drawn for every trial, even where it is not used, because a record is kept of the
    draws (population-based samplers note the trial's generation).
    tries: how many draws are looked at. Where few are, because they are dear, what lies near the last of them
    comes next; then random ones.
    """

    always = False
    tries = TRIES

    @abstractmethod
    def _begin(self, number: int, seed: int) -> Draw:
        """What draws for the trial of that number: codes (choices,), in which choices may be OPEN."""

    def _next(self) -> Code | None:
        rng, draw = self._begun()
        return self._chosen(draw() if self.always else None, draw, rng)

    def _adopt(self, code: Code) -> None:
        if self.always:
            _, draw = self._begun()
            draw()
        self.trials.add(code)

    def _begun(self) -> tuple[np.random.Generator, Draw]:
        number = len(self.trials)
        rng = np.random.default_rng([self.problem.seed, number])
        seed = int(rng.integers(2**31))
        return rng, partial(self._completed, self._begin(number, seed), rng)

    def _chosen(self, first: Code | None, draw: Draw, rng: np.random.Generator) -> Code | None:
        code: Code
        for code in self.problem.first:
            if self._is_new(code):
                return code
        code = draw() if first is None else first
        for left in reversed(range(self.tries)):
            if self._is_new(code) and self.problem.within_limits(code[None])[0]:
                return code
            code = draw() if left else code
        if self.tries < TRIES:
            for near in self._near(code, rng):
                if self._is_new(near):
                    return near
        return self.problem.fresh(self.trials.numbers, rng)

    def _is_new(self, code: Code) -> bool:
        return code.tobytes() not in self.trials.numbers

    def _completed(self, draw: Draw, rng: np.random.Generator) -> Code:
        """A draw with all that it leaves open (random start, mutations) drawn from `rng`.

        As much is drawn whatever is open, so that what follows does not depend on it.
        """
        code = draw()
        drawn = self.space.sample_choices(rng, 1)[0]
        others = [rng.integers(len(choice.options)) for choice in self.space.choices]
        drawn = np.where(drawn == INACTIVE, others, drawn)
        completed: Code = self.space.canonical(np.where(code == OPEN, drawn, code)[None])[0]
        return completed

    def _near(self, code: Code, rng: np.random.Generator) -> Iterator[Code]:
        """Those within the limits among this one moved into them, and what differs in a choice or two."""
        codes = self.problem.moved(np.repeat(code[None], MOVED, axis=0), rng)
        yield from codes[self.problem.within_limits(codes)]
        for _ in range(2):
            codes = changed(self.space, codes, rng)
            yield from codes[self.problem.within_limits(codes)]

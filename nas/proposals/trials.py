"""What a searcher has proposed, in order, and what it was told of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from nas.proposals.problem import Code, SearchProblem
from search_spaces.space import Codes

Floats = NDArray[np.float64]


class State(IntEnum):
    """Of a trial."""

    RUNNING = 0
    DONE = 1
    FAILED = 2


@dataclass(frozen=True, eq=False)
class Finished:
    """Trials that succeeded, in order: numbers (n,), codes (n, choices), and what they were told to be.

    values: (n, objectives), minimised.  errors: standard errors (n, objectives), NaN where nobody told them.
    """

    numbers: NDArray[np.int64]
    codes: Codes
    values: Floats
    errors: Floats

    def __len__(self) -> int:
        return len(self.numbers)

    def head(self, count: int) -> "Finished":
        """The first of them."""
        return Finished(self.numbers[:count], self.codes[:count], self.values[:count], self.errors[:count])

    def among(self, rows: Sequence[int]) -> "Finished":
        """Those in these rows."""
        at = np.array(rows, dtype=np.int64)
        return Finished(self.numbers[at], self.codes[at], self.values[at], self.errors[at])


class Trials:
    """The proposals of a search, numbered from 0.

    numbers: the number of each, by the bytes of its codes; none is proposed twice.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._signs = problem.signs
        self.numbers: dict[bytes, int] = {}
        self._codes: Codes = np.empty((0, len(problem.space.choices)), dtype=np.int64)
        self._values: Floats = np.empty((0, len(self._signs)))
        self._errors: Floats = np.empty((0, len(self._signs)))
        self._states: NDArray[np.int8] = np.empty(0, dtype=np.int8)

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, code: Code) -> None:
        """Another proposal, which nobody has evaluated yet."""
        number = len(self)
        if number == len(self._codes):
            self._grow(max(64, number))
        self.numbers[code.tobytes()] = number
        self._codes[number] = code
        self._states[number] = State.RUNNING

    def tell(self, code: Code, values: Floats, errors: Floats) -> None:
        """What a proposal was evaluated to, as the objectives are; values that are not finite: it failed."""
        number = self.numbers[code.tobytes()]
        self._values[number], self._errors[number] = values * self._signs, errors
        self._states[number] = State.DONE if np.isfinite(values).all() else State.FAILED

    def finished(self, before: int | None = None) -> Finished:
        """Those with lower numbers (all) that have succeeded."""
        numbers = np.flatnonzero(self._states[: self._end(before)] == State.DONE)
        return Finished(numbers, self._codes[numbers], self._values[numbers], self._errors[numbers])

    def running(self, before: int | None = None) -> Codes:
        """The codes (n, choices) of those with lower numbers (all) that are still being evaluated."""
        end = self._end(before)
        codes: Codes = self._codes[:end][self._states[:end] == State.RUNNING]
        return codes

    def codes(self, before: int | None = None) -> Codes:
        """The codes (n, choices) of those with lower numbers (all), in order."""
        return self._codes[: self._end(before)].copy()

    def _end(self, before: int | None) -> int:
        return len(self) if before is None else min(before, len(self))

    def _grow(self, more: int) -> None:
        self._codes = np.concatenate([self._codes, np.empty((more, self._codes.shape[1]), dtype=np.int64)])
        self._states = np.concatenate([self._states, np.empty(more, dtype=np.int8)])
        missing = np.full((more, len(self._signs)), np.nan)
        self._values = np.concatenate([self._values, missing])
        self._errors = np.concatenate([self._errors, missing])

"""Kernels over architectures: options that they have in common, and how far apart the others are."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces import SearchSpace
from search_spaces.space import INACTIVE, Codes

Floats = NDArray[np.float64]

SLOPE = 0.9  # share of what a choice adds that is a line over its options; the rest is each option's own
LENGTHS = (1.2, 0.6, 0.3)  # of the Matern kernel, each half of the one before; opposite corners are 1 apart


@dataclass(frozen=True)
class Kernel:
    """Shares and scales of one member: the Matern part's length and share, the noise."""

    length: float
    residual: float
    noise: float


@dataclass(frozen=True, eq=False)
class Placed:
    """Architectures as a metric sees them.

    parts: of the linear kernel, weighted (n, columns).  levels: how far along each choice, weighted
    (n, choices).
    """

    parts: Floats
    levels: Floats
    squares: Floats  # of the levels, added up (n,)

    def __getitem__(self, rows: slice) -> "Placed":
        return Placed(self.parts[rows], self.levels[rows], self.squares[rows])


@dataclass(frozen=True, eq=False)
class Metric:
    """What agreement and distance between architectures of a space are.

    relevance: how much each choice matters (choices,), 1 on average.  common: variance of what the lines of
    all choices have in common; that of what choices add by themselves is 1 in all.
    """

    space: SearchSpace
    relevance: Floats
    common: float

    def placed(self, codes: Codes) -> Placed:
        """Architectures (n, choices) with what is taken of each to compare it with others.

        In distances a choice counts by the root of its relevance, which is a variance.
        """
        columns, owner = linear_parts(self.space, codes)
        variances = np.append(self.relevance / len(self.relevance), self.common)
        weights = np.sqrt(self.relevance)
        levels = _levels(self.space, codes) * np.sqrt(weights / weights.sum())
        return Placed(columns * np.sqrt(variances[owner]), levels, np.square(levels).sum(axis=1))

    def linear(self, a: Placed, b: Placed) -> Floats:
        """How much of a sum over the choices two architectures share, (len(a), len(b))."""
        shared: Floats = a.parts @ b.parts.T
        return shared

    def apart(self, a: Placed, b: Placed) -> Floats:
        """How far two architectures are apart, (len(a), len(b)); 1: opposite corners."""
        squared = a.levels @ b.levels.T
        squared *= -2
        squared += a.squares[:, None]
        squared += b.squares
        np.maximum(squared, 0, out=squared)
        return np.sqrt(squared, out=squared)

    def prior(self, placed: Placed, kernel: Kernel) -> Floats:
        """The kernel between each architecture and itself."""
        prior: Floats = (1 - kernel.residual) * np.square(placed.parts).sum(axis=1) + kernel.residual
        return prior


@dataclass(frozen=True, eq=False)
class Compared:
    """The linear kernel and the Matern kernels of all lengths, (n, m) each: what kernels are mixed of."""

    linear: Floats
    by_length: dict[float, Floats]

    @classmethod
    def of(cls, metric: Metric, a: Placed, b: Placed) -> "Compared":
        """Of each of some architectures with each of others."""
        return cls(metric.linear(a, b), dict(materns(metric.apart(a, b))))

    def mixed(self, kernel: Kernel) -> Floats:
        """The kernel of these architectures, without noise."""
        both: Floats = (1 - kernel.residual) * self.linear
        both += kernel.residual * self.by_length[kernel.length]
        return both


def materns(apart: Floats) -> Iterator[tuple[float, Floats]]:
    """The Matern kernel of smoothness 5/2 for each of LENGTHS, in their order.

    Of half the length it has the square of the exponential, which is what takes long.
    """
    scaled = apart * (np.sqrt(5) / LENGTHS[0])
    decay = np.exp(-scaled)
    for place, length in enumerate(LENGTHS):
        if place:
            scaled *= 2
            decay *= decay
        kernel = scaled / 3
        kernel += 1
        kernel *= scaled
        kernel += 1
        kernel *= decay
        yield length, kernel


def linear_parts(space: SearchSpace, codes: Codes) -> tuple[Floats, NDArray[np.int64]]:
    """Columns (n, columns) of which a sum over the choices is made, and whose each is (columns,).

    Of every choice its options and a line over them, which are in order; the last column, whose owner is the
    number of the choices, has what the lines have in common: mostly more of anything is better.
    """
    count = len(space.choices)
    lines = np.where(codes == INACTIVE, 0, 2 * _levels(space, codes) - 1)
    lines[:, [len(choice.options) == 1 for choice in space.choices]] = 0
    whole = lines.sum(axis=1, keepdims=True) / np.sqrt(count)
    columns = [np.sqrt(1 - SLOPE) * one_hot(space, codes), np.sqrt(SLOPE) * lines, whole]
    return np.concatenate(columns, axis=1), np.concatenate([owners(space), np.arange(count + 1)])


def one_hot(space: SearchSpace, codes: Codes) -> Floats:
    """(n, options of all choices): 1 at the option that was chosen, nothing where a choice does not exist."""
    ends = np.cumsum([0, *(len(choice.options) for choice in space.choices)])
    columns = np.zeros((len(codes), ends[-1]))
    rows, choices = np.nonzero(codes != INACTIVE)
    columns[rows, ends[choices] + codes[rows, choices]] = 1
    return columns


def owners(space: SearchSpace) -> NDArray[np.int64]:
    """The choice of each column of `one_hot`, (options of all choices,)."""
    return np.repeat(np.arange(len(space.choices)), [len(choice.options) for choice in space.choices])


def _levels(space: SearchSpace, codes: Codes) -> Floats:
    """Options from 0 to 1, (n, choices); what does not exist lies one step below the first."""
    sizes = np.array([max(len(choice.options) - 1, 1) for choice in space.choices])
    levels: Floats = np.where(codes == INACTIVE, -1, codes) / sizes
    return levels

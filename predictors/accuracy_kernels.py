"""Kernels over architectures: options that they have in common, and how far apart the others are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces import SearchSpace
from search_spaces.space import INACTIVE, Codes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """Shares and scales of one member: the Matern part's length and share, the noise."""

    length: float
    residual: float
    noise: float


@dataclass(frozen=True, eq=False)
class Metric:
    """What agreement and distance between architectures of a space are; `relevance` (choices,) has mean 1."""

    space: SearchSpace
    relevance: Floats

    def linear(self, a: Codes, b: Codes) -> Floats:
        """The share of the choices, by relevance, in which two architectures agree, (len(a), len(b))."""
        weights = self.relevance[owners(self.space)] / len(self.relevance)
        agreed: Floats = (one_hot(self.space, a) * weights) @ one_hot(self.space, b).T
        return agreed

    def apart(self, a: Codes, b: Codes) -> Floats:
        """How far two architectures are apart, (len(a), len(b)); 1: opposite corners.

        A choice counts by the root of its relevance, which is a variance.
        """
        weights = np.sqrt(self.relevance)
        weights = np.sqrt(weights / weights.sum())
        left, right = _levels(self.space, a) * weights, _levels(self.space, b) * weights
        squared = np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1) - 2 * left @ right.T
        distance: Floats = np.sqrt(np.maximum(squared, 0))
        return distance

    def prior(self, codes: Codes, kernel: Kernel) -> Floats:
        """The kernel between each architecture and itself."""
        active = (codes != INACTIVE) @ self.relevance / len(self.relevance)
        prior: Floats = (1 - kernel.residual) * active + kernel.residual
        return prior


def mixed(linear: Floats, apart: Floats, kernel: Kernel) -> Floats:
    """The kernel of agreements and distances, both (n, m)."""
    both: Floats = (1 - kernel.residual) * linear + kernel.residual * matern(apart, kernel.length)
    return both


def matern(apart: Floats, length: float) -> Floats:
    """The Matern kernel of smoothness 5/2."""
    scaled = np.sqrt(5) * apart / length
    kernel: Floats = (1 + scaled + np.square(scaled) / 3) * np.exp(-scaled)
    return kernel


def one_hot(space: SearchSpace, codes: Codes) -> Floats:
    """(n, options of all choices): 1 at the option that was chosen, nothing where a choice does not exist."""
    columns = [codes[:, i, None] == np.arange(len(choice.options)) for i, choice in enumerate(space.choices)]
    return np.concatenate(columns, axis=1).astype(np.float64)


def owners(space: SearchSpace) -> NDArray[np.int64]:
    """The choice of each column of `one_hot`, (options of all choices,)."""
    return np.repeat(np.arange(len(space.choices)), [len(choice.options) for choice in space.choices])


def _levels(space: SearchSpace, codes: Codes) -> Floats:
    """Options from 0 to 1, (n, choices); what does not exist lies one step below the first."""
    sizes = np.array([max(len(choice.options) - 1, 1) for choice in space.choices])
    levels: Floats = np.where(codes == INACTIVE, -1, codes) / sizes
    return levels

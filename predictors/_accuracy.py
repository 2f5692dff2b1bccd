"""Quality of architectures with an uncertainty, learned from the few that were evaluated.

An ensemble of Gaussian processes that differ in their kernels: a linear part over one-hot options, which is
most of the truth in these spaces, and a Matern part for what options do together. The members that explain
the data best make the ensemble; how far they disagree is part of the uncertainty.
Ours; kernels and posteriors as in Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006).
"""

import itertools
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh, solve_triangular
from scipy.special import softmax

from search_spaces import SearchSpace
from search_spaces._errors import UsageError
from search_spaces._space import INACTIVE, Codes

Floats = NDArray[np.float64]

LENGTHS = (0.3, 0.6, 1.2)  # of the Matern kernel; two opposite corners of a space are 1 apart
RESIDUALS = (0.05, 0.3, 0.7)  # the Matern part's share of the variance
NOISES = (1e-4, 1e-3, 1e-2, 1e-1, 0.5)  # variance of the noise, as a share of the rest's
MEMBERS = 5
MOST_COMPARED = 200  # points on which kernels are compared
LEAST = 2


@dataclass(frozen=True)
class Kernel:
    """Shares and scales of one member: its length, the Matern part, the noise."""

    length: float
    residual: float
    noise: float


@dataclass(frozen=True, eq=False)
class _Member:
    kernel: Kernel
    scale: float  # the variance of the whole
    factor: tuple[Floats, bool]
    weights: Floats  # (points,)


@dataclass(frozen=True, eq=False)
class AccuracyEnsemble:
    """Architectures of a space to quality, as mean and standard deviation; a value, as predictors are."""

    space: SearchSpace
    codes: Codes
    centre: float
    members: tuple[_Member, ...]
    shares: Floats  # of the members, (members,)

    @classmethod
    def fit(cls, space: SearchSpace, codes: Codes, quality: Floats) -> Self:
        """Fitted on evaluated architectures: codes (n, choices) and their qualities (n,).

        Raises UsageError for fewer than two, and for qualities that are not finite.
        """
        quality = np.asarray(quality, dtype=np.float64)
        if len(codes) < LEAST or len(codes) != len(quality) or not np.isfinite(quality).all():
            raise UsageError(
                f"{len(codes)} architectures with {len(quality)} qualities teach nothing.",
                f"At least {LEAST} finite qualities are needed.",
            )
        centre = float(quality.mean())
        few = slice(None, None, -(-len(codes) // MOST_COMPARED))
        scored = _scored(space, codes[few], quality[few] - centre)
        best = sorted(scored, key=lambda item: -item[0])[:MEMBERS]
        members = tuple(_member(space, codes, quality - centre, kernel) for _, kernel in best)
        return cls(space, codes, centre, members, softmax([evidence for evidence, _ in best]))

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n,) each; the latter without the noise of an evaluation."""
        linear, apart = _linear(self.space, codes, self.codes), _apart(self.space, codes, self.codes)
        means, variances = [], []
        for member in self.members:
            cross = _mixed(linear, apart, member.kernel)
            solved = solve_triangular(member.factor[0], cross.T, lower=member.factor[1])
            prior = _prior(self.space, codes, member.kernel)
            means.append(cross @ member.weights)
            variances.append(member.scale * np.maximum(prior - np.square(solved).sum(axis=0), 0))
        mean = self.shares @ np.array(means)
        spread = self.shares @ (np.array(variances) + np.square(np.array(means) - mean))
        return self.centre + mean, np.sqrt(spread)

    def mean(self, codes: Codes) -> Floats:
        """The mean alone (n,), which is cheaper."""
        linear, apart = _linear(self.space, codes, self.codes), _apart(self.space, codes, self.codes)
        means = [_mixed(linear, apart, member.kernel) @ member.weights for member in self.members]
        mixed: Floats = self.centre + self.shares @ np.array(means)
        return mixed


def one_hot(space: SearchSpace, codes: Codes) -> Floats:
    """(n, options of all choices): 1 at the option that was chosen, nothing where a choice does not exist."""
    columns = [codes[:, i, None] == np.arange(len(choice.options)) for i, choice in enumerate(space.choices)]
    return np.concatenate(columns, axis=1).astype(np.float64)


def _levels(space: SearchSpace, codes: Codes) -> Floats:
    """Options from 0 to 1, (n, choices); what does not exist lies one step below the first."""
    sizes = np.array([max(len(choice.options) - 1, 1) for choice in space.choices])
    levels: Floats = np.where(codes == INACTIVE, -1, codes) / sizes
    return levels


def _linear(space: SearchSpace, a: Codes, b: Codes) -> Floats:
    """The share of the choices in which two architectures agree, (len(a), len(b))."""
    agreed: Floats = one_hot(space, a) @ one_hot(space, b).T / len(space.choices)
    return agreed


def _apart(space: SearchSpace, a: Codes, b: Codes) -> Floats:
    """How far two architectures are apart, (len(a), len(b)); 1: opposite corners."""
    left, right = _levels(space, a), _levels(space, b)
    squared = np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1) - 2 * left @ right.T
    distance: Floats = np.sqrt(np.maximum(squared, 0) / len(space.choices))
    return distance


def _mixed(linear: Floats, apart: Floats, kernel: Kernel) -> Floats:
    scaled = np.sqrt(5) * apart / kernel.length
    matern = (1 + scaled + np.square(scaled) / 3) * np.exp(-scaled)
    mixed: Floats = (1 - kernel.residual) * linear + kernel.residual * matern
    return mixed


def _prior(space: SearchSpace, codes: Codes, kernel: Kernel) -> Floats:
    """The kernel between each architecture and itself."""
    there = (codes != INACTIVE).sum(axis=1) / len(space.choices)
    prior: Floats = (1 - kernel.residual) * there + kernel.residual
    return prior


def _scored(space: SearchSpace, codes: Codes, centred: Floats) -> list[tuple[float, Kernel]]:
    """Every kernel of the grid with its log evidence, the scale being the most likely one."""
    linear, apart = _linear(space, codes, codes), _apart(space, codes, codes)
    count, found = len(codes), []
    for length, residual in itertools.product(LENGTHS, RESIDUALS):
        values, vectors = eigh(_mixed(linear, apart, Kernel(length, residual, 0)))
        turned = np.square(vectors.T @ centred)
        for noise in NOISES:
            spectrum = np.maximum(values, 0) + noise
            scale = max(float((turned / spectrum).mean()), np.finfo(np.float64).tiny)
            evidence = -0.5 * (count * np.log(scale) + np.log(spectrum).sum())
            found.append((float(evidence), Kernel(length, residual, noise)))
    return found


def _member(space: SearchSpace, codes: Codes, centred: Floats, kernel: Kernel) -> _Member:
    matrix = _mixed(_linear(space, codes, codes), _apart(space, codes, codes), kernel)
    factor = cho_factor(matrix + kernel.noise * np.eye(len(codes)), lower=True)
    weights = cho_solve(factor, centred)
    return _Member(kernel, float(centred @ weights) / len(codes), factor, weights)

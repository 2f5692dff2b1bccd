"""Quality of architectures with an uncertainty, learned from the few that were evaluated.

`gp`: an ensemble of Gaussian processes that differ in their kernels: a linear part over one-hot options,
which is most of the truth in these spaces, and a Matern part for what options do together. The members that
explain the data best make the ensemble; how far they disagree is part of the uncertainty.
`ridge`, where that is too dear: `predictors._ridge`.
Ours; kernels and posteriors as in Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006).
"""

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, Self

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
MOST_POINTS, MOST_CHOICES = 1500, 100  # of a Gaussian process, whose cost is cubic in the points
FLOOR = 0.1  # of an evaluation's variance, as a share of the mean one: that of 100 % accuracy is 0

Kind = Literal["auto", "gp", "ridge"]


class AccuracyPredictor(Protocol):
    """Architectures of a space to quality."""

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n,) each; the latter without the noise of an evaluation."""

    def mean(self, codes: Codes) -> Floats:
        """The mean alone (n,), which is cheaper."""


def fit(
    space: SearchSpace,
    codes: Codes,
    quality: Floats,
    *,
    stderr: Floats | None = None,
    kind: Kind = "auto",
) -> AccuracyPredictor:
    """A predictor fitted on evaluated architectures: codes (n, choices) and their qualities (n,).

    stderr: standard errors (n,) of the qualities. They say how the noise of one evaluation compares with that
    of another; how much noise there is in all is learned from the qualities.
    kind: `auto` is `gp` up to MOST_POINTS points and MOST_CHOICES choices, above it `ridge`.
    Raises UsageError for fewer than two, and for qualities or standard errors that are not finite.
    """
    if kind == "auto":
        small = len(codes) <= MOST_POINTS and len(space.choices) <= MOST_CHOICES
        kind = "gp" if small else "ridge"
    if kind == "gp":
        return AccuracyEnsemble.fit(space, codes, quality, stderr=stderr)
    from predictors._ridge import Ridge  # noqa: PLC0415 - scikit-learn takes a second to import

    quality, noises = checked(codes, quality, stderr)
    return Ridge.fit(space, codes, quality, noises)


def checked(codes: Codes, quality: Floats, stderr: Floats | None) -> tuple[Floats, Floats]:
    """The qualities (n,) and the variances (n,) of their noise, those being 1 on average."""
    quality = np.asarray(quality, dtype=np.float64)
    noises = np.ones(len(quality)) if stderr is None else np.square(np.asarray(stderr, dtype=np.float64))
    finite = np.isfinite(quality).all() and np.isfinite(noises).all()
    if len(codes) < LEAST or not len(codes) == len(quality) == len(noises) or not finite:
        raise UsageError(
            f"{len(codes)} architectures with {len(quality)} qualities teach nothing.",
            f"At least {LEAST} finite qualities are needed, and finite standard errors if any.",
        )
    mean = noises.mean()
    return quality, np.maximum(noises / mean, FLOOR) if mean > 0 else np.ones(len(quality))


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
    def fit(cls, space: SearchSpace, codes: Codes, quality: Floats, *, stderr: Floats | None = None) -> Self:
        """See `fit` of this module."""
        quality, noises = checked(codes, quality, stderr)
        centre = float(np.average(quality, weights=1 / noises))
        few = slice(None, None, -(-len(codes) // MOST_COMPARED))
        scored = _scored(space, codes[few], quality[few] - centre, noises[few])
        best = sorted(scored, key=lambda item: -item[0])[:MEMBERS]
        members = tuple(_member(space, codes, quality - centre, noises, kernel) for _, kernel in best)
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
        by_option, by_length = self._joined
        mean: Floats = self.centre + one_hot(self.space, codes) @ by_option
        apart = _apart(self.space, codes, self.codes)
        for length, weights in by_length.items():
            mean += _matern(apart, length) @ weights
        return mean

    @cached_property
    def _joined(self) -> tuple[Floats, dict[float, Floats]]:
        """The members' means as one: weights of options, and of points by the Matern kernel's length."""
        linear, by_length = np.zeros(len(self.codes)), dict[float, Floats]()
        for member, share in zip(self.members, self.shares, strict=True):
            kernel, weights = member.kernel, share * member.weights
            linear += (1 - kernel.residual) * weights
            by_length[kernel.length] = by_length.get(kernel.length, 0) + kernel.residual * weights
        by_option = one_hot(self.space, self.codes).T @ linear / len(self.space.choices)
        return by_option, by_length


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
    mixed: Floats = (1 - kernel.residual) * linear + kernel.residual * _matern(apart, kernel.length)
    return mixed


def _matern(apart: Floats, length: float) -> Floats:
    scaled = np.sqrt(5) * apart / length
    matern: Floats = (1 + scaled + np.square(scaled) / 3) * np.exp(-scaled)
    return matern


def _prior(space: SearchSpace, codes: Codes, kernel: Kernel) -> Floats:
    """The kernel between each architecture and itself."""
    there = (codes != INACTIVE).sum(axis=1) / len(space.choices)
    prior: Floats = (1 - kernel.residual) * there + kernel.residual
    return prior


def _scored(space: SearchSpace, codes: Codes, centred: Floats, noises: Floats) -> list[tuple[float, Kernel]]:
    """Every kernel of the grid with its log evidence, the scale being the most likely one."""
    whiten = 1 / np.sqrt(noises)
    linear, apart = _linear(space, codes, codes), _apart(space, codes, codes)
    count, found = len(codes), []
    for length, residual in itertools.product(LENGTHS, RESIDUALS):
        mixed = _mixed(linear, apart, Kernel(length, residual, 0))
        values, vectors = eigh(whiten[:, None] * mixed * whiten)
        turned = np.square(vectors.T @ (whiten * centred))
        for noise in NOISES:
            spectrum = np.maximum(values, 0) + noise
            scale = max(float((turned / spectrum).mean()), np.finfo(np.float64).tiny)
            evidence = -0.5 * (count * np.log(scale) + np.log(spectrum).sum())
            found.append((float(evidence), Kernel(length, residual, noise)))
    return found


def _member(space: SearchSpace, codes: Codes, centred: Floats, noises: Floats, kernel: Kernel) -> _Member:
    matrix = _mixed(_linear(space, codes, codes), _apart(space, codes, codes), kernel)
    factor = cho_factor(matrix + kernel.noise * np.diag(noises), lower=True)
    weights = cho_solve(factor, centred)
    return _Member(kernel, float(centred @ weights) / len(codes), factor, weights)

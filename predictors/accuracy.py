"""Quality of architectures with an uncertainty, learned from the few that were evaluated.

`gp`: an ensemble of Gaussian processes that differ in their kernels: a linear part over one-hot options,
which is most of the truth in these spaces, and a Matern part for what options do together; in both, a choice
counts by how much it matters (`predictors._relevance`). The members that explain the data best make the
ensemble; how far they disagree is part of the uncertainty.
`ridge`, where that is too dear: `predictors._ridge`.
Ours; kernels and posteriors as in Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006).
"""

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh, solve_triangular
from scipy.special import softmax

from predictors._accuracy_kernels import Floats, Kernel, Metric, matern, mixed, one_hot, owners
from predictors._relevance import relevances
from search_spaces import SearchSpace
from search_spaces._errors import UsageError
from search_spaces._space import Codes

LENGTHS = (0.3, 0.6, 1.2)  # of the Matern kernel; two opposite corners of a space are 1 apart
RESIDUALS = (0.05, 0.3, 0.7)  # the Matern part's share of the variance
NOISES = (1e-4, 1e-3, 1e-2, 1e-1, 0.5)  # variance of the noise, as a share of the rest's
MEMBERS, LEAST_SHARE = 5, 0.01
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
    Raises UsageError for fewer than two, for qualities or standard errors that are not finite, and for an
    unknown kind.
    """
    if kind == "auto":
        small = len(codes) <= MOST_POINTS and len(space.choices) <= MOST_CHOICES
        kind = "gp" if small else "ridge"
    if kind == "gp":
        return AccuracyEnsemble.fit(space, codes, quality, stderr=stderr)
    if kind != "ridge":
        raise UsageError(f"There is no accuracy predictor '{kind}': auto, gp or ridge.")
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


@dataclass(frozen=True, eq=False)
class _Member:
    kernel: Kernel
    scale: float  # the variance of the whole
    factor: tuple[Floats, bool]
    weights: Floats  # (points,)


@dataclass(frozen=True, eq=False)
class AccuracyEnsemble:
    """Architectures of a space to quality, as mean and standard deviation; a value, as predictors are."""

    metric: Metric
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
        compared = codes[few], quality[few] - centre, noises[few]
        metric = Metric(space, relevances(space, *compared))
        best = sorted(_scored(metric, *compared), key=lambda item: -item[0])[:MEMBERS]
        shares = softmax([evidence for evidence, _ in best])
        kernels = [kernel for (_, kernel), share in zip(best, shares, strict=True) if share >= LEAST_SHARE]
        members = tuple(_member(metric, codes, quality - centre, noises, kernel) for kernel in kernels)
        return cls(metric, codes, centre, members, shares[: len(kernels)] / shares[: len(kernels)].sum())

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n,) each; the latter without the noise of an evaluation."""
        linear, apart = self.metric.linear(codes, self.codes), self.metric.apart(codes, self.codes)
        means, variances = [], []
        for member in self.members:
            cross = mixed(linear, apart, member.kernel)
            solved = solve_triangular(member.factor[0], cross.T, lower=member.factor[1])
            prior = self.metric.prior(codes, member.kernel)
            means.append(cross @ member.weights)
            variances.append(member.scale * np.maximum(prior - np.square(solved).sum(axis=0), 0))
        mean = self.shares @ np.array(means)
        spread = self.shares @ (np.array(variances) + np.square(np.array(means) - mean))
        return self.centre + mean, np.sqrt(spread)

    def mean(self, codes: Codes) -> Floats:
        """The mean alone (n,), which is cheaper."""
        by_option, by_length = self._joined
        mean: Floats = self.centre + one_hot(self.metric.space, codes) @ by_option
        apart = self.metric.apart(codes, self.codes)
        for length, weights in by_length.items():
            mean += matern(apart, length) @ weights
        return mean

    @cached_property
    def _joined(self) -> tuple[Floats, dict[float, Floats]]:
        """The members' means as one: weights of options, and of points by the Matern kernel's length."""
        linear, by_length = np.zeros(len(self.codes)), dict[float, Floats]()
        for member, share in zip(self.members, self.shares, strict=True):
            kernel, weights = member.kernel, share * member.weights
            linear += (1 - kernel.residual) * weights
            by_length[kernel.length] = by_length.get(kernel.length, 0) + kernel.residual * weights
        space, relevance = self.metric.space, self.metric.relevance
        by_option = one_hot(space, self.codes).T @ linear * relevance[owners(space)] / len(relevance)
        return by_option, by_length


def _scored(metric: Metric, codes: Codes, centred: Floats, noises: Floats) -> list[tuple[float, Kernel]]:
    """Every kernel of the grid with its log evidence, the scale being the most likely one."""
    whiten = 1 / np.sqrt(noises)
    linear, apart = metric.linear(codes, codes), metric.apart(codes, codes)
    count, found = len(codes), []
    for length, residual in itertools.product(LENGTHS, RESIDUALS):
        matrix = mixed(linear, apart, Kernel(length, residual, 0))
        values, vectors = eigh(whiten[:, None] * matrix * whiten)
        turned = np.square(vectors.T @ (whiten * centred))
        for noise in NOISES:
            spectrum = np.maximum(values, 0) + noise
            scale = max(float((turned / spectrum).mean()), np.finfo(np.float64).tiny)
            evidence = -0.5 * (count * np.log(scale) + np.log(spectrum).sum())
            found.append((float(evidence), Kernel(length, residual, noise)))
    return found


def _member(metric: Metric, codes: Codes, centred: Floats, noises: Floats, kernel: Kernel) -> _Member:
    matrix = mixed(metric.linear(codes, codes), metric.apart(codes, codes), kernel)
    factor = cho_factor(matrix + kernel.noise * np.diag(noises), lower=True)
    weights = cho_solve(factor, centred)
    return _Member(kernel, float(centred @ weights) / len(codes), factor, weights)

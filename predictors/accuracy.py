"""Quality of architectures with an uncertainty, learned from the few that were evaluated.

`gp`: an ensemble of Gaussian processes that differ in their kernels: a linear part over options and the order
in which they come, which is most of the truth in these spaces, and a Matern part for what options do
together; in both, a choice counts by how much it matters (`metric_of`). The members that explain the data
best make the ensemble; how far they disagree is part of the uncertainty.
`ridge`, where that is too dear: a linear model (`Ridge`).
Ours; kernels and posteriors as in Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh

from predictors.accuracy_kernels import (
    LENGTHS,
    Compared,
    Floats,
    Kernel,
    Metric,
    Placed,
    linear_parts,
    materns,
)
from predictors.accuracy_ridge import Ridge
from predictors.block_cholesky import BLOCK, Factor
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.space import Codes
from search_spaces.union import SpaceUnion

STEPS = 12
NOISE, LEAST_NOISE = 0.1, 1e-6  # share of the variance: at first, and at least
BELIEF = 1.0  # degrees of freedom of the belief that all choices matter alike
RESIDUALS = (0.05, 0.3, 0.7)  # the Matern part's share of the variance
NOISES = (1e-4, 1e-3, 1e-2, 1e-1, 0.5)  # variance of the noise, as a share of the rest's
MEMBERS, LEAST_SHARE = 5, 0.01
MOST_COMPARED = 200  # points on which kernels are compared
LEAST = 2
MOST_POINTS, MOST_CHOICES = 1500, 200  # of a Gaussian process, whose cost is cubic in the points
# Evaluations from which on not all decide about the kernels, and at most how many do not.
SETTLING, MOST_ADDED = 100, 250
FLOOR = 0.1  # of an evaluation's variance, as a share of the mean one: that of 100 % accuracy is 0

Kind = Literal["auto", "gp", "ridge"]


class AccuracyPredictor(Protocol):
    """Architectures of a space to quality."""

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n,) each; the latter without the noise of an evaluation."""

    def mean(self, codes: Codes) -> Floats:
        """The mean alone (n,), which is cheaper."""

    def difference(self, codes: Codes, other: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n,) of how much better each is than one other (1, choices).

        Neighbours have most of their uncertainty in common: their difference is known better than either.
        """

    def joint(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean (n,) and covariance (n, n) of all of them together, without the noise of an evaluation."""


def fit(
    space: SearchSpace,
    codes: Codes,
    quality: Floats,
    *,
    stderr: Floats | None = None,
    kind: Kind = "auto",
    before: AccuracyPredictor | None = None,
) -> AccuracyPredictor:
    """A predictor fitted on evaluated architectures: codes (n, choices) and their qualities (n,).

    stderr: standard errors (n,) of the qualities. They say how the noise of one evaluation compares with that
    of another; how much noise there is in all is learned from the qualities.
    kind: `auto` is `gp` up to MOST_POINTS points and MOST_CHOICES choices, above it `ridge`.
    A union of spaces has a predictor for each of them.
    before: one that was fitted to the first of these evaluations, or to others: what it has computed is not
    computed again where it holds. The result is the same without it, to the last bit.
    Raises UsageError for fewer than two, for qualities or standard errors that are not finite, and for an
    unknown kind.
    """
    if isinstance(space, SpaceUnion):
        return OfMembers.fit(space, codes, quality, stderr=stderr, kind=kind, before=before)
    if kind == "auto":
        small = len(codes) <= MOST_POINTS and len(space.choices) <= MOST_CHOICES
        kind = "gp" if small else "ridge"
    if kind == "gp":
        return AccuracyEnsemble.fit(space, codes, quality, stderr=stderr, before=before)
    if kind != "ridge":
        raise UsageError(f"There is no accuracy predictor '{kind}': auto, gp or ridge.")
    quality, noises = checked(codes, quality, stderr)
    return Ridge.fit(space, codes, quality, noises)


def checked(
    codes: Codes, quality: Floats, stderr: Floats | None, *, first: int | None = None
) -> tuple[Floats, Floats]:
    """The qualities (n,) and the variances (n,) of their noise, those of the `first` (all) 1 on average."""
    quality = np.array(quality, dtype=np.float64)
    noises = np.ones(len(quality)) if stderr is None else np.square(np.asarray(stderr, dtype=np.float64))
    finite = np.isfinite(quality).all() and np.isfinite(noises).all()
    if len(codes) < LEAST or not len(codes) == len(quality) == len(noises) or not finite:
        raise UsageError(
            f"{len(codes)} architectures with {len(quality)} qualities teach nothing.",
            f"At least {LEAST} finite qualities are needed, and finite standard errors if any.",
        )
    mean = noises[:first].mean()
    return quality, np.maximum(noises / mean, FLOOR) if mean > 0 else np.ones(len(quality))


@dataclass(frozen=True, eq=False)
class _Settled:
    """What the first evaluations decide: how much each choice matters, and the kernels of the ensemble.

    codes, quality, noises: of these evaluations, by which a later fit knows whether it would decide the same.
    """

    codes: Codes
    quality: Floats
    noises: Floats
    metric: Metric
    kernels: tuple[Kernel, ...]
    shares: Floats  # of the kernels, (kernels,)

    @classmethod
    def by(cls, space: SearchSpace, codes: Codes, quality: Floats, noises: Floats) -> Self:
        """The kernels that explain the data best."""
        centre = float(np.average(quality, weights=1 / noises))
        few = slice(None, None, -(-len(codes) // MOST_COMPARED))
        compared = codes[few], quality[few] - centre, noises[few]
        metric = metric_of(space, *compared)
        best = sorted(_scored(metric, *compared), key=lambda item: -item[0])[:MEMBERS]
        evidence = np.array([evidence for evidence, _ in best])
        shares = np.exp(evidence - evidence.max())  # scipy's softmax takes longer to import than all of this
        shares /= shares.sum()
        kernels = [kernel for (_, kernel), share in zip(best, shares, strict=True) if share >= LEAST_SHARE]
        shares = shares[: len(kernels)] / shares[: len(kernels)].sum()
        return cls(codes, quality, noises, metric, tuple(kernels), shares)

    def holds(self, space: SearchSpace, codes: Codes, quality: Floats, noises: Floats) -> bool:
        """Whether these evaluations decide the same because they are the same."""
        pairs = ((self.codes, codes), (self.quality, quality), (self.noises, noises))
        return self.metric.space is space and all(np.array_equal(mine, theirs) for mine, theirs in pairs)


@dataclass(frozen=True, eq=False)
class _Member:
    kernel: Kernel
    scale: float  # the variance of the whole
    factor: Factor
    weights: Floats  # (points,)


@dataclass(frozen=True, eq=False)
class AccuracyEnsemble:
    """Architectures of a space to quality, as mean and standard deviation; a value, as predictors are."""

    settled: _Settled
    codes: Codes
    noises: Floats
    points: Placed
    centre: float
    members: tuple[_Member, ...]

    @classmethod
    def fit(
        cls,
        space: SearchSpace,
        codes: Codes,
        quality: Floats,
        *,
        stderr: Floats | None = None,
        before: AccuracyPredictor | None = None,
    ) -> Self:
        """See `fit` of this module."""
        first = settled(len(codes))
        codes = codes.copy()  # a later fit compares, and callers may write into what is theirs
        quality, noises = checked(codes, quality, stderr, first=first)
        heads = codes[:first], quality[:first], noises[:first]
        earlier = before if isinstance(before, cls) and before.settled.holds(space, *heads) else None
        decided = _Settled.by(space, *heads) if earlier is None else earlier.settled
        points = decided.metric.placed(codes)
        factors = [Factor()] * len(decided.kernels)
        whole = 0 if earlier is None else earlier._same(codes, noises) // BLOCK
        if earlier is not None:
            factors = [Factor(member.factor.blocks[:whole]) for member in earlier.members]
        for start in range(whole * BLOCK, len(codes), BLOCK):
            rows = slice(start, min(start + BLOCK, len(codes)))
            compared = Compared.of(decided.metric, points[rows], points[: rows.stop])
            noise = np.eye(rows.stop - start, rows.stop, start) * noises[: rows.stop]
            factors = [
                factor.grown(compared.mixed(kernel) + kernel.noise * noise)
                for factor, kernel in zip(factors, decided.kernels, strict=True)
            ]
        centre = float(np.average(quality, weights=1 / noises))
        members = [
            _member(kernel, factor, quality - centre)
            for kernel, factor in zip(decided.kernels, factors, strict=True)
        ]
        return cls(decided, codes, noises, points, centre, tuple(members))

    @property
    def metric(self) -> Metric:
        return self.settled.metric

    @property
    def shares(self) -> Floats:
        """Of the members, (members,)."""
        return self.settled.shares

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n,) each; the latter without the noise of an evaluation."""
        placed = self.metric.placed(codes)
        compared = Compared.of(self.metric, placed, self.points)
        means, variances = [], []
        for member in self.members:
            cross = compared.mixed(member.kernel)
            solved = member.factor.solved(cross.T)
            prior = self.metric.prior(placed, member.kernel)
            means.append(cross @ member.weights)
            variances.append(member.scale * np.maximum(prior - np.square(solved).sum(axis=0), 0))
        mean = self.shares @ np.array(means)
        spread = self.shares @ (np.array(variances) + np.square(np.array(means) - mean))
        return self.centre + mean, np.sqrt(spread)

    def mean(self, codes: Codes) -> Floats:
        """The mean alone (n,), which is cheaper."""
        by_part, by_length = self._joined
        placed = self.metric.placed(codes)
        mean: Floats = self.centre + placed.parts @ by_part
        for length, kernel in materns(self.metric.apart(placed, self.points)):
            if length in by_length:
                mean += kernel @ by_length[length]
        return mean

    def difference(self, codes: Codes, other: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n,) of how much better each is than one other (1, choices)."""
        both = np.concatenate([codes, other])
        placed = self.metric.placed(both)
        compared = Compared.of(self.metric, placed, self.points)
        with_other = Compared.of(self.metric, placed[:-1], placed[-1:])
        means, variances = [], []
        for member in self.members:
            rows = compared.mixed(member.kernel)
            cross = rows[:-1] - rows[-1]
            solved = member.factor.solved(cross.T)
            priors = self.metric.prior(placed, member.kernel)
            prior = priors[:-1] + priors[-1] - 2 * with_other.mixed(member.kernel)[:, 0]
            means.append(cross @ member.weights)
            variances.append(member.scale * np.maximum(prior - np.square(solved).sum(axis=0), 0))
        mean = self.shares @ np.array(means)
        spread = self.shares @ (np.array(variances) + np.square(np.array(means) - mean))
        return mean, np.sqrt(spread)

    def joint(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean (n,) and covariance (n, n); how far the members disagree is part of it."""
        placed = self.metric.placed(codes)
        compared = Compared.of(self.metric, placed, self.points)
        within = Compared.of(self.metric, placed, placed)
        means, covariance = [], np.zeros((len(codes), len(codes)))
        for member, share in zip(self.members, self.shares, strict=True):
            cross = compared.mixed(member.kernel)
            solved = member.factor.solved(cross.T)
            means.append(cross @ member.weights)
            covariance += share * member.scale * (within.mixed(member.kernel) - solved.T @ solved)
        mean = self.shares @ np.array(means)
        off = np.array(means) - mean
        return self.centre + mean, covariance + (off.T * self.shares) @ off

    def _same(self, codes: Codes, noises: Floats) -> int:
        """How many evaluations it begins with as these do."""
        count = min(len(codes), len(self.codes))
        other = (self.codes[:count] != codes[:count]).any(axis=1) | (self.noises[:count] != noises[:count])
        return int(other.argmax()) if other.any() else count

    @cached_property
    def _joined(self) -> tuple[Floats, dict[float, Floats]]:
        """The members' means as one: weights of linear parts, and of points by the Matern kernel's length."""
        linear, by_length = np.zeros(len(self.codes)), dict[float, Floats]()
        for member, share in zip(self.members, self.shares, strict=True):
            kernel, weights = member.kernel, share * member.weights
            linear += (1 - kernel.residual) * weights
            by_length[kernel.length] = by_length.get(kernel.length, 0) + kernel.residual * weights
        return self.points.parts.T @ linear, by_length


def settled(count: int) -> int:
    """How many of so many evaluations decide how much choices matter, and the kernels: the first ones.

    All, as long as these are few; later they change in steps, between which more can be added at little cost.
    """
    first = min(count, SETTLING)
    while (following := first + min(max(first // 8, 1), MOST_ADDED)) <= count:
        first = following
    return first


def _scored(metric: Metric, codes: Codes, centred: Floats, noises: Floats) -> list[tuple[float, Kernel]]:
    """Every kernel of the grid with its log evidence, the scale being the most likely one."""
    whiten = 1 / np.sqrt(noises)
    placed = metric.placed(codes)
    compared = Compared.of(metric, placed, placed)
    count, scored = len(codes), []
    for length, residual in itertools.product(sorted(LENGTHS), RESIDUALS):
        matrix = compared.mixed(Kernel(length, residual, 0))
        values, vectors = eigh(whiten[:, None] * matrix * whiten)
        turned = np.square(vectors.T @ (whiten * centred))
        for noise in NOISES:
            spectrum = np.maximum(values, 0) + noise
            scale = max(float((turned / spectrum).mean()), np.finfo(np.float64).tiny)
            evidence = -0.5 * (count * np.log(scale) + np.log(spectrum).sum())
            scored.append((float(evidence), Kernel(length, residual, noise)))
    return scored


def _member(kernel: Kernel, factor: Factor, centred: Floats) -> _Member:
    weights = factor.divided(centred)
    return _Member(kernel, float(centred @ weights) / len(centred), factor, weights)


def metric_of(space: SearchSpace, codes: Codes, centred: Floats, noises: Floats) -> Metric:
    """How much each choice matters, and what they have in common: the variances of an additive model's parts.

    centred: qualities (n,) of `codes` without their mean.  noises: variances of their noise, 1 on average.
    Source: Zhou et al., "MM Algorithms for Variance Components Models" (2019); the belief that all choices
    matter alike, which keeps few points from switching choices off, is ours.
    """
    (columns, owner), count = linear_parts(space, codes), len(space.choices)
    target = centred / (float(centred.std()) or 1.0)
    parts, noise = np.append(np.full(count, 0.5 / count), 0.5), NOISE
    for _ in range(STEPS):
        factor = cho_factor((columns * parts[owner]) @ columns.T + noise * np.diag(noises), lower=True)
        residual, inner = cho_solve(factor, target), cho_solve(factor, columns)
        explained = np.bincount(owner, np.square(columns.T @ residual), count + 1)
        expected = np.bincount(owner, (columns * inner).sum(axis=0), count + 1)
        usual = np.append(np.full(count, parts[:count].mean()), parts[count])
        rise = (usual * explained + BELIEF) / (usual * expected + BELIEF * parts / usual)
        parts = parts * np.sqrt(rise)
        left = np.square(residual) @ noises / np.trace(cho_solve(factor, np.diag(noises)))
        noise = max(noise * float(np.sqrt(left)), LEAST_NOISE)
    of_choices = parts[:count]
    return Metric(space, of_choices / of_choices.mean(), float(parts[count] / of_choices.sum()))


@dataclass(frozen=True, eq=False)
class _Unknown:
    """What is believed of a member of which too little was evaluated: an `AccuracyPredictor`."""

    centre: float
    spread: float

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        return self.mean(codes), np.full(len(codes), self.spread)

    def mean(self, codes: Codes) -> Floats:
        return np.full(len(codes), self.centre)

    def difference(self, codes: Codes, other: Codes) -> tuple[Floats, Floats]:
        return np.zeros(len(codes)), np.full(len(codes), np.sqrt(2) * self.spread)

    def joint(self, codes: Codes) -> tuple[Floats, Floats]:
        return self.mean(codes), np.square(self.spread) * np.eye(len(codes))


@dataclass(frozen=True, eq=False)
class OfMembers:
    """Architectures of a union to quality, by a predictor for each member: an `AccuracyPredictor`.

    What one member's choices do says little of another's. Of a member with fewer than LEAST evaluations it is
    believed that it is as all others together, and as uncertain as they differ.
    """

    space: SpaceUnion
    models: Mapping[str, AccuracyPredictor]

    @classmethod
    def fit(
        cls,
        space: SpaceUnion,
        codes: Codes,
        quality: Floats,
        *,
        stderr: Floats | None = None,
        kind: Kind = "auto",
        before: AccuracyPredictor | None = None,
    ) -> Self:
        """See `fit` of this module."""
        earlier = before.models if isinstance(before, cls) else {}
        quality, _ = checked(codes, quality, stderr)
        models: dict[str, AccuracyPredictor] = {}
        for name, member in space.members.items():
            of_member = space.is_of(name, codes)
            if of_member.sum() < LEAST:
                models[name] = _Unknown(float(quality.mean()), float(quality.std()))
                continue
            errors = None if stderr is None else np.asarray(stderr)[of_member]
            models[name] = fit(
                member,
                space.own_codes(name, codes[of_member]),
                quality[of_member],
                stderr=errors,
                kind=kind,
                before=earlier.get(name),
            )
        return cls(space, models)

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n,) each; the latter without the noise of an evaluation."""
        mean, std = np.empty(len(codes)), np.empty(len(codes))
        for name, model in self.models.items():
            of_member = self.space.is_of(name, codes)
            if of_member.any():
                mean[of_member], std[of_member] = model.predict(self.space.own_codes(name, codes[of_member]))
        return mean, std

    def mean(self, codes: Codes) -> Floats:
        """The mean alone (n,), which is cheaper."""
        mean = np.empty(len(codes))
        for name, model in self.models.items():
            of_member = self.space.is_of(name, codes)
            if of_member.any():
                mean[of_member] = model.mean(self.space.own_codes(name, codes[of_member]))
        return mean

    def difference(self, codes: Codes, other: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n,) of how much better each is than one other (1, choices).

        What is of another member has none of its uncertainty in common with it.
        """
        (mean, std), (before, error) = self.predict(codes), self.predict(other)
        gain, spread = mean - before, np.sqrt(np.square(std) + np.square(error))
        for name, model in self.models.items():
            of_member = self.space.is_of(name, codes)
            if of_member.any() and self.space.is_of(name, other)[0]:
                gain[of_member], spread[of_member] = model.difference(
                    self.space.own_codes(name, codes[of_member]), self.space.own_codes(name, other)
                )
        return gain, spread

    def joint(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean (n,) and covariance (n, n), which is none between members."""
        mean, covariance = np.empty(len(codes)), np.zeros((len(codes), len(codes)))
        for name, model in self.models.items():
            rows = np.flatnonzero(self.space.is_of(name, codes))
            if len(rows):
                mean[rows], covariance[np.ix_(rows, rows)] = model.joint(
                    self.space.own_codes(name, codes[rows])
                )
        return mean, covariance

"""What more evaluations are expected to gain in hypervolume, from how unsure the accuracy predictor is.

Qualities are drawn as the predictor holds them possible, all together, so that what is alike is good or bad
together. In each draw, as if it were the truth, some subnets are evaluated with an error as evaluations have,
beliefs change by that as they would in a Gaussian process, and the front that is believed in then is worth
what the draw says. Which are evaluated is decided before, by other draws: those on their fronts (Thompson
sampling: Thompson, "On the Likelihood that One Unknown Probability Exceeds Another", 1933).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.proposals.one_thread import one_thread
from nas.search.objectives import hypervolume
from predictors.accuracy import AccuracyPredictor
from search_spaces.space import Codes
from supernet.tasks import QualityKind

STEPS = (50, 200)  # evaluations
DRAWS = 64
PLANS = 256  # draws at most, by which is decided what would be evaluated
JITTER = 1e-9  # of the largest variance, on the diagonal: equal rows make a matrix singular

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """Of how many more evaluations: the mean of the draws, and their standard deviation."""

    evaluations: int
    gain: float
    std: float


@dataclass(frozen=True, eq=False)
class Pool:
    """Subnets among which the next are chosen, those first that were evaluated: `evaluated` of them.

    points: objectives (n, objectives) between 0, the best, and 1, as they are believed to be.
    place: the column of the quality, which is of this kind.  noise: the standard error of an evaluation.
    """

    codes: Codes
    points: Floats
    place: int
    evaluated: int
    noise: float
    kind: QualityKind


def expected_gains(
    model: AccuracyPredictor, pool: Pool, steps: Sequence[int] = STEPS, *, seed: int = 0
) -> list[Gain]:
    """The gain of each number of evaluations; where fewer are left in the pool, of all of these."""
    rng = np.random.default_rng(seed)
    with one_thread():
        mean, covariance = model.joint(pool.codes)
        covariance += np.eye(len(mean)) * JITTER * max(float(covariance.diagonal().max()), JITTER)
        root = np.linalg.cholesky(covariance).astype(np.float64, copy=False)
        plan = _plan(pool, mean, root, max(steps), rng)
        truths = mean + rng.standard_normal((DRAWS, len(mean))) @ root.T
        errors = pool.noise * rng.standard_normal((DRAWS, len(mean)))
        seen = np.arange(pool.evaluated)
        before = [_worth(pool, mean, truth, seen) for truth in truths]
        gains = []
        for step in dict.fromkeys(min(step, len(plan)) for step in steps):
            chosen = plan[:step]
            observed = covariance[np.ix_(chosen, chosen)] + np.eye(len(chosen)) * pool.noise**2
            lesson = np.linalg.solve(observed, covariance[chosen]).T
            together = np.concatenate([seen, chosen])
            after = [
                _worth(pool, mean + lesson @ (truth + error - mean)[chosen], truth, together)
                for truth, error in zip(truths, errors, strict=True)
            ]
            gained = np.array(after) - np.array(before)
            gains.append(Gain(len(chosen), float(gained.mean()), float(gained.std())))
    return gains


def _plan(pool: Pool, mean: Floats, root: Floats, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which are evaluated next, in their order, at most `count`: those on the fronts of draws."""
    planned: dict[int, None] = {}
    for _ in range(PLANS):
        if len(planned) >= min(count, len(mean) - pool.evaluated):
            break
        points = _with_quality(pool, mean + root @ rng.standard_normal(len(mean)))
        front = np.flatnonzero(moocore.is_nondominated(points))
        planned |= dict.fromkeys(front[front >= pool.evaluated].tolist())
    return np.array(list(planned)[:count], dtype=np.int64)


def _worth(pool: Pool, beliefs: Floats, truth: Floats, among: NDArray[np.int64]) -> float:
    """The true hypervolume of the front that is believed in, of those `among` which it is."""
    front = among[moocore.is_nondominated(_with_quality(pool, beliefs)[among])]
    return hypervolume(_with_quality(pool, truth)[front])


def _with_quality(pool: Pool, quality: Floats) -> Floats:
    points = pool.points.copy()
    points[:, pool.place] = pool.kind.lost(quality)
    return points

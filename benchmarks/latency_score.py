"""What `latency.py` scores: predictors fitted on one session's labels, on subnets that they never saw."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from latency_data import Labels
from numpy.typing import NDArray

from nas.config.latency import PredictorConfig
from nas.measuring.latency_fit import FIRST, GROWTH, errs_within_noise
from predictors.latency import roofline
from predictors.measurement.rounds import repeatability
from predictors.predictor import Predictor
from predictors.regression.design import next_to_measure
from predictors.regression.intervals import STD_PER_HALF_WIDTH, interval
from predictors.regression.metrics import Floats, Score, rank_correlation, score
from search_spaces import SearchSpace
from search_spaces.registry import load

Indices = NDArray[np.int64]
ENDS = (0, 1)  # the smallest and the largest network come first in the data
HELD_OUT = 20
MOST_SAMPLES = PredictorConfig().samples
BUDGET_QUANTILES = (0.2, 0.35, 0.5, 0.65, 0.8)
EXCESS = 0.05


@dataclass(frozen=True)
class Split:
    """Indices of one random split: what may be measured `pool`, what is scored on `test`."""

    pool: Indices
    test: Indices
    seed: int

    def random(self, count: int) -> Indices:
        return self.pool[:count]


def splits(labels: Labels, count: int) -> Iterator[Split]:
    for seed in range(count):
        order = np.random.default_rng(seed).permutation(np.arange(len(ENDS), len(labels.codes)))
        yield Split(order[:-HELD_OUT], order[-HELD_OUT:], seed)


def designed(labels: Labels, split: Split, count: int, begun: Sequence[int] = ENDS) -> Indices:
    """`begun` and those of the pool that tell most beside them, `count` in all."""
    picked = next_to_measure(
        labels.space,
        labels.codes[split.pool],
        labels.codes[list(begun)],
        labels.workload,
        count=count - len(begun),
    )
    by_code = {tuple(code): i for i, code in enumerate(labels.codes.tolist())}
    return np.array([*begun, *(by_code[tuple(code)] for code in picked.tolist())])


def grown(labels: Labels, split: Split) -> tuple[Predictor, Indices]:
    """The latency stage on the pool instead of the whole space: how it grows and when it stops."""
    chosen = designed(labels, split, FIRST)
    build = builder("roofline", labels)
    while True:
        fitted = build(labels.space).fit(labels.codes[chosen], labels.first[chosen])
        noise = repeatability([labels.sessions[0][i] for i in chosen]).sigma
        if len(chosen) >= MOST_SAMPLES or errs_within_noise(
            labels.space, fitted, noise=noise, seed=split.seed
        ):
            return fitted, chosen
        more = designed(labels, split, len(chosen) + (GROWTH + 1) // 2, chosen.tolist())
        fresh = np.setdiff1d(split.pool, more)
        rng = np.random.default_rng([split.seed, len(chosen)])
        chosen = np.concatenate([more, rng.permutation(fresh)[: GROWTH // 2]])


def builder(name: str, labels: Labels, **options: Any) -> Callable[[SearchSpace], Predictor]:
    return partial(load("predictors.latency", name).build, **asdict(labels.workload), **options)


def fitted(build: Callable[[SearchSpace], Predictor], labels: Labels, chosen: Indices) -> Predictor:
    """Fitted on the first session's labels alone."""
    return build(labels.space).fit(labels.codes[chosen], labels.first[chosen])


def scored(predictor: Predictor, labels: Labels, test: Indices) -> Score:
    return score(predictor.predict(labels.codes[test])[0], labels.truth[test])


@dataclass(frozen=True)
class Ceiling:
    """What the labels allow. All but tau in fractions.

    sigmas: of a label, from the odd and even rounds of each session.  offset: of the sessions, mean of
    log(second / first).  between: the sessions compared.  sigma: of a label, from the sessions compared.
    perfect: what the true latencies would score against the mean of both sessions.
    """

    sigmas: tuple[float, float]
    offset: float
    between: Score
    sigma: float
    perfect: Score


def ceiling(labels: Labels) -> Ceiling:
    ratio = np.log(labels.second / labels.first)
    sigma = math.sqrt(float((ratio**2).mean()) / 2)
    noise = np.random.default_rng(0).normal(0, sigma / math.sqrt(2), (400, len(labels.truth)))
    measured = labels.truth * np.exp(noise)
    taus = [rank_correlation(labels.truth, row) for row in measured[:50]]
    once = score(np.tile(labels.truth, len(measured)), measured.reshape(-1))
    perfect = Score(once.mape, once.within_10, once.within_5, float(np.mean(taus)), once.count)
    sigmas = tuple(repeatability(session).sigma for session in labels.sessions)
    return Ceiling(
        (sigmas[0], sigmas[1]), float(ratio.mean()), score(labels.first, labels.second), sigma, perfect
    )


def mean_score(scores: Sequence[Score]) -> tuple[Score, float]:
    """The mean over splits, and the standard deviation of MAPE among them."""
    columns = np.array([[s.mape, s.within_10, s.within_5, s.tau] for s in scores])
    mape, ten, five, tau = columns.mean(axis=0).tolist()
    return Score(mape, ten, five, tau, len(scores)), float(columns[:, 0].std())


@dataclass(frozen=True)
class Coverage:
    """Of 90 % intervals: shares of the truths and of the second session's labels inside, half-width."""

    of_truth: float
    of_labels: float
    half_width: float


def coverage(predictor: Predictor, labels: Labels, test: Indices) -> Coverage:
    mean, std = predictor.predict(labels.codes[test])
    low, high = interval(mean, std)
    inside = [
        float(((low <= value) & (value <= high)).mean())
        for value in (labels.truth[test], labels.second[test])
    ]
    return Coverage(inside[0], inside[1], float(np.median(std / mean)) / STD_PER_HALF_WIDTH)


def chosen_under_budgets(
    predictor: Predictor, labels: Labels, candidates: Indices, *, margin: float
) -> Floats:
    """By how much the largest candidate by MACs under each budget exceeds it, a fraction of the budget.

    Budgets are quantiles of the candidates' latencies; one that no candidate keeps chooses none.
    """
    mean, std = predictor.predict(labels.codes[candidates])
    bound = mean + margin * std
    macs = labels.space.costs(labels.codes[candidates])["macs"]
    truth, excesses = labels.truth[candidates], []
    for budget in np.quantile(truth, BUDGET_QUANTILES):
        kept = bound <= budget
        if kept.any():
            best = int(np.argmax(np.where(kept, macs, -1)))
            excesses.append(float(truth[best] / budget - 1))
    return np.array(excesses)


def transferred(source: Labels, target: Labels, split: Split, count: int) -> tuple[Score, Score, bool]:
    """With the source device's predictor of the whole pool, and afresh; whether the ladder used it."""
    state = fitted(builder("roofline", source), source, split.pool).to_json()
    some = split.random(count)
    helped = fitted(builder("roofline", target, source=state), target, some)
    afresh = fitted(builder("roofline", target), target, some)
    used = isinstance(helped.model, roofline.Roofline) and "source" in helped.model.rung  # type: ignore[attr-defined]
    return scored(helped, target, split.test), scored(afresh, target, split.test), used

"""The rounds of a generative search: when the generator learns, and what it proposes in between."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.generative.learner import Learner
from nas.generative.requirements import over
from nas.proposals.one_thread import one_thread
from nas.proposals.trials import Finished, Trials
from search_spaces.moves import changed
from search_spaces.space import Codes

Floats = NDArray[np.float64]

CANDIDATES = 21  # that the generator draws for a request
NEAR = 512  # neighbours of good architectures among the candidates
PASSES = 3  # proposals of a round are this many times as many as are needed
UNIFORM = 0.5  # share of the first proposals that owe nothing to the prototype


class Rounds:
    """Lessons at fixed numbers of finished trials, so that a search that is told again learns the same again.

    make: makes the learner, at the first proposal.  learned: the places of the objectives that it learns.
    curve: one entry a round: evaluations so far, the best value (of one learned objective) of those, and the
    share of the generator's raw samples that keep their budgets.
    """

    def __init__(self, make: Callable[[], Learner], learned: tuple[int, ...]) -> None:
        self._make, self._learned = make, list(learned)
        self._learner: Learner | None = None
        self._round, self._first, self._more = -1, 0, 0
        self._codes: Codes | None = None
        self.curve: list[dict[str, Any]] = []

    @property
    def learner(self) -> Learner:
        """The learner; there is none before the first proposal."""
        assert self._learner is not None, "the first proposal makes it"
        return self._learner

    def proposals(self, trials: Trials) -> Codes:
        """What the next trial may propose (n, C), the best first."""
        if self._learner is None:
            self._learner = self._make()
        scheme, number, done = self.learner.scheme, len(trials), trials.finished()
        enough = len(done) - scheme.initial
        current = 0 if enough < 0 else 1 + enough // scheme.round
        if current != self._round:
            for round in range(self._round + 1, current + 1):
                before = max(scheme.initial + (round - 1) * scheme.round, 0)
                with one_thread():
                    self._begin(round, done if round == current else done.head(before))
            self._round, self._first, self._more = current, number, 0
        assert self._codes is not None
        place = number - self._first
        if place >= (self._more + 1) * max(len(self._codes), 1) and len(self._codes):
            with one_thread():
                self._propose_more(trials)
        return np.roll(self._codes, -(place % max(len(self._codes), 1)), axis=0)

    def finish(self, trials: Trials) -> None:
        """Learns from all that is finished; afterwards nothing is proposed."""
        self._round += 1
        with one_thread():
            self._learn(self._round, trials.finished(), last=True)

    def _propose_more(self, trials: Trials) -> None:
        """Other proposals, where more trials are asked for in a round than it has proposals."""
        self._more += 1
        rng = np.random.default_rng([self.learner.problem.seed, self._round, 2, self._more])
        self._codes = self._chosen(trials.codes(), rng) if self._round else self._unlearned(rng)

    def _begin(self, round: int, done: Finished) -> None:
        """A round: learns, and finds what its trials are going to propose."""
        rng = self._learn(round, done)
        self._codes = self._chosen(done.codes, rng) if round else self._unlearned(rng)

    def _learn(self, round: int, done: Finished, *, last: bool = False) -> np.random.Generator:
        """The lesson of a round and its point of the curve; the round's randomness."""
        seed = self.learner.problem.seed
        rng = np.random.default_rng([seed, round])
        values = -done.values[:, self._learned]  # the learner maximises
        if round:
            self.learner.learn(done.codes, values, rng, last=last)
        rate = self.learner.kept_rate(np.random.default_rng([seed, round, 1]))
        best = self._best(values)
        self.curve.append({"round": round, "evaluations": len(done), "best": best, "feasible_rate": rate})
        return rng

    def _best(self, values: Floats) -> float | None:
        """The best of the first learned objective that reaches the required quality, as it was told."""
        enough = values[self.learner.scheme.performance.below(values[:, 0]) <= 0, 0]
        sign = self.learner.problem.signs[self._learned[0]]
        return float(-sign * enough.max()) if len(enough) else None

    def _unlearned(self, rng: np.random.Generator) -> Codes:
        """Before the first lesson: around the prototype, and anywhere."""
        learner = self.learner
        count = PASSES * learner.scheme.initial
        requests = np.repeat(learner.asks.of(learner.asks.home), count, axis=0)
        drawn = learner.draw(requests, rng)
        anywhere = learner.space.sample_choices(rng, count)
        codes: Codes = np.where(rng.random((count, 1)) < UNIFORM, anywhere, drawn)
        return codes

    def _chosen(self, proposed: Codes, rng: np.random.Generator) -> Codes:
        """For each of many requests the candidate of which the inquisitor hopes most."""
        learner, count = self.learner, self.learner.scheme.round
        pool, inquisitor = learner.pool, learner.inquisitor
        if pool is None or inquisitor is None:
            return learner.space.encode([])
        lowest = pool.costs.min(axis=0)
        asked = [learner.asks.spread(rng, count, lowest) for _ in range(PASSES)]
        requests = np.concatenate(asked)
        drawn = learner.draw(np.repeat(requests, CANDIDATES, axis=0), rng)
        best = pool.codes[_greedy(learner, pool.codes, requests, np.zeros(len(requests)))]
        good = np.concatenate(
            [
                best[rng.integers(len(best), size=NEAR)],
                pool.codes[rng.choice(len(pool.codes), size=NEAR, p=pool.share)],
            ]
        )
        codes = np.unique(np.concatenate([drawn, changed(learner.space, good, rng), pool.codes]), axis=0)
        seen = set(map(bytes, proposed))
        codes = codes[[bytes(row) not in seen for row in codes]]
        codes = codes[learner.asks.requirements.distance(codes) == 0] if len(codes) else codes
        hopes = np.abs(rng.normal(size=len(requests))) * learner.scheme.kappa
        return codes[_greedy(learner, codes, requests, hopes)] if len(codes) else codes


def _greedy(learner: Learner, codes: Codes, requests: Floats, hopes: Floats) -> list[int]:
    """For each request in turn the best candidate left: kept budgets first, then the hoped-for worth."""
    inquisitor = learner.inquisitor
    assert inquisitor is not None
    means, stds = inquisitor.beliefs(codes)
    costs = learner.asks.requirements.costs(codes)
    distance = learner.asks.requirements.distance(codes)
    budgets, weights = learner.asks.split(requests)
    left = np.ones(len(codes), dtype=np.bool_)
    chosen: list[int] = []
    for budget, weight, hope in zip(budgets, weights, hopes, strict=True):
        if not left.any():
            break
        broken = over(costs, budget) + distance + inquisitor.below(means + hope * stds)
        worth = inquisitor.worth(codes, means, weight)
        worth = worth + hope * (inquisitor.worth(codes, means + stds, weight) - worth)
        order = np.lexsort((-worth, broken, ~left))
        chosen.append(int(order[0]))
        left[order[0]] = False
    return chosen

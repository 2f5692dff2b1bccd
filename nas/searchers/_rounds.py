"""The rounds of a generative search: when the generator learns, and what it proposes in between."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.searchers._distinct import InnerSampler, architecture, parameters
from nas.searchers._learner import Learner
from nas.searchers._one_thread import one_thread
from nas.searchers._requirements import over
from search_spaces._repair import changed
from search_spaces._space import Codes

Floats = NDArray[np.float64]

CANDIDATES = 21  # that the generator draws for a request
NEAR = 512  # neighbours of good architectures among the candidates
PASSES = 3  # proposals of a round are this many times as many as are needed
UNIFORM = 0.5  # share of the first proposals that owe nothing to the prototype


class Rounds:
    """Lessons at fixed numbers of finished trials, so that a study that is rebuilt learns the same again.

    curve: one entry a round: evaluations so far, the best value (of one learned objective) of those, and the
    share of the generator's raw samples that keep their budgets.
    """

    def __init__(self, make: Callable[[int], Learner], learned: tuple[int, ...] | None) -> None:
        self._make, self._learned = make, learned
        self._learner: Learner | None = None
        self._round, self._first, self._more = -1, 0, 0
        self._codes: Codes | None = None
        self.curve: list[dict[str, Any]] = []

    @property
    def learner(self) -> Learner:
        """The learner; there is none before the first proposal, since only a study tells the objectives."""
        assert self._learner is not None, "the first proposal makes it"
        return self._learner

    def proposals(self, study: Study, trial: FrozenTrial) -> Codes:
        """What this trial may propose (n, C), the best first."""
        if self._learner is None:
            self._learner = self._make(len(self._columns(study)))
        scheme = self.learner.scheme
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        enough = len(done) - scheme.initial
        current = 0 if enough < 0 else 1 + enough // scheme.round
        if current != self._round:
            done = sorted(done, key=lambda other: other.number)
            for number in range(self._round + 1, current + 1):
                before = max(scheme.initial + (number - 1) * scheme.round, 0)
                with one_thread():
                    self._begin(number, study, done if number == current else done[:before])
            self._round, self._first, self._more = current, trial.number, 0
        assert self._codes is not None
        place = trial.number - self._first
        if place >= (self._more + 1) * max(len(self._codes), 1) and len(self._codes):
            with one_thread():
                self._propose_more(study, trial)
        return np.roll(self._codes, -(place % max(len(self._codes), 1)), axis=0)

    def _propose_more(self, study: Study, trial: FrozenTrial) -> None:
        """Other proposals, where more trials are asked for in a round than it has proposals."""
        self._more += 1
        space = self.learner.space
        others = (other for other in study.get_trials(deepcopy=False) if other.number < trial.number)
        known = space.encode([architecture(space, other.params) for other in others])
        rng = np.random.default_rng([self.learner.problem.seed, self._round, 2, self._more])
        self._codes = self._chosen(known, rng) if self._round else self._unlearned(rng)

    def _columns(self, study: Study) -> tuple[int, ...]:
        """The learned ones among the study's objectives."""
        return tuple(range(len(study.directions))) if self._learned is None else self._learned

    def finish(self, study: Study) -> None:
        """Learns from all that is finished; afterwards nothing is proposed."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        self._round += 1
        done = sorted(done, key=lambda trial: trial.number)
        with one_thread():
            self._learn(self._round, study, done, last=True)

    def _begin(self, number: int, study: Study, done: list[FrozenTrial]) -> None:
        """A round: learns, and finds what its trials are going to propose."""
        codes, rng = self._learn(number, study, done)
        self._codes = self._chosen(codes, rng) if number else self._unlearned(rng)

    def _learn(
        self, number: int, study: Study, done: list[FrozenTrial], *, last: bool = False
    ) -> tuple[Codes, np.random.Generator]:
        """The lesson of a round and its point of the curve; what is evaluated, and the round's randomness."""
        rng = np.random.default_rng([self.learner.problem.seed, number])
        space = self.learner.space
        codes = space.encode([architecture(space, trial.params) for trial in done])
        values = self._values(study, done)
        if number:
            self.learner.learn(codes, values, rng, last=last)
        best = self._best(study, values)
        rate = self.learner.feasible_rate(np.random.default_rng([self.learner.problem.seed, number, 1]))
        point = {"round": number, "evaluations": len(done), "best": best, "feasible_rate": rate}
        self.curve.append(point)
        return codes, rng

    def _best(self, study: Study, values: Floats) -> float | None:
        """The best of the first learned objective that reaches the required quality, as the study has it."""
        enough = values[self.learner.scheme.performance.below(values[:, 0]) <= 0, 0]
        minimised = study.directions[self._columns(study)[0]] == StudyDirection.MINIMIZE
        return None if not len(enough) else float(-enough.max() if minimised else enough.max())

    def _values(self, study: Study, done: list[FrozenTrial]) -> Floats:
        """Learned objectives (n, L), all to be maximised."""
        signs = [-1.0 if direction == StudyDirection.MINIMIZE else 1.0 for direction in study.directions]
        columns = self._columns(study)
        rows = [[signs[i] * trial.values[i] for i in columns] for trial in done]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(columns))

    def _unlearned(self, rng: np.random.Generator) -> Codes:
        """Before the first lesson: around the prototype, and anywhere."""
        learner = self.learner
        count = PASSES * learner.scheme.initial
        requests = np.repeat(learner.asks.of(learner.asks.home), count, axis=0)
        drawn = learner.draw(requests, rng)
        anywhere = learner.space.sample_choices(rng, count)
        codes: Codes = np.where(rng.random((count, 1)) < UNIFORM, anywhere, drawn)
        return codes

    def _chosen(self, known: Codes, rng: np.random.Generator) -> Codes:
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
        seen = set(map(bytes, known))
        codes = codes[[bytes(row) not in seen for row in codes]]
        codes = codes[learner.asks.requirements.beyond(codes) == 0] if len(codes) else codes
        hopes = np.abs(rng.normal(size=len(requests))) * learner.scheme.kappa
        return codes[_greedy(learner, codes, requests, hopes)] if len(codes) else codes


def _greedy(learner: Learner, codes: Codes, requests: Floats, hopes: Floats) -> list[int]:
    """For each request in turn the best candidate left: kept budgets first, then the hoped-for worth."""
    inquisitor = learner.inquisitor
    assert inquisitor is not None
    means, stds = inquisitor.beliefs(codes)
    costs = learner.asks.requirements.costs(codes)
    beyond = learner.asks.requirements.beyond(codes)
    budgets, weights = learner.asks.split(requests)
    left = np.ones(len(codes), dtype=np.bool_)
    chosen: list[int] = []
    for budget, weight, hope in zip(budgets, weights, hopes, strict=True):
        if not left.any():
            break
        broken = over(costs, budget) + beyond + inquisitor.below(means + hope * stds)
        worth = inquisitor.worth(codes, means, weight)
        worth = worth + hope * (inquisitor.worth(codes, means + stds, weight) - worth)
        order = np.lexsort((-worth, broken, ~left))
        chosen.append(int(order[0]))
        left[order[0]] = False
    return chosen


class Proposals(InnerSampler):
    """Proposals of one trial, one after the other; whether they are new, `DistinctSampler` sees to."""

    def __init__(self, rounds: Rounds, seed: int) -> None:
        self._rounds, self._rng = rounds, np.random.default_rng(seed)
        self._left: Iterator[Any] | None = None

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._left is None:
            self._left = iter(self._rounds.proposals(study, trial))
        learner = self._rounds.learner
        code = next(self._left, None)
        if code is None:  # all of them are known: whatever the generator draws
            request = learner.asks.of(learner.asks.home)
            code = learner.draw(request, self._rng)[0]
        arch = learner.space.decode(code[None])[0]
        return {
            name: value for name, value in parameters(learner.space, arch).items() if name in search_space
        }

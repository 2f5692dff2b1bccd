"""A generator with its inquisitor, as they stand after some rounds; the same rounds give the same again."""

from dataclasses import dataclass, field

import numpy as np
import torch

from nas.generative.inquisitor import Inquisitor, Reactions, importance
from nas.generative.performance import Performance
from nas.generative.policy import AutoregressivePolicy, FactorisedPolicy, Floats, Policy
from nas.generative.requests import Requests
from nas.generative.requirements import Requirements
from nas.generative.teaching import LR, Pool, make_pool, teach
from nas.limits import ACCURACY, QUALITIES, is_share
from nas.proposals.problem import SearchProblem
from predictors.accuracy import LEAST, AccuracyEnsemble
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.moves import changed
from search_spaces.space import Codes

GENERATORS = ("autoregressive", "factorised")
LEVELS = 8  # of the factorised generator
ELITES = 0.2  # share of an archive from which it learns
RATE, FLOOR = 0.4, 0.03
DRAWN, REPAIRED, NEIGHBOURS = 1024, 256, 256
PROBED = 4  # networks a round
LAST_LESSONS = 10  # times as many steps as others has the last lesson
MOST_KNOWN = 1000  # evaluated networks of which a lesson takes notice: the cost grows with their cube


@dataclass(frozen=True)
class Scheme:
    """How a search goes.

    generator: autoregressive or factorised.  initial: networks that are evaluated before anything is learned.
    round: networks between two lessons.  steps: optimiser steps of a lesson.  kappa: standard deviations by
    which the inquisitor's hopes count.
    """

    generator: str
    initial: int
    round: int
    steps: int
    kappa: float
    performance: Performance


@dataclass
class Learner:
    """What is learned so far; `learn` goes one round on."""

    problem: SearchProblem
    scheme: Scheme
    asks: Requests
    policy: Policy
    optimizer: torch.optim.Optimizer | None
    probed: dict[Architecture, Reactions] = field(default_factory=dict)
    inquisitor: Inquisitor | None = None
    pool: Pool | None = None

    @property
    def space(self) -> SearchSpace:
        return self.problem.space

    def learn(self, codes: Codes, values: Floats, rng: np.random.Generator, *, last: bool = False) -> None:
        """Learns from all evaluated networks: codes (n, C) and objectives (n, L), all maximised.

        last: the last lesson is a longer one, since the generator is kept.
        """
        if len(codes) < LEAST:
            return
        codes, values = learned_from(codes, values)
        self.ask_inquisitor(codes, values)
        pool = self._pool(codes, rng)
        if not len(pool.codes):
            return  # nothing keeps the limits: there is nothing to teach
        self.pool = pool
        if isinstance(self.policy, FactorisedPolicy):
            self._adjust(codes, values)
        else:
            self._teach(pool, rng, last=last)
        self._probe(codes, values)

    def ask_inquisitor(self, codes: Codes, values: Floats) -> Inquisitor:
        """An inquisitor that knows these networks."""
        codes, values = learned_from(codes, values)
        models = tuple(AccuracyEnsemble.fit(self.space, codes, column) for column in values.T)
        self.inquisitor = Inquisitor(
            models,
            values.min(axis=0),
            np.where(np.ptp(values, axis=0) > 0, np.ptp(values, axis=0), 1.0),
            importance(self.space, self.probed),
            self.scheme.performance,
            self.asks.requirements.metrics,
        )
        return self.inquisitor

    def _teach(self, pool: Pool, rng: np.random.Generator, *, last: bool) -> None:
        assert isinstance(self.policy, AutoregressivePolicy)
        assert self.optimizer is not None
        assert self.inquisitor is not None
        steps = self.scheme.steps * (LAST_LESSONS if last else 1)
        teach(self.policy, self.optimizer, pool, self.asks, self.inquisitor, rng, steps=steps, last=last)

    def draw(self, requests: Floats, rng: np.random.Generator, *, temperature: float = 1.0) -> Codes:
        """One architecture for each request, as the generator emits it."""
        return self.policy.sample(requests, rng, temperature=temperature)

    def kept_rate(self, rng: np.random.Generator, count: int = 512) -> float:
        """The share of raw samples that keep all they are asked for, over requests as in lessons.

        Those that ask for nothing do not count.
        """
        if self.pool is None:
            costs = self.asks.requirements.costs(self._within_limits(count, rng))
        else:
            costs = self.pool.costs[rng.integers(len(self.pool.costs), size=count)]
        requests = self.asks.drawn(rng, costs)
        if (self.asks.home == 1).all():
            requests = requests[(self.asks.split(requests)[0] < 1).any(axis=1)]
        if not len(requests):
            return 0.0
        return float((self.asks.excess(self.draw(requests, rng), requests) == 0).mean())

    def _within_limits(self, count: int, rng: np.random.Generator) -> Codes:
        """Random architectures that keep the hard limits, as far as any are found."""
        codes = self.problem.moved(self.space.sample_choices(rng, count), rng)
        within: Codes = codes[self.problem.within_limits(codes)]
        return within

    def _pool(self, codes: Codes, rng: np.random.Generator) -> Pool:
        """Evaluated ones, what the generator draws now, and random ones; then neighbours of the good ones."""
        assert self.inquisitor is not None
        random = self._within_limits(REPAIRED, rng)
        seeds = np.concatenate([codes, random])
        picked = self.asks.requirements.costs(seeds[rng.integers(len(seeds), size=DRAWN)])
        drawn = self.policy.sample(self.asks.drawn(rng, picked), rng)
        pool = make_pool(np.concatenate([seeds, drawn]), self.asks, self.inquisitor, rng)
        if not len(pool.codes):
            return pool
        good = pool.codes[rng.choice(len(pool.codes), size=NEIGHBOURS, p=pool.share)]
        near = changed(self.space, good, rng)
        return make_pool(np.concatenate([pool.codes, near]), self.asks, self.inquisitor, rng)

    def _adjust(self, codes: Codes, values: Floats) -> None:
        """The cross-entropy step of every level of the first budget."""
        assert isinstance(self.policy, FactorisedPolicy)
        assert self.inquisitor is not None
        within = self.asks.requirements.distance(codes) == 0
        within &= self.inquisitor.below(values) <= 0
        costs = self.asks.requirements.costs(codes)
        first = costs[:, 0] if costs.shape[1] else np.zeros(len(codes))
        _, weights = self.asks.split(np.repeat(self.asks.of(self.asks.home), len(codes), axis=0))
        worth = self.inquisitor.worth(codes, values, weights)
        for level, budget in enumerate(self.policy.levels):
            allowed = np.flatnonzero(within & (first <= budget))
            count = max(3, round(ELITES * len(allowed)))
            best = allowed[np.argsort(-worth[allowed], kind="stable")][:count]
            self.policy.adjust(level, codes[best], rate=RATE, floor=FLOOR)

    def _probe(self, codes: Codes, values: Floats) -> None:
        """Has the best networks of different size probed that were not yet."""
        if self.problem.probe is None:
            return
        costs = self.asks.requirements.costs(codes)
        first = costs[:, 0] if costs.shape[1] else np.zeros(len(codes))
        order = np.argsort(first, kind="stable")
        groups = [group for group in np.array_split(order, PROBED) if len(group)]
        best = [group[values[group, 0].argmax()] for group in groups]
        new = [arch for arch in self.space.decode(codes[best]) if arch not in self.probed]
        self.probed.update(zip(new, self.problem.probe(new), strict=True))


def make_learner(problem: SearchProblem, scheme: Scheme, prototype: Architecture, objectives: int) -> Learner:
    """A learner before the first lesson; `objectives`: how many have to be evaluated to be known."""
    if objectives > 1 and scheme.performance != Performance():
        raise UsageError(
            f"A performance function and an accuracy floor are for one objective, not for {objectives}.",
            "Leave search.options.performance and accuracy_floor away.",
        )
    quality = next((name for name in problem.objectives if name in QUALITIES), ACCURACY)
    if scheme.performance != Performance() and not is_share(quality):
        raise UsageError(
            f"NetScore and an accuracy floor are for accuracies, not for {quality}.",
            "Leave search.options.performance and accuracy_floor away.",
        )
    costs = known_metrics(problem)
    costed = [name for name in problem.objectives if name in costs]
    limited = [limit.name for limit in problem.limits if limit.name not in costed]
    requirements = Requirements.of(
        problem.space, problem.limited, first=[*costed, *dict.fromkeys(limited)], distance=problem.distance
    )
    main = sum(name in {*costed, *limited} for name in requirements.names)
    asks = Requests(
        requirements,
        sum(name in costed for name in requirements.names),
        main or min(1, len(requirements.names)),
        requirements.budgets(problem.limits),
        objectives,
    )
    if scheme.generator == "factorised":
        quick = FactorisedPolicy(problem.space, prototype, levels=LEVELS, budgets=len(asks.home))
        return Learner(problem, scheme, asks, quick, None)
    policy = AutoregressivePolicy(problem.space, prototype, request=asks.width, seed=problem.seed)
    return Learner(problem, scheme, asks, policy, torch.optim.Adam(policy.parameters(), lr=LR))


def learned_from(codes: Codes, values: Floats) -> tuple[Codes, Floats]:
    """All evaluated networks (n, C) and their objectives; of many the best, and others evenly spread."""
    if len(codes) <= MOST_KNOWN:
        return codes, values
    best = np.argsort(-values.sum(axis=1), kind="stable")
    half = MOST_KNOWN // 2
    chosen = np.sort(np.concatenate([best[:half], best[half :: -(-(len(best) - half) // half)]]))
    return codes[chosen], values[chosen]


def known_metrics(problem: SearchProblem) -> set[str]:
    """What is known of an architecture without an evaluation."""
    return set(problem.limited(problem.space.encode(problem.space.uniform(1))))

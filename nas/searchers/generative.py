"""Generative architecture search: a generator learns to emit architectures for the budgets it is asked for.

In rounds: the generator draws candidates for many budgets; the inquisitor, an ensemble that has learned from
all evaluated networks, picks which of them are evaluated; both learn from the outcome. A generator that has
learned emits architectures for budgets that nobody searched for (`nas generate`).
Source of the idea: Wong et al., "FermiNets" (arXiv 1809.05989) and "TurboViT" (arXiv 2308.11421), whose
abstracts alone were at hand; the algorithm is ours (docs/turbovit.md).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from nas.generative.learner import GENERATORS, Scheme, known_metrics, make_learner
from nas.generative.performance import Performance
from nas.generative.rounds import Rounds
from nas.proposals.distinct import Distinct, Draw
from nas.proposals.problem import Code, SearchProblem
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError, did_you_mean

SEVERAL_SPACES = "refused"  # a generator emits architectures of one space
INITIAL, ROUND, STEPS, KAPPA = 32, 16, 40, 2.0
FEWEST_INITIAL = 8


def build(
    problem: SearchProblem,
    *,
    generator: str = GENERATORS[0],
    initial: int | None = None,
    round: int = ROUND,
    steps: int = STEPS,
    kappa: float = KAPPA,
    performance: str = "quality",
    accuracy_floor: float | None = None,
    prototype: str | Mapping[str, Any] | None = None,
) -> "Generative":
    """The searcher, which learns a generator of architectures between its rounds.

    generator: autoregressive, or factorised (quicker, coarser).  initial: networks that are evaluated before
    the first lesson.  round: networks between two lessons.  steps: optimiser steps of a lesson.  kappa: how
    much an uncertain hope counts.  performance: quality, or netscore, which needs accuracy_floor.
    accuracy_floor: an accuracy of 0 to 1 below which nothing is wanted.
    prototype: a preset's name or an architecture; by default the one in the middle of the space.
    Raises UsageError for options that are impossible.
    """
    scheme, prototype_architecture = planned(
        problem,
        generator=generator,
        initial=initial,
        round=round,
        steps=steps,
        kappa=kappa,
        performance=performance,
        accuracy_floor=accuracy_floor,
        prototype=prototype,
    )
    learned = learned_objectives(problem)
    make = partial(make_learner, problem, scheme, prototype_architecture, len(learned))
    return Generative(problem, Rounds(make, learned))


class Generative(Distinct):
    """Draws from a generator that learns between its rounds; `rounds` tells how it goes."""

    always = True

    def __init__(self, problem: SearchProblem, rounds: Rounds) -> None:
        super().__init__(problem)
        self.rounds = rounds

    def _begin(self, number: int, seed: int) -> Draw:
        proposals = iter(self.rounds.proposals(self.trials))
        rng = np.random.default_rng(seed)

        def draw() -> Code:
            code: Code | None = next(proposals, None)
            if code is None:  # all of them are known: whatever the generator draws
                learner = self.rounds.learner
                code = learner.draw(learner.asks.of(learner.asks.home), rng)[0]
            return code

        return draw

    @property
    def curve(self) -> list[dict[str, Any]]:
        """See `Rounds`."""
        return self.rounds.curve

    def finish(self) -> None:
        """A last lesson from everything that is finished."""
        self.rounds.finish(self.trials)

    def tensors(self) -> dict[str, Tensor]:
        """What the generator has learned."""
        return self.rounds.learner.policy.tensors()


def learned_objectives(problem: SearchProblem) -> tuple[int, ...]:
    """The places of the objectives that are known by evaluation only. Raises UsageError when none is."""
    costs = known_metrics(problem)
    learned = tuple(i for i, name in enumerate(problem.objectives) if name not in costs)
    if not learned:
        raise UsageError(
            f"All objectives ({', '.join(problem.objectives)}) are known without an evaluation: "
            "a generator has nothing to learn.",
            "Add accuracy to the objectives, or choose another searcher.",
        )
    return learned


def planned(
    problem: SearchProblem,
    *,
    generator: str = GENERATORS[0],
    initial: int | None = None,
    round: int = ROUND,
    steps: int = STEPS,
    kappa: float = KAPPA,
    performance: str = "quality",
    accuracy_floor: float | None = None,
    prototype: str | Mapping[str, Any] | None = None,
) -> tuple[Scheme, Architecture]:
    """How the search goes, and the architecture with which the generator begins; options as of `build`.

    Raises UsageError for options that are impossible.
    """
    for name, value in {"round": round, "steps": steps}.items():
        _check_count(name, value)
    if initial is None:
        affordable = INITIAL if problem.budget is None else problem.budget // 4
        initial = max(FEWEST_INITIAL, min(INITIAL, affordable))
    _check_count("initial", initial)
    if generator not in GENERATORS:
        raise UsageError(
            f"search.options.generator = {generator!r} is unknown.", did_you_mean(str(generator), GENERATORS)
        )
    if isinstance(kappa, bool) or not isinstance(kappa, int | float) or kappa < 0:
        raise UsageError(f"search.options.kappa = {kappa!r} is not a number of at least 0.")
    judged = Performance(performance, accuracy_floor)
    scheme = Scheme(generator, initial, round, steps, float(kappa), judged)
    return scheme, _prototype(problem.space, prototype)


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise UsageError(f"search.options.{name} = {value!r} is not a positive whole number.")


def _prototype(space: SearchSpace, prototype: str | Mapping[str, Any] | None) -> Architecture:
    if prototype is None:
        middle = space.uniform(3)
        return middle[len(middle) // 2]
    if isinstance(prototype, str):
        return space.preset(prototype)
    if not isinstance(prototype, Mapping):
        raise UsageError(
            f"search.options.prototype = {prototype!r} is neither a preset's name nor an architecture.",
            f"Presets: {', '.join(space.presets)}.",
        )
    return space.architecture(prototype)

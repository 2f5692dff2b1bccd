"""No infeasible and no repeated evaluation, for every searcher, family, limit and kind of objectives."""

from typing import Any
from unittest.mock import Mock

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search_spaces
from nas import searchers
from nas.conditions import Condition, distance
from nas.searchers import SearchProblem, SpaceExhausted
from nas.searchers._distinct import architecture, distributions
from predictors import accuracy
from search_spaces import Architecture, SearchSpace
from search_spaces._registry import names
from search_spaces._space import Codes

optuna.logging.set_verbosity(optuna.logging.WARNING)
BATCH, BATCHES = 6, 4
# The models of these take long; batches of each, the first of which need no model.
DEAR = {"generative": 4, "gp": 3, "surrogate": 4}
OPTIONS = {"surrogate": {"initial": BATCH}}
DRAWN = 400
OBJECTIVES = ("accuracy", "macs", "params")
CHEAP = [name for name in searchers.names() if name not in DEAR]
FAMILIES = [name for name in search_spaces.names() if name in names("search_spaces")]


def limited(
    space: SearchSpace, metric: str, low: float, width: float, seed: int, count: int
) -> SearchProblem:
    """A window of a cost, between two quantiles of random architectures: something is always inside."""
    drawn = space.costs(space.sample_choices(np.random.default_rng(0), DRAWN))[metric]
    ends = np.quantile(drawn, [low * (1 - width), low * (1 - width) + width], method="nearest")
    limits = (Condition(metric, ">=", float(ends[0])), Condition(metric, "<=", float(ends[1])))

    def outside(codes: Codes) -> np.ndarray:
        costs = space.costs(codes)
        return distance(limits, {metric: costs[metric]}, len(codes))

    return SearchProblem(
        space,
        lambda codes: outside(codes) == 0,
        tuple(space.uniform(3)),
        BATCH,
        seed,
        outside=outside,
        limits=limits,
        objectives=OBJECTIVES[:count],
        known=lambda codes: {name: space.costs(codes)[name] for name in ("macs", "params")},
        batch=BATCH,
    )


def values(space: SearchSpace, arch: Architecture, count: int) -> list[float]:
    """A made-up quality, then costs."""
    cost = space.cost(arch)
    code = space.encode([arch])[0]
    return [float(np.sin(3 * code).sum()), float(cost.macs), float(cost.params)][:count]


def searched(name: str, problem: SearchProblem, directions: list[Any]) -> list[Architecture]:
    """What is proposed in some batches, or until nothing is left; one trial of each batch fails."""
    space = problem.space
    study = optuna.create_study(
        directions=directions, sampler=searchers.build(name, problem, **OPTIONS.get(name, {}))
    )
    found: list[Architecture] = []
    for _ in range(DEAR.get(name, BATCHES)):
        trials = []
        for _ in range(BATCH):
            try:
                trials.append(study.ask(distributions(space)))
            except SpaceExhausted:
                return found
            found.append(architecture(space, trials[-1].params))
        study.tell(trials[0], state=optuna.trial.TrialState.FAIL)
        for trial in trials[1:]:
            study.tell(trial, values(space, architecture(space, trial.params), len(directions)))
    return found


def check(name: str, family: str, low: float, width: float, seed: int, directions: list[Any]) -> None:
    space = search_spaces.get(family)
    metric = "macs" if seed % 2 else "params"
    problem = limited(space, metric, low, width, seed, len(directions))
    found = searched(name, problem, directions)
    assert len(found) == len(set(found))
    assert problem.feasible(space.encode(found)).all()
    assert all(space.architecture(arch.to_dict()) == arch for arch in found)
    inside = problem.feasible(space.sample_choices(np.random.default_rng(0), DRAWN))
    assert found or not inside.any()


DIRECTIONS = st.lists(st.sampled_from(["minimize", "maximize"]), min_size=1, max_size=3)
SHARES = st.floats(0, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CHEAP)
@given(low=SHARES, width=st.floats(0.02, 0.5), seed=st.integers(0, 99), directions=DIRECTIONS)
@settings(max_examples=2, deadline=None, derandomize=True)
def test_proposals_are_new_and_within_the_limits(
    name: str, family: str, low: float, width: float, seed: int, directions: list[Any]
) -> None:
    if name == "exhaustive" and not search_spaces.get(family).listable:
        family = "matformer"
    check(name, family, low, width, seed, directions)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name in searchers.names() if name in DEAR])
@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]])
def test_proposals_of_models_are_new_and_within_the_limits(
    name: str, family: str, directions: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = Mock(wraps=accuracy.fit)
    monkeypatch.setattr(accuracy, "fit", fitted)
    check(name, family, 0.4, 0.2, 1, directions)
    few = family == "stitching"  # within its limits not enough for a second batch
    assert name != "surrogate" or few or fitted.called

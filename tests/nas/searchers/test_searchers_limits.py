"""Every searcher keeps the limits and repeats nothing: all families, limits and kinds of objectives."""

from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searching import exact_problem

import search_spaces
from nas import searchers
from nas.limits import Limit
from nas.searchers import SearchProblem
from predictors import accuracy
from search_spaces import Architecture, SearchSpace
from search_spaces.registry import names

BATCH, BATCHES = 6, 4
# The models of these take long; batches of each, the first of which need no model.
DEAR = {"generative": 4, "gp": 3, "surrogate": 4}
OPTIONS = {"surrogate": {"initial": BATCH}}
DRAWN = 400
OBJECTIVES = ("accuracy", "macs", "params")
CHEAP = [name for name in searchers.names() if name not in DEAR]
FAMILIES = [name for name in search_spaces.names() if name in names("search_spaces.families")]


def limited(
    space: SearchSpace, metric: str, low: float, width: float, seed: int, directions: list[Any]
) -> SearchProblem:
    """A window of a cost, between two quantiles of random architectures: something is always inside."""
    drawn = space.costs(space.sample_choices(np.random.default_rng(0), DRAWN))[metric]
    ends = np.quantile(drawn, [low * (1 - width), low * (1 - width) + width], method="nearest")
    limits = (Limit(metric, ">=", float(ends[0])), Limit(metric, "<=", float(ends[1])))
    objectives = dict(zip(OBJECTIVES, directions, strict=False))
    start = tuple(space.uniform(3))
    return exact_problem(
        space, objectives, limits=limits, start=start, population=BATCH, seed=seed, batch=BATCH
    )


def values(space: SearchSpace, arch: Architecture, count: int) -> list[float]:
    """A made-up quality, then costs."""
    cost = space.cost(arch)
    code = space.encode([arch])[0]
    return [float(np.sin(3 * code).sum()), float(cost.macs), float(cost.params)][:count]


def searched(name: str, problem: SearchProblem) -> list[Architecture]:
    """What is proposed in some batches, or until nothing is left; one of each batch fails."""
    space, searcher = problem.space, searchers.build(name, problem, **OPTIONS.get(name, {}))
    archs: list[Architecture] = []
    for _ in range(DEAR.get(name, BATCHES)):
        codes = searcher.ask(BATCH)
        archs += space.decode(codes)
        if len(codes) < BATCH:
            break
        rows = np.array([values(space, arch, len(problem.objectives)) for arch in space.decode(codes)])
        rows[0] = np.nan
        searcher.tell(codes, rows)
    return archs


def check(name: str, family: str, low: float, width: float, seed: int, directions: list[Any]) -> None:
    space = search_spaces.get(family)
    metric = "macs" if seed % 2 else "params"
    problem = limited(space, metric, low, width, seed, directions)
    archs = searched(name, problem)
    assert len(archs) == len(set(archs))
    assert problem.within_limits(space.encode(archs)).all()
    assert all(space.architecture(arch.to_dict()) == arch for arch in archs)
    inside = problem.within_limits(space.sample_choices(np.random.default_rng(0), DRAWN))
    assert archs or not inside.any()


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

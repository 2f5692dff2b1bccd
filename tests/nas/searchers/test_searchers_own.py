"""What is particular to single searchers: order, neighbourhood, ageing, reference points."""

import math
from typing import Any

import moocore
import numpy as np
import pytest
from searching import Values, exact_problem, search

import search_spaces
from nas import searchers
from nas.proposals.regularised import Ageing, ageing
from nas.searchers import SearchProblem
from nas.searchers.nsga3 import most_divisions
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.space import INACTIVE


def of_one(space: SearchSpace, **more: Any) -> SearchProblem:
    """With a loss alone as its objective."""
    return exact_problem(space, {"loss": "minimize"}, **more)


def distance(space: SearchSpace, a: Architecture, b: Architecture) -> int:
    """In how many choices that both have they differ."""
    x, y = space.encode([a, b])
    return int(((x != y) & (x != INACTIVE) & (y != INACTIVE)).sum())


def trade_off(space: SearchSpace) -> Values:
    """A cost and an additive loss, both minimised, with a front of many members."""
    counts = np.array([len(choice.options) for choice in space.choices])
    weights = 1 + np.sin(7 * np.arange(len(counts))) / 2

    def values(arch: Architecture) -> list[float]:
        levels = (space.encode([arch])[0] + 1) / counts
        return [float(levels.sum()), float(-weights @ levels**0.5)]

    return values


def test_exhaustive_goes_through_the_space_in_its_order_after_the_start() -> None:
    space = search_spaces.get("matformer")
    start = (space.largest, space.smallest)
    archs = search("exhaustive", exact_problem(space, start=start), 50, trade_off(space))
    listed = [arch for arch in space.decode(space.all_codes()[:60]) if arch not in start]
    assert archs == [*start, *listed[:48]]


@pytest.mark.parametrize("space", ["matformer_vit_b16", "vit_resnas_tiny"])
def test_local_search_proposes_neighbours_of_the_front(space: str) -> None:
    whole = search_spaces.get(space)
    values, start = trade_off(whole), tuple(whole.uniform(3))
    archs = search("local", exact_problem(whole, start=start), 60, values)
    assert tuple(archs[:3]) == start
    for number in range(3, 60):
        front = moocore.is_nondominated(np.array([values(arch) for arch in archs[:number]]))
        near = [distance(whole, archs[number], archs[place]) for place in np.flatnonzero(front)]
        assert min(near) <= 1


def test_local_search_begins_anew_where_it_is_at_its_end() -> None:
    """One objective with a single peak, which it climbs; then it goes on elsewhere, without a repeat."""
    space = search_spaces.get("matformer")

    def loss(arch: Architecture) -> list[float]:
        return [float(abs(space.cost(arch).macs - space.cost(space.smallest).macs))]

    archs = search("local", of_one(space), 150, loss)
    assert min(loss(arch)[0] for arch in archs[:75]) == 0
    assert len(set(archs)) == 150
    best = min(archs, key=lambda arch: loss(arch)[0])
    assert any(distance(space, arch, best) > 2 for arch in archs[archs.index(best) + 30 :])


def test_regularised_evolution_mutates_a_good_one_of_the_living() -> None:
    space = search_spaces.get("matformer_vit_b16")
    values = trade_off(space)
    sizes = {"population": 10, "tournament": 10}
    archs = search(
        "evolution",
        of_one(space),
        60,
        lambda arch: values(arch)[1:],
        scheme="regularised",
        **sizes,
    )
    early = []
    for number in range(10, 60):
        living = archs[number - 10 : number]
        assert min(distance(space, archs[number], parent) for parent in living) == 1
        best = sorted(living, key=lambda arch: values(arch)[1])[:5]
        early.append(min(distance(space, archs[number], parent) for parent in best) == 1)
    # Of ten drawn with replacement from ten the best one is among the five best all but once in 1,024 times.
    assert np.mean(early) > 0.95
    assert np.mean([values(arch)[1] for arch in archs[-10:]]) < np.mean(
        [values(arch)[1] for arch in archs[:10]]
    )


@pytest.mark.parametrize(
    ("budget", "given", "expected"),
    [
        (None, (None, None), Ageing(100, 25)),
        (5000, (None, None), Ageing(100, 25)),
        (400, (None, None), Ageing(50, 12)),
        (20, (None, None), Ageing(16, 4)),
        (20, (6, None), Ageing(6, 2)),
        (400, (None, 3), Ageing(50, 3)),
    ],
)
def test_a_small_budget_has_a_small_population(budget: int | None, given: Any, expected: Ageing) -> None:
    assert ageing(budget, *given) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "regularized"}, "scheme = 'regularized' is unknown"),
        ({"scheme": "regularised", "population": 1}, "population = 1 is not"),
        ({"scheme": "regularised", "tournament": 2.5}, "tournament = 2.5 is not"),
        (
            {"scheme": "regularised", "mutants": 5},
            "mutants is no option of evolution by the scheme 'regularised'",
        ),
        ({"scheme": "regularised", "mutation": 0.5}, "mutation is no option"),
        ({"population": 20}, "population is no option of evolution by the scheme 'vit_resnas'"),
    ],
)
def test_options_of_evolution_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        searchers.build("evolution", exact_problem(search_spaces.get("matformer")), **options)
    assert message in caught.value.message


@pytest.mark.parametrize(("population", "objectives"), [(16, 2), (16, 3), (92, 3), (40, 4), (3, 5), (16, 1)])
def test_nsga3_has_as_many_reference_points_as_the_population_can_fill(
    population: int, objectives: int
) -> None:
    divisions = most_divisions(population, objectives)
    points = [math.comb(p + objectives - 1, objectives - 1) for p in (divisions, divisions + 1)]
    assert divisions >= 1
    assert points[0] <= population or divisions == 1
    assert points[1] > population or objectives == 1

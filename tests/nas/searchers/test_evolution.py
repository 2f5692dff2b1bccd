"""The evolutionary searcher does what the paper says: sizes, parents, children, windows, bounds."""

import time
from typing import Any

import numpy as np
import pytest
from searching import exact_problem, macs_window, search

import search_spaces
from nas import searchers
from nas.proposals.selection import best
from nas.searchers import SearchProblem
from nas.searchers.evolution import Scheme
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.space import INACTIVE

LOSS, QUALITY = {"loss": "minimize"}, {"quality": "maximize"}
SIZES = {"initial": 30, "parents": 8, "mutants": 10, "crossovers": 6}
SECONDS = 60.0  # of CPU on a busy machine; what does not end at once takes for ever


def window(space: SearchSpace, low: float, high: float, objectives: Any = LOSS, **more: Any) -> SearchProblem:
    """A search in a window of MACs."""
    return exact_problem(space, objectives, limits=macs_window(low, high), **more)


def everything(space: SearchSpace, **more: Any) -> SearchProblem:
    return exact_problem(space, LOSS, **more)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (3350, Scheme(500, 75, 75, 75)),
        (10_000, Scheme(500, 75, 75, 75)),
        (None, Scheme(500, 75, 75, 75)),
        (670, Scheme(100, 15, 15, 15)),
        (50, Scheme(7, 4, 4, 4)),
    ],
)
def test_the_published_sizes_shrink_with_the_budget(budget: int | None, expected: Scheme) -> None:
    problem = everything(search_spaces.get("vit_resnas"), budget=budget)
    searcher: Any = searchers.build("evolution", problem)
    assert searcher.scheme == expected
    assert expected.mutation == 0.3
    assert 500 + 19 * (75 + 75) == 3350


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": 0}, "initial = 0"),
        ({"parents": 1}, "parents = 1"),
        ({"mutants": -1}, "mutants = -1"),
        ({"mutants": 0, "crossovers": 0}, "without mutants and crossovers"),
        ({"mutation": 0}, "mutation = 0"),
        ({"mutation": 1.5}, "mutation = 1.5"),
        ({"mutation": True}, "mutation = True"),
        ({"parents": 2.5}, "parents = 2.5"),
        ({"children": 3}, "no option 'children'"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        searchers.build("evolution", everything(search_spaces.get("vit_resnas")), **options)
    assert message in caught.value.message


def differing(space: SearchSpace, child: Architecture, parent: Architecture) -> int:
    """Choices that are unlike where both have them."""
    a, b = space.encode([child, parent])
    return int(((a != b) & (a != INACTIVE) & (b != INACTIVE)).sum())


def test_an_iteration_is_mutants_and_then_crossovers_of_the_best_so_far() -> None:
    space = search_spaces.get("matformer_vit_b16")  # 12 choices of four options, none conditional

    def loss(arch: Architecture) -> float:
        return float(abs(space.cost(arch).macs - 1.1e10))

    archs = search("evolution", everything(space), 30 + 2 * 16, loss, **SIZES)
    for start in (30, 46):
        parents = sorted(archs[:start], key=loss)[: SIZES["parents"]]
        mutants, crossovers = archs[start : start + 10], archs[start + 10 : start + 16]
        closest = [min(differing(space, child, parent) for parent in parents) for child in mutants]
        # Each of 12 choices is redrawn with probability 0.3, and a quarter of the draws repeats.
        assert 1 <= np.mean(closest) <= 5
        for child in crossovers:
            values = dict(child.values)
            assert any(
                all(values[name] in (a[name], b[name]) for name in values) for a in parents for b in parents
            )


def test_a_mutation_flips_whether_a_block_exists() -> None:
    space = search_spaces.get("vit_resnas_tiny")
    searcher: Any = searchers.build("evolution", everything(space), **SIZES, mutation=1.0)
    codes = space.encode([space.largest] * 50)
    names = [choice.name for choice in space.choices]
    mutants = searcher._mutants(codes, np.random.default_rng(0))
    for i, name in enumerate(names):
        if name.startswith("exists"):
            assert (mutants[:, i] == 0).all()


def test_other_choices_of_two_options_are_redrawn() -> None:
    space = search_spaces.get("autoformer_tiny")
    searcher: Any = searchers.build("evolution", everything(space), **SIZES, mutation=1.0)
    mutants = searcher._mutants(space.encode([space.largest] * 200), np.random.default_rng(0))
    heads = mutants[:, [choice.name for choice in space.choices].index("num_heads.0")]
    assert 0.3 < heads.mean() < 0.7


def test_the_best_are_the_non_dominated_ones_and_of_those_the_lonely() -> None:
    values = np.array([[0, 5], [1, 4], [1.1, 3.9], [4, 1], [5, 0], [6, 6], [7, 7]], dtype=float)
    assert set(best(values, 2)) == {0, 4}
    assert best(values, 5)[:3] == [0, 4, 3]
    assert set(best(values, 5)) == {0, 1, 2, 3, 4}
    assert best(values, 6)[-1] == 5
    one = np.array([[3.0], [1.0], [2.0], [1.5]])
    assert best(one, 3) == [1, 3, 2]


def test_the_published_window_of_the_tiny_search() -> None:
    """0.975 of a budget of 1,794,400,000 MACs to the whole."""
    space = search_spaces.get("vit_resnas_tiny")
    low, high = 0.975 * 1_794_400_000, 1_794_400_000
    problem = window(space, low, high, QUALITY)
    archs = search("evolution", problem, 80, lambda arch: space.cost(arch).params, **SIZES)
    macs = [space.cost(arch).macs for arch in archs]
    assert all(low <= cost <= high for cost in macs)
    assert len(set(archs)) == 80


@pytest.mark.parametrize("searcher", [name for name in searchers.names() if name != "exhaustive"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.98])
def test_every_searcher_finds_into_a_narrow_window(searcher: str, share: float) -> None:
    """Of cost or of anything else that is known before; here at the rim of the space and in its middle."""
    space = search_spaces.get("vit_resnas_small")
    least, most = (space.cost(arch).macs for arch in (space.smallest, space.largest))
    high = least + share * (most - least)
    problem = window(space, 0.99 * high, high)
    archs = search(searcher, problem, 12, lambda arch: float(space.cost(arch).params))
    assert problem.within_limits(space.encode(archs)).all()
    assert len(set(archs)) == 12


def test_an_empty_window_ends_at_once() -> None:
    space = search_spaces.get("vit_resnas_tiny")
    least = space.cost(space.smallest).macs
    start = time.process_time()
    assert search("evolution", window(space, least + 1, least + 2), 1, lambda arch: 0.0) == []
    assert time.process_time() - start < SECONDS


@pytest.mark.slow
def test_it_is_better_than_random_at_what_it_was_made_for() -> None:
    """One quality in a window of costs; the paired margin is several times its standard error."""
    space = search_spaces.get("vit_resnas_tiny")
    weights = np.random.default_rng(3).normal(size=len(space.choices))
    counts = np.array([len(choice.options) for choice in space.choices])

    def quality(arch: Architecture) -> float:
        return float(weights @ (np.maximum(space.encode([arch])[0], 0) / np.maximum(counts - 1, 1)))

    gains = []
    for seed in range(3):
        problem = window(space, 0.975 * 1.7944e9, 1.7944e9, QUALITY, seed=seed, budget=150)
        archs = search("evolution", problem, 150, quality)
        rng = np.random.default_rng(100 + seed)
        drawn = space.sample_choices(rng, 20_000)
        drawn = drawn[problem.within_limits(drawn)][:150]
        assert len(drawn) == 150
        gains.append(max(map(quality, archs)) - max(map(quality, space.decode(drawn))))
    assert np.mean(gains) > 4 * np.std(gains, ddof=1) / 3**0.5
    assert min(gains) > 0

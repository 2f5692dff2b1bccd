"""Which networks to measure: the choice tells more than chance, and pools may run out."""

import numpy as np

import search_spaces
from predictors.regression.design import d_optimal, next_to_measure, relative_work
from predictors.regression.features import Workload

ONE = Workload()


def information(rows: np.ndarray) -> float:
    """The logarithm of the determinant of what the rows tell, with a small ridge."""
    return float(np.linalg.slogdet(rows.T @ rows + 1e-3 * np.eye(rows.shape[1]))[1])


def test_a_design_tells_more_than_chance() -> None:
    space = search_spaces.get("turbovit")
    rng = np.random.default_rng(0)
    pool = np.unique(space.sample_choices(rng, 400), axis=0)
    rows = relative_work(space, pool, ONE)
    norms = np.linalg.norm(rows, axis=0)
    rows = rows[:, norms > 0] / norms[norms > 0] * np.sqrt(len(rows))
    picks = d_optimal(rows, [], 15)
    assert len(set(picks)) == 15
    by_chance = [information(rows[rng.choice(len(rows), 15, replace=False)]) for _ in range(50)]
    assert information(rows[picks]) > max(by_chance)


def test_a_design_completes_what_was_measured() -> None:
    rows = np.eye(4)
    assert sorted(d_optimal(rows, [1, 2], 2)) == [0, 3]


def test_a_pool_that_is_exhausted_gives_what_is_left() -> None:
    rows = np.random.default_rng(0).random((5, 3))
    assert sorted(d_optimal(rows, [], 9)) == [0, 1, 2, 3, 4]
    assert sorted(d_optimal(rows, [4], 9)) == [0, 1, 2, 3]
    assert d_optimal(rows, [0, 1, 2, 3, 4], 2) == []


def test_next_are_new_ones_from_the_pool() -> None:
    space = search_spaces.get("matformer")
    pool = np.unique(space.sample_choices(np.random.default_rng(0), 40), axis=0)
    measured, rest = pool[:5], {tuple(code) for code in pool[5:].tolist()}
    got = [tuple(code) for code in next_to_measure(space, pool, measured, ONE, count=6).tolist()]
    assert len(set(got)) == 6
    assert set(got) <= rest
    assert len(next_to_measure(space, pool, measured, ONE, count=1000)) == len(rest)
    assert next_to_measure(space, pool, pool, ONE, count=3).shape == (0, pool.shape[1])
    assert next_to_measure(space, pool, pool[:0], ONE, count=3).shape == (3, pool.shape[1])

"""What a searcher remembers, and what a problem tells of architectures."""

from typing import Any

import numpy as np
from searching import exact_problem, macs_window

import search_spaces
from nas.proposals.trials import Trials

OBJECTIVES: Any = {"accuracy": "maximize", "macs": "minimize"}


def test_trials_are_told_in_any_order_and_come_back_in_theirs_minimised() -> None:
    problem = exact_problem(search_spaces.get("matformer"), OBJECTIVES)
    codes = problem.space.all_codes()[:200]
    trials = Trials(problem)
    for code in codes:
        trials.add(code)
    nothing = np.full(2, np.nan)
    for number in (150, 3, 70):
        trials.tell(codes[number], np.array([0.5, number]), np.array([0.01, np.nan]))
    trials.tell(codes[4], np.array([np.inf, 1.0]), nothing)
    done = trials.finished()
    assert done.numbers.tolist() == [3, 70, 150]
    assert done.values.tolist() == [[-0.5, 3], [-0.5, 70], [-0.5, 150]]
    assert done.errors[:, 0].tolist() == [0.01] * 3
    assert (done.codes == codes[[3, 70, 150]]).all()
    assert trials.finished(before=70).numbers.tolist() == [3]
    assert len(trials.running()) == 196
    assert (trials.running(before=5) == codes[:3]).all()
    assert (trials.codes(before=5) == codes[:5]).all()
    trials.tell(codes[4], np.array([0.7, 1.0]), nothing)
    assert trials.finished(before=5).values.tolist() == [[-0.5, 3], [-0.7, 1]]


def test_fresh_ones_are_within_the_limits_and_new_whether_listed_or_drawn() -> None:
    for name in ("matformer", "vit_resnas_tiny"):
        space = search_spaces.get(name)
        macs = space.costs(space.sample_choices(np.random.default_rng(0), 500))["macs"]
        low, high = np.quantile(macs, [0.4, 0.6])
        problem = exact_problem(space, OBJECTIVES, limits=macs_window(low, high))
        proposed: dict[bytes, None] = {}
        for seed in range(20):
            code = problem.fresh(proposed, np.random.default_rng(seed % 2))
            assert code is not None
            assert code.tobytes() not in proposed
            assert problem.within_limits(code[None]).all()
            proposed[code.tobytes()] = None


def test_nothing_fresh_is_left_of_an_exhausted_space() -> None:
    space = search_spaces.get("matformer", depth=[1, 2])
    problem = exact_problem(space, OBJECTIVES)
    proposed = [code.tobytes() for code in space.all_codes()]
    rng = np.random.default_rng(0)
    last = problem.fresh(proposed[:-1], rng)
    assert last is not None
    assert last.tobytes() == proposed[-1]
    assert problem.fresh(proposed, rng) is None


def test_the_distance_is_zero_where_the_limits_are_kept() -> None:
    space = search_spaces.get("matformer")
    codes = space.encode([space.smallest, space.largest])
    problem = exact_problem(space, OBJECTIVES, limits=macs_window(0, space.cost(space.smallest).macs))
    assert problem.distance(codes)[0] == 0 < problem.distance(codes)[1]
    assert problem.within_limits(codes).tolist() == [True, False]
    assert exact_problem(space, OBJECTIVES).within_limits(codes).all()

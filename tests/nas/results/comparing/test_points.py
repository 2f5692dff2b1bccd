"""Finalists of several jobs in one frame, and numbers of their fronts that can be worked out by hand."""

from typing import Any

import pandas as pd
import pytest
from made_fronts import add_job

from nas.results.comparing.box import numbers
from nas.results.comparing.points import Quantity, boxed, comparable, differences, of_front
from nas.store import Store

QUALITY = Quantity("quality", "accuracy", "", 1.0, True, "stderr")
MS, PARAMS = Quantity("latency@1", "latency", "ms"), Quantity("params", "parameters", "")


def frame(*rows: tuple[int, float, float]) -> pd.DataFrame:
    """Rows of job, latency, quality."""
    columns = {"job_id": [row[0] for row in rows], "latency@1": [row[1] for row in rows]}
    columns |= {"quality": [row[2] for row in rows], "stderr": [None] * len(rows)}
    return pd.DataFrame(
        columns | {"subnet": [f"s{i}" for i in range(len(rows))], "params": [9.0] * len(rows)}
    )


def test_a_front_goes_by_the_quantities_that_are_asked_for() -> None:
    rows = frame((1, 1.0, 0.5), (1, 2.0, 0.7), (1, 3.0, 0.6), (1, float("nan"), 0.9))
    assert list(of_front(rows, (MS, QUALITY))) == [True, True, False, False]
    assert list(of_front(rows, (PARAMS, QUALITY))) == [False, False, False, True]
    assert list(of_front(rows, (MS, PARAMS))) == [True, False, False, False]


def test_three_fronts_in_one_box() -> None:
    rows = frame((1, 2.0, 0.6), (2, 4.0, 0.8), (3, 5.0, 0.7))
    told = numbers(boxed(rows, (MS, QUALITY), "accuracy"))
    # The box ends at 1.1 times 5 ms and at accuracy 0.
    areas = [3.5 * 0.6 / 5.5, 1.5 * 0.8 / 5.5, 0.5 * 0.7 / 5.5]
    assert [one.value for one in told.hypervolumes] == pytest.approx(areas)
    assert told.together.value == pytest.approx((2 * 0.6 + 1.5 * 0.8) / 5.5)
    assert [one.value for one in told.beaten] == [0.0, 0.0, 1.0]
    assert [one.value for one in told.differences] == pytest.approx(
        [0.0, areas[0] - areas[1], areas[0] - areas[2]]
    )


def test_two_costs_make_a_box_too() -> None:
    rows = frame((1, 1.0, 0.1), (2, 2.0, 0.9)).assign(params=[4.0, 2.0])
    told = numbers(boxed(rows, (MS, PARAMS), "accuracy"))
    expected = [(1 - 1 / 2.2) * (1 - 4 / 4.4), (1 - 2 / 2.2) * (1 - 2 / 4.4)]
    assert [one.value for one in told.hypervolumes] == pytest.approx(expected)


def test_jobs_that_do_not_compare_are_refused_with_the_reason(store: Store) -> None:
    points = [(2.0, 0.6, 0.6), (4.0, 0.8, 0.8)]
    first, second = add_job(store, "a", points=points), add_job(store, "b", points=points)
    empty = store.create_job("c", config=first.config, seed=0, provenance={})
    other = store.create_job("d", config={"data": {"name": "elsewhere"}}, seed=0, provenance={})
    compared = comparable(store, [first, second, empty, other])
    assert list(compared.rows["job"]) == ["a", "a", "b", "b"]
    assert "no finalist yet" in compared.refused["c"]
    assert "their data differ" in compared.refused["d"]
    assert [one.key for one in compared.quantities][:2] == ["quality", "latency@1"]
    assert list(compared.rows["latency@1"]) == [2.0, 4.0] * 2
    assert compared.quantity("nothing", 1).key == "latency@1"


def test_job_files_differ_in_some_fields() -> None:
    configs: dict[str, dict[str, Any]] = {
        "a": {"train": {"lr": 1, "steps": 5}, "seed": 0},
        "b": {"train": {"lr": 2, "steps": 5}, "seed": 0, "tags": ["x"]},
    }
    assert differences(configs).to_dict("records") == [
        {"field": "train.lr", "a": 1, "b": 2},
        {"field": "tags", "a": None, "b": ["x"]},
    ]
    assert differences({"a": configs["a"]}).empty

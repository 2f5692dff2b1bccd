"""Two fronts against each other: numbers that can be worked out by hand, and their errors."""

import json
import math
from typing import Any

import numpy as np
import pytest
from made_fronts import CONFIG, add_job

from nas.analysis.comparison import Comparison, compare
from nas.store import Job, Store
from search_spaces.errors import NotFoundError, UsageError

# Latency in ms, quality on the report split, quality on the search split.
FIRST = [(2.0, 0.6, 0.6), (4.0, 0.8, 0.8)]
SECOND = [(1.0, 0.5, 0.5), (5.0, 0.7, 0.7)]
BOX = {"accuracy": 0.0, "latency_ms": 10.0}


def values(compared: Comparison) -> list[float]:
    first, second = compared.fronts
    estimates = (first.hypervolume, second.hypervolume, compared.together, compared.difference)
    return [estimate.value for estimate in estimates]


def test_hypervolumes_are_the_areas_of_the_steps(store: Store) -> None:
    compared = compare(
        store, add_job(store, "a", points=FIRST), add_job(store, "b", points=SECOND), reference=BOX
    )
    # From 2 to 4 ms 0.6, from there to 10 ms 0.8; from 1 to 5 ms 0.5, then 0.7.
    first, second = (2 * 0.6 + 6 * 0.8) / 10, (4 * 0.5 + 5 * 0.7) / 10
    together = (1 * 0.5 + 2 * 0.6 + 6 * 0.8) / 10
    assert values(compared) == pytest.approx([first, second, together, first - second])
    # a1 (4 ms, 0.8) beats b1 (5 ms, 0.7); nothing beats a0, a1 or b0.
    assert [one.beaten.value for one in compared.fronts] == [0.0, 0.5]
    assert (compared.device, compared.latency, compared.costs) == ("cpu", "measured", ("latency_ms",))
    assert json.loads(json.dumps(compared.to_dict())) == compared.to_dict()


def test_without_a_reference_the_costliest_subnet_lies_in_the_box(store: Store) -> None:
    compared = compare(store, add_job(store, "a", points=FIRST), add_job(store, "b", points=SECOND))
    assert compared.reference == pytest.approx({"accuracy": 0.0, "latency_ms": 5.5})
    assert compared.fronts[0].hypervolume.value == pytest.approx((2 * 0.6 + 1.5 * 0.8) / 5.5)


def test_the_error_of_a_hypervolume_is_that_of_its_sum(store: Store) -> None:
    compared = compare(
        store, add_job(store, "a", points=FIRST), add_job(store, "b", points=SECOND), reference=BOX
    )
    # Each quality has an error of 0.01 and counts by the width of its step.
    first, second = (math.hypot(*widths) * 0.01 / 10 for widths in ((2, 6), (4, 5)))
    errors = [one.hypervolume.stderr for one in compared.fronts] + [compared.difference.stderr]
    assert errors == pytest.approx([first, second, math.hypot(first, second)], rel=0.1)
    assert [one.beaten.stderr for one in compared.fronts] == [0.0, 0.0]
    again = compare(store, store.job("a"), store.job("b"), reference=BOX)
    assert again.to_dict() == compared.to_dict()


def test_what_is_nearly_equal_beats_only_sometimes(store: Store) -> None:
    close = [
        add_job(store, name, points=[(2.0, quality, 0.5)]) for name, quality in (("a", 0.6), ("b", 0.601))
    ]
    first, second = compare(store, *close).fronts
    assert (first.beaten.value, second.beaten.value) == (1.0, 0.0)
    assert first.beaten.stderr == pytest.approx(0.5, abs=0.02)


def test_as_good_for_less_beats(store: Store) -> None:
    cheap = [add_job(store, name, points=[(ms, 0.6, 0.6)]) for name, ms in (("a", 2.0), ("b", 1.0))]
    assert [one.beaten.value for one in compare(store, *cheap).fronts] == [1.0, 0.0]


def test_the_same_subnet_in_both_fronts_does_not_differ_from_itself(store: Store) -> None:
    compared = compare(store, *(add_job(store, name, points=FIRST, keys="s") for name in "ab"))
    assert compared.difference.to_dict() == {"value": 0.0, "stderr": 0.0}
    assert [one.beaten.to_dict() for one in compared.fronts] == [{"value": 0.0, "stderr": 0.0}] * 2
    assert compared.fronts[0].hypervolume.stderr > 0


def test_a_subnet_that_another_of_its_job_beats_is_not_on_the_front(store: Store) -> None:
    first = add_job(store, "a", points=[*FIRST, (6.0, 0.7, 0.9)])
    compared = compare(store, first, add_job(store, "b", points=SECOND), reference=BOX)
    assert [member.subnet for member in compared.fronts[0].members] == ["a0", "a1"]


def test_where_one_job_was_not_measured_predictions_are_compared(store: Store) -> None:
    first = add_job(store, "a", points=FIRST)
    compared = compare(store, first, add_job(store, "b", points=SECOND, timed=False), reference=BOX)
    assert compared.latency == "predicted"
    # Predictions are 1.1 times the measurements.
    assert values(compared)[0] == pytest.approx((2.2 * 0.6 + (10 - 4.4) * 0.8) / 10)


def test_several_costs_make_a_box_of_so_many_sides(store: Store) -> None:
    both = CONFIG | {"objectives": ["accuracy", "latency_ms", "params"]}
    jobs = [add_job(store, name, points=FIRST, config=both) for name in "ab"]
    compared = compare(store, *jobs, reference=BOX | {"params": 200.0})
    # a0 has no parameters, a1 has 100 of 200: together 0.6 over 2 to 10 ms, and 0.2 more where a1 counts.
    assert values(compared)[0] == pytest.approx(0.6 * 0.8 + 0.2 * 0.6 * 0.5)
    frame = compared.to_pandas()
    assert list(frame.columns) == ["job", "subnet", "quality", "stderr", "latency_ms", "params"]
    assert np.allclose(frame["params"], [0, 100, 0, 100])


def test_what_does_not_compare_is_refused(store: Store) -> None:
    job = add_job(store, "a", points=FIRST)
    new: Job = store.create_job("new", config=CONFIG, seed=0, provenance={})
    other_data = add_job(store, "c", config={"data": {"name": "digit_pairs"}})
    other_device = add_job(store, "d", device=("pi", 1))
    with pytest.raises(UsageError, match="cannot be compared with itself"):
        compare(store, job, job)
    with pytest.raises(NotFoundError, match="no front of 'new'"):
        compare(store, job, new)
    with pytest.raises(UsageError, match="their data differ"):
        compare(store, job, other_data)
    with pytest.raises(UsageError, match="different devices"):
        compare(store, job, other_device)
    with pytest.raises(NotFoundError, match="'d' was measured on 'cpu'"):
        compare(store, job, other_device, device="cpu")


@pytest.mark.parametrize("reference", [{"params": 1.0}, {"latency_ms": 0.0}, {"accuracy": 1.0}])
def test_an_impossible_reference_is_refused(store: Store, reference: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        compare(store, add_job(store, "a"), add_job(store, "b"), reference=reference)

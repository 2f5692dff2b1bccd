"""Which rung the roofline stands on, what another device's predictor is worth, and what intervals cover."""

import time
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from fake_device import latencies

import search_spaces
from predictors.latency import roofline
from predictors.regression import ladder
from predictors.regression.calibrated import Calibrated
from predictors.regression.features import FEATURES, WORK, Workload, space_features
from predictors.regression.intervals import Intervals, interval
from predictors.regression.linear import fit_linear
from predictors.regression.metrics import Floats
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.space import Codes

Truth = Callable[[SearchSpace, Codes], Floats]


@lru_cache
def get(space: str) -> SearchSpace:
    return search_spaces.get(space)


def fitted(truth: Truth, space: SearchSpace, count: int, seed: int, **options: object) -> Calibrated:
    rng = np.random.default_rng(seed)
    codes = np.unique(space.sample_choices(rng, 3 * count), axis=0)
    codes = rng.permutation(codes)[:count]
    labels = truth(space, codes) * np.exp(rng.normal(0, 0.02, count))
    return roofline.build(space, **options).fit(codes, labels)


def error(predictor: Calibrated, truth: Truth) -> float:
    codes = predictor.space.sample_choices(np.random.default_rng(99), 200)
    real = truth(predictor.space, codes)
    return float(np.abs(predictor.predict(codes)[0] / real - 1).mean())


def with_steps(space: SearchSpace, codes: Codes) -> Floats:
    """A device on which tensors of more than 1 MiB cost page faults."""
    above = space_features(space, codes, Workload())[:, FEATURES.index("bytes_above_1_mib")]
    return latencies(space, codes) + 3e-6 * above


def another_device(space: SearchSpace, codes: Codes) -> Floats:
    """One that pays for convolutions and launches, and hardly for anything else."""
    rows = space_features(space, codes, Workload())
    prices = {"launches": 0.03, "conv_macs": 1e-5, "linear_macs": 1e-9, "params": 1e-8}
    return rows @ np.array([prices.get(name, 0.0) for name in FEATURES])


def three_times_slower(space: SearchSpace, codes: Codes) -> Floats:
    return 3 * latencies(space, codes)


def curved(space: SearchSpace, codes: Codes) -> Floats:
    """What no sum over layers expresses."""
    plain = latencies(space, codes)
    return plain * (1 + 0.15 * np.sin(4 * np.log(plain)))


def test_rungs_by_the_number_of_networks() -> None:
    space = get("matformer")
    tried = {}
    for count in (3, 7, 8, 15, 16, 49, 50):
        tried[count] = list(fitted(latencies, space, count, 0).to_json()["model"]["errors"])
    process = "a Gaussian process on the rest"
    assert tried[3] == tried[7] == ["MACs"]
    assert tried[8] == tried[15] == ["work"]
    assert tried[16] == tried[49] == ["work", "work and memory steps"]
    assert tried[50] == ["work", "work and memory steps", process]


def test_memory_steps_are_found_from_twenty_networks_and_only_where_there_are_some() -> None:
    space = get("turbovit")
    for seed in range(4):
        model = fitted(with_steps, space, 20, seed).model
        assert model.rung == "work and memory steps"
        assert fitted(latencies, space, 20, seed).model.rung == "work"
    assert error(fitted(with_steps, space, 40, 0), with_steps) < 0.03
    assert "work and memory steps" in fitted(with_steps, space, 20, 0).why


def test_a_process_is_added_only_where_it_helps() -> None:
    space = get("autoformer")
    assert fitted(curved, space, 80, 0).model.residual is not None
    for seed in range(3):
        assert fitted(latencies, space, 80, seed).model.residual is None
    codes = space.sample_choices(np.random.default_rng(0), 80)
    rows = space_features(space, codes, Workload())
    plain = fit_linear(rows, curved(space, codes), ladder.rungs()[1].columns)[0]
    test = space.sample_choices(np.random.default_rng(99), 200)
    plain_error = np.abs(
        plain.predict(space_features(space, test, Workload()))[0] / curved(space, test) - 1
    ).mean()
    assert error(fitted(curved, space, 80, 0), curved) < 0.7 * plain_error


def test_a_similar_device_is_worth_networks() -> None:
    space = get("turbovit")
    source = fitted(latencies, space, 60, 0).to_json()
    alone, transferred = [], []
    for seed in range(1, 7):
        alone.append(error(fitted(three_times_slower, space, 4, seed), three_times_slower))
        predictor = fitted(three_times_slower, space, 4, seed, source=source)
        transferred.append(error(predictor, three_times_slower))
    assert np.mean(transferred) < 0.03
    assert np.mean(transferred) < np.mean(alone) / 2


@pytest.mark.parametrize("count", [10, 20])
def test_a_device_of_another_kind_does_no_harm(count: int) -> None:
    space = get("turbovit")
    source = fitted(another_device, space, 60, 0).to_json()
    alone = [error(fitted(latencies, space, count, seed), latencies) for seed in range(1, 9)]
    with_source = [
        error(fitted(latencies, space, count, seed, source=source), latencies) for seed in range(1, 9)
    ]
    assert np.mean(with_source) < 1.15 * np.mean(alone) + 0.002


def test_only_a_roofline_is_a_source() -> None:
    space = get("matformer")
    with pytest.raises(UsageError, match="'gp'"):
        roofline.build(space, source={"predictor": "gp"})
    state = fitted(latencies, space, 8, 0).to_json()
    with pytest.raises(UsageError, match="damaged"):
        roofline.build(space, source=state | {"model": {"coefficients": [1.0]}})


def test_a_source_may_be_of_another_space() -> None:
    source = fitted(latencies, get("turbovit"), 40, 0).to_json()
    assert error(fitted(latencies, get("matformer"), 5, 0, source=source), latencies) < 0.5


@pytest.mark.parametrize("count", [10, 20, 50])
def test_intervals_cover_nine_in_ten_new_labels(count: int) -> None:
    space = get("turbovit")
    inside = []
    for seed in range(24 if count < 50 else 10):
        predictor = fitted(latencies, space, count, seed)
        rng = np.random.default_rng(1000 + seed)
        codes = space.sample_choices(rng, 100)
        labels = latencies(space, codes) * np.exp(rng.normal(0, 0.02, 100))
        low, high = interval(*predictor.predict(codes))
        inside.append(((low <= labels) & (labels <= high)).mean())
    assert 0.85 < np.mean(inside) < 0.95


def test_an_interval_is_a_quantile_of_the_errors() -> None:
    predicted, measured_ms = np.full(20, 100.0), 100.0 + np.arange(20)
    found = Intervals.of(predicted, measured_ms, np.ones(20))
    assert found == Intervals(pytest.approx(0.18), 1.0)  # the 19th of 20 errors: ceil(21 * 0.9)
    low, high = interval(np.array([50.0]), found.std(np.array([50.0]), np.array([1.0])))
    assert (low[0], high[0]) == (pytest.approx(41, abs=0.01), pytest.approx(59, abs=0.01))
    few = Intervals.of(predicted[:5], measured_ms[:5], np.ones(5))
    assert few.half_width == pytest.approx(1.15 * 0.04)
    unknown = found.std(np.array([50.0, 50.0]), np.array([np.inf, 3.0]))
    assert unknown[0] == 50.0
    assert unknown[1] == pytest.approx(3 * found.std(np.array([50.0]), np.array([1.0]))[0])


def test_a_network_of_nothing_but_unseen_work_has_a_finite_interval() -> None:
    rows = np.zeros((4, len(FEATURES)))
    rows[:3, len(WORK)] = [1.0, 2.0, 3.0]
    rows[3, 0] = 1.0
    _, left_out, _ = fit_linear(rows, np.array([1.0, 2.0, 3.0, 5.0]), np.eye(len(FEATURES)))
    assert (left_out > 0).all()
    assert np.isfinite(Intervals.of(left_out, np.array([1.0, 2.0, 3.0, 5.0]), np.ones(4)).half_width)


def test_twice_the_networks_and_the_fit_is_still_cheap() -> None:
    space = get("turbovit")
    seconds = []
    for count in (20, 40):
        start = time.thread_time()
        for seed in range(3):
            fitted(latencies, space, count, seed)
        seconds.append(time.thread_time() - start)
    assert seconds[1] < 20 * seconds[0] + 0.1

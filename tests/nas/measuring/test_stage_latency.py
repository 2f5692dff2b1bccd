"""Stage `latency`: which subnets are measured and how many, what is fitted; what the search measures."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import search_spaces
from nas.config import JobConfig, checked_config
from nas.errors import JobFailedError
from nas.job_run import Run, subnet_row
from nas.measuring import latency as latency_stage
from nas.measuring import latency_fit
from nas.measuring.latency import Latency, latencies, stored_latency
from nas.measuring.latency_fit import (
    MEMORY,
    candidate_pool,
    errs_within_noise,
    first_sample,
    further_sample,
    source_state,
)
from nas.progress import Silent
from nas.search import confirmation
from nas.search.objectives import Objectives
from nas.store import NewEvaluation, Store
from predictors.regression.features import ONE_SAMPLE, space_features
from search_spaces import SearchSpace
from search_spaces.errors import NotFoundError, UsageError
from search_spaces.space import Codes
from tests import made_device

SPACE = {"image_size": (8, 8), "in_chans": 1, "num_classes": 10, "patch_size": 4, "head_dim": 8}
ELASTIC = {"embed_dim": (8, 16, 24), "depth": (1, 2, 3), "num_heads": (1, 2), "mlp_ratio": (0.5, 1, 2)}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return search_spaces.get("matformer", **SPACE, **ELASTIC)


def config(speed: float = 1.0, **predictor: Any) -> JobConfig:
    told = {"samples": 16, "rounds": 2, "max_rounds": 2} | predictor
    device = {"backend": made_device.BACKEND, "batch": 2, "speed": speed}
    return checked_config({"devices": {"pi": device}, "predictor": told}, where="The config")


def latency(run: Run, space: SearchSpace) -> Latency:
    """Of the job's only device."""
    (found,) = latencies(run, space)
    return found


@contextmanager
def running(store: Store, asked: JobConfig, name: str = "job") -> Iterator[Run]:
    job = store.create_job(name, config=asked.model_dump(mode="json"), seed=0, provenance={})
    with store.acquire(job) as lease:
        yield Run(store, lease, asked, Silent(), threading.Event())
        lease.finish("succeeded")


def codes_of(space: SearchSpace, archs: Any) -> set[tuple[int, ...]]:
    return {tuple(code) for code in space.encode(archs).tolist()}


def test_the_first_sample_holds_both_ends_and_tells_more_than_chance(space: SearchSpace) -> None:
    archs = first_sample(space, ONE_SAMPLE, count=10, seed=0)
    assert len(codes_of(space, archs)) == len(archs) == 10
    assert {space.smallest, space.largest} <= set(archs)
    assert archs == first_sample(space, ONE_SAMPLE, count=10, seed=0)
    assert first_sample(space, ONE_SAMPLE, count=1, seed=0) == [space.smallest]

    def information(codes: Codes) -> float:
        rows = space_features(space, codes, ONE_SAMPLE)
        rows = rows[:, rows.std(axis=0) > 0]
        rows = (
            rows
            / np.linalg.norm(space_features(space, candidate_pool(space, seed=0), ONE_SAMPLE), axis=0).max()
        )
        return float(np.linalg.slogdet(rows.T @ rows + 1e-9 * np.eye(rows.shape[1]))[1])

    designed = information(space.encode(archs))
    drawn = [information(space.sample_choices(np.random.default_rng(seed), 10)) for seed in range(20)]
    assert designed > max(drawn)


def test_a_sample_grows_without_repeats_until_nothing_is_left() -> None:
    tiny = search_spaces.get(
        "matformer", **SPACE, embed_dim=(8, 16), depth=(1, 2), num_heads=(1,), mlp_ratio=(1, 2)
    )
    measured = first_sample(tiny, ONE_SAMPLE, count=3, seed=1)
    while more := further_sample(tiny, ONE_SAMPLE, tiny.encode(measured), count=2, seed=1):
        assert not codes_of(tiny, measured) & codes_of(tiny, more)
        measured += more
    assert len(measured) == tiny.size


class Sure:
    """A predictor that is equally sure of everything."""

    def __init__(self, std: float) -> None:
        self._std = std

    def predict(self, codes: Codes) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return np.full(len(codes), 2.0), np.full(len(codes), 2.0 * self._std)


def test_a_sample_is_large_enough_when_the_predictor_is_as_good_as_its_labels(space: SearchSpace) -> None:
    assert errs_within_noise(space, Sure(0.028), noise=0.02, seed=0)  # type: ignore[arg-type]
    assert not errs_within_noise(space, Sure(0.029), noise=0.02, seed=0)  # type: ignore[arg-type]


def test_predictors_of_latency_and_memory_are_fitted(store: Store, space: SearchSpace) -> None:
    with running(store, config()) as run:
        found = latency(run, space)
    codes = space.sample_choices(np.random.default_rng(0), 50)
    params = space.costs(codes)["params"]
    assert found.predict(codes) == pytest.approx(
        1e3 * (1e-5 + made_device.SECONDS_PER_PARAMETER * params), rel=0.1
    )
    assert found.metrics(codes)[MEMORY] == pytest.approx(4.0 * params, rel=0.1)
    assert (found.limited(codes)[MEMORY] >= found.metrics(codes)[MEMORY]).all()
    job = store.job("job")
    told = store.predictor(job)
    assert told is not None
    assert told.score["count"] == 16 == len(store.measurements(job, "sample"))
    assert {point["subnet"] for point in told.score["held_out"]} == {
        m.subnet.key for m in store.measurements(job, "sample")
    }
    assert sum(row["share"] for row in told.score["card"]) == pytest.approx(1)
    by_kind = told.score["by_kind"]["largest"]
    largest = float(found.predict(space.encode([space.largest]))[0])
    assert sum(by_kind.values()) == pytest.approx(largest, rel=0.05)
    again = stored_latency(store, job, config(), space, store.devices()[0])
    assert again is not None
    assert np.array_equal(again.limited(codes)["latency_ms"], found.limited(codes)["latency_ms"])


def test_a_precise_device_needs_few_and_a_stopped_sample_goes_on(
    store: Store, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def measure(run: Run, *args: Any, **options: Any) -> Any:
        asked.append(len(args[3]))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(run, *args, **options)

    real = latency_fit.measure
    monkeypatch.setattr(latency_fit, "measure", measure)
    monkeypatch.setattr(latency_fit, "errs_within_noise", lambda *_, **__: len(asked) >= 4)
    with running(store, config(samples=40)) as run:
        with pytest.raises(KeyboardInterrupt):
            latency(run, space)
        assert len(store.measurements(run.lease.job, "sample")) == 10
        latency(run, space)
        assert len(store.measurements(run.lease.job, "sample")) == 15
    assert asked == [10, 15, 10, 15]


def test_three_measurements_do_with_another_devices_predictor(store: Store, space: SearchSpace) -> None:
    with running(store, config(), "first") as run:
        before = latency(run, space)
    with running(store, config(speed=0.5, samples=3, source="first"), "second") as run:
        after = latency(run, space)
    codes = space.sample_choices(np.random.default_rng(0), 50)
    assert len(store.measurements(store.job("second"), "sample")) == 3
    assert after.predict(codes) == pytest.approx(2 * before.predict(codes), rel=0.05)
    told = store.predictor(store.job("second"))
    assert told is not None
    assert "scaled" in told.score["why"]


@pytest.mark.parametrize("samples", [4, 6, 7])
def test_few_measurements_do_whatever_their_number(store: Store, space: SearchSpace, samples: int) -> None:
    with running(store, config(), "first") as run:
        latency(run, space)
    with running(store, config(samples=samples, source="first"), "second") as run:
        assert (latency(run, space).memory is not None) == (samples >= 6)


@pytest.mark.parametrize("name", [pytest.param("auto", marks=pytest.mark.slow), "flops", "additive"])
def test_a_stored_predictor_of_any_kind_is_found_again(
    store: Store, space: SearchSpace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = space.encode([space.smallest, space.largest])
    with running(store, config(name=name)) as run:
        fitted = latency(run, space)
        monkeypatch.setattr(latency_stage, "measure_and_fit", None)
        resumed = Run(store, run.lease, run.config, Silent(), threading.Event())
        assert np.array_equal(latency(resumed, space).predict(codes), fitted.predict(codes))


def test_what_failed_is_tried_again_when_the_job_goes_on(
    store: Store, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_calibrator(self: made_device.MadeDevice, module: Any, example: Any) -> Any:
        if sum(p.numel() for p in module.parameters()) < 1e5:
            raise OSError("no space left")
        return real(self, module, example)

    real = made_device.MadeDevice.prepare
    with monkeypatch.context() as broken:
        broken.setattr(made_device.MadeDevice, "prepare", only_calibrator)
        with running(store, config()) as run, pytest.raises(JobFailedError, match="Only 0 of 16"):
            latency(run, space)
    job = store.job("job")
    assert {m.result.reason for m in store.failures(job, "sample")} == {"OSError: no space left"}
    with store.acquire(job) as lease:
        latency(Run(store, lease, config(), Silent(), threading.Event()), space)
    assert len(store.measurements(job, "sample")) == 16
    assert store.failures(job, "sample") == []


def test_labels_of_one_device_are_in_one_unit(store: Store, space: SearchSpace) -> None:
    """Another job has said meanwhile what the device's clean time is."""
    device = store.register_device("pi", made_device.build(name="pi", batch=2).fingerprint())
    real = store.reference
    with running(store, config()) as run:
        run.store.set_reference(device.id, 1.0)
        with pytest.MonkeyPatch.context() as late:
            late.setattr(type(store), "reference", lambda *_: None)  # it was not known when measuring began
            latency(run, space)
    assert real(device.id) == 1.0
    measured = store.measurements(store.job("job"), "sample")
    assert {m.result.reference_ms for m in measured} == {1.0}
    seconds = made_device.build(name="pi").calibrator_seconds()
    for found in measured:
        expected = (1e-5 + made_device.SECONDS_PER_PARAMETER * found.subnet.params) / seconds
        assert found.result.latency_ms == pytest.approx(expected, rel=1e-6)


def test_a_source_without_a_predictor_is_refused(store: Store) -> None:
    store.create_job("empty", config={}, seed=0, provenance={})
    with pytest.raises(NotFoundError, match="'empty' has no latency predictor"):
        source_state(store, config(source="empty"))
    with pytest.raises(NotFoundError, match="missing"):
        source_state(store, config(source="missing"))
    with pytest.raises(UsageError, match="source belongs to the predictors roofline and auto"):
        config(name="flops", source="empty")


def test_a_job_on_a_device_that_tells_no_memory_fails_if_it_needs_it(
    store: Store, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_device.MadeDevice, "peak_memory", lambda *_: None)
    with running(store, config()) as run:
        assert latency(run, space).memory is None
    needed = config().model_copy(update={"objectives": ("accuracy", MEMORY)})
    with (
        running(store, needed, "needs") as run,
        pytest.raises(JobFailedError, match="peak memory of 0 subnets"),
    ):
        latency(run, space)


def test_too_few_measured_subnets_fail_the_job_with_their_number(
    store: Store, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = np.median(space.costs(candidate_pool(space, seed=0))["params"])

    def prepare(self: made_device.MadeDevice, module: Any, example: Any) -> Any:
        if limit < sum(p.numel() for p in module.parameters()) < 1e5:
            raise RuntimeError("out of memory")
        return real(self, module, example)

    real = made_device.MadeDevice.prepare
    monkeypatch.setattr(made_device.MadeDevice, "prepare", prepare)
    with (
        running(store, config(samples=12)) as run,
        pytest.raises(JobFailedError, match=r"Only \d of 12 subnets"),
    ):
        latency(run, space)
    failed = store.failures(store.job("job"), "sample")
    assert failed
    assert all("out of memory" in m.result.reason for m in failed)


@pytest.fixture
def uncertain(store: Store, space: SearchSpace) -> Iterator[Callable[..., list[NewEvaluation]]]:
    """What becomes of a batch of two when the first one's latency is as uncertain as asked.

    best: accuracy and latency of the best that was evaluated before.
    """
    with running(store, config()) as run:
        fitted = latency(run, space)
        sample = {m.subnet.key for m in store.measurements(run.lease.job, "sample")}
        archs = [arch for arch in space.decode(candidate_pool(space, seed=0)) if arch.key not in sample][:2]

        def told(
            half_width: float,
            *,
            above: float | None,
            quality: float = 0.5,
            best: tuple[float, float] = (0.1, 9.0),
        ) -> list[NewEvaluation]:
            wide = Latency(fitted.device, Sure(half_width / 1.6449), memory=None)  # type: ignore[arg-type]
            search = run.config.search.model_copy(update={"measure_above": above})
            asked = replace(run, config=run.config.model_copy(update={"search": search}))
            objectives = Objectives(("accuracy", "latency_ms"), space, wide)
            rows = [
                NewEvaluation(
                    subnet_row(space, arch), value, objectives={"accuracy": value, "latency_ms": 2.0}
                )
                for arch, value in zip(archs, (quality, 0.4), strict=True)
            ]
            rows = confirmation.with_intervals(objectives, archs, rows)
            return confirmation.measured_where_uncertain(asked, objectives, archs, rows, np.array([best]))

        yield told


def searched(store: Store) -> int:
    return len(store.measurements(store.job("job"), "search"))


def test_a_front_member_with_a_wide_interval_is_measured(store: Store, uncertain: Any) -> None:
    better, worse = uncertain(0.2, above=0.1)
    measured = store.measurements(store.job("job"), "search")
    assert [m.subnet.key for m in measured] == [better.subnet.key]  # the other one is beaten
    assert better.objectives["latency_ms"] == measured[0].result.latency_ms != 2.0
    assert better.objectives["measured_ms"] == better.objectives["latency_ms"]
    assert "measured_ms" not in worse.objectives
    assert better.objectives["predicted_ms"] == pytest.approx(2.0)
    assert better.objectives["predicted_high_ms"] == pytest.approx(2.4)
    assert worse.objectives["latency_ms"] == 2.0
    assert uncertain(0.2, above=0.1)[0] == better  # from the store
    assert searched(store) == 1


@pytest.mark.parametrize(
    ("objectives", "measured"),
    [
        ({"latency_ms": 2.0, "predicted_ms": 2.0}, False),
        ({"latency_ms": 2.0, "predicted_ms": 2.0, "measured_ms": 2.0}, True),
        ({"latency_ms": 2.5, "predicted_ms": 2.0, "measured_ms": 2.5}, True),
        ({"latency_ms": 2.5, "predicted_ms": 2.0}, True),  # as a search of an earlier version left it
        ({"latency_ms": 2.5}, False),  # and one of before predictions were kept
        ({"latency_ms": 2.0, "predicted_ms": 2.0, "measured_ms@pi": 3.0}, False),
    ],
)
def test_whether_a_latency_was_measured_is_told_by_a_field(
    space: SearchSpace, objectives: dict[str, float | None], measured: bool
) -> None:
    latency: Any = Latency(None, Sure(0.1))  # type: ignore[arg-type]
    evaluation = NewEvaluation(subnet_row(space, space.smallest), 0.5, objectives=objectives)
    assert confirmation.was_measured(evaluation, latency) is measured


def test_sure_predictions_and_failed_subnets_are_not_measured(store: Store, uncertain: Any) -> None:
    uncertain(0.05, above=0.1)
    uncertain(0.9, above=None)
    uncertain(0.2, above=0.1, best=(0.6, 1.0))  # which beats both
    assert searched(store) == 0
    _, other = uncertain(0.2, above=0.1, quality=float("nan"))
    measured = store.measurements(store.job("job"), "search")
    assert [m.subnet.key for m in measured] == [other.subnet.key]


@pytest.mark.parametrize(
    "change",
    [
        "latency_ms = -1.0",
        "latency_ms = 0.0",
        "reference_ms = -1.0",
        "raw = '[]'",
        "raw = '[[1, 2]]'",
        "raw = '{\"a\": 1}'",
        "raw = '[[\"x\", 0, 1, 1, 1, 1, 1, 1, 1]]'",
        "raw = '[[0, 0, 1, 1, null, 1, 1, 1, 1]]'",
    ],
)
def test_rows_of_earlier_versions_that_cannot_be_are_measured_again(
    store: Store, space: SearchSpace, change: str
) -> None:
    with running(store, config()) as run:
        latency(run, space)
        job = run.lease.job
        before = {m.subnet.key: m.result.latency_ms for m in store.measurements(job, "sample")}
        (bad, *_) = [m.id for m in store.measurements(job, "sample")]
        with store.write() as connection:
            connection.exec_driver_sql(f"UPDATE measurements SET {change} WHERE id = {bad}")
            connection.exec_driver_sql("DELETE FROM stages WHERE name = 'latency'")
        run.keys.clear()
        latency(run, space)
    after = {m.subnet.key: m.result.latency_ms for m in store.measurements(job, "sample")}
    assert after == pytest.approx(before)
    assert len(store.measurements(job, "sample")) == len(before) == 16

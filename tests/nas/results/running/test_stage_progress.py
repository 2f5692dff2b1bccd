"""How far a job is that another process runs: from its rows, by a clock that is made up."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from nas.progress import seconds_left
from nas.results.running.stage_progress import StageProgress, stage_progress
from nas.store import Job, Lease, NewEvent, NewSubnet, Store
from predictors.measurement.labels import Measurement

CONFIG: dict[str, Any] = {
    "devices": {"cpu": {}},
    "train": {"steps": 100},
    "search": {"evaluations": 200},
    "predictor": {"samples": 40},
}


class Clock:
    """The moment that the store writes, which goes on by itself when it is told."""

    def __init__(self, begin: datetime) -> None:
        self.moment = begin

    def __call__(self) -> datetime:
        return self.moment

    def wait(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(datetime.fromisoformat("2026-01-01T00:00:00+00:00"))
    for module in ("store.results", "store.jobs", "store.measurements", "results.running.stage_progress"):
        monkeypatch.setattr(f"nas.{module}.now", made)
    return made


def begun(store: Store, stage: str) -> tuple[Job, Lease]:
    job = store.create_job("a", config=CONFIG, seed=0, provenance={})
    lease = store.acquire(job)
    store.begin_stage(lease, stage, "key")
    return job, lease


def told(store: Store) -> StageProgress | None:
    return stage_progress(store, store.job("a"))


def test_a_search_tells_subnets_of_the_whole_stage(store: Store, clock: Clock) -> None:
    _, lease = begun(store, "search")
    assert told(store) == StageProgress("search", 0, 200, "subnets")
    for count in (16, 32, 48, 64):
        clock.wait(60 if count > 16 else 200)
        data = {"evaluations": count, "hypervolume": 0.5, "of": 160}
        store.add_events(lease, [NewEvent("hypervolume", data, stage="search", step=count)])
    found = told(store)
    assert found is not None
    assert found.words == "search, 64 of 160 subnets"
    assert found.seconds_left == pytest.approx(60 * 96 / 16)
    clock.wait(45)
    found = told(store)
    assert found is not None
    assert found.seconds_left == pytest.approx(60 * 96 / 16 - 45)
    clock.wait(10_000)
    found = told(store)
    assert found is not None
    assert found.seconds_left == 0.0
    lease.finish("stopped")
    assert told(store) is None


def test_a_training_that_went_on_has_the_pace_of_its_own_attempt(store: Store, clock: Clock) -> None:
    job, lease = begun(store, "train")
    for step in (10, 20, 30):
        clock.wait(1)
        store.add_events(lease, [NewEvent("train", {"loss": 1.0}, stage="train", step=step)])
    lease.finish("stopped")
    clock.wait(3600)
    lease = store.acquire(job)
    store.begin_stage(lease, "train", "key")
    found = told(store)
    assert found is not None
    assert (found.done, found.seconds_left) == (30, None)
    for step in (40, 50):
        clock.wait(5)
        store.add_events(lease, [NewEvent("train", {"loss": 1.0}, stage="train", step=step)])
    found = told(store)
    assert found is not None
    assert (found.words, found.seconds_left) == ("train, 50 of 100 steps", pytest.approx(25.0))
    lease.finish("stopped")


def test_the_pace_is_that_of_the_last_half_of_many_steps(store: Store, clock: Clock) -> None:
    """As from all points: slow at first, then quick, in a second attempt."""
    job, lease = begun(store, "train")
    store.add_events(lease, [NewEvent("train", {"loss": 1.0}, stage="train", step=20)])
    lease.finish("stopped")
    clock.wait(100)
    lease = store.acquire(job)
    store.begin_stage(lease, "train", "key")
    points = [(0.0, 20)]
    for step in range(21, 81):
        clock.wait(9 if step < 40 else 1 + step % 3)
        points.append((points[-1][0] + (9 if step < 40 else 1 + step % 3), step))
        store.add_events(lease, [NewEvent("train", {"loss": 1.0}, stage="train", step=step)])
    found = told(store)
    assert found is not None
    assert found.seconds_left == pytest.approx(seconds_left(points, 100))
    lease.finish("stopped")


@pytest.mark.parametrize("section", [None, {}, {"steps": "x"}, {"steps": [1]}])
def test_a_config_that_tells_no_total(store: Store, clock: Clock, section: object) -> None:
    job = store.create_job("a", config={"train": section, "devices": {}}, seed=0, provenance={})
    lease = store.acquire(job)
    for stage in ("train", "latency"):
        store.begin_stage(lease, stage, "key")
        found = told(store)
        assert found is not None
        assert (found.stage, found.total, found.seconds_left) == (stage, None, None)
    lease.finish("stopped")


@pytest.mark.parametrize("unit", ["steps", "subnets"])
def test_the_training_of_finalists_tells_what_it_counts(store: Store, clock: Clock, unit: str) -> None:
    _, lease = begun(store, "specialise")
    assert told(store) == StageProgress("specialise", None, None, "steps")
    store.add_events(lease, [NewEvent("specialise", {"of": 16, "unit": unit}, stage="specialise", step=0)])
    for step in (2, 4):
        clock.wait(10)
        store.add_events(lease, [NewEvent("specialise", {"loss": 1.0}, stage="specialise", step=step)])
    found = told(store)
    assert found is not None
    assert (found.words, found.seconds_left) == (f"specialise, 4 of 16 {unit}", pytest.approx(60.0))
    lease.finish("stopped")


def test_a_sample_counts_its_subnets(store: Store, clock: Clock) -> None:
    _, lease = begun(store, "latency")
    device = store.register_device("cpu", {"host": "x"})
    for i in range(10):
        clock.wait(2)
        timed = (NewSubnet(f"s{i}", {"depth": i}, 1, 1), Measurement(1.0))
        store.add_measurements(lease, [timed], device_id=device.id, purpose="sample")
    found = told(store)
    assert found is not None
    assert (found.words, found.seconds_left) == ("latency, 10 of 40 subnets", pytest.approx(60.0))
    lease.finish("stopped")


def test_an_interrupted_job_has_a_step_and_no_time_left(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lease = begun(store, "train")
    for step in (10, 20):
        clock.wait(1)
        store.add_events(lease, [NewEvent("train", {"loss": 1.0}, stage="train", step=step)])
    monkeypatch.setattr("nas.store.leases.is_dead", lambda owner: True)
    assert told(store) == StageProgress("train", 20, 100, "steps", None)
    monkeypatch.undo()
    lease.finish("failed")


def test_a_stage_that_counts_nothing_is_named(store: Store, clock: Clock) -> None:
    _, lease = begun(store, "finalists")
    found = told(store)
    assert found is not None
    assert found.words == "finalists"
    lease.finish("stopped")

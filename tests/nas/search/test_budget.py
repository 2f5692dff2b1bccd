"""A budget in time becomes numbers of steps and evaluations, which stay as they are once they are made."""

import time
from typing import Any

import pytest
from tiny_job import CONFIG

import nas
from nas import jobs, pipeline
from nas.config import checked_config
from nas.progress import Silent
from nas.results.running.time_left import BUDGET
from nas.search import budget as budgets
from nas.search.budget import Clock
from nas.store import Job, Stage, Store
from search_spaces.errors import UsageError


def config(budget: Any, **sections: Any) -> dict[str, Any]:
    """The tiny job without numbers of steps and evaluations."""
    train = {name: value for name, value in CONFIG["train"].items() if name != "steps"}
    search = {name: value for name, value in CONFIG["search"].items() if name != "evaluations"}
    return CONFIG | {"train": train, "search": search | {"finalists": 2}, "budget": budget} | sections


def begun(store: Store, **sections: Any) -> Job:
    made = checked_config(config("30min", **sections), where="here")
    return jobs.create(store, made, name=None)


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def divided(store: Store, job: Job, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The division of a job that is then interrupted."""
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(store, job, progress=Silent())
    division = store.stage(job, BUDGET)
    assert division is not None
    return division


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does a step in half a minute and an evaluation in ten seconds, and never waits."""
    monkeypatch.setattr(budgets, "seconds_per_step", lambda *_, **__: 30.0)
    monkeypatch.setattr(budgets, "_paces", lambda *_: budgets._Paces(10.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        ({"train": {"steps": 100}}, "train.steps"),
        ({"search": {"evaluations": 100}}, "search.evaluations"),
        ({"train": {"steps": 9}, "search": {"evaluations": 9}}, "train.steps and search.evaluations"),
    ],
)
def test_who_gives_a_time_gives_no_numbers(sections: dict[str, Any], names: str) -> None:
    with pytest.raises(UsageError, match=f"leave {names} out"):
        checked_config({"data": "digits", "budget": "5min"} | sections, where="here")


@pytest.mark.parametrize(
    ("written", "seconds"), [("90s", 90), ("30min", 1800), ("1.5h", 5400), ("1h 30min", 5400), (45, 45)]
)
def test_a_time_is_read_with_its_unit(written: Any, seconds: float) -> None:
    assert checked_config({"data": "digits", "budget": written}, where="here").budget == seconds


@pytest.mark.parametrize("written", ["soon", "0s", "-5min", "5", "5 parsecs", "10s or so", True, [1], "400d"])
def test_what_is_no_time_is_refused(written: Any) -> None:
    with pytest.raises(UsageError, match="budget: must be"):
        checked_config({"data": "digits", "budget": written}, where="here")


def test_the_division_is_kept_and_the_next_job_trains_nothing_on_a_slower_day(
    store: Store, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    first = begun(store)
    pipeline.run(store, first, progress=Silent())
    division = store.stage(first, BUDGET)
    assert division is not None
    steps = division.told("train", "steps")
    assert steps == int(budgets.TRAINING * 1800 / 30)
    kept = store.job(first.id).config
    assert (kept["train"]["steps"], kept["train"]["warmup"]) == (steps, int(budgets.WARM_UP * steps))
    assert kept["search"]["evaluations"] == division.told("search", "evaluations")
    trained = store.supernet_of(first)
    assert trained is not None
    assert (trained.supernet.steps, trained.supernet.settings["budget"]) == (steps, 1800)
    monkeypatch.setattr(budgets, "seconds_per_step", lambda *_, **__: 47.0)
    second = begun(store, objectives=["accuracy", "params"])
    pipeline.run(store, second, progress=Silent())
    use = store.supernet_of(second)
    assert use is not None
    assert (use.reused, use.supernet.id) == (True, trained.supernet.id)
    division = store.stage(second, BUDGET)
    assert division is not None
    assert (division.told("train", "steps"), division.told("train", "seconds")) == (steps, 0.0)


@pytest.mark.usefixtures("quick")
def test_a_job_goes_on_with_the_division_of_its_first_attempt(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun(store)
    before = divided(store, job, monkeypatch)
    monkeypatch.setattr(budgets, "seconds_per_step", interrupted)
    monkeypatch.setattr(budgets, "_paces", interrupted)
    pipeline.run(store, store.job(job.id), progress=Silent())
    assert store.stage(job, BUDGET) == before
    assert store.job(job.id).state == "succeeded"


def test_a_budget_that_is_too_short_ends_before_the_training(store: Store, quick: None) -> None:
    job = jobs.create(store, checked_config(config("12s"), where="here"), name=None)
    with pytest.raises(UsageError, match="is too short for one evaluation") as raised:
        pipeline.run(store, job, progress=Silent())
    assert raised.value.exit_code == 2
    assert "Give budget: " in raised.value.hint
    assert store.stage(job, "train") is None
    assert store.supernets() == []


@pytest.mark.usefixtures("quick")
def test_the_finalists_training_has_its_part_of_the_trainings_share(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    division = divided(store, begun(store, finalists={"train": {"how": "alone", "steps": 0.5}}), monkeypatch)
    steps = division.told("train", "steps")
    assert steps == int(budgets.TRAINING * 1800 / 30 / (1 + 2 * 0.5))
    assert division.told("specialise", "seconds") == 2 * round(0.5 * steps) * 30


def test_a_search_stops_when_its_time_is_over_and_not_for_what_was_planned(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finalists are said to take all but two seconds of what is left."""
    monkeypatch.setattr(budgets, "seconds_per_step", lambda *_, **__: 30.0)
    monkeypatch.setattr(budgets, "_paces", lambda *_: budgets._Paces(10.0, 1.0, 1.0))
    total = Clock.total

    def soon(clock: Clock, count: int) -> int:
        return total(clock, count) if count < 8 else count

    monkeypatch.setattr(Clock, "total", soon)
    job = begun(store, constraints=[], search={"batch": 4, "population": 6, "finalists": 2})
    pipeline.run(store, job, progress=Silent())
    stage = store.stage(job, "search")
    assert stage is not None
    assert stage.told("evaluations") == 8
    events = store.events(job, "hypervolume")
    assert [event.data["of"] > 100 for event in events] == [True, False]
    assert all(event.data["spent"] > 0 for event in events)


@pytest.mark.usefixtures("quick")
def test_a_search_that_no_longer_gains_ends_before_its_time(store: Store) -> None:
    search = {"batch": 4, "population": 6, "finalists": 2, "stop": {"gain": 0.99, "patience": 1}}
    job = begun(
        store, constraints=[], search=search | {"searcher": "random"}, objectives=["accuracy", "params"]
    )
    pipeline.run(store, job, progress=Silent())
    stage = store.stage(job, "search")
    assert stage is not None
    assert "the last batch gained less" in stage.told("ended")
    assert stage.told("evaluations") == 8 < store.events(job, "hypervolume")[-1].data["of"]


def test_a_clock_counts_what_fits_before_the_finalists(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(until=1100.0, budget=150.0, after=20.0, per_evaluation=2.0, batch=8)
    assert clock.spent == 50.0
    assert clock.total(0) == 40
    now[0] += 8
    assert clock.total(8) == 8 + 72
    now[0] += 40  # slower from now on
    assert clock.total(16) == 16 + int(32 / 5)
    now[0] += 27
    assert clock.total(22) == 22, "what is left is no batch worth proposing"
    assert Clock(until=900.0, budget=1.0, after=0.0, per_evaluation=1.0, batch=4).total(0) == 1


@pytest.mark.slow
def test_a_real_calibration_ends_in_time(store: Store) -> None:
    """With the margin that busy cores need: `benchmarks/budget.py` has the figures of a quiet machine."""
    began = time.monotonic()
    handle = nas.run(config("60s"), store=store.url)
    assert time.monotonic() - began < 300
    division = handle.store.stage(handle.job, BUDGET)
    assert division is not None
    assert division.told("train", "seconds_per_step") > 0
    assert division.told("search", "seconds_per_evaluation") > 0

"""How long a job still takes that another process runs: from rows, by a clock that is made up."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from nas.results.running.time_left import planned, time_left
from nas.store import Job, Lease, NewEvent, NewSupernet, Store

CONFIG: dict[str, Any] = {
    "data": {"name": "digits"},
    "supernet": {"family": "matformer"},
    "devices": {"cpu": {}},
    "train": {"steps": 100, "batch_size": 10},
    "search": {"evaluations": 200, "finalists": 4},
    "predictor": {"samples": 40},
}
SPANS = {"space": 1, "latency": 80, "train": 50, "search": 400, "finalists": 20}  # seconds


class Clock:
    """The moment that the store writes, which goes on by itself when it is told."""

    def __init__(self) -> None:
        self.moment = datetime.fromisoformat("2026-01-01T00:00:00+00:00")

    def __call__(self) -> datetime:
        return self.moment

    def wait(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made, running = Clock(), "results.running"
    for module in ("store.results", "store.jobs", "store.supernets", "store.leases"):
        monkeypatch.setattr(f"nas.{module}.now", made)
    for module in ("stage_progress", "time_left"):
        monkeypatch.setattr(f"nas.{running}.{module}.now", made)
    return made


def begun(store: Store, name: str, **sections: Any) -> tuple[Job, Lease]:
    job = store.create_job(name, config=CONFIG | sections, seed=0, provenance={})
    return job, store.acquire(job)


def done(store: Store, lease: Lease, clock: Clock, *stages: str, **results: Any) -> None:
    """These stages, each for its span."""
    for stage in stages:
        store.begin_stage(lease, stage, "key")
        clock.wait(SPANS.get(stage.partition(":")[0], 0))
        store.finish_stage(lease, stage, results.get(stage, {}))


def earlier(store: Store, clock: Clock, **sections: Any) -> None:
    """A job that has ended, with a supernet that it has trained."""
    _, lease = begun(store, "earlier", **sections)
    new = NewSupernet("earlier", "k" * 64, {}, {}, {"seed": 1}, steps=100)
    held = store.acquire_supernet(lease, store.use_supernet(lease, new).supernet)
    assert held is not None
    held.took(seconds=50, cpu_seconds=50)
    held.finish()
    done(store, lease, clock, *SPANS, search={"evaluations": 200, "reused": 0})
    lease.finish("succeeded")


def left(store: Store, name: str = "a") -> float | None:
    return time_left(store, store.job(name))


def test_stages_to_come_take_what_they_took_in_a_job_like_it(store: Store, clock: Clock) -> None:
    earlier(store, clock)
    _, lease = begun(store, "a", search={"evaluations": 100, "finalists": 8})
    assert left(store) == pytest.approx(1 + 80 + 50 + 200 + 40)
    done(store, lease, clock, "space", "latency")
    store.begin_stage(lease, "train", "key")
    for step in (10, 20):
        clock.wait(2)
        store.add_events(lease, [NewEvent("train", {"loss": 1.0}, stage="train", step=step)])
    assert left(store) == pytest.approx(80 * 2 / 10 + 200 + 40)
    lease.finish("stopped")
    assert left(store) is None


@pytest.mark.parametrize(
    "sections", [{"data": {"name": "digit_pairs"}}, {"supernet": {"family": "vit_resnas"}}]
)
def test_of_other_data_and_supernets_nothing_follows(
    store: Store, clock: Clock, sections: dict[str, Any]
) -> None:
    earlier(store, clock, **sections)
    _, lease = begun(store, "a")
    assert left(store) is None
    lease.finish("stopped")


def test_what_was_found_says_nothing_of_how_long_it_takes(store: Store, clock: Clock) -> None:
    _, lease = begun(store, "earlier")
    done(store, lease, clock, "search", search={"evaluations": 200, "reused": 200})
    lease.finish("succeeded")
    _, lease = begun(store, "a", supernet=CONFIG["supernet"] | {"use": "x"})
    done(store, lease, clock, "space", "latency")
    assert left(store) is None
    lease.finish("stopped")


def test_without_another_job_the_finalists_are_judged_by_the_search(store: Store, clock: Clock) -> None:
    _, lease = begun(store, "a")
    done(store, lease, clock, "space", "latency", "train")
    store.begin_stage(lease, "search", "key")
    assert left(store) is None
    for count in (20, 40):
        clock.wait(20)
        data = {"evaluations": count, "hypervolume": 0.5, "of": 200}
        store.add_events(lease, [NewEvent("hypervolume", data, stage="search", step=count)])
    assert left(store) == pytest.approx(160 + 4 * (4 * 1 + 80 / 40))
    lease.finish("stopped")


def test_a_stage_that_takes_longer_than_was_thought_has_no_time_left_that_is_known(
    store: Store, clock: Clock
) -> None:
    """Finalists that were trained are judged twice; backends take as long for each finalist and device."""
    devices = {"a": {"precision": "int8"}, "b": {"precision": "int8"}}
    _, lease = begun(store, "a", devices=devices, finalists={"train": {"steps": 1}, "device_images": None})
    stages = ("space", "latency", "latency:b", "train", "search", "choose", "specialise")
    done(store, lease, clock, *stages, search={"evaluations": 200})
    store.begin_stage(lease, "finalists", "key")
    finalists, backends = 4 * (2 * 4 * 2 + 2 * 80 / 40), 2 * 4 * 4 * 2
    assert left(store) == pytest.approx(finalists + backends)
    clock.wait(10)
    assert left(store) == pytest.approx(finalists - 10 + backends)
    assert time_left(store, store.job("a"), 7) == pytest.approx(7 + backends)
    clock.wait(finalists)
    assert left(store) is None
    lease.finish("stopped")


def test_a_supernet_that_is_there_is_not_waited_for(store: Store, clock: Clock) -> None:
    earlier(store, clock)
    supernet = {"supernet": CONFIG["supernet"], "train": CONFIG["train"], "seed": 0}
    _, lease = begun(store, "b")
    held = store.acquire_supernet(
        lease, store.use_supernet(lease, NewSupernet("b", "l" * 64, {}, {}, supernet, steps=100)).supernet
    )
    assert held is not None
    held.finish()
    lease.finish("stopped")
    _, lease = begun(store, "a")
    assert left(store) == pytest.approx(1 + 80 + 400 + 20)
    lease.finish("stopped")


def test_a_budget_says_it_before_it_is_divided_and_its_division_after(store: Store, clock: Clock) -> None:
    job, lease = begun(store, "a", budget=600.0)
    clock.wait(30)
    assert left(store) == pytest.approx(570)
    done(store, lease, clock, "space", "latency")
    store.begin_stage(lease, "budget", "key")
    parts = {"train": 100, "search": 300, "specialise": 0, "finalists": 50}
    store.finish_stage(lease, "budget", {name: {"seconds": seconds} for name, seconds in parts.items()})
    assert left(store) == pytest.approx(450)
    store.begin_stage(lease, "train", "key")
    clock.wait(40)
    assert left(store) == pytest.approx(60 + 300 + 50)
    clock.wait(200)
    assert left(store) == pytest.approx(600 - 30 - 81 - 240), (
        "a training that takes longer leaves the search less"
    )
    lease.finish("stopped")
    lease = store.acquire(job)
    store.begin_stage(lease, "train", "key")
    assert left(store) == pytest.approx(450)
    lease.finish("stopped")


def test_a_job_has_the_stages_that_its_file_asks_for(store: Store) -> None:
    anchors = {"family": "stitching", "init": {"anchors": [{"vit": {}}, {"timm": "x"}, {"vit": {}}]}}
    sections = {"devices": {"cpu": {}, "pi": {}}, "supernet": anchors, "budget": 60.0}
    job, lease = begun(store, "a", finalists={"train": {"steps": 0.5}}, **sections)
    lease.finish("stopped")
    first, rest = ["space", "latency", "latency:pi", "budget"], ["anchor-0", "anchor-2", "train", "search"]
    assert list(planned(job)) == [*first, *rest, "choose", "specialise", "finalists"]
    joined = [{"name": "joined", **anchors}, {"name": "b", "family": "vit_resnas"}]
    several, lease = begun(store, "several", supernet={}, supernets=joined)
    lease.finish("stopped")
    stages = ["anchor-0:joined", "anchor-2:joined", "train:joined", "train:b"]
    assert list(planned(several)) == ["space", "latency", *stages, "search", "finalists"]
    trains = store.create_job("t", config=CONFIG, seed=0, provenance={}, goal="supernet")
    assert list(planned(trains)) == ["space", "train"]


def test_each_of_several_supernets_is_a_stage(store: Store, clock: Clock) -> None:
    entries = [{"name": name, "train": {"steps": steps}} for name, steps in (("a", 100), ("b", 300))]
    sections = {"supernet": {}, "supernets": entries}
    _, lease = begun(store, "earlier", **sections)
    for place, entry in enumerate(entries):
        new = NewSupernet(f"net-{place}", f"{place}" * 64, {}, {}, {"seed": 1}, steps=100)
        use = store.use_supernet(lease, new, name=entry["name"])
        held = store.acquire_supernet(lease, use.supernet)
        assert held is not None
        held.took(seconds=10 + 20 * place, cpu_seconds=1)
        held.finish()
        store.begin_stage(lease, f"train:{entry['name']}", "key")
        store.finish_stage(lease, f"train:{entry['name']}", {})
    done(store, lease, clock, *(name for name in SPANS if name != "train"), search={"evaluations": 200})
    lease.finish("succeeded")
    job, held_job = begun(store, "job", **sections)
    assert [name for name in planned(job) if name.startswith("train")] == ["train:a", "train:b"]
    done(store, held_job, clock, "space", "latency")
    assert left(store, "job") == pytest.approx(10 + 30 + SPANS["search"] + SPANS["finalists"])
    held_job.finish("stopped")

"""A search whose budget covers its space evaluates all of it once, in order, and goes on where it stopped."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from no_latency import NoLatency
from searching import exact_problem

import search_spaces
from nas import searchers
from nas.config import JobConfig
from nas.errors import JobFailedError
from nas.job_run import Run
from nas.limits import Limit
from nas.progress import Silent
from nas.search.objectives import Objectives
from nas.search.stage import affordable, search
from nas.searchers import SearchProblem
from nas.store import Store
from search_spaces import Architecture, SearchSpace
from search_spaces.space import Codes

SPACE = search_spaces.get(
    "matformer", image_size=(8, 8), patch_size=4, in_chans=1, num_classes=10, embed_dim=(16,), num_heads=(2,)
)
MACS = sorted(SPACE.costs(SPACE.all_codes())["macs"].tolist())


class Data:
    """As much of a data set as the stage looks at."""

    sizes = {"search": 1000}  # noqa: RUF012 - nobody changes it

    def sources(self, split: str) -> None:
        return None


class Pool:
    """Qualities out of thin air; a Ctrl-C comes instead of batch `stop`."""

    def __init__(self, stop: int | None = None) -> None:
        self.asked: list[list[Architecture]] = []
        self._stop = stop

    def scored(self, archs: Sequence[Architecture], split: str, images: slice) -> list[Any]:
        assert split == "search"
        if len(self.asked) == self._stop:
            raise KeyboardInterrupt
        self.asked.append(list(archs))
        return [np.arange(1000) < 500 + MACS.index(SPACE.cost(arch).macs) for arch in archs]


class Shown(Silent):
    """What the user sees of the progress."""

    def __init__(self) -> None:
        self.updates: list[tuple[int, int]] = []

    def update(self, done: int, total: int, **info: object) -> None:
        self.updates.append((done, total))


def config(**settings: Any) -> JobConfig:
    section = {"evaluations": 1000, "batch": 16, "racing": None} | settings.pop("search", {})
    return JobConfig.model_validate({"objectives": ["accuracy", "macs"], "search": section} | settings)


def run_search(store: Store, name: str, job: JobConfig, pool: Pool) -> Shown:
    """Once; an interruption ends it early."""
    known = [found for found in store.jobs() if found.name == name]
    row = known[0] if known else store.create_job(name, config={}, seed=0, provenance={})
    shown = Shown()
    with store.acquire(row) as lease:
        run = Run(store, lease, job, shown, threading.Event())
        objectives = Objectives(job.objectives, SPACE, NoLatency())  # type: ignore[arg-type]
        try:
            search(run, objectives, Data(), pool)  # type: ignore[arg-type]
            lease.finish("succeeded")
        except KeyboardInterrupt:
            lease.finish("stopped")
    return shown


@contextmanager
def no_searcher() -> Iterator[None]:
    def asked(*_: object) -> None:
        raise AssertionError("the searcher was asked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searchers, "build", asked)
        yield


def stored(store: Store, name: str) -> list[Any]:
    job = next(job for job in store.jobs() if job.name == name)
    return [
        (row.subnet.key, row.batch, row.value, row.objectives) for row in store.evaluations(job, "search")
    ]


def curve(store: Store, name: str) -> list[Any]:
    job = next(job for job in store.jobs() if job.name == name)
    return [event.data for event in store.events(job, "hypervolume")]


def test_a_budget_that_covers_the_space_evaluates_each_once_and_asks_nobody(store: Store):
    pool = Pool()
    with no_searcher():
        shown = run_search(store, "all", config(), pool)
    archs = [arch for batch in pool.asked for arch in batch]
    assert set(archs) == set(SPACE.decode(SPACE.all_codes()))
    assert archs == sorted(archs, key=lambda arch: str(arch.values))
    assert len(archs) == SPACE.size == len(stored(store, "all"))
    assert all(len(batch) == 16 for batch in pool.asked[:-1])
    done = [*range(16, SPACE.size, 16), SPACE.size]
    assert shown.updates == [(told, SPACE.size) for told in [0, *done]]
    assert [point["evaluations"] for point in curve(store, "all")] == done
    assert [key for key, *_ in stored(store, "all")] == [arch.key for arch in archs]


def test_only_those_within_the_limits_are_evaluated(store: Store):
    limit = MACS[len(MACS) // 3]
    within = sum(macs <= limit for macs in MACS)
    job = config(constraints=[f"macs<={limit}"], search={"evaluations": within})
    pool = Pool()
    with no_searcher():
        run_search(store, "some", job, pool)
    archs = [arch for batch in pool.asked for arch in batch]
    assert len(set(archs)) == len(archs) == within < SPACE.size
    assert all(SPACE.cost(arch).macs <= limit for arch in archs)


def test_objectives_without_accuracy_are_searched_without_a_race(store: Store):
    pool = Pool()
    run_search(store, "costs", config(objectives=["params", "macs"]), pool)
    assert len(stored(store, "costs")) == SPACE.size == sum(map(len, pool.asked))
    again = Pool()
    run_search(store, "costs", config(objectives=["params", "macs"]), again)
    assert again.asked == []


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_an_interrupted_one_goes_on_after_the_last_stored_batch(store: Store, stop: int):
    first, second = Pool(stop), Pool()
    with no_searcher():
        run_search(store, "whole", config(), Pool())
        run_search(store, "halves", config(), first)
        assert len(stored(store, "halves")) == 16 * stop
        run_search(store, "halves", config(), second)
    asked = [arch for batch in (*first.asked, *second.asked) for arch in batch]
    assert len(asked) == len(set(asked)) == SPACE.size
    assert stored(store, "halves") == stored(store, "whole")
    points = {point["evaluations"]: point for point in curve(store, "halves")}
    assert list(points.values()) == curve(store, "whole")


def test_a_smaller_budget_asks_the_searcher(store: Store, monkeypatch: pytest.MonkeyPatch):
    problems: list[SearchProblem] = []
    build = searchers.build
    monkeypatch.setattr(searchers, "build", lambda name, p: problems.append(p) or build(name, p))
    pool = Pool()
    job = config(search={"evaluations": SPACE.size - 1, "batch": SPACE.size, "searcher": "random"})
    shown = run_search(store, "fewer", job, pool)
    assert len(problems) == 1
    archs = [arch for batch in pool.asked for arch in batch]
    assert len(set(archs)) == len(archs) == SPACE.size - 1
    assert shown.updates == [(done, SPACE.size - 1) for done in (0, SPACE.size - 1)]


def test_where_nothing_is_within_the_limits_the_job_fails(store: Store):
    with pytest.raises(JobFailedError, match="no subnet to evaluate"):
        run_search(store, "none", config(constraints=["macs<=1"]), Pool())


def test_a_space_that_is_too_large_is_never_listed(monkeypatch: pytest.MonkeyPatch):
    def listed(_: SearchSpace) -> Codes:
        raise AssertionError("the space was listed")

    monkeypatch.setattr(SearchSpace, "all_codes", listed)
    big = search_spaces.get("matformer_vit_b16")
    limits = (Limit("macs", "<=", 1),)
    assert affordable(exact_problem(big), big.size) is None
    assert affordable(exact_problem(big, limits=limits), 10) is None
    monkeypatch.setattr("search_spaces.space.LISTABLE", SPACE.size)
    assert affordable(exact_problem(SPACE), SPACE.size - 1) is None

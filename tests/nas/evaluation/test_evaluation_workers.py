"""Tasks: what they cover; and who does them when workers die, on workers that are made for it."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_setup import made
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import JobFailedError
from nas.evaluation import EvaluationProcess
from nas.evaluation.tasks import BATCH, Failed, tasks
from nas.evaluation.workers import BEGIN, OutOfMemoryError, WorkerDiedError, Workers
from predictors.measurement.deadlines import Deadlines


@given(
    count=st.integers(0, 40),
    start=st.integers(0, 2000),
    length=st.integers(0, 2000),
    workers=st.integers(1, 9),
)
def test_tasks_cover_everything_once_and_in_fair_shares(count: int, start: int, length: int, workers: int):
    images = range(start, start + length)
    done = np.zeros((count, length), dtype=int)
    work = np.zeros(workers)
    for task in tasks(count, images, workers):
        assert task.start // BATCH == (task.stop - 1) // BATCH
        done[task.first : task.last, task.start - start : task.stop - start] += 1
        work[task.worker] += (task.last - task.first) * (task.stop - task.start)
    assert (done == 1).all()
    fair = count * length / workers
    assert (abs(work - fair) <= BATCH).all()  # an architecture on a block is not cut


def test_blocks_are_the_same_for_any_number_of_workers_and_for_parts_that_grow():
    def blocks(images: range, workers: int) -> set[tuple[int, int]]:
        return {(task.start, task.stop) for task in tasks(16, images, workers)}

    assert blocks(range(700), 1) == blocks(range(700), 4) == {(0, 256), (256, 512), (512, 700)}
    assert blocks(range(256, 700), 3) < blocks(range(700), 1)


class Made:
    """A worker whose answers are made by a function of (its number, method, arguments)."""

    def __init__(self, number: int, answer: Callable[..., Any]) -> None:
        self.number, self.answer, self.ended = number, answer, False

    def submit(self, method: str, *arguments: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        try:
            done.set_result(self.answer(self.number, method, *arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    def end(self, *, at_once: bool) -> None:
        self.ended = True

    def is_suspended(self) -> bool:
        return False


def crew(tmp_path: Path, answer: Callable[..., Any], count: int = 2) -> tuple[Workers, list[Made], list[str]]:
    """The pool, the workers that it has started so far, and what it has warned of."""
    started: list[Made] = []
    warnings: list[str] = []

    def start() -> Made:
        started.append(Made(len(started), answer))
        return started[-1]

    _, setup = made(tmp_path)
    return Workers(setup, start, count, warn=warnings.append), started, warnings


def architectures(tmp_path: Path) -> list[Any]:
    net, _ = made(tmp_path)
    return net.space.decode(net.space.all_codes())


def test_nothing_is_started_before_something_is_asked(tmp_path: Path):
    pool, started, _ = crew(tmp_path, lambda number, method, *arguments: [])
    with pool:
        assert pool.scored([], "search") == []
        assert started == []


def test_a_death_costs_its_task_only(tmp_path: Path):
    archs = architectures(tmp_path)
    asked: list[Any] = []

    def answer(number: int, method: str, *arguments: Any) -> Any:
        if method == BEGIN:
            return None
        asked.append(arguments[0])
        if number == 0 and len(asked) > 1:
            raise WorkerDiedError
        return [arch.key for arch in arguments[0]]

    pool, started, warnings = crew(tmp_path, answer, count=3)
    with pool:
        assert pool.probe(archs[:9]) == [arch.key for arch in archs[:9]]
        assert len(asked) == 3
        assert pool.probe(archs[:9]) == [arch.key for arch in archs[:9]]
        assert len(asked) == 7
        assert (len(started), len(warnings), started[0].ended) == (4, 1, True)
    assert all(worker.ended for worker in started)


@pytest.mark.parametrize(
    ("error", "words"), [(WorkerDiedError, "died"), (OutOfMemoryError, "ran out of memory")]
)
def test_a_subnet_over_which_workers_die_again_and_again_fails_alone(
    tmp_path: Path, error: type[WorkerDiedError], words: str
):
    archs = architectures(tmp_path)
    poison = archs[1]

    def answer(number: int, method: str, *arguments: Any) -> Any:
        if method != BEGIN and poison in arguments[0]:
            raise error
        return [arch.key for arch in arguments[0]] if arguments else None

    pool, _, warnings = crew(tmp_path, answer)
    with pool:
        probings = pool.probe(archs)
    assert [one for one in probings if not isinstance(one, Failed)] == [a.key for a in archs if a != poison]
    assert probings[1] == Failed(f"the processes that evaluated it {words}, the last of several")
    assert sum(f"Subnet {poison.key} could not be evaluated" in line for line in warnings) == 1
    assert sum("are evaluated in halves" in line for line in warnings) >= 1


def refused_by_torch() -> None:
    import torch  # noqa: PLC0415 - a second

    torch.empty(2**50, dtype=torch.uint8)


def refused_by_numpy() -> None:
    np.ones(2**50, dtype=np.uint8)


@pytest.mark.parametrize("ask", [refused_by_torch, refused_by_numpy])
def test_memory_that_is_refused_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[], None]
):
    from nas.evaluation import worker  # noqa: PLC0415 - imports torch

    net, setup = made(tmp_path)
    one = worker.EvaluationWorker(setup, setup.supernets[""].file.read_bytes())
    one.begin()
    archs = net.space.decode(net.space.all_codes()[:2])
    assert one.scored(archs, "search", slice(0, 10)).shape == (2, 10)
    monkeypatch.setattr(worker, "scored", lambda *arguments, **options: ask())
    with pytest.raises(OutOfMemoryError):
        one.scored(archs, "search", slice(0, 10))


def test_workers_that_can_evaluate_nothing_end_the_job(tmp_path: Path):
    def answer(number: int, method: str, *arguments: Any) -> Any:
        if method != BEGIN:
            raise WorkerDiedError

    for count in (1, 2, 40):
        pool, _, _ = crew(tmp_path, answer)
        with pool, pytest.raises(JobFailedError, match="die or hang again and again over"):
            pool.probe(architectures(tmp_path)[:count])


def test_workers_that_can_evaluate_nothing_any_more_end_the_job_after_some_subnets(tmp_path: Path):
    archs = architectures(tmp_path)
    calls: list[str] = []

    def answer(number: int, method: str, *arguments: Any) -> Any:
        calls.append(method)
        if method != BEGIN and len(calls) > 3:
            raise WorkerDiedError
        return [arch.key for arch in arguments[0]] if arguments else None

    pool, _, _ = crew(tmp_path, answer, count=1)
    with pool:
        assert pool.probe(archs[:2]) == [arch.key for arch in archs[:2]]
        calls += [BEGIN] * 3
        assert all(isinstance(one, Failed) for one in pool.probe(archs[2:3]) + pool.probe(archs[3:4]))
        with pytest.raises(JobFailedError, match="over every subnet that they were given"):
            pool.probe(archs[4:5])


class Hanging(Made):
    """Does not answer what its function is None for."""

    def submit(self, method: str, *arguments: Any) -> "Future[Any]":
        done = super().submit(method, *arguments)
        return Future() if method != BEGIN and done.result() is None else done


@pytest.mark.parametrize("hanging", [0, 3])
def test_a_worker_that_hangs_is_ended_and_another_does_its_task(tmp_path: Path, hanging: int):
    """hanging: how many of the first workers do; the task is done after as many."""
    archs = architectures(tmp_path)
    started: list[Hanging] = []

    def answer(number: int, method: str, *arguments: Any) -> Any:
        return None if number < hanging or method == BEGIN else [arch.key for arch in arguments[0]]

    def start() -> Hanging:
        started.append(Hanging(len(started), answer))
        return started[-1]

    _, setup = made(tmp_path)
    warnings: list[str] = []
    deadlines = Deadlines(shortest=0.01, first=0.01)
    with Workers(setup, start, 2, warn=warnings.append, deadlines=deadlines) as pool:
        assert pool.probe(archs) == [arch.key for arch in archs]
    assert len(started) == 2 + hanging
    assert sum("has not answered for" in line for line in warnings) == hanging
    assert all(worker.ended for worker in started)


def test_a_subnet_over_which_workers_hang_fails_alone(tmp_path: Path):
    archs = architectures(tmp_path)

    def answer(number: int, method: str, *arguments: Any) -> Any:
        return None if method == BEGIN or archs[2] in arguments[0] else [arch.key for arch in arguments[0]]

    _, setup = made(tmp_path)
    deadlines = Deadlines(shortest=0.01, first=0.01)
    with Workers(
        setup, lambda: Hanging(0, answer), 2, warn=lambda message: None, deadlines=deadlines
    ) as pool:
        probings = pool.probe(archs)
    assert [i for i, one in enumerate(probings) if isinstance(one, Failed)] == [2]
    assert probings[2] == Failed("the processes that evaluated it hung, the last of several")


@pytest.mark.parametrize("asked", [BEGIN, "probe"])
def test_a_suspended_worker_is_not_waited_for_as_long_as_the_first_task_may_take(tmp_path: Path, asked: str):
    archs = architectures(tmp_path)

    class Suspended(Made):
        def submit(self, method: str, *arguments: Any) -> "Future[Any]":
            return Future() if self.is_suspended() and method == asked else super().submit(method, *arguments)

        def is_suspended(self) -> bool:
            return self.number == 0

    started: list[Made] = []

    def start() -> Made:
        started.append(
            Suspended(len(started), lambda number, method, *a: [x.key for x in a[0]] if a else None)
        )
        return started[-1]

    _, setup = made(tmp_path)
    deadlines, warnings = Deadlines(shortest=0.01), list[str]()
    with Workers(setup, start, 1, warn=warnings.append, deadlines=deadlines, begin_in_time=True) as pool:
        assert pool.probe(archs) == [arch.key for arch in archs]
    assert (len(started), len(warnings), started[0].ended) == (2, 1, True)


def test_the_state_of_a_process_tells_that_it_is_suspended(tmp_path: Path):
    _, setup = made(tmp_path)
    process = EvaluationProcess(setup)
    try:
        assert process.submit(BEGIN).result(timeout=60) is None
        (number,) = process._pool._processes
        assert not process.is_suspended()
        os.kill(number, signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while not process.is_suspended() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.is_suspended()
    finally:
        process.end(at_once=True)
    assert not process.is_suspended()


def test_deadlines_follow_from_the_slowest_and_the_work():
    deadlines = Deadlines()
    assert (deadlines.shortest, deadlines.seconds("x")) == (60.0, 3600.0)
    deadlines.took("x", 1.0, 10.0)
    deadlines.took("x", 0.1, 10.0)
    assert deadlines.seconds("x", 10.0) == 60.0
    assert deadlines.seconds("x", 1000.0) == pytest.approx(3000.0)
    assert deadlines.seconds("y") == 3600.0


def test_workers_that_never_begin_are_given_up(tmp_path: Path):
    def answer(number: int, method: str, *arguments: Any) -> Any:
        raise WorkerDiedError

    pool, _, _ = crew(tmp_path, answer)
    with pool, pytest.raises(JobFailedError, match="again and again before they began"):
        pool.probe(architectures(tmp_path))


def test_one_that_cannot_begin_does_not_stop_the_others(tmp_path: Path):
    archs = architectures(tmp_path)

    class Waiting(Made):
        """Never begins, as an actor for which the cluster has no room."""

        def submit(self, method: str, *arguments: Any) -> "Future[Any]":
            return Future() if self.number else super().submit(method, *arguments)

    started: list[Made] = []

    def start() -> Made:
        started.append(Waiting(len(started), lambda number, method, *a: [x.key for x in a[0]] if a else None))
        return started[-1]

    _, setup = made(tmp_path)
    with Workers(setup, start, 2, warn=lambda message: None, patience=0.2) as pool:
        assert pool.probe(archs) == [arch.key for arch in archs]
        pool._replace(0)
        with pytest.raises(JobFailedError, match="No worker has begun within"):
            pool.probe(archs)

"""Spreading tasks over processes that may die: a dead one costs the task that it had, which another does."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from nas.evaluation._setup import EvaluationSetup
from nas.evaluation._tasks import Hits, tasks
from search_spaces import Architecture
from search_spaces._errors import JobFailedError

if TYPE_CHECKING:
    from supernet._probe import Probing

TRIES = 3  # before a task, or starting a process, is given up
BEGIN = "begin"


class WorkerDiedError(Exception):
    """A process ended over what it was asked."""


class Worker(Protocol):
    """A process with an `EvaluationWorker`, which does what it is asked in the order in which it is asked."""

    def submit(self, method: str, *arguments: Any) -> "Future[Any]":
        """What the method will return; or it raises, WorkerDiedError if the process ends before."""

    def end(self, *, at_once: bool) -> None:
        """Ends the process; what it still does is lost, and waited for unless `at_once`."""


def passed_on(inner: "Future[Any]", translated: Callable[[BaseException], BaseException]) -> "Future[Any]":
    """A future with the other one's result, or with its error in our words."""
    outer: Future[Any] = Future()

    def done(ended: "Future[Any]") -> None:
        if ended.cancelled():
            outer.set_exception(WorkerDiedError("the process was ended"))
        elif (error := ended.exception()) is not None:
            outer.set_exception(translated(error))
        else:
            outer.set_result(ended.result())

    inner.add_done_callback(done)
    return outer


@dataclass(frozen=True)
class Call:
    """A method of an `EvaluationWorker`; `worker`: who had best do it."""

    method: str
    arguments: tuple[Any, ...]
    worker: int


class Workers:
    """`count` processes; an `Evaluator`, and a context manager that ends them.

    They are started when something is asked for the first time: a job that has all its results needs none.
    start: a new process.  warn: hears of those that died.
    patience: seconds after which it is an error that none has begun; None: no limit.
    """

    def __init__(
        self,
        setup: EvaluationSetup,
        start: Callable[[], Worker],
        count: int,
        *,
        warn: Callable[[str], None],
        patience: float | None = None,
    ) -> None:
        self._setup, self._start, self._count = setup, start, count
        self._warn, self._patience = warn, patience
        self._workers: dict[int, Worker] = {}
        self._ready: set[int] = set()
        self._beginning: dict[Future[Any], int] = {}
        self._false_starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for place, worker in self._workers.items():
            worker.end(at_once=error is not None or place not in self._ready)

    def correct(self, archs: Sequence[Architecture], split: str, images: slice | None = None) -> list[Hits]:
        """For each architecture, in the given order, which examples it classifies right.

        Raises JobFailedError when processes die again and again over the same task.
        """
        chosen = range(*(images or slice(None)).indices(self._setup.data_sizes[split]))
        order = sorted(range(len(archs)), key=lambda i: str(archs[i].values))
        cut = tasks(len(archs), chosen, self._count)
        calls = [
            Call(
                "correct",
                ([archs[i] for i in order[task.first : task.last]], split, slice(task.start, task.stop)),
                task.worker,
            )
            for task in cut
        ]
        hits = np.empty((len(archs), len(chosen)), dtype=np.bool_)
        for task, found in zip(cut, self._done(calls), strict=True):
            columns = slice(task.start - chosen.start, task.stop - chosen.start)
            hits[order[task.first : task.last], columns] = found
        return list(hits)

    def probe(self, archs: Sequence[Architecture]) -> "list[Probing]":
        """How each network reacts, with the shared weights, to the first PROBED examples of `search`.

        Raises JobFailedError as `correct` does.
        """
        borders = [place * len(archs) // self._count for place in range(self._count + 1)]
        calls = [
            Call("probe", (list(archs[first:last]),), place)
            for place, (first, last) in enumerate(pairwise(borders))
            if first < last
        ]
        return [probing for part in self._done(calls) for probing in part]

    def _done(self, calls: Sequence[Call]) -> list[Any]:
        """What the calls return, in their order."""
        for place in range(self._count if calls else 0):
            if place not in self._workers:
                self._begin(place)
        waiting: list[deque[int]] = [deque() for _ in range(self._count)]
        for i, one in enumerate(calls):
            waiting[one.worker].append(i)
        results: dict[int, Any] = {}
        deaths: Counter[int] = Counter()
        doing: dict[Future[Any], tuple[int, int]] = {}
        while len(results) < len(calls):
            for place in sorted(self._ready - {place for place, _ in doing.values()}):
                if (chosen := _next(waiting, place)) is not None:
                    call = calls[chosen]
                    doing[self._workers[place].submit(call.method, *call.arguments)] = place, chosen
            for future in self._first(doing):
                place, i = doing.pop(future)
                try:
                    results[i] = future.result()
                except WorkerDiedError as error:
                    deaths[i] += 1
                    if deaths[i] == TRIES:
                        raise _given_up("evaluated the same subnets") from error
                    self._warn("A worker process died while it evaluated subnets: another evaluates these.")
                    waiting[place].appendleft(i)
                    self._replace(place)
        return [results[i] for i in range(len(calls))]

    def _first(self, doing: Iterable[Future[Any]]) -> list[Future[Any]]:
        """Waits until something is done; what is done of these. Who has begun is ready from then on."""
        patience = None if doing else self._patience
        done, _ = wait([*doing, *self._beginning], timeout=patience, return_when=FIRST_COMPLETED)
        if not done:
            raise JobFailedError(
                f"No worker has begun within {self._patience:g} seconds.",
                "The Ray cluster may be busy, or have lost its nodes: `ray status` tells.",
            )
        for future in [future for future in done if future in self._beginning]:
            place = self._beginning.pop(future)
            try:
                future.result()
            except WorkerDiedError as error:
                self._warn("A worker process died before it could begin: another is started.")
                self._false_starts += 1
                if self._false_starts == TRIES:
                    raise _given_up("began") from error
                self._replace(place)
            else:
                self._ready.add(place)
                self._false_starts = 0
        return [future for future in doing if future in done]

    def _replace(self, place: int) -> None:
        """A new process in a dead one's place; others work until it is ready."""
        self._ready.discard(place)
        self._workers[place].end(at_once=True)
        self._begin(place)

    def _begin(self, place: int) -> None:
        self._workers[place] = self._start()
        self._beginning[self._workers[place].submit(BEGIN)] = place


def _next(waiting: Sequence[deque[int]], place: int) -> int | None:
    """A worker's own next task; or the last of who has most left, so that none is idle while others toil."""
    if waiting[place]:
        return waiting[place].popleft()
    longest = max(waiting, key=len)
    return longest.pop() if longest else None


def _given_up(doing: str) -> JobFailedError:
    return JobFailedError(
        f"A worker process died {TRIES} times while it {doing}.",
        "It may lack memory: lower execution.workers or search.batch.",
    )

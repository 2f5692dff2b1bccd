"""Spreading tasks over processes that may die or hang: it costs the task that one had, which another does.

A task over which processes die or hang again and again is split, until what is left of it is one subnet.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

import numpy as np

from nas.errors import JobFailedError
from nas.evaluation.calls import Attempt, Call, next_attempt
from nas.evaluation.tasks import EvaluationSetup, Failed, tasks
from predictors.measurement.deadlines import Deadlines
from search_spaces import Architecture
from supernet.tasks import Scores

if TYPE_CHECKING:
    from supernet.evaluation.probe import Probing

TRIES = 3  # before a task is split or given up, or starting a process
MOST_IN_ROW = 9  # subnets given up without another's success between
TICK_SECONDS = 0.5
BEGIN = "begin"


class WorkerDiedError(Exception):
    """A process ended over what it was asked."""


class WorkerHungError(WorkerDiedError):
    """A process did not answer in time, and has been ended."""


class OutOfMemoryError(WorkerDiedError):
    """A process was refused the memory for what it was asked, and is replaced like one that ended."""


class Worker(Protocol):
    """A process with an `EvaluationWorker`, which does what it is asked in the order in which it is asked."""

    def submit(self, method: str, *arguments: Any) -> "Future[Any]":
        """What the method will return; or it raises, WorkerDiedError if the process ends before."""

    def end(self, *, at_once: bool) -> None:
        """Ends the process; what it still does is lost, and waited for unless `at_once`."""

    def is_suspended(self) -> bool:
        """Whether the process is kept from running, as far as can be told: nothing will come of waiting."""


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


class Workers:
    """`count` processes; an `Evaluator`, and a context manager that ends them.

    They are started when something is asked for the first time: a job that has all its results needs none.
    start: a new process.  warn: hears of those that died.
    patience: seconds after which it is an error that none has begun; None: no limit.
    deadlines: of tasks, by what others took; of starting, too, if it has to `begin_in_time`, which nobody can
    say of actors that wait for a place.
    """

    def __init__(
        self,
        setup: EvaluationSetup,
        start: Callable[[], Worker],
        count: int,
        *,
        warn: Callable[[str], None],
        patience: float | None = None,
        deadlines: Deadlines | None = None,
        begin_in_time: bool = False,
    ) -> None:
        self._setup, self._start, self._count = setup, start, count
        self._warn, self._patience = warn, patience
        self._deadlines, self._begin_in_time = deadlines or Deadlines(), begin_in_time
        self._began: dict[Future[Any], float] = {}
        self._spent: dict[Future[Any], float] = {}  # seconds since each was asked
        self._succeeded, self._failed_in_row = 0, 0
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

    def scored(
        self, archs: Sequence[Architecture], split: str, images: slice | None = None
    ) -> list[Scores | Failed]:
        """For each architecture, in the given order, what it scores on the examples.

        Raises JobFailedError when processes die or hang again and again over whatever they do.
        """
        chosen = range(*(images or slice(None)).indices(self._setup.data_sizes[split]))
        order = sorted(range(len(archs)), key=lambda i: str(archs[i].values))
        cut = tasks(len(archs), chosen, self._count, self._setup.batch)
        calls = [
            Call(
                "scored",
                [archs[i] for i in order[task.first : task.last]],
                (split, slice(task.start, task.stop)),
                task.worker,
                task.stop - task.start,
            )
            for task in cut
        ]
        scores: Scores = np.empty((len(archs), len(chosen)), dtype=np.bool_)
        failed: dict[int, Failed] = {}
        for task, outcomes in zip(cut, self._done(calls), strict=True):
            columns = slice(task.start - chosen.start, task.stop - chosen.start)
            for i, one in zip(order[task.first : task.last], outcomes, strict=True):
                if isinstance(one, Failed):
                    failed[i] = one
                else:
                    scores = scores.astype(one.dtype, copy=False)  # of the first answer
                    scores[i, columns] = one
        return [failed.get(i, scores[i]) for i in range(len(archs))]

    def probe(self, archs: Sequence[Architecture]) -> "list[Probing | Failed]":
        """How each network reacts, with the shared weights, to the first PROBED examples of `search`.

        Raises JobFailedError as `scored` does.
        """
        borders = [place * len(archs) // self._count for place in range(self._count + 1)]
        calls = [
            Call("probe", list(archs[first:last]), (), place)
            for place, (first, last) in enumerate(pairwise(borders))
            if first < last
        ]
        return [probing for part in self._done(calls) for probing in part]

    def _done(self, calls: Sequence[Call]) -> list[list[Any]]:
        """What the calls return for each of their subnets, in their order."""
        for place in range(self._count if calls else 0):
            if place not in self._workers:
                self._begin(place)
        results: list[dict[Architecture, Any]] = [{} for _ in calls]
        waiting: list[deque[Attempt]] = [deque() for _ in range(self._count)]
        for i, call in enumerate(calls):
            waiting[call.worker].append(Attempt(i, call))
        doing: dict[Future[Any], tuple[int, Attempt]] = {}
        while doing or any(waiting):
            for place in sorted(self._ready - {place for place, _ in doing.values()}):
                if (attempt := next_attempt(waiting, place)) is not None:
                    call = attempt.call
                    future = self._workers[place].submit(call.method, call.archs, *call.rest)
                    doing[future], self._spent[future] = (place, attempt), 0.0
            for future in self._first(doing):
                place, attempt = doing.pop(future)
                spent = self._spent.pop(future)
                try:
                    answers = future.result() if future.done() else _hung(spent)
                except WorkerDiedError as error:
                    self._replace(place)
                    results[attempt.number] |= self._again(attempt, error, waiting[place])
                else:
                    self._deadlines.took(attempt.call.method, spent, attempt.call.work)
                    self._succeeded, self._failed_in_row = self._succeeded + 1, 0
                    results[attempt.number] |= dict(zip(attempt.call.archs, answers, strict=True))
        self._check_some(results)
        return [[of_arch[arch] for arch in call.archs] for call, of_arch in zip(calls, results, strict=True)]

    def _allowed(self, attempt: Attempt) -> float:
        """Seconds that an attempt may take; each one has twice as long as that before."""
        seconds = self._deadlines.seconds(attempt.call.method, attempt.call.work)
        return seconds * float(2**attempt.failures)

    def _again(
        self, attempt: Attempt, error: WorkerDiedError, waiting: deque[Attempt]
    ) -> dict[Architecture, Failed]:
        """Queues what a process died or hung over, in halves after so many TRIES; what is given up of it."""
        failures, (what, reason) = attempt.failures + 1, _words(error)
        if failures < TRIES:
            self._warn(f"A worker process {what} while it evaluated subnets: another evaluates these.")
            waiting.appendleft(replace(attempt, failures=failures))
            return {}
        if len(attempt.call.archs) > 1:
            self._warn(f"A worker process {what} again over the same subnets: they are evaluated in halves.")
            for half in attempt.call.halves():
                # What is left alone may be innocent: it has more than one try.
                waiting.append(Attempt(attempt.number, half, TRIES - (2 if len(half.archs) == 1 else 1)))
            return {}
        reason = f"the processes that evaluated it {reason}, the last of several"
        self._warn(f"Subnet {attempt.call.archs[0].key} could not be evaluated: {reason}.")
        self._failed_in_row += 1
        if self._failed_in_row >= MOST_IN_ROW:
            raise _given_up(f"over {MOST_IN_ROW} subnets in a row")
        return {attempt.call.archs[0]: Failed(reason)}

    def _check_some(self, results: Sequence[Mapping[Architecture, Any]]) -> None:
        """Raises JobFailedError where nothing can be evaluated at all, so that no subnet is to blame."""
        outcomes = [one for of_arch in results for one in of_arch.values()]
        nothing = bool(outcomes) and all(isinstance(one, Failed) for one in outcomes)
        if nothing and (not self._succeeded or self._failed_in_row >= TRIES):
            raise _given_up("over every subnet that they were given")

    def _first(self, doing: Mapping[Future[Any], tuple[int, Attempt]]) -> list[Future[Any]]:
        """Waits until something is done, or late; who has begun is ready from then on.

        doing: with the worker's place.
        """
        waited, allowed = 0.0, {future: self._allowed(attempt) for future, (_, attempt) in doing.items()}
        while True:
            due = [self._spent, *([self._began] if self._begin_in_time else [])]
            began = time.monotonic()
            done, _ = wait([*doing, *self._beginning], timeout=TICK_SECONDS, return_when=FIRST_COMPLETED)
            # A process that was itself suspended has not waited.
            tick = min(time.monotonic() - began, 2 * TICK_SECONDS)
            waited += tick
            for spent in due:
                for future in spent:
                    spent[future] += tick
            begun = [
                f for f, place in self._beginning.items() if f in done or self._is_not_beginning(f, place)
            ]
            self._welcome(begun)
            over = [f for f in doing if f in done or self._is_late(doing[f][0], self._spent[f], allowed[f])]
            if over or done or not (doing or self._beginning):
                return over
            if not doing and self._patience is not None and waited > self._patience:
                raise JobFailedError(
                    f"No worker has begun within {self._patience:g} seconds.",
                    "The Ray cluster may be busy, or have lost its nodes: `ray status` tells.",
                )

    def _is_late(self, place: int, spent: float, allowed: float) -> bool:
        # Before others have shown how long a task takes, a suspended process is known by its state.
        return spent > allowed or (spent > self._deadlines.shortest and self._workers[place].is_suspended())

    def _is_not_beginning(self, beginning: Future[Any], place: int) -> bool:
        spent, allowed = self._began.get(beginning, 0.0), self._deadlines.seconds(BEGIN)
        return self._begin_in_time and self._is_late(place, spent, allowed)

    def _welcome(self, begun: Iterable[Future[Any]]) -> None:
        """Notes who is ready, and replaces who ended or hung before."""
        for future in begun:
            place, spent = self._beginning.pop(future), self._began.pop(future, 0.0)
            try:
                _ = future.result() if future.done() else _hung(spent)
            except WorkerDiedError as error:
                what = (
                    "did not begin in time" if isinstance(error, WorkerHungError) else "died before it began"
                )
                self._warn(f"A worker process {what}: another is started.")
                self._false_starts += 1
                if self._false_starts == TRIES:
                    raise _given_up("before they began") from error
                self._replace(place)
            else:
                self._deadlines.took(BEGIN, spent)
                self._ready.add(place)
                self._false_starts = 0

    def _replace(self, place: int) -> None:
        """A new process in a dead one's place; others work until it is ready."""
        self._ready.discard(place)
        self._workers[place].end(at_once=True)
        self._begin(place)

    def _begin(self, place: int) -> None:
        self._workers[place] = self._start()
        future = self._workers[place].submit(BEGIN)
        self._beginning[future], self._began[future] = place, 0.0


def _words(error: WorkerDiedError) -> tuple[str, str]:
    """What a process has done, and what several have."""
    if isinstance(error, WorkerHungError):
        return f"has not answered for {error}", "hung"
    if isinstance(error, OutOfMemoryError):
        return "ran out of memory", "ran out of memory"
    return "died", "died"


def _hung(spent: float) -> NoReturn:
    raise WorkerHungError(f"{spent:.0f} s")


def _given_up(where: str) -> JobFailedError:
    return JobFailedError(
        f"Worker processes die or hang again and again {where}.",
        "They may lack memory: lower execution.workers or search.batch. `nas resume` goes on.",
    )

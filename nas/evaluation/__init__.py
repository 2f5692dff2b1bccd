"""Evaluating subnets with inherited weights, in processes of this machine or of a Ray cluster.

A process says what a subnet scores on examples (which it classifies right, or its losses); whoever asks makes
a quality and its standard error of this. The weights are loaded once per process. Which process evaluates
what does not change any result, and neither do their number and the order in which they answer.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from nas.config import ExecutionConfig
from nas.evaluation.tasks import EvaluationSetup, Failed, SharedWeights
from nas.evaluation.workers import WorkerDiedError, Workers, passed_on
from nas.watchdog import deaf_children
from predictors.measurement.deadlines import Deadlines
from search_spaces import Architecture
from supernet.tasks import Scores

if TYPE_CHECKING:
    from nas.evaluation.worker import EvaluationWorker
    from supernet.evaluation.probe import Probing

__all__ = ["EvaluationPool", "EvaluationSetup", "Evaluator", "Failed", "Scores", "SharedWeights", "evaluator"]


class Evaluator(Protocol):
    """Who evaluates subnets with the shared weights; the answers depend on nothing but the arguments."""

    def scored(
        self, archs: Sequence[Architecture], split: str, images: slice | None = None
    ) -> list[Scores | Failed]:
        """For each architecture what it scores on the split's examples, or on these of them."""

    def probe(self, archs: Sequence[Architecture]) -> "list[Probing | Failed]":
        """How each network reacts to the first PROBED examples of `search`."""


def evaluator(
    setup: EvaluationSetup, execution: ExecutionConfig, *, warn: Callable[[str], None]
) -> AbstractContextManager[Evaluator]:
    """The processes that the job file asks for, for as long as the context lasts.

    warn: hears of processes that died or hung. A subnet over which they do so again and again is Failed. What
    is asked of the evaluator raises JobFailedError when none of it can be done, or when Ray does not start,
    does not answer or is too small.
    """
    if execution.engine == "local":
        return EvaluationPool(setup, workers=execution.workers, warn=warn)
    from nas.evaluation.ray_actors import ray_pool  # noqa: PLC0415 - imports ray

    return ray_pool(setup, workers=execution.workers, address=execution.address, warn=warn)


class EvaluationPool(Workers):
    """An `Evaluator` of `workers` processes; a context manager that ends them."""

    def __init__(
        self,
        setup: EvaluationSetup,
        *,
        workers: int,
        warn: Callable[[str], None],
        deadlines: Deadlines | None = None,
    ) -> None:
        super().__init__(
            setup,
            partial(EvaluationProcess, setup),
            workers,
            warn=warn,
            deadlines=deadlines,
            begin_in_time=True,
        )


class EvaluationProcess:
    """One process; it begins with the first thing that it is asked, and ends with its parent."""

    def __init__(self, setup: EvaluationSetup) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, initializer=_prepare, initargs=(setup,))

    def submit(self, method: str, *arguments: Any) -> "Future[Any]":
        try:
            with deaf_children():
                future = self._pool.submit(_call, method, arguments)
        except BrokenProcessPool as error:
            future = Future()
            future.set_exception(error)
        return passed_on(future, _died)

    def end(self, *, at_once: bool) -> None:
        if at_once:
            for process in list((self._pool._processes or {}).values()):
                process.kill()  # else the exit waits for what it evaluates
        self._pool.shutdown(wait=not at_once, cancel_futures=True)

    def is_suspended(self) -> bool:
        with suppress(psutil.Error):
            ids = list(self._pool._processes or {})
            return any(psutil.Process(number).status() == psutil.STATUS_STOPPED for number in ids)
        return False


def _died(error: BaseException) -> BaseException:
    return WorkerDiedError(str(error)) if isinstance(error, BrokenProcessPool) else error


_setup: EvaluationSetup | None = None
_worker: "EvaluationWorker | None" = None


def _prepare(setup: EvaluationSetup) -> None:
    """Runs first in the process. What can fail is left to the first call, which can say why."""
    global _setup
    _end_with_parent()
    _setup = setup


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    from nas.evaluation.worker import EvaluationWorker  # noqa: PLC0415 - imports torch

    global _worker
    if _worker is None:
        assert _setup is not None, "the pool's initialiser has run"
        _worker = EvaluationWorker(_setup, *(one.file.read_bytes() for one in _setup.supernets.values()))
    return getattr(_worker, method)(*arguments)


def _end_with_parent() -> None:
    """Ends this process when its parent is gone: a killed service leaves no orphans."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

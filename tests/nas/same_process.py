"""A pool of evaluating processes without processes, which take seconds to start."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from nas.evaluation import EvaluationSetup, _local
from nas.evaluation._worker import EvaluationWorker


class SameProcess:
    """A worker that has done what it is asked when `submit` returns."""

    def __init__(self, setup: EvaluationSetup) -> None:
        self._worker = EvaluationWorker(setup, setup.weights.read_bytes())

    def submit(self, method: str, *arguments: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        try:
            done.set_result(getattr(self._worker, method)(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    def end(self, *, at_once: bool) -> None:
        """Nothing runs."""

    def is_suspended(self) -> bool:
        return False


@contextmanager
def evaluating_here() -> Iterator[None]:
    """Evaluations run in the test's own process meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_local, "Process", SameProcess)
        yield

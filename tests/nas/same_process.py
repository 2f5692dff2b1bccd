"""A pool of evaluating processes without processes, which take seconds to start."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from nas import evaluation
from nas.evaluation import EvaluationSetup
from nas.evaluation.worker import EvaluationWorker


class SameProcess:
    """A worker that has done what it is asked when `submit` returns."""

    def __init__(self, setup: EvaluationSetup) -> None:
        self._worker = EvaluationWorker(setup, *(one.file.read_bytes() for one in setup.supernets.values()))

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
        patch.setattr(evaluation, "EvaluationProcess", SameProcess)
        yield

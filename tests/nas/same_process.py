"""A pool of evaluating processes without processes, which take seconds to start."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from nas import evaluation
from nas.evaluation import EvaluationPool


class _SameProcess:
    """What a pool needs of an executor."""

    def __init__(self) -> None:
        self._processes: dict[int, Any] = {}

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(function(*arguments))
        return done

    def shutdown(self, **_: Any) -> None:
        """Nothing runs."""


def _start(pool: EvaluationPool) -> _SameProcess:
    evaluation._load(pool._setup)
    return _SameProcess()


@contextmanager
def evaluating_here() -> Iterator[None]:
    """Evaluations run in the test's own process meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_end_with_parent", lambda: None)
        patch.setattr(evaluation, "_loaded", None)
        patch.setattr(EvaluationPool, "_start", _start)
        yield

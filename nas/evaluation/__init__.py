"""Evaluating subnets with inherited weights, in processes of this machine or of a Ray cluster.

A process says which images a subnet classifies right; whoever asks makes a quality and its standard error of
this. The weights are loaded once per process. Which process evaluates what does not change any result, and
neither do their number and the order in which they answer.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from nas.config import ExecutionConfig
from nas.evaluation._local import EvaluationPool
from nas.evaluation._setup import EvaluationSetup
from nas.evaluation._tasks import Failed, Hits
from search_spaces import Architecture

if TYPE_CHECKING:
    from supernet._probe import Probing


class Evaluator(Protocol):
    """Who evaluates subnets with the shared weights; the answers depend on nothing but the arguments."""

    def correct(
        self, archs: Sequence[Architecture], split: str, images: slice | None = None
    ) -> list[Hits | Failed]:
        """For each architecture which of the split's examples, or of these of them, it classifies right."""

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
    from nas.evaluation._ray_actors import ray_pool  # noqa: PLC0415 - imports ray

    return ray_pool(setup, workers=execution.workers, address=execution.address, warn=warn)


__all__ = ["EvaluationPool", "EvaluationSetup", "Evaluator", "Failed", "Hits", "evaluator"]

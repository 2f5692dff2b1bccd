"""Evaluation in Ray actors, on this machine or on the nodes of a cluster.

The weights go through Ray's object store, once to each node. An actor that died is replaced where there is
room; until then the others do its work.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from nas.errors import JobFailedError
from nas.evaluation.tasks import EvaluationSetup
from nas.evaluation.worker import EvaluationWorker
from nas.evaluation.workers import WorkerDiedError, Workers, passed_on
from nas.ray_cluster import LOCAL, OBJECT_STORE_BYTES, check_head, cluster, own_ray
from predictors.temporary_folders import passing_folder
from search_spaces.errors import NASError

PATIENCE = 1800.0  # seconds
HINT = "Try again, or evaluate without Ray: execution.engine: local."
DEATHS = (NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError)


@contextmanager
def ray_pool(
    setup: EvaluationSetup, *, workers: int, address: str, warn: Callable[[str], None]
) -> Iterator[Workers]:
    """An `Evaluator` of `workers` actors, each with the setup's threads, and a GPU or an equal part of one.

    address: `local` starts a Ray of its own on this machine, `auto` and `host:port` join one that runs; when
    something is asked for the first time, that is. JobFailedError is raised then where it does not start,
    does not answer or is too small.
    """
    with ExitStack() as stack:
        start = _Starter(setup, workers, address, stack)
        with Workers(setup, start, workers, warn=warn, patience=PATIENCE) as pool:
            yield pool


class _Starter:
    """Starts actors; before the first one it starts or joins Ray, which ends with the stack."""

    def __init__(self, setup: EvaluationSetup, workers: int, address: str, stack: ExitStack) -> None:
        self._setup, self._workers, self._address, self._stack = setup, workers, address, stack
        self._kind: Any = None

    def __call__(self) -> "_Actor":
        if self._kind is None:
            self._connect()
            resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            gpus = gpus_per_actor(self._setup, self._workers, int(resources.get("GPU", 0)))
            check_room(self._setup, self._workers, resources.get("CPU", 0.0))
            self._kind = ray.remote(EvaluationWorker).options(num_cpus=self._setup.threads, num_gpus=gpus)
            self._weights = [ray.put(one.file.read_bytes()) for one in self._setup.supernets.values()]
        check_head()
        return _Actor(self._kind.remote(self._setup, *self._weights))

    def _connect(self) -> None:
        if self._address != LOCAL:
            self._stack.enter_context(cluster(self._address))
            return
        folder = self._stack.enter_context(passing_folder(shared=True))
        weights = sum(one.file.stat().st_size for one in self._setup.supernets.values())
        store = OBJECT_STORE_BYTES + 2 * weights
        cpus = self._workers * self._setup.threads
        self._stack.enter_context(own_ray(cpus, folder, hint=HINT, object_store_bytes=store))


class _Actor:
    """A `Worker`."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def submit(self, method: str, *arguments: Any) -> "Future[Any]":
        reference = getattr(self._actor, method).remote(*arguments)
        return passed_on(reference.future(), _in_our_words)

    def end(self, *, at_once: bool) -> None:
        with suppress(Exception):  # of whatever kind: a cluster that is gone has ended it
            ray.kill(self._actor)

    def is_suspended(self) -> bool:
        return False  # its process may be on any host


def _in_our_words(error: BaseException) -> BaseException:
    """What Ray raises, with the traceback from there, unless there is a sentence of ours in it."""
    if isinstance(error, DEATHS):
        return WorkerDiedError(str(error))
    if isinstance(error, RayTaskError) and isinstance(error.cause, NASError | WorkerDiedError):
        return error.cause
    return error


def gpus_per_actor(setup: EvaluationSetup, workers: int, gpus: int) -> float:
    """So many actors to a GPU that all have a place. Raises JobFailedError where Ray knows of none."""
    if setup.torch_device != "cuda":
        return 0.0
    if not gpus:
        raise JobFailedError("The weights are on a GPU, and Ray finds none.", HINT)
    return 1 / math.ceil(workers / gpus)


def check_room(setup: EvaluationSetup, workers: int, cpus: float) -> None:
    """Raises JobFailedError for a cluster whose CPUs are fewer than the actors' threads."""
    needed = workers * setup.threads
    if cpus < needed:
        raise JobFailedError(
            f"Ray has {cpus:g} CPUs; {workers} workers with {setup.threads} threads need {needed}.",
            "Lower execution.workers or execution.threads, or let more machines join the cluster.",
        )

"""Ranks that are workers of Ray Train, on this machine or the nodes of a cluster.

Ray is the muscle, never the record: workers hand what they have to an actor on this machine's node, of which
the job's process takes it into the store.
"""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray import train
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.errors import JobFailedError
from nas.ray_cluster import LOCAL, OBJECT_STORE_BYTES, cluster, own_ray
from nas.training.ranks.group import Group, Message, RankLostError, bad_end, raise_for
from nas.training.ranks.meeting import LOST_SECONDS
from nas.training.ranks.work import JOIN_SECONDS, Work, train_rank
from predictors.temporary_folders import passing_folder

HINT = "Try again, or train without Ray: execution.engine: local."
ASK_SECONDS, POLL_SECONDS = 1.0, 0.1
END_SECONDS = 30.0  # that Ray Train may take to end when all is done


@contextmanager
def ray_ranks(work: Work, state: bytes, *, address: str) -> Iterator[Group]:
    """Starts all ranks under Ray Train, which end with the context.

    address: `local` starts a Ray of its own on this machine, `auto` and `host:port` join one that runs.
    Raises JobFailedError where it does not start, does not answer or is too small.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(passing_folder(shared=True))
        if address == LOCAL:
            size = OBJECT_STORE_BYTES + 4 * len(state)
            cpus = work.workers * work.threads
            stack.enter_context(own_ray(cpus, folder, hint=HINT, object_store_bytes=size))
        else:
            stack.enter_context(cluster(address))
        _check_room(work)
        group = _Workers(work, state, str(folder))
        try:
            yield group
        finally:
            group.end()


def _check_room(work: Work) -> None:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    needed = {"CPU": work.workers * work.threads}
    if work.device == "cuda":
        needed["GPU"] = work.workers
    for kind, count in needed.items():
        if resources.get(kind, 0.0) < count:
            raise JobFailedError(
                f"Ray has {resources.get(kind, 0.0):g} {kind}s; {work.workers} workers of the training need "
                f"{count}.",
                "Lower train.workers or train.threads, or let more machines join the cluster.",
            )


class _Mailbox:
    """An actor: what the ranks have told, the state that they begin with, whether they are to stop."""

    def __init__(self, state: bytes) -> None:
        self._state, self._messages, self._stopped = state, list[Message](), False

    def put(self, message: Message) -> None:
        self._messages.append(message)

    def take(self) -> list[Message]:
        messages, self._messages = self._messages, []
        return messages

    def state(self) -> bytes:
        return self._state

    def stop(self) -> None:
        self._stopped = True

    def stopped(self) -> bool:
        return self._stopped


class _Workers:
    """A `Group`; a thread waits for Ray Train, which starts the workers and ends them when one is lost."""

    def __init__(self, work: Work, state: bytes, folder: str) -> None:
        self._work, self._began = work, time.monotonic()
        self._joined, self._done = set[int](), set[int]()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        kind: Any = ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=here)
        self._mailbox = kind.remote(state)
        self._ended: Future[None] = Future()
        trainer = TorchTrainer(
            _train,
            train_loop_config={"work": work, "mailbox": self._mailbox},
            scaling_config=train.ScalingConfig(
                num_workers=work.workers,
                use_gpu=work.device == "cuda",
                resources_per_worker={"CPU": work.threads},
            ),
            run_config=train.RunConfig(
                name="training", storage_path=folder, failure_config=train.FailureConfig(max_failures=0)
            ),
            torch_config=TorchConfig(backend=_backend(work), timeout_s=int(LOST_SECONDS)),
        )
        threading.Thread(target=self._fit, args=(trainer,), daemon=True).start()

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    def receive(self, seconds: float) -> list[Message]:
        over, began = self._ended.done(), time.monotonic()
        messages = self._taken()
        while not messages and not over and time.monotonic() - began < seconds:
            time.sleep(POLL_SECONDS)
            over, messages = self._ended.done(), self._taken()
        for message in messages:
            {"joined": self._joined, "done": self._done}.get(message.kind, set()).add(message.rank)
        everyone = len(self._done) == self._work.workers
        ends = [message for message in messages if message.kind == "broken"]
        if over and not everyone:
            raise_for(messages)
            raise RankLostError(_reason(self._ended.exception()))
        raise_for(message for message in messages if message not in ends)  # Ray says who was lost
        self._check_joined()
        others = [message for message in messages if message.kind != "done"]
        return [*others, Message(0, "done")] if everyone else others

    def _taken(self) -> list[Message]:
        try:
            messages: list[Message] = ray.get(self._mailbox.take.remote())
        except RayError as error:  # this machine may lack memory
            raise RankLostError(_reason(error)) from error
        return messages

    def _check_joined(self) -> None:
        late = sorted(set(range(self._work.workers)) - self._joined)
        if late and time.monotonic() - self._began > JOIN_SECONDS:
            raise JobFailedError(
                f"Worker {late[0] + 1} of {self._work.workers} has not joined the training within "
                f"{JOIN_SECONDS:g} s.",
                "The Ray cluster may be busy, or have lost its nodes: `ray status` tells.",
            )

    def stop(self) -> bool:
        with suppress(RayError):  # it is heard of by `receive`
            ray.get(self._mailbox.stop.remote())
        return len(self._joined) == self._work.workers

    def end(self) -> None:
        """Ends the workers with their mailbox, which each of them asks now and then."""
        if len(self._done) == self._work.workers:
            with suppress(Exception):  # of whatever kind: the training is there
                self._ended.result(END_SECONDS)
        with suppress(Exception):  # of whatever kind: a cluster that is gone has ended it
            ray.kill(self._mailbox)


def _backend(work: Work) -> str:
    return "cpu:gloo,cuda:nccl" if work.device == "cuda" else "gloo"


def _reason(error: BaseException | None) -> str:
    """What Ray says of the loss, in a line."""
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return (lines[0] if lines else "a worker was lost").rstrip(".:")[:200]


class _Line:
    """A rank's `Channel`; a thread asks whether to stop, and ends the process when nobody answers."""

    def __init__(self, rank: int, mailbox: Any) -> None:
        self._rank, self._mailbox, self._stopped = rank, mailbox, threading.Event()
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        try:
            while not ray.get(self._mailbox.stopped.remote()):
                time.sleep(ASK_SECONDS)
        except RayError:
            os._exit(1)
        self._stopped.set()

    def tell(self, kind: str, content: dict[str, Any], state: bytes | None = None) -> None:
        self.say(Message(self._rank, kind, content, state))

    def say(self, message: Message) -> None:
        ray.get(self._mailbox.put.remote(message))

    def stops(self) -> bool:
        return self._stopped.is_set()


def _train(given: dict[str, Any]) -> None:
    """A rank from its start to its end, in the process group that Ray Train has made."""
    work, mailbox, rank = given["work"], given["mailbox"], dist.get_rank()
    channel = _Line(rank, mailbox)
    torch.set_num_threads(work.threads)
    if work.device == "cuda":
        torch.cuda.set_device(get_device())
    try:
        channel.tell("joined", {})
        train_rank(work, ray.get(mailbox.state.remote()) if rank == 0 else None, channel)
    except BaseException as error:
        channel.say(bad_end(rank, error))
        raise
    channel.tell("done", {})

"""Ranks that `torchrun` has started, on one machine or several, each by the same `nas train FILE`.

The first one's process runs the job, with a process of its own for the first rank; the others train what it
tells them, and write on a board by what error they end. Where one is lost `torchrun` starts all of them anew,
and the job goes on.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from itertools import count
from typing import Any

import torch.distributed as dist

from nas.errors import JobFailedError
from nas.training.ranks.group import Group, Message, RankLostError, bad_end, raise_for
from nas.training.ranks.meeting import Meeting, join
from nas.training.ranks.processes import started
from nas.training.ranks.work import Work, train_rank
from search_spaces.errors import NASError

WAIT = timedelta(seconds=10)  # between two looks whether there is something to do
ENDED_SECONDS = 60.0  # that the first rank's process may take to end the job over another rank's error
END = "{}"
JOB = "job"


@dataclass(frozen=True)
class Place:
    """What `torchrun` says of this process: its rank, among those of its machine, of how many.

    attempt: how often all have been started anew.  serves: whether the first rank's process is the server.
    """

    rank: int
    local: int
    workers: int
    attempt: int
    address: str
    port: int
    serves: bool

    def meeting(self, number: int | None = None) -> Meeting:
        """Where it is said what there is to do, and where the ranks of training `number` meet."""
        about = "elastiform" if number is None else f"elastiform/{self.attempt}/{number}"
        return Meeting(address=self.address, port=self.port, prefix=about)


def place() -> Place | None:
    """None where this process is not one of `torchrun`'s."""
    variables = os.environ
    if "TORCHELASTIC_RUN_ID" not in variables:
        return None
    rank, by_agent = int(variables["RANK"]), variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Place(
        rank=rank,
        local=int(variables["LOCAL_RANK"]),
        workers=int(variables["WORLD_SIZE"]),
        attempt=int(variables["TORCHELASTIC_RESTART_COUNT"]),
        address=variables["MASTER_ADDR"],
        port=int(variables["MASTER_PORT"]),
        serves=rank == 0 and not by_agent,
    )


@lru_cache
def board(here: Place) -> Any:
    """Where the first rank's process writes what there is to do, and which job it runs."""
    return here.meeting().store(serves=here.serves)


@contextmanager
def leading(here: Place) -> Iterator[None]:
    """Around the job, in the first rank's process: afterwards there is nothing more to do for the others."""
    yield
    board(here).set(f"{here.attempt}/work/{_begun(here)}", END)


def job_begun(here: Place) -> int | None:
    """The job that an earlier attempt began, if the board is still the same."""
    noted = board(here)
    return int(noted.get(JOB)) if noted.check([JOB]) else None


def note_job(here: Place, number: int) -> None:
    """For those who are started anew."""
    board(here).set(JOB, str(number))


def _begun(here: Place) -> int:
    """How many trainings have begun in this attempt."""
    return int(board(here).add(f"{here.attempt}/begun", 0))


@contextmanager
def torchrun_ranks(work: Work, here: Place, state: bytes) -> Iterator[Group]:
    """Tells the others what there is to train, and starts the first rank.

    Raises JobFailedError where one is lost: it is for `torchrun` to start all anew.
    """
    number = _begun(here)
    board(here).add(f"{here.attempt}/begun", 1)
    board(here).set(f"{here.attempt}/work/{number}", work.to_json())
    try:
        with started(work, state, here.meeting(number), ranks=1) as group:
            yield _Led(group, here, number)
    except RankLostError as error:
        raise JobFailedError(
            f"A worker of the training was lost: {error}.",
            "`torchrun --max-restarts 3` starts them anew, from the last checkpoint.",
        ) from error


class _Led:
    """The `Group` of the first rank, which also hears by what error of ours another one has ended."""

    def __init__(self, group: Group, here: Place, number: int) -> None:
        self._group, self._here, self._number = group, here, number

    def receive(self, seconds: float) -> list[Message]:
        try:
            messages = self._group.receive(seconds)
        except RankLostError:
            self._raise_for_others()
            raise
        self._raise_for_others()
        return messages

    def _raise_for_others(self) -> None:
        key = _failed(self._here, self._number)
        if board(self._here).check([key]):
            raise_for([Message(1, "failed", json.loads(board(self._here).get(key)))])

    def stop(self) -> bool:
        return self._group.stop()


def _failed(here: Place, number: int) -> str:
    """Where it is written by what error a rank of training `number` has ended."""
    return f"{here.attempt}/failed/{number}"


def follow(here: Place) -> None:
    """In the process of another rank: trains what the first one's process says, until it is done."""
    for number in count():
        text = _waited(here, f"{here.attempt}/work/{number}")
        if text == END:
            return
        work = Work(**json.loads(text))
        join(work, here.rank, here.meeting(number), local=here.local)
        try:
            train_rank(work, None, _Follower())
        except NASError as error:
            board(here).set(_failed(here, number), json.dumps(bad_end(here.rank, error).content))
            time.sleep(ENDED_SECONDS)  # torchrun ends all with the first that ends: let it be the job's
            raise
        dist.destroy_process_group()


def _waited(here: Place, key: str) -> str:
    """What is written there once it is: `torchrun` ends this process where nothing will be."""
    while True:
        try:
            board(here).wait([key], WAIT)
        except dist.DistStoreError:
            continue
        return str(board(here).get(key), encoding="utf-8")


class _Follower:
    """A `Channel` to nobody: the first rank tells what there is to be told, and when to stop."""

    def tell(self, kind: str, content: dict[str, Any], state: bytes | None = None) -> None:
        return None

    def stops(self) -> bool:
        return False

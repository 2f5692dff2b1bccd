"""Ranks that are processes of this machine. Each ends with the process that started it, which may kill it."""

import multiprocessing
import os
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Any

import psutil
import torch.distributed as dist

from nas.errors import JobFailedError
from nas.training.ranks.group import ENDS, Message, bad_end, raise_for
from nas.training.ranks.meeting import Meeting, join
from nas.training.ranks.work import JOIN_SECONDS, Work, train_rank
from nas.watchdog import deaf_children
from predictors.temporary_folders import passing_folder

STOP, BEGIN = b"stop", b"begin"
KILLED_SECONDS = 1.0  # that the end of a process takes to be seen, once others miss it
END_SECONDS = 10.0  # that a process may take to end when all is done


@contextmanager
def processes(work: Work, state: bytes) -> Iterator["Processes"]:
    """Starts all ranks, which end with the context."""
    with passing_folder() as folder, started(work, state, Meeting(file=str(folder / "meeting"))) as group:
        yield group


@contextmanager
def started(
    work: Work, state: bytes, meeting: Meeting, *, ranks: int | None = None, patience: float = JOIN_SECONDS
) -> Iterator["Processes"]:
    """The first ranks, or all, for as long as the context lasts. patience: seconds until all have to meet."""
    group = Processes(work, state, meeting, work.workers if ranks is None else ranks, patience)
    try:
        group.begin()
        yield group
    finally:
        group.end()


class Processes:
    """A `Group`, of which `ranks` are processes of this one."""

    def __init__(self, work: Work, state: bytes, meeting: Meeting, ranks: int, patience: float) -> None:
        self._work, self._state, self._meeting, self._ranks = work, state, meeting, ranks
        self._began, self._patience = time.monotonic(), patience
        self._present, self._joined, self._done = set[int](), set[int](), set[int]()
        self._processes: list[SpawnProcess] = []
        self._lines: list[Connection] = []

    def begin(self) -> None:
        """Starts the processes."""
        context = multiprocessing.get_context("spawn")
        for rank in range(self._ranks):
            line, theirs = context.Pipe()
            process = context.Process(target=_run, args=(self._work, rank, self._meeting, theirs))
            self._lines.append(line)
            with deaf_children():
                process.start()
            self._processes.append(process)
            theirs.close()
        # By a thread: who is suspended before he reads keeps nobody else waiting.
        first = (self._lines[0], BEGIN + self._state)
        threading.Thread(target=_send, args=first, daemon=True).start()
        for line in self._lines[1:]:
            _send(line, BEGIN)

    @property
    def ids(self) -> list[int]:
        """The numbers of the processes, by rank."""
        return [process.pid for process in self._processes if process.pid is not None]

    def receive(self, seconds: float) -> list[Message]:
        gone = [i for i, process in enumerate(self._processes) if not process.is_alive()]
        if not gone:
            wait([*self._lines, *(process.sentinel for process in self._processes)], seconds)
        messages = [message for line in self._lines for message in _heard(line)]
        by_kind = {"present": self._present, "joined": self._joined, "done": self._done}
        for message in messages:
            by_kind.get(message.kind, set()).add(message.rank)
        if any(message.kind == "broken" for message in messages):
            gone = self._killed(messages)  # over whose end the others broke down
        raise_for(messages, lost=[self._loss(i) for i in gone if i not in self._done])
        self._check_joined()
        return [message for message in messages if message.kind != "done"] + self._end_of_all()

    def _killed(self, messages: Collection[Message]) -> list[int]:
        """Who has ended without a word."""
        heard = {message.rank for message in messages if message.kind in ENDS} | self._done
        silent = [i for i in range(len(self._processes)) if i not in heard]
        wait([self._processes[i].sentinel for i in silent], KILLED_SECONDS)
        return [i for i in silent if not self._processes[i].is_alive()]

    def _loss(self, rank: int) -> str:
        code = self._processes[rank].exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"worker {rank + 1} of {self._work.workers} {how}"

    def _end_of_all(self) -> list[Message]:
        everyone = len(self._done) == len(self._processes)
        return [Message(0, "done")] if everyone else []

    def _check_joined(self) -> None:
        absent = sorted(set(range(self._ranks)) - self._present)
        if len(self._joined) == self._ranks or time.monotonic() - self._began <= self._patience:
            return
        who = f"Worker {absent[0] + 1}" if absent else "At least one"
        raise JobFailedError(
            f"{who} of {self._work.workers} has not joined the training within {self._patience:g} s.",
            "It may lack memory or processors, or not reach the others: lower train.workers, or go on with "
            "`nas resume JOB`.",
        )

    def stop(self) -> bool:
        for line in self._lines:
            _send(line, STOP)
        return len(self._joined) == len(self._processes)

    def end(self) -> None:
        """Kills what has not ended."""
        everyone = bool(self._processes) and len(self._done) == len(self._processes)
        deadline = time.monotonic() + (END_SECONDS if everyone else 0.0)
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                for child in psutil.Process(process.pid).children(recursive=True):  # that prepare batches
                    with suppress(psutil.Error):
                        child.kill()
                process.kill()
                process.join()
        for line in self._lines:
            line.close()


def _send(line: Connection, data: bytes) -> None:
    with suppress(OSError):  # it is gone, which is heard elsewhere
        line.send_bytes(data)


def _heard(line: Connection) -> list[Message]:
    messages = []
    with suppress(EOFError, OSError):
        while line.poll():
            message = line.recv()
            assert isinstance(message, Message)
            messages.append(message)
    return messages


class _Line:
    """A rank's end of its line; a thread hears what comes, and ends the process when nobody is there."""

    def __init__(self, rank: int, line: Connection) -> None:
        self._rank, self._line, self._stopped = rank, line, threading.Event()
        self.begun: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                heard = self._line.recv_bytes()
                if heard == STOP:
                    self._stopped.set()
                else:
                    self.begun.put(heard.removeprefix(BEGIN))
        os._exit(1)

    def tell(self, kind: str, content: dict[str, Any], state: bytes | None = None) -> None:
        self.say(Message(self._rank, kind, content, state))

    def say(self, message: Message) -> None:
        self._line.send(message)

    def stops(self) -> bool:
        return self._stopped.is_set()


def _run(work: Work, rank: int, meeting: Meeting, line: Connection) -> None:
    """A rank from its start to its end."""
    channel = _Line(rank, line)
    try:
        channel.tell("present", {})
        join(work, rank, meeting, local=rank)
        channel.tell("joined", {})
        state = channel.begun.get()
        train_rank(work, state if rank == 0 else None, channel)
    except BaseException as error:
        channel.say(bad_end(rank, error))
    else:
        channel.tell("done", {})
        dist.destroy_process_group()

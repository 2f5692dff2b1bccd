"""What needs torch is done in a process of its own, of which few run at a time and none for ever.

What only reads is asked for again and again, while somebody moves a limit: one process stays for it, so that
an answer does not wait for one to start. It ends when it is late, breaks down, has answered often, or nobody
asks.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from nas.cli.output import note
from nas.errors import ConflictError, JobFailedError, StoreError
from search_spaces.errors import NASError, NotFoundError, UsageError

COMMAND = (sys.executable, "-P", "-m", "nas.cli.server.child")
RESIDENT = (*COMMAND, "--resident")
READING = ("compare", "explain", "what-if")  # verbs that change nothing
MOST_ANSWERS = 200  # of one process, whatever its libraries keep
IDLE_SECONDS = 600.0
LAST_SECONDS = 5.0
MOST_AT_ONCE = 2
LONGEST_SECONDS = 600.0
LARGEST_ANSWER = 4_000_000  # characters
LAST_WORDS = 4_000  # characters of a crash that are kept
ERRORS = {error.exit_code: error for error in (UsageError, NotFoundError, ConflictError, StoreError)}


class BusyError(NASError):
    """There is something to be done, and no room for it now."""


class LateError(NASError):
    """It took too long and was ended."""


@dataclass
class Children:
    """Starts them, and ends them with the server."""

    seconds: float = LONGEST_SECONDS
    _room: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(MOST_AT_ONCE)
    )
    _running: set["subprocess.Popen[str]"] = field(default_factory=set)
    _resident: "_Resident" = field(default_factory=lambda: _Resident())

    def ask(self, request: Mapping[str, Any]) -> Any:
        """What a child answers to a request.

        Raises the error that it tells, BusyError where too many run, LateError for one that was ended.
        """
        if request.get("verb") in READING:
            answer = self._resident.ask(request, self.seconds)
            if answer is not None:
                return _told(answer)
        if not self._room.acquire(blocking=False):
            raise BusyError("The server is busy with other submissions and extractions.", "Try again soon.")
        try:
            return _told(self._answer(request))
        finally:
            self._room.release()

    def end(self) -> None:
        """Ends all that run."""
        self._resident.end()
        for process in list(self._running):
            _kill(process)

    def _answer(self, request: Mapping[str, Any]) -> str:
        """What it prints. Its standard input stays open: a child whose server is gone ends."""
        process = _started(COMMAND)
        self._running.add(process)
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        assert process.stderr is not None, "it is a pipe"
        is_late = threading.Event()
        late = threading.Timer(self.seconds, _end_late, [process, is_late])
        reader = _LastWords(process.stderr)
        try:
            late.start()
            reader.start()
            with suppress(BrokenPipeError):  # it is gone already
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
            answer = process.stdout.read(LARGEST_ANSWER)
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its group keeps its number
        finally:
            late.cancel()
            late.join()
            _kill(process)
            process.wait()
            reader.join()
            self._running.discard(process)
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()
        if is_late.is_set():
            raise _late(self.seconds)
        if process.returncode:
            raise _broken(process, reader)
        return answer


class _Resident:
    """The one that stays. Threads may share it: who finds it busy gets no answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._reader: _LastWords | None = None
        self._answers = 0
        self._idle: threading.Timer | None = None
        self._is_over = False

    def ask(self, request: Mapping[str, Any], seconds: float) -> str | None:
        """What it answers; None while it answers another request."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._answer(request, seconds)
        finally:
            self._lock.release()

    def end(self) -> None:
        """Ends it for good, also in the middle of an answer."""
        self._is_over = True
        if self._idle is not None:
            self._idle.cancel()
        process = self._process
        if process is not None:
            _kill(process)
        if self._lock.acquire(timeout=LAST_SECONDS):  # who waits for an answer sees that there is none
            try:
                self._leave()
            finally:
                self._lock.release()

    def _answer(self, request: Mapping[str, Any], seconds: float) -> str:
        if self._is_over:
            raise JobFailedError("The server ends.")
        process, reader = self._ready()
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        is_late = threading.Event()
        late = threading.Timer(seconds, _end_late, [process, is_late])
        late.start()
        answer = ""
        try:
            with suppress(BrokenPipeError):  # it is gone already
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
            size = int(process.stdout.readline() or 0)
            answer = process.stdout.read(size) if 0 < size <= LARGEST_ANSWER else ""
        finally:
            late.cancel()
            late.join()
            self._answers += 1
            if not answer or self._answers >= MOST_ANSWERS:
                self._leave()
        if is_late.is_set():
            raise _late(seconds)
        if not answer:
            raise _broken(process, reader)
        return answer

    def _ready(self) -> "tuple[subprocess.Popen[str], _LastWords]":
        """It as it is, or a new one."""
        if self._idle is not None:
            self._idle.cancel()
        if self._process is None or self._reader is None or self._process.poll() is not None:
            self._leave()
            self._process, self._answers = _started(RESIDENT), 0
            assert self._process.stderr is not None, "it is a pipe"
            self._reader = _LastWords(self._process.stderr)
            self._reader.start()
        self._idle = threading.Timer(IDLE_SECONDS, self._end_idle)
        self._idle.daemon = True
        self._idle.start()
        return self._process, self._reader

    def _end_idle(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._leave()
            finally:
                self._lock.release()

    def _leave(self) -> None:
        """Ends it; the next request starts another one."""
        process, reader, self._process = self._process, self._reader, None
        if process is None:
            return
        _kill(process)
        process.wait()
        if reader is not None:
            reader.join()
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()


def _late(seconds: float) -> LateError:
    return LateError(f"This took more than {seconds:g} seconds and was ended.")


def _broken(process: "subprocess.Popen[str]", reader: "_LastWords") -> JobFailedError:
    note(f"A child of the server broke down ({process.returncode}): {reader.text}")
    return JobFailedError(f"The process that did this broke down (exit code {process.returncode}).")


def _started(command: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        errors="backslashreplace",
    )


class _LastWords(threading.Thread):
    """Reads what a child says besides, and keeps the end of it."""

    def __init__(self, pipe: IO[str]) -> None:
        super().__init__(daemon=True)
        self.text, self._pipe = "", pipe

    def run(self) -> None:
        with suppress(OSError, ValueError), self._pipe:
            for line in self._pipe:
                self.text = (self.text + line)[-LAST_WORDS:]


def _kill(process: "subprocess.Popen[str]") -> None:
    """Ends the whole group, also where the process itself is over."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _end_late(process: "subprocess.Popen[str]", is_late: threading.Event) -> None:
    is_late.set()
    _kill(process)


def _told(answer: str) -> Any:
    """The document of a child; raises the error that it tells."""
    document = json.loads(answer)
    if "error" not in document:
        return document["answer"]
    error = ERRORS.get(document["exit_code"], JobFailedError)
    raise error(document["error"], document["hint"])

"""What needs torch is done in a process of its own, of which few run at a time and none for ever."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from nas.cli.output import note
from nas.errors import ConflictError, JobFailedError, StoreError
from search_spaces.errors import NASError, NotFoundError, UsageError

COMMAND = (sys.executable, "-P", "-m", "nas.cli.server.child")
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

    def ask(self, request: Mapping[str, Any]) -> Any:
        """What a child answers to a request.

        Raises the error that it tells, BusyError where too many run, LateError for one that was ended.
        """
        if not self._room.acquire(blocking=False):
            raise BusyError("The server is busy with other submissions and extractions.", "Try again soon.")
        try:
            return _told(self._answer(request))
        finally:
            self._room.release()

    def end(self) -> None:
        """Ends all that run."""
        for process in list(self._running):
            _kill(process)

    def _answer(self, request: Mapping[str, Any]) -> str:
        """What it prints. Its standard input stays open: a child whose server is gone ends."""
        process = _started()
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
            raise LateError(f"This took more than {self.seconds:g} seconds and was ended.")
        if process.returncode:
            note(f"A child of the server broke down ({process.returncode}): {reader.text}")
            raise JobFailedError(f"The process that did this broke down (exit code {process.returncode}).")
        return answer


def _started() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        COMMAND,
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

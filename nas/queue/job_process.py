"""A claimed job in a process group of its own, which does not outlive the worker that has started it."""

import json
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

from nas.errors import StoreError
from nas.store import JobClaim, Store

LONGEST_LINE = 500
MOST_UNKEPT = 2_000  # lines that wait for the store
LACKS_SOMETHING = 75  # exit code of a process whose machine lacks data or weights that another may have
READER_SECONDS = 2.0  # for the last words of a process that is gone


class JobProcess:
    """The process that runs a claimed job.

    command: reads one line of JSON from its standard input (store, job, owner), and ends when that is closed,
    as it is when the worker dies.  environment: what it has besides the worker's.
    tell: told every line of its standard error.
    lacks_something: once it has ended, whether it gave the job back because this machine lacks something.
    """

    def __init__(
        self,
        command: Sequence[str],
        claim: JobClaim,
        *,
        url: str,
        environment: Mapping[str, str] = MappingProxyType({}),
        tell: Callable[[str], None],
    ) -> None:
        self.claim = claim
        self.lacks_something = False
        self._tell = tell
        self._last = ""
        self._unkept: deque[str] = deque(maxlen=MOST_UNKEPT)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, **environment},
            text=True,
            errors="backslashreplace",
        )
        self._asked = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._process.stdin is not None, "it is a pipe"
        with suppress(BrokenPipeError):  # it is gone already
            self._process.stdin.write(
                json.dumps({"store": url, "job": claim.job.id, "owner": claim.owner}) + "\n"
            )
            self._process.stdin.flush()

    @property
    def has_ended(self) -> bool:
        """Whether the process is over; its group keeps its number until `end`."""
        wanted = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, wanted) is not None

    def ask_to_stop(self) -> None:
        """Once: it finishes its batch, and gives the job back."""
        if not self._asked:
            self._asked = True
            self._process.terminate()

    def kill(self) -> None:
        """Ends the whole group at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> str:
        """Waits for the process, and ends what is left of its group; how the process ended, in words."""
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        self.kill()
        code = self._process.wait()
        self.lacks_something = code == LACKS_SOMETHING
        self._reader.join(READER_SECONDS)
        for pipe in (self._process.stdin, self._process.stderr):
            with suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"Its process {how}{f'; its last words: {self._last}' if self._last else ''}"

    def keep_log(self, store: Store) -> None:
        """Puts what was said since the last time into the store, or later where that does not answer."""
        texts = list(self._unkept)
        with suppress(StoreError), store.waits.none():
            store.add_log(self.claim.job, texts)
            for _ in texts:
                self._unkept.popleft()

    def _read(self) -> None:
        assert self._process.stderr is not None, "it is a pipe"
        with suppress(OSError, ValueError):
            for line in self._process.stderr:
                if text := line.rstrip():
                    self._last = text[:LONGEST_LINE]
                    self._unkept.append(self._last)
                    self._tell(text)

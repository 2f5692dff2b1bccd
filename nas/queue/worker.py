"""A worker: takes the next job as long as there is one and it is not told to end."""

import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

from nas.errors import ConflictError, StoreError
from nas.queue.job_process import JobProcess
from nas.store import Patience, Store
from nas.store.connection.database import PATIENCE_SECONDS

TICK_SECONDS = 0.1
ASK_SECONDS = 1.0  # between two questions for a job
LOG_SECONDS = 1.0  # between two writes of what jobs say
LEAVE_SECONDS = 10.0  # that a process which has written its job's end may take to leave
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Worker:
    """Runs jobs of a store's queue, `slots` at a time.

    command: as of `JobProcess`.  offers: needs of jobs that it meets.  once: at most one job.
    idle_exit: ends after so many seconds without a job; None: never, and with `once` at once.
    tell: told what happens.
    """

    def __init__(
        self,
        store: Store,
        command: Sequence[str],
        *,
        offers: Collection[str] = (),
        slots: int = 1,
        once: bool = False,
        idle_exit: float | None = None,
        tell: Callable[[str], None],
    ) -> None:
        self._store, self._command, self._offers, self._tell = store, command, offers, tell
        self._slots, self._most = slots, 1 if once else None
        self._idle_exit = 0.0 if once and idle_exit is None else idle_exit
        self._running: dict[JobProcess, ExitStack] = {}
        self._lost: dict[JobProcess, float] = {}
        self._begun, self._signals, self._told_signals = 0, 0, 0
        self._asked_at: float | None = None
        self._idle_since = self._kept_at = time.monotonic()
        self._stop = threading.Event()

    def run(self) -> bool:
        """Works until it has nothing more to do, or was told to end; True when it was told twice.

        The first SIGTERM or Ctrl-C: running jobs finish their batch and go back into the queue. The second:
        they are ended at once. Raises StoreError when the store does not answer any more.
        """
        patience = Patience(PATIENCE_SECONDS, self._stop, self._tell)
        with self._hearing(), self._store.patient(patience):
            try:
                while not self._is_done():
                    self._tend()
                    self._take()
                    time.sleep(TICK_SECONDS)
            finally:
                for process in list(self._running):
                    process.kill()
                    self._settle(process, give_back=True)
        if not self._begun and not self._signals:
            self._tell("No job waits that this worker may take.")
        return self._signals > 1

    @contextmanager
    def _hearing(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._heard) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._stop.set()

    def _is_done(self) -> bool:
        if self._running:
            return False
        if self._signals or self._begun == self._most:
            return True
        asked = self._asked_at is not None
        return (
            asked and self._idle_exit is not None and time.monotonic() - self._idle_since >= self._idle_exit
        )

    def _take(self) -> None:
        """The next job, where there is room for one and it is time to ask."""
        now = time.monotonic()
        waits = self._asked_at is not None and now - self._asked_at < ASK_SECONDS
        if self._signals or waits or len(self._running) >= self._slots or self._begun == self._most:
            return
        try:
            claim = self._store.take_job(self._offers)
        except StoreError:
            if self._signals:
                return
            raise
        self._asked_at = time.monotonic()
        if claim is None:
            return
        self._asked_at = now - ASK_SECONDS  # there may be another one for the next slot
        with ExitStack() as stack:
            stack.enter_context(claim)
            name = claim.job.name
            self._tell(f"Job '{name}' ({claim.job.id}) begins, attempt {claim.job.attempt}.")
            process = JobProcess(
                self._command, claim, url=self._store.url, tell=lambda line: self._tell(f"{name}: {line}")
            )
            self._begun += 1
            self._running[process] = stack.pop_all()

    def _tend(self) -> None:
        """Sees to the processes that run."""
        if self._signals > self._told_signals and self._running:
            self._tell("Running jobs are ended." if self._signals > 1 else "Running jobs finish their batch.")
        self._told_signals = self._signals
        for process in list(self._running):
            if process.has_ended:
                self._settle(process, give_back=self._signals > 0)
            elif self._signals > 1 or self._is_overdue(process):
                process.kill()
            elif self._signals:
                process.ask_to_stop()
        if self._running:
            self._idle_since = time.monotonic()
        if time.monotonic() - self._kept_at >= LOG_SECONDS:
            self._kept_at = time.monotonic()
            for process in self._running:
                process.keep_log(self._store)

    def _is_overdue(self, process: JobProcess) -> bool:
        """Whether a process has no right to its job any more, and is not one that is just leaving."""
        if not process.claim.is_lost:
            return False
        since = self._lost.setdefault(process, time.monotonic())
        if time.monotonic() - since >= LEAVE_SECONDS:
            return True
        with suppress(StoreError), self._store.waits.none():
            return self._store.job(process.claim.job.id).owner is not None
        return False

    def _settle(self, process: JobProcess, *, give_back: bool) -> None:
        """Writes what has become of a job whose process is over, unless the process has done so."""
        how, claim = process.end(), process.claim
        process.keep_log(self._store)
        self._lost.pop(process, None)
        with self._running.pop(process):
            with suppress(ConflictError, StoreError):
                if give_back:
                    claim.give_back()
                else:
                    claim.died(how)
            with suppress(StoreError):
                job = self._store.job(claim.job.id)
                words = {"queued": "is queued again", "running": "runs elsewhere"}
                error = f": {job.error}" if job.error else "."
                self._tell(f"Job '{job.name}' ({job.id}) {words.get(job.state, f'has {job.state}')}{error}")

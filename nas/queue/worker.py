"""A worker: takes the next job as long as there is one and it is not told to end."""

import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType, MappingProxyType

from nas.errors import ConflictError, StoreError
from nas.notifications import ENDED, notify_of_end
from nas.queue.job_process import JobProcess
from nas.queue.readiness import missing_device, missing_files
from nas.store import Job, JobClaim, Patience, Store
from nas.store.connection.database import PATIENCE_SECONDS
from nas.store.leases import BEAT_SECONDS, new_owner

TICK_SECONDS = 0.1
ASK_SECONDS = 1.0  # between two questions for a job
LOG_SECONDS = 1.0  # between two writes of what jobs say
LEAVE_SECONDS = 10.0  # that a process which has written its job's end may take to leave
RETRY_SECONDS = 30.0  # until a job is looked at again that lacked something here
SIGNALS = (signal.SIGINT, signal.SIGTERM)
GPU = "gpu"  # the need of jobs that a worker with GPUs meets
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Worker:
    """Runs jobs of a store's queue, `slots` at a time, or so many on each of its GPUs.

    command: as of `JobProcess`.  offers: needs of jobs that it meets.  once: at most one job.
    gpus: by their numbers what CUDA_VISIBLE_DEVICES has to be for each; a job sees one of them.
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
        gpus: Mapping[int, str] = MappingProxyType({}),
        once: bool = False,
        idle_exit: float | None = None,
        tell: Callable[[str], None],
    ) -> None:
        self._store, self._command, self._tell = store, command, tell
        self._offers, self._gpus = {*offers, *([GPU] if gpus else ())}, gpus
        self._most = 1 if once else None
        self._idle_exit = 0.0 if once and idle_exit is None else idle_exit
        # What the environment of a job's process has besides; each is one job's at a time.
        places: list[Mapping[str, str]] = [{VISIBLE: gpu} for gpu in gpus.values()]
        self._free = (places or [{}]) * slots
        self._running: dict[JobProcess, ExitStack] = {}
        self._refused: dict[int, float] = {}
        self._notifying: list[threading.Thread] = []
        self._owner, self._slots, self._shown_at = new_owner(), len(self._free), -BEAT_SECONDS
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
                    self._show()
                    self._tend()
                    self._take()
                    time.sleep(TICK_SECONDS)
            finally:
                for process in list(self._running):
                    process.kill()
                    self._settle(process, give_back=True)
                for thread in self._notifying:
                    thread.join()
                with suppress(StoreError), self._store.waits.none():
                    self._store.forget_worker(self._owner)
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

    def _show(self) -> None:
        """That this worker is there, for people."""
        if time.monotonic() - self._shown_at >= BEAT_SECONDS:
            self._shown_at = time.monotonic()
            with suppress(StoreError), self._store.waits.none():
                self._store.note_worker(
                    self._owner, offers=self._offers, gpus=list(self._gpus), slots=self._slots
                )

    def _take(self) -> None:
        """The next job, where there is room for one and it is time to ask."""
        now = time.monotonic()
        waits = self._asked_at is not None and now - self._asked_at < ASK_SECONDS
        if self._signals or waits or not self._free or self._begun == self._most:
            return
        self._refused = {
            job_id: since for job_id, since in self._refused.items() if now - since < RETRY_SECONDS
        }
        try:
            claim = self._store.take_job(self._offers, but=self._refused, ended=self._is_over)
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
            if not self._refuse(claim):
                self._begin(claim, stack)

    def _refuse(self, claim: JobClaim) -> bool:
        """Whether the job cannot be run here now; then it is left to others for a while."""
        missing = missing_files(self._store, claim.job)
        device = None if missing else missing_device(self._store, claim.job)
        if missing is None and device is None:
            return False
        with suppress(ConflictError):
            claim.refuse(missing)  # whether an agent is there, everybody sees from its row
        self._given_back(claim.job, missing or device or "")
        return True

    def _given_back(self, job: Job, reason: str) -> None:
        self._refused[job.id] = time.monotonic()
        self._asked_at = None  # there may be another one that can be run
        self._tell(f"Job '{job.name}' ({job.id}) is left to others: {reason}.")

    def _begin(self, claim: JobClaim, stack: ExitStack) -> None:
        """Starts the job's process. stack: holds the claim, for as long as the job runs."""
        name = claim.job.name
        self._tell(f"Job '{name}' ({claim.job.id}) begins, attempt {claim.job.attempt}.")
        place = self._free.pop(0)
        stack.callback(self._free.append, place)
        process = JobProcess(
            self._command,
            claim,
            url=self._store.url,
            environment=place,
            tell=lambda line: self._tell(f"{name}: {line}"),
        )
        self._begun += 1
        self._running[process] = stack.pop_all()

    def _notify(self, job: Job) -> None:
        """Tells whom the job's file names, beside all else that is to be done."""
        if job.config.get("notify") is not None and job.state in ENDED:
            thread = threading.Thread(
                target=notify_of_end, args=(self._store, job), kwargs={"tell": self._tell}
            )
            thread.start()
            self._notifying.append(thread)

    def _is_over(self, job: Job) -> None:
        """Told of a job that nobody may take any more."""
        self._notify(job)
        self._tell(f"Job '{job.name}' ({job.id}) has {job.state}{f': {job.error}' if job.error else '.'}")

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
                if process.lacks_something and job.state == "queued":
                    self._begun -= 1
                    self._given_back(job, job.refusal or how)
                    return
                self._notify(job)
                words = {"queued": "is queued again", "running": "runs elsewhere"}
                error = f": {job.error}" if job.error else "."
                self._tell(f"Job '{job.name}' ({job.id}) {words.get(job.state, f'has {job.state}')}{error}")

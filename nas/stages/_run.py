"""What every stage is handed: the store under a lease, the config, where to show progress, when to stop."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from nas.config import JobConfig
from nas.progress import Progress
from nas.stages._watchdog import HungError, Leave, graceful_stop
from nas.store import HUNG, Job, Lease, NewEvent, NewSubnet, Patience, Stage, Store
from search_spaces import Architecture, SearchSpace
from search_spaces._errors import ConflictError, NASError, StoreError


@dataclass(frozen=True)
class Run:
    """One attempt at a job; `keys` collects what the finished stages were made from, `failed` the
    devices (their ids) and subnets that could not be measured there in it."""

    store: Store
    lease: Lease
    config: JobConfig
    progress: Progress
    stop: threading.Event
    keys: dict[str, str] = field(default_factory=dict)
    failed: set[tuple[int, str]] = field(default_factory=set)

    def once(
        self, name: str, inputs: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The result of a stage: the stored one if it was made from the same inputs and earlier stages, else
        a new one.
        """
        result = self.known(name, inputs)
        if result is None:
            self.check_stop()
            self.progress.stage(name)
            self.store.begin_stage(self.lease, name, self.key(name, inputs))
            result = self.store.finish_stage(self.lease, name, self._made(name, make)).result
        self.keys[name] = self.key(name, inputs)
        assert result is not None
        return result

    def known(self, name: str, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The stored result of a stage that was made from the same; None when it is to be made."""
        stage = self.store.stage(self.lease.job, name)
        same = stage is not None and stage.state == "done" and stage.key == self.key(name, inputs)
        return stage.result if stage is not None and same else None

    def key(self, name: str, inputs: Mapping[str, Any]) -> str:
        """A hash of what a stage is made from: its inputs and the stages before it."""
        text = json.dumps([name, inputs, self.keys], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def _made(self, name: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        try:
            return make()
        except Exception as error:
            reason = error.message if isinstance(error, NASError) else f"{type(error).__name__}: {error}"
            with suppress(ConflictError, StoreError):
                self.store.fail_stage(self.lease, name, reason)
            raise

    def check_stop(self) -> None:
        """Raises KeyboardInterrupt, after which the job counts as stopped, when a stop was asked for."""
        if self.stop.is_set() or self.lease.stop_requested():
            raise KeyboardInterrupt

    def warn(self, message: str) -> None:
        """Tells the user and the job's log."""
        self.progress.warn(message)
        self.store.add_events(self.lease, [NewEvent("log", {"message": message})])


def check_finished(store: Store, job: Job) -> Stage:
    """The stage that ended the job. Raises ConflictError for a job without a front."""
    stage = store.stage(job, "finalists")
    if stage is None or stage.state != "done":
        raise ConflictError(
            f"Job '{job.name}' has no front yet: it is not finished.",
            f"`nas resume {job.id}` goes on with it.",
        )
    return stage


def _finish(lease: Lease, error: NASError | None) -> None:
    lease.finish("stopped" if error is None else "failed", None if error is None else error.message)


@contextmanager
def attempt(
    store: Store,
    job: Job,
    config: JobConfig,
    progress: Progress,
    *,
    leave: Callable[[Lease, NASError | None], None] = _finish,
    end: Leave | None = None,
) -> Iterator[Run]:
    """The job in this process's hands, which waits for its store as long as the job file says.

    leave: writes how it ended when the main thread no longer can.  end: as of `graceful_stop`.
    """
    held: list[Lease] = []

    def asked() -> bool:
        return any(lease.stop_requested() for lease in held)

    def last_words(error: NASError | None) -> None:
        for lease in held:
            if isinstance(error, HungError) and "device_id" in error.about:
                store.add_events(lease, [NewEvent(HUNG, error.about)])
            leave(lease, error)

    with graceful_stop(asked=asked, leave=last_words, end=end) as stop:
        patience = Patience(config.store.patience, stop, progress.warn)
        with store.patient(patience), store.acquire(job) as lease:
            held.append(lease)
            try:
                yield Run(store, lease, config, progress, stop)
            except KeyboardInterrupt:
                lease.check_held()  # a job that another process has taken over has not stopped
                raise


@contextmanager
def after_job(
    store: Store, job: Job, config: JobConfig, progress: Progress, end: Leave | None = None
) -> Iterator[Run]:
    """A finished job as ours for a while. It has succeeded, as its front shows, whatever becomes of this.

    Also when an earlier call was killed and left it as a running one.  end: as of `graceful_stop`.
    """
    ended = job.finished_at if job.state == "succeeded" else check_finished(store, job).finished_at
    before = replace(job, state="succeeded", error=None, finished_at=ended)
    with attempt(
        store, job, config, progress, leave=lambda lease, _: lease.give_back(before), end=end
    ) as run:
        try:
            yield run
        finally:
            run.lease.give_back(before)


def subnet_row(space: SearchSpace, arch: Architecture) -> NewSubnet:
    """An architecture as the store keeps it."""
    cost = space.cost(arch)
    return NewSubnet(arch.key, arch.to_dict(), cost.params, cost.macs)

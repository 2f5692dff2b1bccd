"""What every stage is handed: the store under a lease, the config, where to show progress, when to stop."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from nas.config import JobConfig
from nas.errors import ConflictError, StoreError
from nas.progress import Progress
from nas.store import HUNG, Job, Lease, NewEvent, NewSubnet, Patience, Stage, Store
from nas.store.migrations import released_keys
from nas.watchdog import HungError, Leave, graceful_stop
from search_spaces import Architecture, SearchSpace, union
from search_spaces.errors import NASError
from search_spaces.union import joined


@dataclass(frozen=True)
class Run:
    """One attempt at a job.

    keys: of the stages so far.  released_keys: the same as released versions made them.
    failed: the devices (their ids) and subnets that could not be measured there in it.
    unchanged: by the id of a device whether its calibrator is as fast as it was, where that was asked.
    supernet: of a job with several that which this is about, as `alone` gives it.
    began: when the attempt began, by `time.monotonic`.
    """

    store: Store
    lease: Lease
    config: JobConfig
    progress: Progress
    stop: threading.Event
    keys: dict[str, str] = field(default_factory=dict)
    released_keys: dict[str, str] = field(default_factory=dict)
    failed: set[tuple[int, str]] = field(default_factory=set)
    unchanged: dict[int, bool] = field(default_factory=dict)
    supernet: str = ""
    began: float = field(default_factory=time.monotonic)

    def alone(self, supernet: str) -> "Run":
        """This attempt, about one of several supernets: with the config of that one and stages of its own."""
        return replace(self, config=self.config.each[supernet], supernet=supernet)

    def stage(self, name: str) -> str:
        """The name of a stage that there is for each supernet: `train`, or `train:NAME` of several."""
        return f"{name}:{self.supernet}" if self.supernet else name

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
        self.keys[name], self.released_keys[name] = self._keys(name, inputs)
        assert result is not None
        return result

    def known(self, name: str, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The stored result of a stage that was made from the same; None when it is to be made."""
        stage = self.store.stage(self.lease.job, name)
        if stage is None or stage.state != "done" or stage.key not in self._keys(name, inputs):
            return None
        return stage.result

    def key(self, name: str, inputs: Mapping[str, Any]) -> str:
        """A hash of what a stage is made from: its inputs and the stages before it.

        inputs: plain data. Of sections of the job file what the stored job set (`Section.inputs`), so that
        neither a new field nor another default makes a stage anew.
        """
        return self._keys(name, inputs)[0]

    def _keys(self, name: str, inputs: Mapping[str, Any]) -> tuple[str, str]:
        """The key of a stage, and the one that a released version gave it."""
        return (
            _digest(name, inputs, self.keys),
            _digest(name, released_keys.stage_inputs(name, inputs), self.released_keys),
        )

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


def _digest(name: str, inputs: Mapping[str, Any], keys: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([name, inputs, keys], sort_keys=True).encode()).hexdigest()


def check_finished(store: Store, job: Job) -> Stage:
    """The stage that ended the job. Raises ConflictError for a job without a front."""
    stage = store.stage(job, "finalists")
    if job.goal != "front":
        raise ConflictError(
            f"Job '{job.name}' has trained a supernet and searched nothing: it has no front.",
            f"`supernet: {{use: {job.name}}}` in a job file searches it.",
        )
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
    owner: str | None = None,
) -> Iterator[Run]:
    """The job in this process's hands, which waits for its store as long as the job file says.

    leave: writes how it ended when the main thread no longer can.  end: as of `graceful_stop`.
    owner: of a worker's claim, which this process joins instead of taking the job itself.
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
        lease_of = store.acquire if owner is None else partial(store.join_claim, owner=owner)
        with store.patient(patience), lease_of(job) as lease:
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
    """An architecture of the job's space as the store keeps it."""
    cost, (supernet, member_arch) = space.cost(arch), space.own(arch)
    own_key = member_arch.key if supernet else None
    return NewSubnet(arch.key, arch.to_dict(), cost.params, cost.macs, supernet, own_key)


def subnet_row_of(run: Run, space: SearchSpace, arch: Architecture) -> NewSubnet:
    """An architecture as the store keeps it.  space: of the supernet that the run is about."""
    if not run.supernet:
        return subnet_row(space, arch)
    return subnet_row(union({run.supernet: space}), joined(run.supernet, arch))

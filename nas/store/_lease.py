"""Who may write to a job: a lease on its row, renewed by a heartbeat, checked inside every transaction."""

import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

import psutil
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from nas.store import _tables as t
from nas.store._database import Database
from nas.store._engine import database_seconds
from nas.store._records import Job
from nas.store._values import now
from search_spaces._errors import ConflictError, NASError, StoreError

LEASE_SECONDS = 30.0
BEAT_SECONDS = 10.0
START_TOLERANCE_SECONDS = (
    2.0  # a process's start time is derived from the boot time, which clock corrections move
)


def new_owner() -> str:
    """`host:pid:start:uuid` of this process, different at every call."""
    started = psutil.Process().create_time()
    return f"{socket.gethostname()}:{os.getpid()}:{started:.2f}:{uuid.uuid4().hex}"


def is_dead(owner: str) -> bool:
    """Whether the owner is known to be gone: it ran on this host and its process is no more."""
    host, pid, started, _ = owner.rsplit(":", 3)
    if host != socket.gethostname():
        return False
    if not psutil.pid_exists(int(pid)):
        return True
    try:
        process = psutil.Process(int(pid))
        reused = abs(process.create_time() - float(started)) > START_TOLERANCE_SECONDS
        return reused or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


class Lease:
    """The right to write to a job, for as long as nobody has taken it over.

    As a context manager it beats in the background and, left without `finish`, ends the job by how it was
    left: failed after an error, stopped otherwise. Raises ConflictError once the lease is lost.
    """

    def __init__(self, store: Database, job: Job, owner: str) -> None:
        self.job = job
        self.owner = owner
        self.attempt = job.attempt
        self._store = store
        self._ended = threading.Event()
        self._lost = False
        self._heart = threading.Thread(target=self._beat, name=f"lease-of-job-{job.id}", daemon=True)

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._ended.is_set():
                return
            if error is None:
                self.finish("stopped")
                return
            with suppress(ConflictError, StoreError):
                self._leave(error)
        finally:
            self._ended.set()
            self._heart.join(timeout=1.0)

    def fence(self, connection: Connection) -> None:
        """Renews the lease inside the transaction. Raises ConflictError when another process has the job."""
        self._guarded(connection, lease_until=database_seconds() + LEASE_SECONDS)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A fenced writing transaction."""
        with self._store.write() as connection:
            self.fence(connection)
            yield connection

    def stop_requested(self) -> bool:
        """Whether somebody asked the job to stop, or it is no longer ours."""
        query = sa.select(t.jobs.c.stop_requested, t.jobs.c.owner).where(t.jobs.c.id == self.job.id)
        with self._store.read() as connection:
            row = connection.execute(query).one()
        return bool(row.stop_requested) or row.owner != self.owner or self._lost

    def finish(self, state: str, error: str | None = None) -> None:
        """Writes how the job ended (succeeded, failed or stopped) and lets it go."""
        with self._store.write() as connection:
            self._guarded(
                connection, state=state, error=error, finished_at=now(), owner=None, lease_until=None
            )
        self._ended.set()

    def give_back(self, before: Job) -> None:
        """Lets the job go in the state of `before`, unless it is another's meanwhile."""
        if self._ended.is_set():
            return
        with suppress(ConflictError), self._store.write() as connection:
            self._guarded(
                connection,
                state=before.state,
                error=before.error,
                finished_at=before.finished_at,
                stop_requested=False,
                owner=None,
                lease_until=None,
            )
        self._ended.set()

    def _guarded(self, connection: Connection, **values: object) -> None:
        jobs = t.jobs
        ours = (jobs.c.id == self.job.id) & (jobs.c.owner == self.owner) & (jobs.c.attempt == self.attempt)
        if connection.execute(sa.update(jobs).where(ours).values(**values)).rowcount == 0:
            self._lost = True
            raise ConflictError(
                f"This process lost the lease of job '{self.job.name}': another one has taken the job over.",
                f"`nas show {self.job.id}` tells how the job goes on.",
            )

    def _leave(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            self.finish("stopped")
        elif isinstance(error, NASError):
            self.finish("failed", error.message)
        else:
            self.finish("failed", f"{type(error).__name__}: {error}")

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                with self.write():
                    pass
            except ConflictError:
                return
            except StoreError:
                continue

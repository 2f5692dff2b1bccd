"""Who may write to a row: a lease on it, renewed by a heartbeat, checked inside every transaction."""

import os
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

import psutil
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from nas.errors import ConflictError, StoreError
from nas.store import tables as t
from nas.store.connection.database import Database
from nas.store.connection.engine import database_seconds
from nas.store.connection.patience import Waits, again
from nas.store.records import EvaluationBasis, Job
from nas.store.values import now
from search_spaces.errors import NASError

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


def reason(error: Exception) -> str:
    """An error as a row keeps it."""
    return error.message if isinstance(error, NASError) else f"{type(error).__name__}: {error}"


def whose(owner: str | None) -> str:
    """The process of an owner, for people."""
    host, pid, *_ = str(owner).rsplit(":", 3)
    return f"pid {pid} on {host}"


def same_process(owner: str | None, other: str) -> bool:
    """Whether two owners are of one process, which has a new one for every claim."""
    return str(owner).rpartition(":")[0] == other.rpartition(":")[0]


def unheld(table: sa.Table, holder: str | None) -> sa.ColumnElement[bool]:
    """Whether a row with a lease is free: nobody's, or its lease has run out, or its `holder` is dead."""
    free = table.c.owner.is_(None) | (table.c.lease_until < database_seconds())
    return free | (table.c.owner == holder) if holder is not None and is_dead(holder) else free


def held(owner: str | None, lease_until: float | None, database_now: float) -> bool:
    """Whether a live process holds the row."""
    return owner is not None and (lease_until or 0.0) > database_now and not is_dead(owner)


class RowLease:
    """The right to write to one row, for as long as nobody has taken it over.

    A context manager that beats in the background. Raises ConflictError once the lease is lost.
    """

    def __init__(self, store: Database, table: sa.Table, row_id: int, owner: str) -> None:
        self.owner = owner
        self._store, self._table, self._row_id = store, table, row_id
        self._ended = threading.Event()
        self._lost = False
        self._heart = threading.Thread(target=self._beat, name=f"lease-{table.name}-{row_id}", daemon=True)

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._ended.is_set():
                self._left(error)
        finally:
            self._ended.set()
            self._heart.join(timeout=1.0)

    @property
    def waits(self) -> Waits:
        """The store's."""
        return self._store.waits

    @property
    def folder(self) -> str:
        """Of the row's files, in the artifact root: `job-1`, `supernet-1`."""
        return f"{self._table.name.removesuffix('s')}-{self._row_id}"

    @property
    def owns(self) -> dict[str, int]:
        """The column of other tables that says that a row is this one's, with its value."""
        return {f"{self._table.name.removesuffix('s')}_id": self._row_id}

    def fence(self, connection: Connection) -> None:
        """Renews the lease inside the transaction. Raises ConflictError when another process has the row."""
        self._guarded(connection, lease_until=database_seconds() + LEASE_SECONDS)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A fenced writing transaction."""
        with self._store.write() as connection:
            self.fence(connection)
            yield connection

    @again
    def check(self) -> None:
        """Renews the lease. Raises ConflictError when the row is another's by now."""
        with self.write():
            pass

    def row_is_gone(self) -> None:
        """Ends the lease without letting anything go: the row has been deleted under it."""
        self._ended.set()

    def check_held(self) -> None:
        """Raises ConflictError when a heartbeat has found that the row is another's."""
        if self._lost:
            raise self._conflict()

    @again
    def _release(self, /, **values: object) -> None:
        """Writes the last values and lets the row go."""
        with self._store.write() as connection:
            self._guarded(connection, owner=None, lease_until=None, **values)
        self._ended.set()

    def _guarded(self, connection: Connection, **values: object) -> None:
        c = self._table.c
        ours = (c.id == self._row_id) & (c.owner == self.owner)
        if connection.execute(sa.update(self._table).where(ours).values(**values)).rowcount == 0:
            self._lost = True
            raise self._conflict()

    def _left(self, error: BaseException | None) -> None:
        """What becomes of the row when the context is left without its end having been written."""
        with suppress(ConflictError, StoreError):
            self._release()

    def _conflict(self) -> ConflictError:
        return ConflictError(f"This process lost its lease in '{self._table.name}'.")

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                with self._store.waits.none(), self.write():
                    pass
            except ConflictError:
                return
            except StoreError:
                continue


class Lease(RowLease):
    """The right to write to a job. Left without `finish`, it ends the job by how it was left: failed after an
    error, stopped otherwise.

    bases: on what its evaluations with inherited weights depend, by which other jobs find them; of a job with
    several supernets by the name of each, else under "".
    unshared: splits on which something else than its supernets evaluates, so that others find nothing of it.
    """

    def __init__(self, store: Database, job: Job, owner: str) -> None:
        super().__init__(store, t.jobs, job.id, owner)
        self.job = job
        self.attempt = job.attempt
        self.bases: Mapping[str, EvaluationBasis] = {}
        self.unshared: frozenset[str] = frozenset()

    @again
    def stop_requested(self) -> bool:
        """Whether somebody asked the job to stop, or it is no longer ours."""
        query = sa.select(t.jobs.c.stop_requested, t.jobs.c.owner).where(t.jobs.c.id == self.job.id)
        with self._store.read() as connection:
            row = connection.execute(query).one()
        self._lost |= row.owner != self.owner and not self._ended.is_set()
        return bool(row.stop_requested) or row.owner != self.owner or self._lost

    def finish(self, state: str, error: str | None = None) -> None:
        """Writes how the job ended (succeeded, failed or stopped) and lets it go."""
        self._release(state=state, error=error, finished_at=now())

    def row_is_gone(self) -> None:
        """Ends the lease of a job that was deleted under it."""
        self._ended.set()

    def give_back(self, before: Job) -> None:
        """Lets the job go in the state of `before`, unless it is another's meanwhile."""
        if self._ended.is_set():
            return
        with suppress(ConflictError):
            self._release(
                state=before.state,
                error=before.error,
                finished_at=before.finished_at,
                stop_requested=False,
                submitted_at=before.submitted_at,
                paused=before.paused,
            )
        self._ended.set()

    def _conflict(self) -> ConflictError:
        return ConflictError(
            f"This process lost the lease of job '{self.job.name}': another one has taken the job over.",
            f"`nas show {self.job.id}` tells how the job goes on.",
        )

    def _left(self, error: BaseException | None) -> None:
        if error is None:
            self.finish("stopped")
            return
        with suppress(ConflictError, StoreError):
            self._end_after(error)

    def _end_after(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            self.finish("failed", reason(error))
        else:
            self.finish("stopped")

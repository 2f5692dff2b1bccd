"""The right of a worker to a submitted job, and that of the process in which the worker runs it."""

from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from nas.errors import ConflictError, NoSpaceError, StoreError
from nas.store import tables as t
from nas.store.connection.database import Database
from nas.store.leases import Lease, RowLease, new_owner, reason, whose
from nas.store.records import Job
from nas.store.values import now
from search_spaces.errors import NotHereError

STOP_ASKED = t.jobs.c.stop_requested.is_(sa.true())
WORN_OUT = t.jobs.c.attempt >= t.jobs.c.last_attempt


class JobClaim(RowLease):
    """What a worker holds while a process that it has started runs the job under the same owner.

    Both renew it. It ends when one of them writes what has become of the job; nothing is written when the
    context is left, but after an error, which gives the job back.
    """

    def __init__(self, store: Database, job: Job, owner: str) -> None:
        super().__init__(store, t.jobs, job.id, owner)
        self.job = job

    @property
    def is_lost(self) -> bool:
        """Whether a heartbeat found that the row is the claim's no more: ended, or another's."""
        return self._lost

    def give_back(self) -> None:
        """Queues the job again, as if nobody had begun with it; one that was told to stop has stopped."""
        self._release(**given_back())

    def refuse(self, refusal: str | None) -> None:
        """Queues the job again, as if nobody had begun with it, with what it lacks here."""
        self._release(**given_back(), refusal=refusal)

    def fail(self, error: str) -> None:
        """Writes why the job cannot be run, whoever would try."""
        self._release(state="failed", error=error, finished_at=now())

    def died(self, error: str) -> None:
        """Queues the job again, with why its process ended early; after the last attempt it has failed."""
        self._release(**_cut_off(error))

    def _left(self, error: BaseException | None) -> None:
        if error is None:
            self._ended.set()
            return
        with suppress(ConflictError, StoreError):
            self.give_back()

    def _conflict(self) -> ConflictError:
        return ConflictError(f"Job '{self.job.name}' is no longer this worker's.")


class QueuedLease(Lease):
    """The lease of the process that runs a worker's job, which is queued again when that is stopped."""

    def finish(self, state: str, error: str | None = None) -> None:
        """As of `Lease`; `stopped` gives the job back, unless somebody asked it to stop."""
        if state == "stopped":
            self._release(**given_back())
        else:
            super().finish(state, error)

    def _end_after(self, error: BaseException) -> None:
        if isinstance(error, NotHereError):
            self._release(**given_back(), refusal=refusal_of(error))
        elif isinstance(error, StoreError | NoSpaceError):  # no fault of the job: another attempt may do
            self._release(**_cut_off(reason(error)))
        else:
            super()._end_after(error)


def refusal_of(error: NotHereError) -> str:
    """What a machine lacks, as a row keeps it."""
    return f"{whose(new_owner())}: {error.message.rstrip('.')}"


def given_back() -> dict[str, Any]:
    """The columns of a job that goes back into the queue without having used up an attempt."""
    last_attempt = t.jobs.c.last_attempt
    return {
        "state": sa.case((STOP_ASKED, "stopped"), else_="queued"),
        "finished_at": sa.case((STOP_ASKED, _moment()), else_=sa.null()),
        "last_attempt": sa.case((STOP_ASKED, last_attempt), else_=last_attempt + 1),
    }


def _cut_off(error: str) -> dict[str, Any]:
    """The columns of a job that has used up an attempt."""
    ended = sa.or_(STOP_ASKED, WORN_OUT)
    return {
        "state": sa.case((STOP_ASKED, "stopped"), (WORN_OUT, "failed"), else_="queued"),
        "finished_at": sa.case((ended, _moment()), else_=sa.null()),
        "error": error,
    }


def _moment() -> sa.ColumnElement[Any]:
    return sa.literal(now(), t.UTCDateTime())

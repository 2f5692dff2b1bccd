"""Which submitted job is next, what one waits for, and what becomes of those that nobody may take."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from nas.errors import ConflictError
from nas.store import tables as t
from nas.store.connection.database import fetch
from nas.store.connection.engine import database_seconds
from nas.store.connection.patience import again
from nas.store.jobs import ENDED, NAME_TRIES, Jobs, free_name, insert_job, name_taken
from nas.store.leases import LEASE_SECONDS, new_owner
from nas.store.queue.claims import STOP_ASKED, JobClaim, QueuedLease
from nas.store.records import Job, NewJob
from nas.store.values import checked_name, now

MAX_ATTEMPTS = 3
PENDING = ("queued", "running")
GONE = "Workers began with it as often as they may, and each was gone before the job had ended."


class Queue(Jobs):
    """The submitted jobs of a store."""

    @again
    def submit(self, new: Sequence[NewJob]) -> list[Job]:
        """Queues all of them, or none. A job whose key is known already is not queued once more.

        Raises ConflictError for a name that is taken, and what `create_job` raises.
        """
        self.check_root()
        for _ in range(NAME_TRIES - 1):
            try:
                return self._submit(new)
            except IntegrityError:  # another process has taken a name, or has submitted the same
                continue
        return self._submit(new)

    def _submit(self, new: Sequence[NewJob]) -> list[Job]:
        with self.write() as connection:
            taken = set(connection.scalars(sa.select(t.jobs.c.name)))
            jobs: list[Job] = []
            for one in new:
                if one.submission.key is not None:
                    checked_name(one.submission.key, what="key")  # not every text can even be looked up
                same = None if one.submission.key is None else _of_key(connection, one.submission.key)
                if same is None:
                    same = _insert(connection, one, taken)
                    taken.add(same.name)
                jobs.append(same)
            return jobs

    @again
    def waiting(self) -> list[Job]:
        """The jobs that wait in the queue, in the order of their turns; some of them for another job."""
        c = t.jobs.c
        queued = c.submitted_at.is_not(None) & (c.state == "queued")
        with self.read() as connection:
            return fetch(connection, Job, sa.select(t.jobs).where(queued).order_by(*_turns(c)))

    @again
    def held_up(self) -> set[int]:
        """The ids of the queued jobs that wait for another one to succeed."""
        c = t.jobs.c
        queued = c.submitted_at.is_not(None) & (c.state == "queued") & c.after_id.is_not(None)
        with self.read() as connection:
            return set(connection.scalars(sa.select(c.id).where(queued & ~_may_begin(c))))

    @again
    def taken(self) -> list[tuple[Job, float]]:
        """The submitted jobs that somebody holds, oldest first, with the seconds that each lease lasts."""
        c, seconds = t.jobs.c, (t.jobs.c.lease_until - database_seconds()).label("seconds")
        busy = c.submitted_at.is_not(None) & (c.state == "running") & ~_free(c)
        query = sa.select(t.jobs, seconds).where(busy).order_by(c.id)
        with self.read() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        lasts = [float(row.pop("seconds")) for row in rows]
        return list(zip((Job(**row) for row in rows), lasts, strict=True))

    @again
    def take_job(
        self,
        offers: Collection[str] = (),
        *,
        but: Collection[int] = (),
        ended: Callable[[Job], None] = lambda job: None,
    ) -> JobClaim | None:
        """The next job, taken by this process; None where there is none.

        It is the one of highest priority, of these the oldest, whose need is among the offers, that waits
        for no other, and that nobody holds: whether somebody does says the lease on its row, nothing else.
        but: ids of jobs that are left to others.  ended: told of the jobs that nobody may take any more.
        Raises StoreError when the folder for files is another store's.
        """
        self.check_root()
        left = t.jobs.c.id.not_in(sorted(but))
        with self.read() as connection:
            ready = sa.and_(_ready(t.jobs.c, offers), left)
            anything = sa.or_(ready, _over(t.jobs.c), _waits_in_vain(t.jobs.c))
            if connection.scalar(sa.select(t.jobs.c.id).where(anything).limit(1)) is None:
                return None
        with self.write() as connection:
            over = [*_end_abandoned(connection), *_end_vain(connection)]
            jobs = fetch(connection, Job, sa.select(t.jobs).where(t.jobs.c.id.in_(over))) if over else []
        for job in jobs:
            ended(job)
        owner, one = new_owner(), t.jobs.alias()
        may_be = sa.and_(_ready(one.c, offers), one.c.id.not_in(sorted(but)))
        turn = sa.select(one.c.id).where(may_be).order_by(*_turns(one.c)).limit(1)
        this = t.jobs.c.id == turn.with_for_update(skip_locked=True).scalar_subquery()
        values: dict[str, Any] = {"owner": owner, "state": "running", "attempt": t.jobs.c.attempt + 1}
        values |= {"lease_until": database_seconds() + LEASE_SECONDS, "finished_at": None}
        values |= {"started_at": sa.func.coalesce(t.jobs.c.started_at, now())}
        taken = sa.update(t.jobs).where(this & _ready(t.jobs.c, offers)).values(values)
        with self.write() as connection:
            row = connection.execute(taken.returning(t.jobs)).mappings().first()
        return None if row is None else JobClaim(self, Job(**row), owner)

    @again
    def join_claim(self, job: Job, owner: str) -> QueuedLease:
        """The lease of the process that a worker has started for a job that it has claimed as `owner`.

        Raises ConflictError when the job is another's by now, StoreError when the folder for its files is
        another store's.
        """
        self.check_root()
        lease = QueuedLease(self, job, owner)
        with lease.write() as connection:
            this = t.jobs.c.id == job.id
            connection.execute(sa.update(t.jobs).where(this).values(refusal=None))
            return QueuedLease(self, fetch(connection, Job, sa.select(t.jobs).where(this))[0], owner)

    @again
    def cancel(self, job: Job, *, pause: bool = False) -> bool:
        """Stops a submitted job that nobody runs, at once; False of any other.

        pause: jobs that wait for it go on waiting.
        """
        c = t.jobs.c
        idle = c.state.in_(PENDING) & _free(c)
        if not pause:
            idle |= (c.state == "stopped") & c.paused.is_(sa.true())
        values = {
            "state": "stopped",
            "paused": pause,
            "finished_at": now(),
            "owner": None,
            "lease_until": None,
        }
        this = (c.id == job.id) & c.submitted_at.is_not(None) & idle
        with self.write() as connection:
            return connection.execute(sa.update(t.jobs).where(this).values(values)).rowcount > 0

    @again
    def note_pause(self, job: Job) -> None:
        """That a job which is being stopped is only paused."""
        this = (t.jobs.c.id == job.id) & t.jobs.c.state.not_in(("succeeded", "failed"))
        with self.write() as connection:
            connection.execute(sa.update(t.jobs).where(this).values(paused=True))

    @again
    def requeue(self, job: Job) -> Job:
        """Puts a submitted job that has stopped or failed back into the queue, with all its attempts."""
        c = t.jobs.c
        values: dict[str, Any] = {
            "state": "queued",
            "submitted_at": now(),
            "error": None,
            "refusal": None,
            "finished_at": None,
        }
        values |= {"stop_requested": False, "paused": False, "last_attempt": c.attempt + MAX_ATTEMPTS}
        this = (c.id == job.id) & c.submitted_at.is_not(None) & c.state.in_(("stopped", "failed"))
        with self.write() as connection:
            connection.execute(sa.update(t.jobs).where(this).values(values))
            return fetch(connection, Job, sa.select(t.jobs).where(c.id == job.id))[0]

    @again
    def set_priority(self, job: Job, priority: int) -> Job:
        """Another priority. Raises ConflictError for a job that is not in the queue or has ended."""
        c = t.jobs.c
        this = (c.id == job.id) & c.submitted_at.is_not(None) & c.state.not_in(ENDED)
        with self.write() as connection:
            changed = connection.execute(sa.update(t.jobs).where(this).values(priority=priority)).rowcount
            after = fetch(connection, Job, sa.select(t.jobs).where(c.id == job.id))[0]
        if changed == 0:
            raise ConflictError(
                f"Job '{job.name}' does not wait in the queue (state: {after.state}).",
                "Only what `nas submit` has queued has a priority.",
            )
        return after


Columns = sa.ColumnCollection[str, sa.Column[Any]] | Any


def _turns(c: Columns) -> list[sa.ColumnElement[Any]]:
    return [c.priority.desc(), c.id]


def _free(c: Columns) -> sa.ColumnElement[bool]:
    return sa.or_(c.owner.is_(None), c.lease_until < database_seconds())


def _idle(c: Columns) -> sa.ColumnElement[bool]:
    """Whether a job is the queue's and nobody holds it."""
    return sa.and_(c.submitted_at.is_not(None), c.state.in_(PENDING), _free(c))


def _ready(c: Columns, offers: Collection[str]) -> sa.ColumnElement[bool]:
    return sa.and_(
        _idle(c),
        c.stop_requested.is_(sa.false()),
        c.attempt < c.last_attempt,
        sa.or_(c.needs.is_(None), c.needs.in_(sorted(offers))),
        _may_begin(c),
    )


def _may_begin(c: Columns) -> sa.ColumnElement[bool]:
    """Whether there is no other job for which a job still waits."""
    first = t.jobs.alias()
    succeeded = sa.exists().where((first.c.id == c.after_id) & (first.c.state == "succeeded"))
    return sa.or_(c.after_id.is_(None), succeeded)


def _over(c: Columns) -> sa.ColumnElement[bool]:
    """Whether nobody may take a job any more that nobody holds."""
    return sa.and_(_idle(c), sa.or_(c.stop_requested.is_(sa.true()), c.attempt >= c.last_attempt))


def _waits_in_vain(c: Columns) -> sa.ColumnElement[bool]:
    first = t.jobs.alias()
    hopeful = sa.or_(first.c.state.in_((*PENDING, "succeeded")), first.c.paused.is_(sa.true()))
    return sa.and_(
        _idle(c), c.after_id.is_not(None), ~sa.exists().where((first.c.id == c.after_id) & hopeful)
    )


def _end_abandoned(connection: Connection) -> list[int]:
    """Ends jobs whose workers are gone, where they were told to stop or have no attempt left; their ids."""
    c = t.jobs.c
    values: dict[str, Any] = {"owner": None, "lease_until": None, "finished_at": now()}
    values |= {"state": sa.case((STOP_ASKED, "stopped"), else_="failed")}
    values |= {"error": sa.case((STOP_ASKED, c.error), else_=sa.func.coalesce(c.error, GONE))}
    this = c.id.in_(_locked(connection, _over(c))) & _over(c)
    return list(connection.scalars(sa.update(t.jobs).where(this).values(values).returning(c.id)))


def _end_vain(connection: Connection) -> list[int]:
    """Stops the jobs that wait for one that will not succeed, with the reason; their ids."""
    c, first, ids = t.jobs.c, t.jobs.alias(), list[int]()
    for job_id in _locked(connection, _waits_in_vain(c)):
        after_id = connection.scalar(sa.select(c.after_id).where(c.id == job_id))
        query = sa.select(first.c.name, first.c.state).where(first.c.id == after_id)
        row = connection.execute(query).first()
        reason = (
            f"Job {after_id}, for which it waited, was deleted."
            if row is None
            else f"Job '{row.name}' ({after_id}), for which it waited, has {row.state}."
        )
        values = {
            "state": "stopped",
            "error": reason,
            "finished_at": now(),
            "owner": None,
            "lease_until": None,
        }
        this = (c.id == job_id) & _waits_in_vain(c)
        ids += connection.scalars(sa.update(t.jobs).where(this).values(values).returning(c.id))
    return ids


def _locked(connection: Connection, which: sa.ColumnElement[bool]) -> list[int]:
    """The ids of rows that no other transaction is at, locked in one order: no two wait in a circle."""
    query = sa.select(t.jobs.c.id).where(which).order_by(t.jobs.c.id)
    return list(connection.scalars(query.with_for_update(skip_locked=True, of=t.jobs)))


def _of_key(connection: Connection, key: str) -> Job | None:
    return next(iter(fetch(connection, Job, sa.select(t.jobs).where(t.jobs.c.key == key))), None)


def _insert(connection: Connection, new: NewJob, taken: Collection[str]) -> Job:
    if new.name is not None and new.name in taken:
        raise name_taken(new.name)
    submission = new.submission
    queued: Mapping[str, Any] = {
        "submitted_at": now(),
        "priority": submission.priority,
        "needs": None if submission.needs is None else checked_name(submission.needs, what="need"),
        "after_id": submission.after_id,
        "last_attempt": MAX_ATTEMPTS,
        "sweep": submission.sweep,
        "key": submission.key,
    }
    name = new.name or free_name(checked_name(new.base, what="job"), taken)
    return insert_job(connection, name, new.values, queued)

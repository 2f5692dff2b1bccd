"""Supernets: shared weights by all that they depend on, and which jobs use them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from nas.errors import ConflictError
from nas.store import tables as t
from nas.store.connection.database import Database, fetch
from nas.store.connection.engine import database_seconds
from nas.store.connection.patience import again
from nas.store.leases import LEASE_SECONDS, Lease, RowLease, held, new_owner, unheld
from nas.store.records import Job, NewSupernet, Supernet, SupernetUse
from nas.store.values import LONGEST_NAME, is_name, now
from search_spaces.errors import NotFoundError, UsageError, did_you_mean

TRIES = 10  # to make a supernet while others make theirs
SHORTEST_KEY = 6  # characters of a key that name a supernet


class SupernetLease(RowLease):
    """The right to train a supernet. Left before its end, it is anybody's who needs the same."""

    def __init__(self, store: Database, supernet: Supernet, owner: str, job: Job) -> None:
        super().__init__(store, t.supernets, supernet.id, owner)
        self.supernet, self.job = supernet, job

    @again
    def took(self, *, seconds: float, cpu_seconds: float) -> None:
        """Adds to what the training has taken so far."""
        c = t.supernets.c
        values = {"seconds": c.seconds + seconds, "cpu_seconds": c.cpu_seconds + cpu_seconds}
        with self.write() as connection:
            this = c.id == self.supernet.id
            connection.execute(sa.update(t.supernets).where(this).values(values))

    def finish(self, stage: str = "train") -> None:
        """Notes that the weights are there, with the curve of all jobs that had a part in the training.

        stage: in which they had it.
        """
        curve = self._curve(stage)
        self._release(state="trained", curve=curve, trainer=self.job.name, finished_at=now())

    @again
    def _curve(self, stage: str) -> list[Any]:
        c, uses = t.events.c, t.job_supernets.c
        stage_of_it = sa.case((uses.name.is_(None), stage), else_=sa.literal(f"{stage}:") + uses.name)
        of_job = (uses.job_id == c.job_id) & (c.stage == stage_of_it)
        query = sa.select(c.step, c.data).join(t.job_supernets, of_job)
        query = query.where((uses.supernet_id == self.supernet.id) & (c.kind == stage) & (c.step > 0))
        with self._store.read() as connection:
            metrics = {row.step: row.data for row in connection.execute(query.order_by(c.id))}
        return [metrics[step] for step in sorted(metrics)]

    def _conflict(self) -> ConflictError:
        return ConflictError(f"Another process trains supernet '{self.supernet.name}' by now.")


class Supernets(Database):
    """The supernets of a store."""

    @again
    def supernets(self) -> list[Supernet]:
        """All of them, the oldest first."""
        with self.read() as connection:
            return fetch(connection, Supernet, sa.select(t.supernets).order_by(t.supernets.c.id))

    @again
    def supernet(self, word: str) -> Supernet:
        """The supernet of this name, or else that of the job with this name or id, or whose key begins so.

        Raises NotFoundError, and UsageError for a job with several.
        """
        with self.read() as connection:
            supernets = _called(connection, word) if is_name(word) else []
            names = [] if supernets else list(connection.scalars(sa.select(t.supernets.c.name)))
        if not supernets:
            hint = "`nas train FILE` trains one." if not names else did_you_mean(word, names)
            raise NotFoundError(
                f"There is no supernet {word[:LONGEST_NAME]!a}.", hint or "`nas supernets` lists them."
            )
        searched = [one for one in supernets if not one.is_specialised]
        supernets = searched or supernets  # a job's, besides what its finalists were trained to
        if len(supernets) > 1:
            some = ", ".join(supernet.name for supernet in supernets)
            raise UsageError(f"Job '{word}' has several supernets.", f"Name one of them: {some}.")
        return supernets[0]

    @again
    def supernet_of(self, job: Job, name: str = "") -> SupernetUse | None:
        """What the job trains or has found and searches; None before it has come so far.

        name: which of a job with several.
        """
        uses = (use for use in self.supernets_of(job) if (use.name or "") == name)
        return next(uses, None)

    @again
    def supernets_of(self, job: Job) -> list[SupernetUse]:
        """All that the job trains or has found and searches so far."""
        with self.read() as connection:
            uses = _uses(connection, t.job_supernets.c.job_id == job.id)
        return [use for use in uses if not use.supernet.is_specialised]

    @again
    def supernet_uses(self) -> list[SupernetUse]:
        """Which jobs use which supernets, in the order in which they came."""
        with self.read() as connection:
            return _uses(connection, sa.true())

    @again
    def use_supernet(
        self, lease: Lease, wanted: NewSupernet | Supernet, *, reused: bool = False, name: str = ""
    ) -> SupernetUse:
        """Notes that the job uses a supernet, which is made unless there is one with its key.

        reused: another job has trained it.  name: what a job with several calls it.
        Raises NotFoundError for one that was removed meanwhile.
        """
        for _ in range(TRIES - 1):
            with suppress(IntegrityError):  # of a server: another process has just made the same
                return self._use(lease, wanted, reused, name)
        return self._use(lease, wanted, reused, name)

    def _use(self, lease: Lease, wanted: NewSupernet | Supernet, reused: bool, name: str) -> SupernetUse:
        with lease.write() as connection:
            supernet = wanted if isinstance(wanted, Supernet) else _made(connection, wanted)
            present = link(connection, lease.job.id, supernet, reused=reused, name=name)
        return SupernetUse(lease.job.id, present, reused, name or None)

    @again
    def acquire_supernet(
        self, lease: Lease, supernet: Supernet, *, anew: bool = False
    ) -> SupernetLease | None:
        """Takes the supernet to train it; None while another live process holds it, or when it is trained.

        A dead owner on this host is replaced at once, any other when its lease has run out.
        anew: also one that was trained, whose weights are damaged.
        """
        owner, c = new_owner(), t.supernets.c
        with lease.write() as connection:
            holder = connection.scalar(sa.select(c.owner).where(c.id == supernet.id))
            free = (c.id == supernet.id) & unheld(t.supernets, holder)
            free &= sa.true() if anew else c.state != "trained"
            values = {"owner": owner, "lease_until": database_seconds() + LEASE_SECONDS, "state": "training"}
            taken = connection.execute(sa.update(t.supernets).where(free).values(values)).rowcount
            after = _one(connection, c.id == supernet.id)
        if not taken or after is None:
            return None
        return SupernetLease(self, after, owner, lease.job)

    @again
    def is_held(self, supernet: Supernet) -> bool:
        """Whether a live process trains it now."""
        c = t.supernets.c
        query = sa.select(c.owner, c.lease_until, database_seconds()).where(c.id == supernet.id)
        with self.read() as connection:
            row = connection.execute(query).first()
        return row is not None and held(*row)


def link(
    connection: Connection, job_id: int, supernet: Supernet, *, reused: bool, name: str = ""
) -> Supernet:
    """The supernet as it is now, which the job uses from now on. Raises NotFoundError when it is gone.

    name: what a job with several calls it.
    """
    present = _one(connection, t.supernets.c.id == supernet.id)
    if present is None:
        raise NotFoundError(
            f"Supernet '{supernet.name}' was removed meanwhile.", "`nas supernets` lists them."
        )
    c = t.job_supernets.c
    this = (c.job_id == job_id) & (c.supernet_id == supernet.id)
    if connection.execute(sa.update(t.job_supernets).where(this).values(reused=reused)).rowcount == 0:
        row = {"job_id": job_id, "supernet_id": supernet.id, "reused": reused, "name": name or None}
        connection.execute(sa.insert(t.job_supernets).values(row))
    return present


def _made(connection: Connection, new: NewSupernet) -> Supernet:
    """The supernet with this key, or a new one of a name that is free."""
    c = t.supernets.c
    same = None if new.key is None else _one(connection, c.key == new.key)
    if same is not None:
        return same
    taken = set(connection.scalars(sa.select(c.name)))
    names = (f"{new.name}-{n}" if n > 1 else new.name for n in range(1, len(taken) + 2))
    row: dict[str, Any] = {"name": next(name for name in names if name not in taken), "key": new.key}
    row |= {"space": new.space, "data": new.data, "settings": new.settings, "steps": new.steps}
    row |= {"state": "training", "seconds": 0.0, "cpu_seconds": 0.0, "curve": [], "created_at": now()}
    number = connection.execute(sa.insert(t.supernets).values(row).returning(c.id)).scalar_one()
    made = _one(connection, c.id == number)
    assert made is not None, "it has just been inserted"
    return made


def _one(connection: Connection, which: sa.ColumnElement[bool]) -> Supernet | None:
    return next(iter(fetch(connection, Supernet, sa.select(t.supernets).where(which))), None)


def _called(connection: Connection, word: str) -> Sequence[Supernet]:
    c, jobs, uses = t.supernets.c, t.jobs.c, t.job_supernets.c
    if named := fetch(connection, Supernet, sa.select(t.supernets).where(c.name == word)):
        return named
    same_job = (jobs.name == word) | (sa.cast(jobs.id, sa.Text) == word)
    of_job = sa.select(uses.supernet_id).join(t.jobs, jobs.id == uses.job_id).where(same_job)
    if used := fetch(connection, Supernet, sa.select(t.supernets).where(c.id.in_(of_job)).order_by(c.id)):
        return used
    begins = sa.func.substr(c.key, 1, len(word)) == word
    keyed = fetch(connection, Supernet, sa.select(t.supernets).where(begins).limit(2))
    return keyed if len(word) >= SHORTEST_KEY and len(keyed) == 1 else []


def _uses(connection: Connection, which: sa.ColumnElement[bool]) -> list[SupernetUse]:
    c = t.job_supernets.c
    columns = (c.job_id, c.supernet_id, c.reused, c.name)
    links = connection.execute(sa.select(*columns).where(which).order_by(c.id)).all()
    numbers = {link.supernet_id for link in links}
    query = sa.select(t.supernets).where(t.supernets.c.id.in_(numbers))
    supernets: Mapping[int, Supernet] = {one.id: one for one in fetch(connection, Supernet, query)}
    return [SupernetUse(one.job_id, supernets[one.supernet_id], bool(one.reused), one.name) for one in links]

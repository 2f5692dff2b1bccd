"""Jobs and their stages."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from nas.store import _tables as t
from nas.store._database import fetch
from nas.store._engine import database_seconds
from nas.store._lease import LEASE_SECONDS, Lease, held, new_owner, unheld, whose
from nas.store._patience import again
from nas.store._places import Places
from nas.store._records import Job, Stage
from nas.store._values import LONGEST_NAME, checked_name, is_id, is_name, now
from search_spaces._errors import ConflictError, NotFoundError, did_you_mean

NAME_TRIES = 100
ENDED = ("succeeded", "failed", "stopped")


def _job(connection: Connection, job_id: int) -> Job:
    return fetch(connection, Job, sa.select(t.jobs).where(t.jobs.c.id == job_id))[0]


class Jobs(Places):
    """The jobs of a store."""

    @again
    def jobs(self) -> list[Job]:
        """All jobs, the oldest first."""
        with self.read() as connection:
            return fetch(connection, Job, sa.select(t.jobs).order_by(t.jobs.c.id))

    @again
    def job(self, name_or_id: str | int) -> Job:
        """The job of this id, or else of this name: a number is an id wherever there is a job with it.

        Raises NotFoundError.
        """
        word = str(name_or_id)
        found: list[Job] = []
        with self.read() as connection:
            if is_id(word):
                found = fetch(connection, Job, sa.select(t.jobs).where(t.jobs.c.id == int(word)))
            if not found and is_name(word) and not isinstance(name_or_id, int):
                found = fetch(connection, Job, sa.select(t.jobs).where(t.jobs.c.name == word))
            names = [] if found else list(connection.scalars(sa.select(t.jobs.c.name)))
        if not found:
            hint = (
                did_you_mean(word, names) if names else "The store has no jobs yet: `nas run FILE` makes one."
            )
            raise NotFoundError(f"There is no job {word[:LONGEST_NAME]!a}.", hint)
        return found[0]

    @again
    def create_job(
        self, name: str, *, config: Mapping[str, Any], seed: int, provenance: Mapping[str, Any]
    ) -> Job:
        """A new queued job.

        Raises UsageError for an impossible name, ConflictError for a taken one, StoreError when the folder
        for its files is another store's.
        """
        self.check_root()
        row = {"name": checked_name(name, what="job"), "state": "queued", "config": config, "seed": seed}
        row |= {"provenance": provenance, "created_at": now(), "stop_requested": False, "attempt": 0}
        try:
            with self.write() as connection:
                job_id = connection.execute(sa.insert(t.jobs).values(row).returning(t.jobs.c.id)).scalar_one()
                return _job(connection, job_id)
        except IntegrityError:
            raise ConflictError(
                f"There is a job '{name}' already.", "Choose another --name, or go on with `nas resume`."
            ) from None

    def create_numbered_job(
        self, base: str, *, config: Mapping[str, Any], seed: int, provenance: Mapping[str, Any]
    ) -> Job:
        """A new queued job of the first name of base, base-2, base-3, ... that no job has.

        Others may take names at the same time. Raises UsageError for an impossible name.
        """
        for _ in range(NAME_TRIES - 1):
            with suppress(ConflictError):
                name = self.free_name(base)
                return self.create_job(name, config=config, seed=seed, provenance=provenance)
        return self.create_job(self.free_name(base), config=config, seed=seed, provenance=provenance)

    @again
    def free_name(self, base: str) -> str:
        """The base, or the first of base-2, base-3, ... that no job has at this moment."""
        checked_name(base, what="job")
        with self.read() as connection:
            taken = set(connection.scalars(sa.select(t.jobs.c.name)))
        if base not in taken:
            return base
        return next(name for n in range(2, len(taken) + 3) if (name := f"{base}-{n}") not in taken)

    @again
    def request_stop(self, job: Job) -> Job:
        """Asks the job to stop after its current batch. Raises ConflictError when it has ended already."""
        with self.write() as connection:
            waiting = (t.jobs.c.id == job.id) & t.jobs.c.state.not_in(ENDED)
            changed = connection.execute(sa.update(t.jobs).where(waiting).values(stop_requested=True))
            after = _job(connection, job.id)
        if changed.rowcount == 0:
            raise ConflictError(f"Job '{job.name}' does not run: it has {after.state}.")
        return after

    @again
    def is_live(self, job: Job) -> bool:
        """Whether a process holds the job now: a running job that is not live was interrupted."""
        columns = (t.jobs.c.owner, t.jobs.c.lease_until, database_seconds())
        with self.read() as connection:
            return held(*connection.execute(sa.select(*columns).where(t.jobs.c.id == job.id)).one())

    @again
    def acquire(self, job: Job) -> Lease:
        """Takes the job to run it. Raises ConflictError while another live process holds it.

        A dead owner on this host is replaced at once, any other when its lease has run out. Raises StoreError
        when the folder for its files is another store's.
        """
        self.check_root()
        owner = new_owner()
        jobs = t.jobs
        with self.write() as connection:
            holder = _job(connection, job.id).owner
            free = unheld(jobs, holder)
            values: dict[str, Any] = {"owner": owner, "attempt": jobs.c.attempt + 1, "state": "running"}
            values |= {"lease_until": database_seconds() + LEASE_SECONDS, "stop_requested": False}
            values |= {
                "started_at": sa.func.coalesce(jobs.c.started_at, now()),
                "finished_at": None,
                "error": None,
            }
            taken = connection.execute(sa.update(jobs).where((jobs.c.id == job.id) & free).values(values))
            after = _job(connection, job.id)
        if taken.rowcount == 0:
            raise ConflictError(
                f"Job '{job.name}' runs in another process ({whose(holder)}).",
                f"Watch it with `nas show {job.id}`, or end it with `nas stop {job.id}`.",
            )
        return Lease(self, after, owner)

    @again
    def stages(self, job: Job) -> list[Stage]:
        """The stages that the job has begun, in that order."""
        with self.read() as connection:
            query = sa.select(t.stages).where(t.stages.c.job_id == job.id).order_by(t.stages.c.id)
            return fetch(connection, Stage, query)

    @again
    def stage(self, job: Job, name: str) -> Stage | None:
        """One stage, or None when the job has not begun it."""
        with self.read() as connection:
            return _stage(connection, job.id, name)

    @again
    def begin_stage(self, lease: Lease, name: str, key: str) -> Stage:
        """Marks the stage as running; one that ran before starts anew, without its old result."""
        values: dict[str, Any] = {"key": key, "state": "running", "started_at": now()}
        values |= {"finished_at": None, "result": None}
        with lease.write() as connection:
            before = _stage(connection, lease.job.id, checked_name(name, what="stage"))
            if before is None:
                new = {"job_id": lease.job.id, "name": name, **values}
                connection.execute(sa.insert(t.stages).values(new))
            else:
                connection.execute(sa.update(t.stages).where(t.stages.c.id == before.id).values(values))
            return _known_stage(connection, lease.job.id, name)

    def finish_stage(self, lease: Lease, name: str, result: Mapping[str, Any]) -> Stage:
        """Marks the stage as done with its result. Raises NotFoundError for a stage that was never begun."""
        return self._end_stage(lease, name, "done", result)

    def fail_stage(self, lease: Lease, name: str, error: str) -> Stage:
        """Marks the stage as failed; its result is {"error": ...}."""
        return self._end_stage(lease, name, "failed", {"error": error})

    @again
    def _end_stage(self, lease: Lease, name: str, state: str, result: Mapping[str, Any]) -> Stage:
        with lease.write() as connection:
            stage = _known_stage(connection, lease.job.id, name)
            values = {"state": state, "result": result, "finished_at": now()}
            connection.execute(sa.update(t.stages).where(t.stages.c.id == stage.id).values(values))
            return _known_stage(connection, lease.job.id, name)


def _stage(connection: Connection, job_id: int, name: str) -> Stage | None:
    query = sa.select(t.stages).where((t.stages.c.job_id == job_id) & (t.stages.c.name == name))
    found = fetch(connection, Stage, query)
    return found[0] if found else None


def _known_stage(connection: Connection, job_id: int, name: str) -> Stage:
    stage = _stage(connection, job_id, name)
    if stage is None:
        raise NotFoundError(f"Job {job_id} has begun no stage '{name}'.")
    return stage

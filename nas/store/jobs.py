"""Jobs, their stages, and what changes in them when their data do."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from nas.errors import ConflictError
from nas.store import tables as t
from nas.store.connection.database import Database, fetch
from nas.store.connection.engine import database_seconds
from nas.store.connection.patience import again
from nas.store.files.places import Places
from nas.store.leases import LEASE_SECONDS, Lease, held, new_owner, unheld, whose
from nas.store.records import Job, Stage, Supernet
from nas.store.supernets import link
from nas.store.values import (
    LONGEST_NAME,
    checked_name,
    checked_note,
    checked_tag,
    is_id,
    is_name,
    now,
)
from search_spaces.errors import NotFoundError, UsageError, did_you_mean

NAME_TRIES = 100
MOST_TAGS = 20
ENDED = ("succeeded", "failed", "stopped")
DATA_EVENT = "data"  # kind of the events that tell that a job's data have changed
# By the split that they look at, or that what they are made of looks at.
STAGES_OF_SPLIT = {
    "search": ("search", "choose", "specialise", "finalists", "device_quality"),
    "report": ("baselines", "finalists", "device_quality"),
}
WEIGHTS = ("inherited", "specialised")  # with which a job evaluates


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
        jobs: list[Job] = []
        with self.read() as connection:
            if is_id(word):
                jobs = fetch(connection, Job, sa.select(t.jobs).where(t.jobs.c.id == int(word)))
            if not jobs and is_name(word) and not isinstance(name_or_id, int):
                jobs = fetch(connection, Job, sa.select(t.jobs).where(t.jobs.c.name == word))
            names = [] if jobs else list(connection.scalars(sa.select(t.jobs.c.name)))
        if not jobs:
            hint = (
                did_you_mean(word, names) if names else "The store has no jobs yet: `nas run FILE` makes one."
            )
            raise NotFoundError(f"There is no job {word[:LONGEST_NAME]!a}.", hint)
        return jobs[0]

    @again
    def create_job(
        self,
        name: str,
        *,
        config: Mapping[str, Any],
        seed: int,
        provenance: Mapping[str, Any],
        goal: str = "front",
        uses: Mapping[str, Supernet] = MappingProxyType({}),
    ) -> Job:
        """A new queued job.

        goal: where it ends, `front` or `supernet`.  uses: supernets that it does not train itself, by what a
        job with several calls them.
        Raises UsageError for an impossible name, ConflictError for a taken one, NotFoundError for a supernet
        that was removed, StoreError when the folder for its files is another store's.
        """
        self.check_root()
        values = {"config": config, "seed": seed, "provenance": provenance, "goal": goal, "uses": uses}
        try:
            with self.write() as connection:
                return insert_job(connection, name, values)
        except IntegrityError:
            raise name_taken(name) from None

    def create_numbered_job(self, base: str, **values: Any) -> Job:
        """A new queued job of the first name of base, base-2, base-3, ... that no job has.

        values: as of `create_job`. Others may take names at the same time. Raises what `create_job` raises.
        """
        for _ in range(NAME_TRIES - 1):
            with suppress(ConflictError):
                return self.create_job(self.free_name(base), **values)
        return self.create_job(self.free_name(base), **values)

    @again
    def free_name(self, base: str) -> str:
        """The base, or the first of base-2, base-3, ... that no job has at this moment."""
        checked_name(base, what="job")
        with self.read() as connection:
            return free_name(base, set(connection.scalars(sa.select(t.jobs.c.name))))

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
    def set_note(self, job: Job, note: str | None) -> Job:
        """Another note, or none. Raises UsageError for one that cannot be kept."""
        checked = None if note is None else checked_note(note)
        return self._remark(job, {"note": checked or None})

    @again
    def set_tags(self, job: Job, tags: Collection[str]) -> Job:
        """Other tags, each once and in order. Raises UsageError for what cannot be one."""
        checked = sorted({checked_tag(tag) for tag in tags})
        if len(checked) > MOST_TAGS:
            raise UsageError(f"A job has at most {MOST_TAGS} tags, not {len(checked)}.")
        return self._remark(job, {"tags": checked or None})

    def _remark(self, job: Job, values: Mapping[str, Any]) -> Job:
        with self.write() as connection:
            connection.execute(sa.update(t.jobs).where(t.jobs.c.id == job.id).values(values))
            return _job(connection, job.id)

    @again
    def is_live(self, job: Job) -> bool:
        """Whether a process holds the job now: a running job that is not live was interrupted."""
        columns = (t.jobs.c.owner, t.jobs.c.lease_until, database_seconds())
        with self.read() as connection:
            return held(*connection.execute(sa.select(*columns).where(t.jobs.c.id == job.id)).one())

    @again
    def acquire(self, job: Job) -> Lease:
        """Takes the job to run it, out of the queue if it is there. Raises ConflictError while another live
        process holds it.

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
                "refusal": None,
                "submitted_at": None,
                "paused": False,
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
    def replace_config(self, lease: Lease, config: Mapping[str, Any]) -> None:
        """Gives the job a config with what was decided since it was created."""
        with lease.write() as connection:
            connection.execute(sa.update(t.jobs).where(t.jobs.c.id == lease.job.id).values(config=config))

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


class DataChanges(Database):
    """What changes in a job whose data have moved or changed: in one transaction, or not at all."""

    @again
    def change_data(
        self,
        lease: Lease,
        *,
        config: Mapping[str, Any],
        described: Mapping[str, Any] | None,
        message: str,
        forget: Sequence[str] = (),
    ) -> None:
        """Gives the job a config and, unless None, a description of its data; an event of kind `data` tells.

        forget: splits whose evaluations with inherited weights, and the stages made of them, are to be done
        again.
        """
        job_id, of_job = lease.job.id, t.stages.c.job_id == lease.job.id
        with lease.write() as connection:
            connection.execute(sa.update(t.jobs).where(t.jobs.c.id == job_id).values(config=config))
            space = of_job & (t.stages.c.name == "space")
            stored = connection.scalar(sa.select(t.stages.c.result).where(space))
            if stored is not None and described is not None:
                result = {**stored, "data": described}
                connection.execute(sa.update(t.stages).where(space).values(result=result))
            for split in forget:
                for table in (t.evaluations, t.hits, t.device_qualities):
                    seen = (table.c.job_id == job_id) & (table.c.split == split)
                    connection.execute(sa.delete(table).where(seen & table.c.weights.in_(WEIGHTS)))
                connection.execute(
                    sa.delete(t.stages).where(of_job & t.stages.c.name.in_(STAGES_OF_SPLIT[split]))
                )
                of_split = (t.events.c.stage == split) | t.events.c.stage.startswith(f"{split} ")
                connection.execute(sa.delete(t.events).where((t.events.c.job_id == job_id) & of_split))
            event = {"job_id": job_id, "created_at": now(), "stage": "space", "kind": DATA_EVENT}
            connection.execute(sa.insert(t.events).values({**event, "data": {"message": message}}))


def insert_job(
    connection: Connection,
    name: str,
    values: Mapping[str, Any],
    queued: Mapping[str, Any] = MappingProxyType({}),
) -> Job:
    """A new queued job. values: as of `Store.create_job`.  queued: the columns that the queue goes by.

    Raises sqlalchemy's IntegrityError for a name, or a key, that is taken.
    """
    row: dict[str, Any] = {"name": checked_name(name, what="job"), "state": "queued", "goal": "front"}
    row |= {"created_at": now(), "stop_requested": False, "attempt": 0, **queued}
    row |= {column: value for column, value in values.items() if column != "uses"}
    job_id = connection.execute(sa.insert(t.jobs).values(row).returning(t.jobs.c.id)).scalar_one()
    for use, supernet in values.get("uses", {}).items():
        link(connection, job_id, supernet, reused=True, name=use)
    return _job(connection, job_id)


def free_name(base: str, taken: Collection[str]) -> str:
    """The base, or the first of base-2, base-3, ... that is not taken."""
    if base not in taken:
        return base
    return next(name for n in range(2, len(taken) + 3) if (name := f"{base}-{n}") not in taken)


def name_taken(name: str) -> ConflictError:
    """The error of a name that a job has."""
    return ConflictError(
        f"There is a job '{name}' already.", "Choose another --name, or go on with `nas resume`."
    )


def _job(connection: Connection, job_id: int) -> Job:
    return fetch(connection, Job, sa.select(t.jobs).where(t.jobs.c.id == job_id))[0]


def _stage(connection: Connection, job_id: int, name: str) -> Stage | None:
    query = sa.select(t.stages).where((t.stages.c.job_id == job_id) & (t.stages.c.name == name))
    return next(iter(fetch(connection, Stage, query)), None)


def _known_stage(connection: Connection, job_id: int, name: str) -> Stage:
    stage = _stage(connection, job_id, name)
    if stage is None:
        raise NotFoundError(f"Job {job_id} has begun no stage '{name}'.")
    return stage

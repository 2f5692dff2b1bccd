"""Jobs and supernets taken out of their store with all that is their own, and what nothing refers to."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from nas.errors import ConflictError
from nas.store import tables as t
from nas.store.connection.patience import again
from nas.store.leases import Lease, unheld
from nas.store.records import Job, Supernet
from search_spaces.errors import NotFoundError

if TYPE_CHECKING:
    from nas.store import Store

MOST_NAMED = 5


@dataclass(frozen=True)
class Removed:
    """What is gone: rows of the database, files and their bytes, the names of supernets."""

    rows: int
    files: int
    size: int
    supernets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Orphans:
    """What nothing refers to: files that no row names, by their paths in the store's root, and half-trained
    supernets that no job uses.
    """

    files: list[str]
    supernets: list[Supernet]


def remove(store: "Store", job: Job, *, keep_supernet: bool = False) -> Removed:
    """Deletes the job with its rows, in one transaction, then its files, and what it alone had trained.

    Devices stay: they are not the job's; so does what other jobs have found of it. Killed in between it
    leaves files that no row names, which `nas db gc` deletes.
    keep_supernet: a trained supernet stays, although no other job uses it.
    Raises ConflictError for a job that a process holds, and for one that another job refers to.
    """
    _check_unused(store, job)
    _check_not_begun_with(store, job)
    used = [use.supernet for use in store.supernet_uses() if use.job_id == job.id]
    with store.acquire(job) as lease:
        try:
            files = _files(store, job)
            rows = _delete(lease)
        except BaseException:
            lease.give_back(job)
            raise
        lease.row_is_gone()
    gone = _removed(store, rows, files)
    for supernet in used:
        if not (keep_supernet and supernet.is_trained):
            with suppress(ConflictError, NotFoundError):  # another job uses it
                gone = _joined(gone, remove_supernet(store, supernet))
    return gone


def remove_supernet(store: "Store", supernet: Supernet) -> Removed:
    """Deletes a supernet with its files. Raises ConflictError while a job uses it."""
    files = [file.path for file in store.all_artifacts() if file.supernet_id == supernet.id]
    if files:
        store.own_root()  # while the rows still say which files are its own
    rows = _delete_supernet(store, supernet)
    gone = _removed(store, rows, files)
    return Removed(gone.rows, gone.files, gone.size, (supernet.name,))


@again
def orphans_of_both_kinds(store: "Store") -> Orphans:
    """Files without a row, and supernets without a job that are not trained."""
    files, c = [] if store.is_shared() else store.orphans(), t.supernets.c
    with store.read() as connection:
        idle = (c.state != "trained") & c.id.not_in(sa.select(t.job_supernets.c.supernet_id))
        numbers = set(connection.scalars(sa.select(c.id).where(idle & unheld(t.supernets, None))))
    # Who is at work writes a file before its row; therefore the workers are asked for after the files.
    busy = {f"job-{job.id}" for job in store.jobs() if store.is_live(job)}
    busy |= {f"supernet-{one.id}" for one in store.supernets() if store.is_held(one)}
    left = [file for file in files if file.partition("/")[0] not in busy]
    return Orphans(left, [one for one in store.supernets() if one.id in numbers])


def remove_orphans_of_both_kinds(store: "Store", orphans: Orphans) -> Removed:
    """Deletes them, but for those that somebody refers to meanwhile."""
    gone = Removed(0, 0, 0)
    for supernet in orphans.supernets:
        with suppress(ConflictError, NotFoundError):
            gone = _joined(gone, remove_supernet(store, supernet))
    named = {artifact.path for artifact in store.all_artifacts()}
    return _joined(gone, _removed(store, 0, [file for file in orphans.files if file not in named]))


def _removed(store: "Store", rows: int, files: Sequence[str]) -> Removed:
    """Deletes files, as far as they are the store's own, and their folders where these are then empty."""
    removed = store.removable(files) if files else []
    root = store.artifact_root
    size = sum(root.size(inner) or 0 for inner in removed)
    for inner in removed:
        root.remove(inner)
    for folder in {inner.rpartition("/")[0] for inner in removed}:
        root.tidy(folder)
    return Removed(rows, len(removed), size)


def _joined(one: Removed, other: Removed) -> Removed:
    return Removed(
        one.rows + other.rows, one.files + other.files, one.size + other.size, one.supernets + other.supernets
    )


def _check_unused(store: "Store", job: Job) -> None:
    """Raises ConflictError where a job's file names this one as the source of its latency predictor.

    It is looked up whenever such a job is measured, also on a further device when it has finished.
    """
    users = [other.name for other in store.jobs() if other.id != job.id and _begins_with(store, other, job)]
    if users:
        names = ", ".join(f"'{name}'" for name in users)
        raise ConflictError(
            f"Job '{job.name}' is used: its latency predictor is where that of {names} begins.",
            "Remove what uses it first (predictor.source in `nas show JOB --config`).",
        )


def _check_not_begun_with(store: "Store", job: Job) -> None:
    """Raises ConflictError where another one's search is to begin with what this job has evaluated."""
    waiting = [other for other in store.jobs() if other.id != job.id and other.state != "succeeded"]
    users = [other.name for other in waiting if _begins_with(store, other, job, section="search")]
    if users:
        names = ", ".join(f"'{name}'" for name in users)
        raise ConflictError(
            f"Job '{job.name}' is used: the search of {names} begins with its evaluations.",
            "Finish or remove what uses it first (search.source in `nas show JOB --config`).",
        )


def _begins_with(store: "Store", job: Job, source: Job, *, section: str = "predictor") -> bool:
    """Whether a section of the job's file names the other as its source."""
    values = job.config.get(section)
    name = values.get("source") if isinstance(values, dict) else None
    if name is None:
        return False
    try:
        return store.job(str(name)).id == source.id
    except NotFoundError:
        return False


def _files(store: "Store", job: Job) -> list[str]:
    """What the job has written and is its own, not a supernet's; what a crash has left, too."""
    artifacts = store.artifacts(job)
    if artifacts:
        store.own_root()  # while the rows still say which files are its own
    written = [artifact.path for artifact in artifacts if artifact.supernet_id is None]
    paths = dict.fromkeys([*written, *([] if store.is_shared() else store.orphans())])
    root, folder = store.artifact_root, f"job-{job.id}/"
    return [path for path in paths if path.startswith(folder) and root.size(path) is not None]


@again
def _delete(lease: Lease) -> int:
    """Deletes every row of the lease's job, those first that point to others; how many there were."""
    with lease.write() as connection:
        rows = 0
        for table in reversed(t.metadata.sorted_tables):
            if "job_id" in table.c:
                rows += connection.execute(sa.delete(table).where(table.c.job_id == lease.job.id)).rowcount
        return rows + connection.execute(sa.delete(t.jobs).where(t.jobs.c.id == lease.job.id)).rowcount


@again
def _delete_supernet(store: "Store", supernet: Supernet) -> int:
    """Deletes the rows of a supernet; hits of jobs that had used it no longer name it."""
    with store.write() as connection:
        _check_no_job(connection, supernet)
        hits = sa.update(t.hits).where(t.hits.c.supernet_id == supernet.id)
        connection.execute(hits.values(supernet_id=None))
        of_it = t.artifacts.c.supernet_id == supernet.id
        rows = connection.execute(sa.delete(t.artifacts).where(of_it)).rowcount
        this = t.supernets.c.id == supernet.id
        return rows + connection.execute(sa.delete(t.supernets).where(this)).rowcount


def _check_no_job(connection: Connection, supernet: Supernet) -> None:
    uses = t.job_supernets.c
    users = sa.select(t.jobs.c.name).join(t.job_supernets, uses.job_id == t.jobs.c.id)
    jobs = list(connection.scalars(users.where(uses.supernet_id == supernet.id).order_by(t.jobs.c.id)))
    if jobs:
        names = ", ".join(f"'{name}'" for name in jobs[:MOST_NAMED]) + (", ..." if jobs[MOST_NAMED:] else "")
        by = f"job {names}" if len(jobs) == 1 else f"{len(jobs)} jobs: {names}"
        raise ConflictError(
            f"Supernet '{supernet.name}' is used by {by}.",
            "`nas rm JOB` deletes a job, and with the last one that uses it the supernet.",
        )

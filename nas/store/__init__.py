"""The store: jobs, stages, results, files. `Store.open(url)` is the way in; rows are frozen dataclasses."""

from typing import Self

from nas.errors import StoreError
from nas.store.connection.engine import default_url
from nas.store.connection.errors import ReplacedError
from nas.store.connection.patience import Patience
from nas.store.connection.schema import backup, database_problems, prepare
from nas.store.connection.schema import upgrade as upgrade_schema
from nas.store.devices import AgentLease, Devices
from nas.store.files.artifacts import Artifacts
from nas.store.files.move import move
from nas.store.files.of_devices import DeviceFiles
from nas.store.files.places import Places
from nas.store.files.removal import (
    Orphans,
    Removed,
    orphans_of_both_kinds,
    remove,
    remove_orphans_of_both_kinds,
    remove_supernet,
)
from nas.store.files.roots import Root
from nas.store.jobs import DataChanges
from nas.store.leases import Lease
from nas.store.measurements import Measurements
from nas.store.queue.claims import JobClaim, QueuedLease
from nas.store.queue.logs import Logs
from nas.store.queue.waiting import Queue
from nas.store.queue.workers import Workers
from nas.store.records import (
    Agent,
    Artifact,
    Device,
    DeviceQuality,
    Evaluation,
    EvaluationBasis,
    Event,
    Job,
    LogLine,
    MeasurementRow,
    NewDeviceQuality,
    NewEvaluation,
    NewEvent,
    NewJob,
    NewSubnet,
    NewSupernet,
    Predictor,
    Request,
    RunningWorker,
    SearchedSubnets,
    Stage,
    StoredMeasurement,
    Submission,
    Subnet,
    Supernet,
    SupernetUse,
)
from nas.store.requests import HUNG, RequestLease, Requests, hung
from nas.store.results import Results
from nas.store.supernets import SupernetLease, Supernets
from nas.store.values import changes, digest, is_same

__all__ = [
    "HUNG",
    "Agent",
    "AgentLease",
    "Artifact",
    "Device",
    "DeviceQuality",
    "Evaluation",
    "EvaluationBasis",
    "Event",
    "Job",
    "JobClaim",
    "Lease",
    "LogLine",
    "MeasurementRow",
    "NewDeviceQuality",
    "NewEvaluation",
    "NewEvent",
    "NewJob",
    "NewSubnet",
    "NewSupernet",
    "Orphans",
    "Patience",
    "Predictor",
    "QueuedLease",
    "Removed",
    "ReplacedError",
    "Request",
    "RequestLease",
    "RunningWorker",
    "SearchedSubnets",
    "Stage",
    "Store",
    "StoredMeasurement",
    "Submission",
    "Subnet",
    "Supernet",
    "SupernetLease",
    "SupernetUse",
    "adopt",
    "backup",
    "changes",
    "check",
    "default_url",
    "digest",
    "foreign_files",
    "hung",
    "is_same",
    "move",
    "orphans_of_both_kinds",
    "remove",
    "remove_orphans_of_both_kinds",
    "remove_supernet",
    "upgrade",
]


class Store(
    Queue,
    Logs,
    Workers,
    Devices,
    Requests,
    Results,
    Measurements,
    Supernets,
    Artifacts,
    DeviceFiles,
    DataChanges,
    Places,
):
    """An open store; a context manager that closes it."""

    @classmethod
    def open(cls, url: str, *, read_only: bool = False) -> Self:
        """Opens the store, and makes it first where there is none (never when `read_only`).

        Raises UsageError for a URL that is none, StoreError for a database that cannot be used as it is.
        """
        prepare(url, read_only=read_only)
        store = cls(url, read_only=read_only)
        try:
            assert store.identity  # it is this one that is open from now on
        except BaseException:
            store.close()
            raise
        return store


def upgrade(url: str) -> tuple[str | None, str]:
    """Brings the store to this code's schema, and its folder into its hands; the revisions (old, new).

    A SQLite file is backed up beside itself first. Killed at any moment it leaves the old schema or the new
    one; the folder is then claimed when a job writes to it.
    """
    old, new = upgrade_schema(url)
    if old not in (None, new):
        with Store.open(url) as store:
            if store.all_artifacts():
                store.own_root()
    return old, new


def check(url: str) -> list[str]:
    """Everything that is wrong with a store, one sentence each: its database, its files. Changes nothing."""
    problems = database_problems(url)
    if problems:
        return problems
    with Store.open(url, read_only=True) as store:
        try:
            return [*_file_problems(store), *_folder_problems(store)]
        except StoreError as error:  # where the files are cannot be told
            return [error.message.rstrip(".")]


def foreign_files(url: str) -> list[str]:
    """Files of jobs in the store's folder that may be another store's, by their paths in it: no fault, and
    left alone.
    """
    with Store.open(url, read_only=True) as store:
        claim, root = store.claim(), store.artifact_root
        others = () if claim is None else claim.others
        late = store.orphans() if store.is_shared() else []
        return sorted({*(path for path in others if root.size(path) is not None), *late})


def _file_problems(store: Store) -> list[str]:
    """Which of the rows' files are not as they were recorded, and which files no row names."""
    root = store.artifact_root
    damages = [(artifact.path, root.damage(artifact)) for artifact in store.all_artifacts()]
    problems = [f"the file '{path}' {problem}" for path, problem in damages if problem]
    orphans = [] if store.is_shared() else store.orphans()
    return problems + [f"no row names the file '{inner}'" for inner in orphans]


def _folder_problems(store: Store) -> list[str]:
    """That the folder is another store's."""
    try:
        store.check_root()
    except StoreError as error:
        return [error.message.rstrip(".")]
    return []


def adopt(url: str) -> Root:
    """Makes the root of the store's files its own after a move, or a copy of both; the root.

    Raises StoreError when it is another store's.
    """
    with Store.open(url) as store:
        return store.adopt()

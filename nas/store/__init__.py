"""The store: jobs, stages, results, files. `Store.open(url)` is the way in; rows are frozen dataclasses."""

from pathlib import Path
from typing import Self

from nas.artifacts import damage
from nas.store._artifacts import Artifacts
from nas.store._data_changes import DataChanges
from nas.store._devices import AgentLease, Devices
from nas.store._engine import default_url
from nas.store._jobs import Jobs
from nas.store._lease import Lease
from nas.store._measurements import Measurements
from nas.store._records import (
    Agent,
    Artifact,
    Device,
    Evaluation,
    Event,
    Job,
    Measurement,
    NewEvaluation,
    NewEvent,
    NewMeasurement,
    NewSubnet,
    Predictor,
    Request,
    Stage,
    Subnet,
)
from nas.store._requests import RequestLease, Requests
from nas.store._results import Results
from nas.store._schema import backup, database_problems, prepare, upgrade
from nas.store._values import changes, digest

__all__ = [
    "Agent",
    "AgentLease",
    "Artifact",
    "Device",
    "Evaluation",
    "Event",
    "Job",
    "Lease",
    "Measurement",
    "NewEvaluation",
    "NewEvent",
    "NewMeasurement",
    "NewSubnet",
    "Predictor",
    "Request",
    "RequestLease",
    "Stage",
    "Store",
    "Subnet",
    "backup",
    "changes",
    "check",
    "default_url",
    "digest",
    "upgrade",
]


class Store(Jobs, Devices, Requests, Results, Measurements, Artifacts, DataChanges):
    """An open store; a context manager that closes it."""

    @classmethod
    def open(cls, url: str, *, read_only: bool = False) -> Self:
        """Opens the store, and makes it first where there is none (never when `read_only`).

        Raises UsageError for a URL that is none, StoreError for a database that cannot be used as it is.
        """
        prepare(url, read_only=read_only)
        return cls(url, read_only=read_only)


def check(url: str) -> list[str]:
    """Everything that is wrong with a store, one sentence each: its database, its files. Changes nothing."""
    problems = database_problems(url)
    if problems:
        return problems
    with Store.open(url, read_only=True) as store:
        for artifact in store.all_artifacts():
            problem = damage(store, artifact)
            problems += [f"the file '{artifact.path}' {problem}"] if problem else []
        problems += [f"no row names the file '{_inner(store, path)}'" for path in store.orphans()]
    return problems


def _inner(store: Store, path: Path) -> str:
    return path.relative_to(store.artifact_root).as_posix()

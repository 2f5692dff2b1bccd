"""The rows of the store as values; `New...` are rows that have no id yet."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from search_spaces._errors import StoreError

JSON = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run from config to front. `lease_until` is in seconds of the database's clock."""

    id: int
    name: str
    state: str
    config: JSON
    provenance: JSON
    seed: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    stop_requested: bool
    owner: str | None
    lease_until: float | None
    attempt: int


@dataclass(frozen=True)
class Stage:
    """One step of a job: running, done or failed; `key` is the hash of what it was made from."""

    id: int
    job_id: int
    name: str
    key: str
    state: str
    started_at: datetime
    finished_at: datetime | None
    result: JSON | None

    def told(self, *keys: str) -> Any:
        """What the result says under these keys, one below the other. Raises StoreError where it does not."""
        found: Any = self.result
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                raise StoreError(
                    f"The store is damaged: the result of stage '{self.name}' does not say its "
                    f"{'.'.join(keys)}.",
                    "`nas doctor` checks the store.",
                )
            found = found[key]
        return found


@dataclass(frozen=True)
class NewSubnet:
    """An architecture of a job, by its key."""

    key: str
    architecture: Mapping[str, Any]
    params: int
    macs: int


@dataclass(frozen=True)
class Subnet:
    """An architecture that a job has looked at."""

    id: int
    job_id: int
    key: str
    architecture: JSON
    params: int
    macs: int


@dataclass(frozen=True)
class NewEvaluation:
    """A quality to be written; a value or an objective that is not finite makes it a failed one."""

    subnet: NewSubnet
    value: float | None
    split: str = "search"
    metric: str = "accuracy"
    weights: str = "inherited"
    stderr: float | None = None
    count: int | None = None
    batch: int | None = None
    position: int | None = None
    objectives: Mapping[str, float | None] = field(default_factory=dict)
    reason: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the value is there and finite, and every objective that is there."""
        told = [self.value, *(value for value in self.objectives.values() if value is not None)]
        return all(value is not None and math.isfinite(value) for value in told)


@dataclass(frozen=True)
class Evaluation:
    """The quality of a subnet on a split; `state` is ok, or failed with a reason and no value."""

    id: int
    subnet: Subnet
    job_id: int
    split: str
    weights: str
    metric: str
    state: str
    value: float | None
    stderr: float | None
    count: int | None
    reason: str | None
    batch: int | None
    position: int | None
    objectives: dict[str, float | None]
    created_at: datetime


@dataclass(frozen=True)
class Device:
    """Where latency is measured; `digest` is the SHA-256 of its first canonical fingerprint.

    fingerprint: with what later versions found out besides.
    created_at: when it was first seen, or became what its name stands for.
    options: what its backend's `build` was given, and `backend`; None where nobody has registered it by name.
    reference_ms: clean time of one calibrator pass; None until it was measured.
    """

    id: int
    name: str
    digest: str
    fingerprint: JSON
    created_at: datetime
    options: JSON | None
    reference_ms: float | None


@dataclass(frozen=True)
class Agent:
    """A process elsewhere that measures for jobs, by its name; `live` says whether it runs now."""

    id: int
    name: str
    device: Device
    live: bool
    last_seen: datetime | None


@dataclass(frozen=True)
class Request:
    """Subnets that an agent has to measure: queued, running, done, failed or cancelled.

    live: whether an agent holds it now.  attempt: how often one has begun with it.
    """

    id: int
    job_id: int
    agent: str
    state: str
    payload: JSON
    result: JSON | None
    error: str | None
    attempt: int
    created_at: datetime
    finished_at: datetime | None
    live: bool


@dataclass(frozen=True)
class NewMeasurement:
    """A latency to be written, failed where it is not finite; `purpose` is sample, search or finalist."""

    subnet: NewSubnet
    device_id: int
    purpose: str
    latency_ms: float | None
    spread_ms: float | None = None
    reference_ms: float | None = None
    rounds: int = 0
    raw: Mapping[str, Any] | Sequence[Any] = ()
    stderr_ms: float | None = None
    contention: float | None = None
    memory_bytes: int | None = None
    energy_mj: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Measurement:
    """The latency of a subnet on a device; `state` is ok, or failed with a reason and no latency.

    reference_ms: clean time of the calibrator, in which the latency was told.  raw: one row a timing, columns
    `predictors._measurement.RAW`.  contention: wall clock over the clock of the timings; above 1.05 the
    machine was shared.
    """

    id: int
    job_id: int
    subnet: Subnet
    device_id: int
    purpose: str
    latency_ms: float | None
    spread_ms: float | None
    reference_ms: float | None
    rounds: int
    raw: Any
    created_at: datetime
    state: str
    reason: str | None
    stderr_ms: float | None
    contention: float | None
    memory_bytes: int | None
    energy_mj: float | None


@dataclass(frozen=True)
class Predictor:
    """A fitted predictor in its saved form, with its score on subnets held out."""

    id: int
    job_id: int
    device_id: int
    metric: str
    kind: str
    state: JSON
    score: JSON
    created_at: datetime


@dataclass(frozen=True)
class Artifact:
    """A finished file; `path` is relative to the store's artifact root, with forward slashes."""

    id: int
    job_id: int
    kind: str
    path: str
    sha256: str
    size: int
    step: int | None
    created_at: datetime


@dataclass(frozen=True)
class NewEvent:
    """Something that happened; one with a step is kept once per (kind, stage, step)."""

    kind: str
    data: Mapping[str, Any]
    stage: str = ""
    step: int | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened in a job: a row of training metrics, a point of a curve, a log line."""

    id: int
    job_id: int
    stage: str
    kind: str
    step: int | None
    data: JSON
    created_at: datetime

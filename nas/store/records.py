"""The rows of the store as values; `New...` are rows that have no id yet."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from nas.errors import StoreError
from predictors.measurement.labels import Failure, Measurement
from supernet.tasks import Scores

JSON = dict[str, Any]
Result = TypeVar("Result", Measurement, Failure)


@dataclass(frozen=True)
class Job:
    """One run from config to its goal, `front` or `supernet`. `lease_until` is in seconds of the database's
    clock.

    submitted_at: when it was put into the queue; None: no worker takes it.  needs: what only some workers
    have.  after_id: the job that has to succeed first.  last_attempt: after which no worker takes it again.
    paused: stopped for a while, so that jobs that wait for it go on waiting.
    sweep: what the jobs of one `nas submit --sweep` are called together.  key: by which a submission that
    comes once more is known.  refusal: what the last worker that looked at it lacked.
    note, tags: what people say about it; nothing goes by them.
    """

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
    goal: str = "front"
    submitted_at: datetime | None = None
    priority: int = 0
    needs: str | None = None
    after_id: int | None = None
    last_attempt: int = 3
    paused: bool = False
    sweep: str | None = None
    key: str | None = None
    note: str | None = None
    tags: list[str] | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class RunningWorker:
    """A worker that was there less than a lease ago, as it told itself.

    offers: the needs of jobs that it meets.  gpus: numbers, of one that gives each job one of them.
    """

    id: int
    owner: str
    offers: list[str]
    gpus: list[int]
    slots: int
    started_at: datetime
    lease_until: float


@dataclass(frozen=True)
class Submission:
    """How a job stands in the queue; fields as of `Job`."""

    priority: int = 0
    needs: str | None = None
    after_id: int | None = None
    sweep: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class NewJob:
    """A job to be submitted. name: that and no other; None: `base`, made free by a number.

    values: config, seed, provenance, goal and uses, as of `Store.create_job`.
    """

    base: str
    name: str | None
    values: Mapping[str, Any]
    submission: Submission = Submission()


@dataclass(frozen=True)
class LogLine:
    """A line that the process of a submitted job has said in an attempt."""

    id: int
    job_id: int
    attempt: int
    text: str
    created_at: datetime


@dataclass(frozen=True)
class Supernet:
    """Shared weights: `training`, also while nobody is at it, or `trained`.

    key: a hash of what they depend on; None: they are found by name only.
    space: family and options.  data: as a job describes them.
    settings: sections `supernet` and `train` of the job file and the seed; `specialised` of what a training
    of finalists made of another one's weights: of which, and who they are.
    steps: of the whole training.  seconds, cpu_seconds: that it has taken so far.
    curve: its metrics, told when it has ended.  trainer: the job that ended it.
    """

    id: int
    name: str
    key: str | None
    state: str
    space: JSON
    data: JSON
    settings: JSON
    steps: int
    seconds: float
    cpu_seconds: float
    curve: list[JSON]
    trainer: str | None
    created_at: datetime
    finished_at: datetime | None
    owner: str | None
    lease_until: float | None

    @property
    def is_trained(self) -> bool:
        return self.state == "trained"

    @property
    def is_specialised(self) -> bool:
        """Whether only some of its subnets, the finalists of a job, can do anything."""
        return "specialised" in self.settings


@dataclass(frozen=True)
class NewSupernet:
    """One that nobody may have begun yet; fields as of `Supernet`. name: made free by a number."""

    name: str
    key: str | None
    space: JSON
    data: JSON
    settings: JSON
    steps: int


@dataclass(frozen=True)
class SupernetUse:
    """That a job uses a supernet. reused: another job had trained it.  name: as of a job with several."""

    job_id: int
    supernet: Supernet
    reused: bool
    name: str | None = None


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
        value: Any = self.result
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise StoreError(
                    f"The store is damaged: the result of stage '{self.name}' does not say its "
                    f"{'.'.join(keys)}.",
                    "`nas doctor` checks the store.",
                )
            value = value[key]
        return value


@dataclass(frozen=True)
class NewSubnet:
    """An architecture of a job, by its key.

    supernet, own_key: of a job with several supernets which it is of, and its key in the space of that one.
    """

    key: str
    architecture: Mapping[str, Any]
    params: int
    macs: int
    supernet: str = ""
    own_key: str | None = None


@dataclass(frozen=True)
class Subnet:
    """An architecture that a job has looked at.

    own_key: of a job with several supernets its key in the space of its own; None: it is `key`.
    """

    id: int
    job_id: int
    key: str
    architecture: JSON
    params: int
    macs: int
    own_key: str | None = None


@dataclass(frozen=True, eq=False)
class SearchedSubnets:
    """Subnets with their qualities on the search split, column by column, as there may be 100,000s.

    examples: how many tell the quality.
    """

    ids: Sequence[int]
    keys: Sequence[str]
    macs: NDArray[np.int64]
    quality: NDArray[np.float64]
    stderr: Sequence[float | None]
    examples: Sequence[int | None]

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, places: Iterable[int]) -> "SearchedSubnets":
        """Some of them, in that order."""
        chosen = list(places)
        return SearchedSubnets(
            [self.ids[i] for i in chosen],
            [self.keys[i] for i in chosen],
            self.macs[chosen],
            self.quality[chosen],
            [self.stderr[i] for i in chosen],
            [self.examples[i] for i in chosen],
        )


@dataclass(frozen=True)
class EvaluationBasis:
    """On what hits depend beside the subnet and the split, with inherited weights.

    data: the digest of the data set.  precision: with what they are computed.
    """

    supernet_id: int
    data: str
    precision: str


@dataclass(frozen=True)
class NewEvaluation:
    """A quality to be written; a value or an objective that is not finite makes it a failed one.

    reused: other jobs had paid for all of it.
    """

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
    reused: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether the value is there and finite, and every objective that is there."""
        values = [self.value, *(value for value in self.objectives.values() if value is not None)]
        return all(value is not None and math.isfinite(value) for value in values)


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
    reused: bool = False


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
class MeasurementRow(Generic[Result]):
    """What measuring a subnet on a device came to; `purpose` is sample, search or finalist.

    reused: another job has measured it.  created_at: when it was measured.
    """

    id: int
    job_id: int
    subnet: Subnet
    device_id: int
    purpose: str
    created_at: datetime
    result: Result
    reused: bool = False


@dataclass(frozen=True)
class StoredMeasurement:
    """A measurement of a network as any job has stored it."""

    result: Measurement
    created_at: datetime


@dataclass(frozen=True)
class NewDeviceQuality:
    """A quality as a device's backend computes it, to be written; one without a value has failed.

    basis: a hash of what the scores depend on beside the device.  scores: of the examples.
    difference, difference_stderr: from that of the supernet on the same examples; see `DeviceQuality`.
    objectives: all qualities by their names.  reused: another job had paid for the scores.
    """

    subnet: NewSubnet
    metric: str
    basis: str
    weights: str
    split: str
    value: float | None = None
    stderr: float | None = None
    count: int | None = None
    difference: float | None = None
    difference_stderr: float | None = None
    objectives: Mapping[str, float | None] = field(default_factory=dict)
    scores: Scores | None = None
    reason: str | None = None
    reused: bool = False


@dataclass(frozen=True)
class DeviceQuality:
    """The quality of a subnet on a split as the backend of a device computes it, told of `count` examples.

    difference: the value less what the same weights have in the supernet on the same examples;
    difference_stderr: the standard error of the paired differences.
    `state` is ok, or failed with a reason and no value.
    """

    id: int
    job_id: int
    subnet: Subnet
    device_id: int
    split: str
    weights: str
    metric: str
    basis: str
    state: str
    value: float | None
    stderr: float | None
    count: int | None
    difference: float | None
    difference_stderr: float | None
    reason: str | None
    objectives: dict[str, float | None]
    created_at: datetime
    reused: bool = False


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
    """A finished file, a job's or a supernet's; `path` is relative to the store's artifact root, with forward
    slashes.
    """

    id: int
    job_id: int | None
    kind: str
    path: str
    sha256: str
    size: int
    step: int | None
    created_at: datetime
    supernet_id: int | None = None


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

"""How far the stage of a job is that runs now, and how long it still takes, as its rows tell every reader."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from nas.progress import seconds_left
from nas.results.frames import SPECIALISE
from nas.results.job_devices import LATENCY
from nas.store import Job, Stage, Store
from nas.store import tables as t
from nas.store.measurements import plausible
from nas.store.values import now

# Of an event of a training: the share of the time since the last one in which a step waited for its batch.
WAITED = "waited"
AHEAD = "ahead"  # how many batches are prepared before they are asked for
# Of one that compiles: how many shapes of blocks are, and how many calls were of one too many.
COMPILED, NOT_COMPILED = "compiled", "not_compiled"

Points = Sequence[tuple[datetime, int]]


@dataclass(frozen=True)
class StageProgress:
    """`done` of `total` units of a stage; what is not known is None.

    seconds_left: None for a job that no process runs, and while nothing can be told yet.
    """

    stage: str
    done: int | None = None
    total: int | None = None
    unit: str = ""
    seconds_left: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @property
    def words(self) -> str:
        """Stage, units: search, 48 of 200 subnets."""
        if self.done is None:
            return self.stage
        total = "" if self.total is None else f" of {self.total:,}"
        return f"{self.stage}, {self.done:,}{total} {self.unit}"


def stage_progress(store: Store, job: Job) -> StageProgress | None:
    """Of the stage that is running, or was when the job was interrupted; None without one."""
    running = [stage for stage in store.stages(job) if stage.state == "running"]
    if job.state != "running" or not running:
        return None
    stage = running[-1]
    points, total, unit = _points(store, job, stage)
    if not points:
        return StageProgress(stage.name, 0 if total else None, total, unit)
    left = _left(points, stage, total) if total and store.is_live(job) else None
    return StageProgress(stage.name, points[-1][1], total, unit, left)


def _left(points: Points, stage: Stage, total: int) -> float | None:
    """From those of this attempt; what has passed since the last of them is not to come any more."""
    before = [done for moment, done in points if moment < stage.started_at]
    ours = [(stage.started_at, before[-1] if before else 0)]
    ours += [point for point in points if point[0] >= stage.started_at]
    seconds = [((moment - ours[0][0]).total_seconds(), done) for moment, done in ours]
    left = seconds_left(seconds, total)
    since = (now() - ours[-1][0]).total_seconds()
    return None if left is None else max(0.0, left - since)


def _points(store: Store, job: Job, stage: Stage) -> tuple[Points, int | None, str]:
    """When how much was done, of how much, in what; of many points those that tell the pace."""
    with store.read() as connection:
        if stage.name.partition(":")[0] == LATENCY:
            points = _measured(connection, job, stage)
            return points, _number(job, "predictor", "samples"), "subnets"
        is_search = stage.name == "search"
        kind = "hypervolume" if is_search else stage.name.partition(":")[0]
        of_stage = (t.events.c.job_id == job.id) & (t.events.c.kind == kind)
        if ":" in stage.name:  # there are several of the kind
            of_stage &= t.events.c.stage == stage.name
        points = _steps(connection, of_stage, stage)
        if stage.name == SPECIALISE:
            return points, *_begun(connection, job)
        if is_search:
            return points, _of(connection, job) or _number(job, "search", "evaluations"), "subnets"
        return points, _steps_of(job, stage), "steps"


def _steps_of(job: Job, stage: Stage) -> int | None:
    """Of a training of a supernet, or of that of several which the stage names."""
    if stage.name == "train":
        return _number(job, "train", "steps")
    kind, _, name = stage.name.partition(":")
    if kind != "train":
        return None
    trains = (one.get("train") for one in (job.config.get("supernets") or ()) if one.get("name") == name)
    steps = next((train.get("steps") for train in trains if isinstance(train, dict)), None)
    return steps if type(steps) is int else None


def _number(job: Job, section: str, field: str) -> int | None:
    """A whole number of the job's config, which is as its store has it."""
    inside = job.config.get(section)
    number = inside.get(field) if isinstance(inside, dict) else None
    return number if type(number) is int else None


def _of(connection: Connection, job: Job) -> int | None:
    """How many subnets the search is to evaluate, as the last of its batches told."""
    c = t.events.c
    query = sa.select(c.data).where((c.job_id == job.id) & (c.kind == "hypervolume"))
    data = connection.scalar(query.order_by(c.id.desc()).limit(1))
    number = data.get("of") if isinstance(data, dict) else None
    return number if type(number) is int else None


def _begun(connection: Connection, job: Job) -> tuple[int | None, str]:
    """Of how much in what unit the finalists' training is, as its first event told."""
    c = t.events.c
    first = (c.job_id == job.id) & (c.kind == SPECIALISE) & (c.step == 0)
    data = connection.scalar(sa.select(c.data).where(first))
    data = data if isinstance(data, dict) else {}
    number = data.get("of")
    return number if type(number) is int else None, "subnets" if data.get("unit") == "subnets" else "steps"


def _steps(connection: Connection, which: sa.ColumnElement[bool], stage: Stage) -> list[tuple[datetime, int]]:
    """The last step before this attempt, the one in the middle of what it did, and the last of all."""
    c = t.events.c
    asked = sa.select(c.created_at, c.step).where(which & c.step.is_not(None)).order_by(c.id.desc()).limit(1)
    last = connection.execute(asked).first()
    if last is None:
        return []
    before = connection.execute(asked.where(c.created_at < stage.started_at)).first()
    halfway = ((0 if before is None else before[1]) + last[1]) / 2
    middle = connection.execute(asked.where((c.created_at >= stage.started_at) & (c.step <= halfway))).first()
    return [(row[0], row[1]) for row in (before, middle, last) if row is not None]


def _measured(connection: Connection, job: Job, stage: Stage) -> Points:
    """Subnets of the sample; of several devices those on the one with this name."""
    c = t.measurements.c
    asked = (c.job_id == job.id) & (c.purpose == "sample") & (c.state == "ok") & plausible(c.latency_ms)
    devices = job.config.get("devices")
    if isinstance(devices, dict) and len(devices) > 1:
        name = stage.name.partition(":")[2] or next(iter(devices))
        asked &= c.device_id.in_(sa.select(t.devices.c.id).where(t.devices.c.name == name))
    moments = connection.scalars(sa.select(c.created_at).where(asked).order_by(c.id))
    return [(moment, count) for count, moment in enumerate(moments, start=1)]

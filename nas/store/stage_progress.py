"""How far the stage of a job is that runs now, and how long it still takes, as its rows tell every reader."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from nas.pace import seconds_left
from nas.store import Job, Stage, Store
from nas.store._values import now
from nas.store.job_devices import LATENCY

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
    """When how much was done, of how much, in what."""
    section = job.config.get("search" if stage.name == "search" else "train") or {}
    if stage.name == "search":
        events = store.events(job, "hypervolume")
        of = events[-1].data.get("of") if events else None
        return _steps(events), of or section.get("evaluations"), "subnets"
    if stage.name.partition(":")[0] == LATENCY:
        device = stage.name.partition(":")[2] or next(iter(job.config.get("devices") or {}), None)
        return _measured(store, job, device), (job.config.get("predictor") or {}).get("samples"), "subnets"
    total = section.get("steps") if stage.name == "train" else None
    return _steps(store.events(job, stage.name)), total, "steps"


def _steps(events: Sequence[Any]) -> Points:
    return [(event.created_at, event.step) for event in events if event.step is not None]


def _measured(store: Store, job: Job, device: str | None) -> Points:
    """Subnets of the sample; of several devices those on the one with this name."""
    ids = {found.id for found in store.devices() if found.name == device}
    several = len(job.config.get("devices") or {}) > 1
    rows = [m for m in store.measurements(job, "sample") if not several or m.device_id in ids]
    return [(row.created_at, count) for count, row in enumerate(rows, start=1)]

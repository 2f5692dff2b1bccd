"""The store as pandas frames, for figures, tables and the front; an empty frame has its columns too."""

from typing import Any

import pandas as pd
import sqlalchemy as sa

from nas.store import Evaluation, Job, Store, Subnet
from nas.store import _tables as t
from nas.store._values import now
from nas.store.job_devices import (
    ELSEWHERE,
    device_names,
    measured_elsewhere,
    of_device,
    own_device,
    searched_name,
)

JOBS = ["id", "name", "state", "live", "stage", "evaluations", "created_at", "seconds", "error"]
EVALUATIONS = [
    "subnet",
    "architecture",
    "params",
    "macs",
    "metric",
    "value",
    "stderr",
    "batch",
    "position",
    "state",
]
FINALISTS = ["subnet", "architecture", "params", "macs", "metric", "quality", "stderr", "search_quality"]
PREDICTED = ("predicted_ms", "predicted_low_ms", "predicted_high_ms")  # ends of the 90 % interval
FINALISTS += ["device", *PREDICTED, "measured_ms", "spread_ms", "peak_memory_bytes", "energy_mj"]
# What retraining made of a subnet: the store's word for its weights, and ours for people.
RETRAINED = {"finetuned": "fine-tuned", "scratch": "from scratch"}
FINALISTS += [column for weights in RETRAINED for column in (weights, f"{weights}_stderr")]
MEASURED = ["subnet", "device", "measured_ms", "spread_ms", "purpose", "params", "macs", "architecture"]
MEASURED += ["state", "reason", "stderr_ms", "contention", "memory_bytes", "energy_mj", "device_id"]
DEVICES = ["id", "device", "backend", "cpu", "threads", "batch", "precision", "registered", "reference_ms"]
DEVICES += ["measurements", "failed", "repeatability", "fingerprint", "options", "created_at"]


def jobs(store: Store) -> pd.DataFrame:
    """One row a job, the newest first: its latest stage, its evaluations on the search split, its seconds.

    `live` says whether a process holds the job: one that is running and not live was interrupted.
    """
    with store.read() as connection:
        search = sa.select(t.evaluations.c.job_id, sa.func.count()).where(
            (t.evaluations.c.split == "search") & (t.evaluations.c.weights == "inherited")
        )
        counts = {row[0]: row[1] for row in connection.execute(search.group_by(t.evaluations.c.job_id))}
        begun = sa.select(t.stages.c.job_id, t.stages.c.name).order_by(t.stages.c.started_at, t.stages.c.id)
        stages = [row for row in connection.execute(begun) if _of_the_job(row.name)]
    latest = {row.job_id: row.name for row in stages}
    rows = [
        {
            "id": job.id,
            "name": job.name,
            "state": job.state,
            "live": job.owner is not None and store.is_live(job),
            "stage": latest.get(job.id),
            "evaluations": counts.get(job.id, 0),
            "created_at": job.created_at,
            "seconds": _seconds(job),
            "error": job.error,
        }
        for job in reversed(store.jobs())
    ]
    return pd.DataFrame(rows, columns=JOBS)


def evaluations(store: Store, job: Job, device_id: int | None = None) -> pd.DataFrame:
    """One row an evaluation on the search split, by position, with a column for each objective.

    What is told of each of several devices is there with its plain name, too, of one of them: by default the
    first.
    """
    device = searched_name(store, job, device_id)
    rows = [
        {
            **of_device(evaluation.objectives, device),
            **_of_subnet(evaluation.subnet),
            "metric": evaluation.metric,
            "value": evaluation.value,
            "stderr": evaluation.stderr,
            "batch": evaluation.batch,
            "position": evaluation.position,
            "state": evaluation.state,
        }
        for evaluation in store.evaluations(job, "search")
    ]
    return _ordered(rows, EVALUATIONS)


def finalists(store: Store, job: Job, device_id: int | None = None) -> pd.DataFrame:
    """One row a subnet with a quality on the report split, the fastest measured first.

    Latencies in milliseconds on a device, by default on the (first) one that was searched for: `predicted_ms`
    is what the search was told, or what the device's own predictor says, `measured_ms` a timing.
    `quality` is that of inherited weights; `finetuned` and `scratch`, with their errors, are those of the
    subnet trained by itself, where it was.
    """
    names = device_names(store, job)
    own = own_device(store, job)
    asked = own if device_id is None else device_id
    timed = {m.subnet.id: m for m in store.measurements(job, "finalist") if m.device_id == asked}
    device = searched_name(store, job, asked)
    by_search = asked == own or device is not None
    told = {} if by_search else _predicted(store, job, asked)
    searched = {(e.subnet.id, e.metric): e for e in store.evaluations(job, "search")}
    retrained = {
        (e.subnet.id, e.metric, weights): e
        for weights in RETRAINED
        for e in store.evaluations(job, "report", weights=weights)
    }
    rows = []
    for report in store.evaluations(job, "report"):
        if report.state != "ok":
            continue
        search = searched.get((report.subnet.id, report.metric))
        timing = timed.get(report.subnet.id)
        row = {**_of_subnet(report.subnet), "metric": report.metric, "quality": report.value}
        row |= {"stderr": report.stderr, "search_quality": search.value if search else None}
        row |= {"device": names[timing.device_id] if timing else None}
        predicted = _as_searched(search, device) if by_search else told.get(report.subnet.key, (None,) * 3)
        row |= dict(zip(PREDICTED, predicted, strict=True))
        row |= {
            "measured_ms": timing.latency_ms if timing else None,
            "spread_ms": timing.spread_ms if timing else None,
            "peak_memory_bytes": timing.memory_bytes if timing else None,
            "energy_mj": timing.energy_mj if timing else None,
        }
        for weights in RETRAINED:
            again = retrained.get((report.subnet.id, report.metric, weights))
            row |= {weights: again and again.value, f"{weights}_stderr": again and again.stderr}
        rows.append(row)
    frame = pd.DataFrame(rows, columns=FINALISTS)
    return frame.sort_values(["measured_ms", "quality"], na_position="last", ignore_index=True)


def devices(store: Store) -> pd.DataFrame:
    """One row a device: what it is, its clean calibrator time, and what was measured on it.

    `repeatability` is that of the sample of the latest job that has a predictor for it (a fraction).
    """
    with store.read() as connection:
        c = t.measurements.c
        counted = sa.select(c.device_id, c.state, sa.func.count()).group_by(c.device_id, c.state)
        counts = {(row[0], row[1]): row[2] for row in connection.execute(counted)}
        p = t.predictors.c
        fitted = sa.select(p.device_id, p.score).where(p.metric == "latency_ms").order_by(p.id)
        repeats = {row.device_id: row.score.get("repeatability") or {} for row in connection.execute(fitted)}
    rows = [
        {
            **{name: ({**device.fingerprint, **(device.options or {})}).get(name) for name in DEVICES[2:7]},
            "id": device.id,
            "device": device.name,
            "registered": device.options is not None,
            "reference_ms": device.reference_ms,
            "measurements": counts.get((device.id, "ok"), 0),
            "failed": counts.get((device.id, "failed"), 0),
            "repeatability": repeats.get(device.id, {}).get("mape"),
            "fingerprint": device.fingerprint,
            "options": device.options,
            "created_at": device.created_at,
        }
        for device in store.devices()
    ]
    return pd.DataFrame(rows, columns=DEVICES, dtype=object)


def events(store: Store, job: Job, kind: str) -> pd.DataFrame:
    """One row an event of the kind, by step: `step` and a column for each key of its data."""
    rows = [{**event.data, "step": event.step} for event in store.events(job, kind)]
    return _ordered(rows, ["step"]).sort_values("step", kind="stable", na_position="last", ignore_index=True)


def measured(store: Store, job: Job) -> pd.DataFrame:
    """One row a measurement, in milliseconds, in the order in which they came."""
    names = device_names(store, job)
    rows = [
        {
            **_of_subnet(found.subnet),
            "device": names[found.device_id],
            "measured_ms": found.latency_ms,
            "spread_ms": found.spread_ms,
            "purpose": found.purpose,
            **{name: getattr(found, name) for name in MEASURED[8:]},
        }
        for found in store.measurements(job, state=None)
    ]
    return pd.DataFrame(rows, columns=MEASURED)


def _of_the_job(stage: str) -> bool:
    """Whether it is a stage of the job itself, and not of what came after."""
    return stage.partition("-")[0] not in (*RETRAINED, ELSEWHERE)


def _as_searched(search: Evaluation | None, device: str | None) -> tuple[float | None, ...]:
    """The latency that was predicted when the subnet was evaluated, and the ends of its interval, in ms."""
    if search is None:
        return (None,) * len(PREDICTED)
    told = of_device(search.objectives, device)
    return told.get("predicted_ms", told.get("latency_ms")), *(told.get(name) for name in PREDICTED[1:])


def _predicted(store: Store, job: Job, device_id: int | None) -> dict[str, tuple[float | None, ...]]:
    """Predictions for another device and the ends of their intervals in ms, by the subnet's key."""
    stage = None if device_id is None else store.stage(job, measured_elsewhere(device_id))
    return (stage.result or {}).get("predicted_ms", {}) if stage is not None else {}


def _of_subnet(subnet: Subnet) -> dict[str, Any]:
    return {
        "subnet": subnet.key,
        "architecture": subnet.architecture,
        "params": subnet.params,
        "macs": subnet.macs,
    }


def _seconds(job: Job) -> float | None:
    if job.started_at is None:
        return None
    return max(0.0, ((job.finished_at or now()) - job.started_at).total_seconds())


def _ordered(rows: list[dict[str, Any]], first: list[str]) -> pd.DataFrame:
    others = dict.fromkeys(name for row in rows for name in row if name not in first)
    return pd.DataFrame(rows, columns=[*first, *others])

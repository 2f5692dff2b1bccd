"""The store as pandas frames, for figures, tables and the front; an empty frame has its columns too."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import pandas as pd
import sqlalchemy as sa

from nas.results.job_devices import (
    ELSEWHERE,
    PREDICTED,
    device_names,
    measured_elsewhere,
    of_device,
    own_device,
    searched_name,
    tokens_a_run,
)
from nas.store import Evaluation, Job, MeasurementRow, Stage, Store, Subnet
from nas.store import tables as t
from nas.store.connection.database import fetch
from nas.store.connection.patience import again
from nas.store.values import now
from predictors.measurement.labels import Failure, Measurement
from search_spaces.union import MEMBER

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
FINALISTS += ["family"]  # of a job with several supernets which one's it is; None: there is one
FINALISTS += ["device", *PREDICTED, "measured_ms", "spread_ms", "peak_memory_bytes", "energy_mj"]
# Weights that a front reports: what subnets have in the supernet, or what the job's own training of its
# finalists, in a stage of its own, made of them.
INHERITED, SPECIALISED = "inherited", "specialised"
SPECIALISE = "specialise"
FINALISTS += ["weights", INHERITED, f"{INHERITED}_stderr"]
# What retraining made of a subnet: the store's word for its weights, and ours for people.
RETRAINED = {"finetuned": "fine-tuned", "scratch": "from scratch"}
TRAINED = {SPECIALISED: SPECIALISED, **RETRAINED}  # all that can be compared with inherited weights
# The same weights as the device's backend computes them, and how that differs on the same examples.
ON_DEVICE = ["device_quality", "device_stderr", "device_examples"]
ON_DEVICE += ["device_difference", "device_difference_stderr"]
FINALISTS += ON_DEVICE
# The best draft for a subnet, as the latest `nas drafts` has told it of the report split.
DRAFTS = "drafts"  # first part of the names of stages that have compared drafts
DRAFT = {
    "draft": "draft",
    "draft_acceptance": "acceptance",
    "draft_acceptance_stderr": "acceptance_stderr",
    "draft_ahead": "ahead",
    "draft_tokens_a_call": "tokens_a_call",
    "draft_speed_up": "speed_up",
}
FINALISTS += DRAFT
FINALISTS += ["tokens_a_run"]  # on the device; None: the networks are run on images
FINALISTS += [column for weights in RETRAINED for column in (weights, f"{weights}_stderr")]
MEASURED = ["subnet", "device", "measured_ms", "spread_ms", "purpose", "params", "macs", "architecture"]
MEASURED += ["state", "reason", "stderr_ms", "contention", "memory_bytes", "energy_mj", "device_id"]
DEVICES = ["id", "device", "backend", "cpu", "threads", "batch", "precision", "registered", "reference_ms"]
DEVICES += ["measurements", "failed", "repeatability", "fingerprint", "options", "created_at"]


@again
def evaluation_counts(store: Store, job: Job | None = None) -> dict[int, int]:
    """How many subnets each job has evaluated on the search split, by the job's id; or of one job alone."""
    search = sa.select(t.evaluations.c.job_id, sa.func.count()).where(
        (t.evaluations.c.split == "search") & (t.evaluations.c.weights == "inherited")
    )
    if job is not None:
        search = search.where(t.evaluations.c.job_id == job.id)
    with store.read() as connection:
        return {row[0]: row[1] for row in connection.execute(search.group_by(t.evaluations.c.job_id))}


@again
def has_evaluations(store: Store, job: Job) -> bool:
    """Whether any subnet was evaluated, on the search split or the report split."""
    c = t.evaluations.c
    with store.read() as connection:
        return connection.scalar(sa.select(c.id).where(c.job_id == job.id).limit(1)) is not None


@again
def jobs(store: Store, counts: Mapping[int, int] | None = None) -> pd.DataFrame:
    """One row a job, the newest first: its latest stage, its evaluations on the search split, its seconds.

    `live` says whether a process holds the job: one that is running and not live was interrupted.
    counts: as of `evaluation_counts`, where they are known.
    """
    counts = evaluation_counts(store) if counts is None else counts
    with store.read() as connection:
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


def evaluations(
    store: Store, job: Job, device_id: int | None = None, *, key: str | None = None
) -> pd.DataFrame:
    """One row an evaluation on the search split, by position, with a column for each objective.

    What is told of each of several devices is there with its plain name, too, of one of them: by default the
    first.  key: only those of this subnet.
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
        for evaluation in store.evaluations(job, "search", key=key)
    ]
    return _ordered(rows, EVALUATIONS)


def reported(store: Store, job: Job, split: str = "report") -> list[Evaluation]:
    """What the front goes by: of each finalist the evaluation with the weights that it ended with.

    Those are specialised where the job trained its finalists further, and else inherited ones. Without
    those that failed.
    """
    trained = {e.subnet.id: e for e in store.evaluations(job, split, weights=SPECIALISED) if e.state == "ok"}
    evaluations = [trained.get(e.subnet.id, e) for e in store.evaluations(job, split, reported=True)]
    return [e for e in evaluations if e.state == "ok"]


def finalists(store: Store, job: Job, device_id: int | None = None) -> pd.DataFrame:
    """One row a subnet with a quality on the report split, the fastest measured first.

    Latencies in milliseconds on a device, by default on the (first) one that was searched for: `predicted_ms`
    is what the search was told, or what the device's own predictor says, `measured_ms` a timing.
    `quality` is that of the `weights` that the front reports. Where those are specialised, `inherited`, with
    its error, is what the finalist was before. `finetuned` and `scratch` are those of the subnet trained by
    itself, where it was. `device_quality` is what the device's backend computes with the reported weights, on
    `device_examples` of the report split, and `device_difference` how much that is more than the supernet's
    on the same ones. `draft` is the best draft that was told for the subnet with the reported weights.
    """
    names = device_names(store, job)
    first_device = own_device(store, job)
    asked = first_device if device_id is None else device_id
    on_device = [m for m in store.measurements(job, "finalist") if m.device_id == asked]
    timed = {m.subnet.id: m.result for m in on_device}
    device = searched_name(store, job, asked)
    by_search = asked == first_device or device is not None
    predictions = {} if by_search else _predicted(store, job, asked)
    searched = {(e.subnet.id, e.metric): e for e in store.evaluations(job, "search", reported=True)}
    search_quality = {(e.subnet.id, e.metric): e.value for e in reported(store, job, "search")}
    others, tokens = _with_other_weights(store, job), tokens_a_run(store, job, asked)
    computed, drafted = _computed_by(store, job, asked), _drafted(store, job)
    rows = []
    for report in reported(store, job):
        which = (report.subnet.id, report.metric)
        timing, search = timed.get(report.subnet.id), searched.get(which)
        row = {**_of_subnet(report.subnet), "metric": report.metric, "quality": report.value}
        row |= {"stderr": report.stderr, "weights": report.weights}
        row |= {"search_quality": search_quality.get(which), "family": supernet_of(report.subnet)}
        row |= {"device": names[asked] if timing and asked is not None else None, "tokens_a_run": tokens}
        predicted = (
            _as_searched(search, device) if by_search else predictions.get(report.subnet.key, (None,) * 3)
        )
        row |= dict(zip(PREDICTED, predicted, strict=True)) | _of_timing(timing)
        row |= computed.get((*which, report.weights), dict.fromkeys(ON_DEVICE))
        row |= drafted.get((report.subnet.key, report.weights), dict.fromkeys(DRAFT))
        for weights in (INHERITED, *RETRAINED):
            other = others.get((*which, weights)) if weights != report.weights else None
            row |= {weights: other and other.value, f"{weights}_stderr": other and other.stderr}
        rows.append(row)
    frame = pd.DataFrame(rows, columns=FINALISTS)
    return frame.sort_values(["measured_ms", "quality"], na_position="last", ignore_index=True)


def _with_other_weights(store: Store, job: Job) -> dict[tuple[int, str, str], Evaluation]:
    """Evaluations on the report split by subnet, metric and weights."""
    return {
        (e.subnet.id, e.metric, weights): e
        for weights in (INHERITED, *RETRAINED)
        for e in store.evaluations(job, "report", weights=weights)
    }


def _computed_by(
    store: Store, job: Job, device_id: int | None
) -> dict[tuple[int, str, str], dict[str, float | None]]:
    """What a device's backend computes on the report split, by subnet, metric and weights."""
    qualities = [] if device_id is None else store.device_qualities(job, device_id)
    return {
        (one.subnet.id, one.metric, one.weights): dict(
            zip(
                ON_DEVICE,
                (one.value, one.stderr, one.count, one.difference, one.difference_stderr),
                strict=True,
            )
        )
        for one in qualities
        if one.state == "ok" and one.split == "report"
    }


@again
def _drafted(store: Store, job: Job) -> dict[tuple[str, str], dict[str, Any]]:
    """What was told of the best draft, by the key of a subnet and its weights."""
    c = t.stages.c
    query = sa.select(t.stages).where((c.job_id == job.id) & (c.state == "done"))
    with store.read() as connection:
        stages = fetch(connection, Stage, query.where(c.name.startswith(f"{DRAFTS}-", autoescape=True)))
    return {
        (one.told("subnet"), one.told("weights")): {
            name: one.told("best", key) for name, key in DRAFT.items()
        }
        for one in stages
    }


def _of_timing(timing: Measurement | None) -> dict[str, float | None]:
    return {
        "measured_ms": timing.latency_ms if timing else None,
        "spread_ms": timing.spread_ms if timing else None,
        "peak_memory_bytes": timing.peak_memory_bytes if timing else None,
        "energy_mj": timing.energy_mj if timing else None,
    }


@again
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


@again
def events(store: Store, job: Job, kind: str, *, most: int | None = None) -> pd.DataFrame:
    """One row an event of the kind, by step: `step` and a column for each key of its data.

    most: where there are more, about as many are read, evenly thinned, and the last one.
    """
    c = t.events.c
    asked = (c.job_id == job.id) & (c.kind == kind)
    query = sa.select(c.step, c.data).where(asked).order_by(c.id)
    with store.read() as connection:
        if most is not None:
            count: int = connection.execute(sa.select(sa.func.count()).where(asked)).scalar_one()
            number = sa.func.row_number().over(order_by=c.id)
            numbered = sa.select(c.id, number.label("number")).where(asked).subquery()
            n = numbered.c.number
            few = sa.select(numbered.c.id).where((n % -(-count // most) == 0) | (n == count))
            query = query.where(c.id.in_(few)) if count > most else query
        rows = [{**data, "step": step} for step, data in connection.execute(query)]
    return _ordered(rows, ["step"]).sort_values("step", kind="stable", na_position="last", ignore_index=True)


def training(store: Store, job: Job) -> pd.DataFrame:
    """One row a point of the training of the job's supernet, by step, whichever job had trained it.

    Of a job with several column `supernet` says of which.
    """
    uses = store.supernets_of(job)
    if len(uses) == 1 and uses[0].name is None:
        (use,) = uses
        return _ordered(use.supernet.curve, ["step"]) if use.reused else events(store, job, "train")
    if not uses:
        return events(store, job, "train")
    stored = store.events(job, "train")
    rows = [
        {**point, "supernet": use.name}
        for use in uses
        for point in (
            use.supernet.curve
            if use.reused
            else [{**e.data, "step": e.step} for e in stored if e.stage == f"train:{use.name}"]
        )
    ]
    return _ordered(rows, ["step", "supernet"])


def measured(store: Store, job: Job) -> pd.DataFrame:
    """One row a measurement, in milliseconds, in the order in which they came."""
    names = device_names(store, job)
    stored: list[MeasurementRow[Measurement] | MeasurementRow[Failure]] = [
        *store.measurements(job),
        *store.failures(job),
    ]
    rows = [
        {
            **_of_subnet(row.subnet),
            "device_id": row.device_id,
            "device": names[row.device_id],
            "purpose": row.purpose,
            **_of_result(row.result),
        }
        for row in sorted(stored, key=attrgetter("id"))
    ]
    return pd.DataFrame(rows, columns=MEASURED)


def _of_result(result: Measurement | Failure) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"state": "failed", "reason": result.reason}
    return {
        "measured_ms": result.latency_ms,
        "spread_ms": result.spread_ms,
        "state": "ok",
        "reason": None,
        "stderr_ms": result.stderr_ms,
        "contention": result.contention,
        "memory_bytes": result.peak_memory_bytes,
        "energy_mj": result.energy_mj,
    }


def _of_the_job(stage: str) -> bool:
    """Whether it is a stage of the job itself, and not of what came after."""
    return stage.partition("-")[0] not in (*RETRAINED, ELSEWHERE, DRAFTS)


def _as_searched(search: Evaluation | None, device: str | None) -> tuple[float | None, ...]:
    """The latency that was predicted when the subnet was evaluated, and the ends of its interval, in ms."""
    if search is None:
        return (None,) * len(PREDICTED)
    values = of_device(search.objectives, device)
    mean_ms = values.get("predicted_ms", values.get("latency_ms"))
    return mean_ms, *(values.get(name) for name in PREDICTED[1:])


def _predicted(store: Store, job: Job, device_id: int | None) -> dict[str, tuple[float | None, ...]]:
    """Predictions for another device and the ends of their intervals in ms, by the subnet's key."""
    stage = None if device_id is None else store.stage(job, measured_elsewhere(device_id))
    return (stage.result or {}).get("predicted_ms", {}) if stage is not None else {}


def supernet_of(subnet: Subnet) -> str | None:
    """Of a job with several supernets the name of the one whose subnet it is."""
    return None if subnet.own_key is None else str(subnet.architecture.get(MEMBER))


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

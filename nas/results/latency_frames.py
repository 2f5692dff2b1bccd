"""What jobs found out about latency on devices, as pandas frames; an empty frame has its columns too.

What a predictor was scored with is read as it was stored: older jobs lack some of it, and then it is missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import sqlalchemy as sa

from nas.results import job_devices
from nas.store import Job, Predictor, Store
from nas.store import tables as t
from nas.store.connection.database import fetch
from nas.store.connection.patience import again
from predictors.measurement import labels
from predictors.measurement.plausibility import is_whole
from predictors.regression import card as cards
from search_spaces.layers import Layer

LATENCY = "latency_ms"
PREDICTORS = ["job_id", "job", "device_id", "device", "kind", "rung", "why", "count", "mape", "perfect_mape"]
PREDICTORS += ["within_5", "within_10", "tau", "repeat_mape", "repeat_tau", "sigma", "half_width"]
MEASURED_ON = ["job_id", "job", "state", "live", "device_id", "device", "searched_for", "measured", "failed"]
HELD_OUT = ["subnet", "architecture", "measured_ms", "predicted_ms", "low_ms", "high_ms"]
HALVES = ["subnet", "measured_ms", "odd_ms", "even_ms"]
CARD = ["term", "value", "unit", "share"]
KINDS = ["subnet", "kind", "latency_ms"]
AGENTS = ["agent", "device_id", "live", "last_seen"]


@again
def predictors(store: Store) -> pd.DataFrame:
    """One row a latency predictor, the newest job first; errors and shares are fractions.

    mape, within_5, within_10, tau: on subnets held out.  perfect_mape: what a predictor without any error
    would show, as the measurements are noisy.  half_width: of the 90 % interval, over the prediction.
    """
    jobs = {job.id: job.name for job in store.jobs()}
    devices = {device.id: device.name for device in store.devices()}
    rows = []
    query = sa.select(t.predictors).where(t.predictors.c.metric == LATENCY)
    with store.read() as connection:
        fitted = fetch(connection, Predictor, query.order_by(t.predictors.c.id))
    for predictor in fitted:
        repeated = _mapping(predictor.score.get("repeatability"))
        row = {name: predictor.score.get(name) for name in PREDICTORS[6:13]}
        row |= {"job_id": predictor.job_id, "job": jobs[predictor.job_id]}
        row |= {
            "device_id": predictor.device_id,
            "device": devices[predictor.device_id],
            "kind": predictor.kind,
        }
        row |= {"rung": _mapping(predictor.state.get("model")).get("rung")}
        row |= {"repeat_mape": repeated.get("mape"), "repeat_tau": repeated.get("tau")}
        row |= {"sigma": repeated.get("sigma")}
        rows.append(row | {"half_width": _mapping(predictor.state.get("intervals")).get("half_width")})
    return pd.DataFrame(rows, columns=PREDICTORS, dtype=object).sort_values(
        "job_id", ascending=False, kind="stable", ignore_index=True
    )


@again
def measured_on(store: Store, job: Job | None = None, *, device_id: int | None = None) -> pd.DataFrame:
    """One row a job and a device that it was measured on, the newest job first, its own device before others.

    job, device_id: only these.

    measured, failed: how many measurements there are of each.  searched_for: whether it is the job's own
    device, or one of several, which its search was for.
    """
    c = t.measurements.c
    failed = sa.func.sum(sa.case((c.state == "failed", 1), else_=0))
    asked = (sa.true() if job is None else c.job_id == job.id) & (
        sa.true() if device_id is None else c.device_id == device_id
    )
    counted = sa.select(c.job_id, c.device_id, sa.func.count(), failed).where(asked)
    counted = counted.group_by(c.job_id, c.device_id)
    with store.read() as connection:
        counts = [tuple(row) for row in connection.execute(counted)]
    jobs = {job.id: job for job in store.jobs()}
    searched = {job_id: _own_devices(store, jobs[job_id]) for job_id, *_ in counts}
    names = {job_id: job_devices.device_names(store, jobs[job_id]) for job_id, *_ in counts}
    rows = [
        {
            "job_id": job_id,
            "job": jobs[job_id].name,
            "state": jobs[job_id].state,
            "live": jobs[job_id].owner is not None and store.is_live(jobs[job_id]),
            "device_id": on,
            "device": names[job_id][on],
            "searched_for": on in searched[job_id] or not searched[job_id],
            "measured": count - int(without),
            "failed": int(without),
        }
        for job_id, on, count, without in counts
    ]
    return pd.DataFrame(rows, columns=MEASURED_ON, dtype=object).sort_values(
        ["job_id", "searched_for", "device_id"], ascending=[False, False, True], ignore_index=True
    )


def _own_devices(store: Store, job: Job) -> list[int]:
    first = job_devices.own_device(store, job)
    return [] if first is None else [first, *job_devices.searched_for(store, job).values()]


def held_out(store: Store, job: Job, device_id: int) -> pd.DataFrame:
    """One row a subnet of the sample: as measured, as predicted by a fit without it, ends of its interval.

    The intervals are those of the predictor fitted to all. Latencies are in milliseconds.
    """
    architectures = {subnet.key: subnet.architecture for subnet in store.subnets(job)}
    points = _records(_score(store, job, device_id).get("held_out"))
    rows = [point | {"architecture": architectures.get(point.get("subnet", ""))} for point in points]
    return pd.DataFrame(rows, columns=HELD_OUT)


def halves(store: Store, job: Job, device_id: int) -> pd.DataFrame:
    """One row a subnet of the sample: its latency in ms by all rounds, the odd and the even ones alone.

    Subnets that were not timed in both halves are left out.
    """
    rows = []
    for row in store.measurements(job, "sample"):
        if row.device_id != device_id or row.result.reference_ms is None or not is_whole(row.result):
            continue
        both = labels.halves(row.result)
        if both is not None:
            rows.append((row.subnet.key, row.result.latency_ms, *both[:2]))
    return pd.DataFrame(rows, columns=HALVES)


def card(store: Store, job: Job, device_id: int) -> pd.DataFrame:
    """What the device takes for each kind of work: value in its unit, and its share of the latency.

    Of a predictor that was stored without, the coefficients as they are; their shares are missing.
    """
    predictor = store.predictor(job, device_id, metric=LATENCY)
    if predictor is None:
        return pd.DataFrame(columns=CARD)
    rows = _records(predictor.score.get("card")) or _coefficients(predictor)
    return pd.DataFrame(rows, columns=CARD, dtype=object)


def by_kind(store: Store, job: Job, device_id: int) -> pd.DataFrame:
    """One row a kind of layer in the smallest and in the largest subnet (`subnet`): predicted ms of it."""
    by_subnet = _mapping(_score(store, job, device_id).get("by_kind"))
    rows = [
        (subnet, kind, latency)
        for subnet in ("smallest", "largest")
        for kind, latency in _mapping(by_subnet.get(subnet)).items()
    ]
    return pd.DataFrame(rows, columns=KINDS)


def by_layer(
    store: Store, job: Job, device_id: int, layers: Sequence[Layer]
) -> tuple[list[float], float] | None:
    """Predicted ms of each layer of a network, and those that are no layer's.

    layers: as the device runs them (`search_spaces.workloads.as_run`).
    None where the job's predictor for the device does not tell layers apart. Raises UsageError for one that
    another version has stored.
    """
    predictor = store.predictor(job, device_id, metric=LATENCY)
    if predictor is None or not cards.is_roofline(predictor.state):
        return None
    return cards.by_layer(predictor.state, layers)


def agents(store: Store) -> pd.DataFrame:
    """One row an agent, by name: its device, whether it runs now, when it was seen last."""
    rows = [(agent.name, agent.device.id, agent.live, agent.last_seen) for agent in store.agents()]
    return pd.DataFrame(rows, columns=AGENTS, dtype=object)


def _score(store: Store, job: Job, device_id: int) -> Mapping[str, Any]:
    predictor = store.predictor(job, device_id, metric=LATENCY)
    return {} if predictor is None else predictor.score


def _coefficients(predictor: Predictor) -> list[dict[str, Any]]:
    names = predictor.state.get("features") or []
    values = _mapping(predictor.state.get("model")).get("coefficients") or []
    return [
        {"term": name.replace("_", " "), "value": value, "unit": "ms each"}
        for name, value in zip(names, values, strict=False)
        if value
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _records(value: Any) -> Sequence[dict[str, Any]]:
    rows: Iterable[Any] = value if isinstance(value, list) else []
    return [dict(row) for row in rows if isinstance(row, Mapping)]

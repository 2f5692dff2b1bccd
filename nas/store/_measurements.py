"""What a job measures: latencies of subnets on devices, and the predictors fitted to them."""

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from nas.store import _tables as t
from nas.store._database import Database, fetch
from nas.store._engine import insert_missing
from nas.store._lease import Lease
from nas.store._patience import again
from nas.store._records import Job, Measurement, NewMeasurement, Predictor
from nas.store._subnets import nested, subnet_ids, with_subnet
from nas.store._values import DAY_MS, finite, is_plausible, now

MEASURED = ("latency_ms", "spread_ms", "reference_ms", "stderr_ms", "contention", "energy_mj")


class Measurements(Database):
    """Latencies and predictors of the jobs, written under their leases."""

    @again
    def add_measurements(self, lease: Lease, measurements: Iterable[NewMeasurement]) -> None:
        """Latencies with their subnets, in one transaction; those that are there already stay as they are.

        A failed one gives way to the next attempt.
        """
        batch = list(measurements)
        with lease.write() as connection:
            ids = subnet_ids(connection, lease.job.id, (new.subnet for new in batch))
            rows = [_measurement_row(lease.job.id, ids[new.subnet.key], new) for new in batch]
            _remove_failed(connection, rows)
            insert_missing(connection, t.measurements, rows)

    @again
    def measurements(
        self, job: Job, purpose: str | None = None, *, state: str | None = "ok"
    ) -> list[Measurement]:
        """The job's measurements in the order in which they came, for one purpose or for all.

        state: `ok`, `failed`, or None for both. Latencies that earlier versions stored and that cannot be
        count as not measured.
        """
        c = t.measurements.c
        for_purpose = sa.true() if purpose is None else c.purpose == purpose
        in_state = sa.true() if state is None else c.state == state
        if state != "failed":
            in_state &= (c.state == "failed") | plausible(c.latency_ms)
        which = (c.job_id == job.id) & for_purpose & in_state & _known_device(c.device_id)
        query = with_subnet(t.measurements).where(which).order_by(c.id)
        with self.read() as connection:
            return [Measurement(**nested(row)) for row in connection.execute(query).mappings()]

    @again
    def put_predictor(
        self,
        lease: Lease,
        *,
        device_id: int,
        kind: str,
        state: Mapping[str, Any],
        score: Mapping[str, Any],
        metric: str = "latency_ms",
    ) -> Predictor:
        """Stores the job's predictor of a metric on a device in place of the one before."""
        values = {"kind": kind, "state": state, "score": score, "created_at": now()}
        c = t.predictors.c
        this = (c.job_id == lease.job.id) & (c.device_id == device_id) & (c.metric == metric)
        with lease.write() as connection:
            if connection.execute(sa.update(t.predictors).where(this).values(values)).rowcount == 0:
                new = {"job_id": lease.job.id, "device_id": device_id, "metric": metric, **values}
                connection.execute(sa.insert(t.predictors).values(new))
            return fetch(connection, Predictor, sa.select(t.predictors).where(this))[0]

    @again
    def predictor(
        self, job: Job, device_id: int | None = None, *, metric: str = "latency_ms"
    ) -> Predictor | None:
        """The job's predictor of a metric on a device, by default on its own; None when there is none.

        Its own device is the one that it searched for: it was measured first.
        """
        c = t.predictors.c
        on_device = sa.true() if device_id is None else c.device_id == device_id
        query = sa.select(t.predictors).where((c.job_id == job.id) & (c.metric == metric) & on_device)
        query = query.where(_known_device(c.device_id))
        with self.read() as connection:
            found = fetch(connection, Predictor, query.order_by(c.id).limit(1))
        return found[0] if found else None


def _known_device(device_id: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Whether there is the device: a row of one that is gone says nothing, as one of a gone subnet."""
    return device_id.in_(sa.select(t.devices.c.id))


def plausible(milliseconds: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    """Whether a time is above 0 and below a day; of NULL it is not."""
    return sa.func.coalesce((milliseconds > 0) & (milliseconds < DAY_MS), sa.false())


def _measurement_row(job_id: int, subnet_id: int, new: NewMeasurement) -> dict[str, Any]:
    row = {name: getattr(new, name) for name in ("device_id", "purpose", "rounds", "raw", "memory_bytes")}
    row |= {name: finite(getattr(new, name)) for name in MEASURED}
    failed, reason = not is_plausible(row["latency_ms"]), new.reason
    if failed:
        reason = reason or f"its latency is {'missing' if new.latency_ms is None else new.latency_ms}"
        row["latency_ms"] = None
    row |= {"state": "failed" if failed else "ok", "reason": reason}
    return {**row, "job_id": job_id, "subnet_id": subnet_id, "created_at": now()}


def _remove_failed(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    c = t.measurements.c
    same = [c[name] == sa.bindparam(f"this_{name}") for name in ("subnet_id", "device_id", "purpose")]
    again = [{f"this_{name}": row[name] for name in ("subnet_id", "device_id", "purpose")} for row in rows]
    if again:
        worthless = (c.state == "failed") | sa.not_(plausible(c.latency_ms))
        connection.execute(sa.delete(t.measurements).where(worthless & sa.and_(*same)), again)

"""What a job finds out on devices: latencies and their predictors, and qualities that are computed there."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from nas.store import tables as t
from nas.store.connection.database import Database, fetch
from nas.store.connection.engine import insert_missing
from nas.store.connection.patience import again
from nas.store.leases import Lease
from nas.store.records import (
    DeviceQuality,
    Job,
    MeasurementRow,
    NewDeviceQuality,
    NewSubnet,
    Predictor,
    StoredMeasurement,
    Subnet,
)
from nas.store.results import packed, unpacked
from nas.store.subnets import nested, subnet_ids, with_subnet
from nas.store.values import finite, now
from predictors.measurement.labels import Failure, Measurement
from predictors.measurement.plausibility import DAY_MS, is_time, is_whole
from supernet.tasks import Scores

NUMBERS = ("latency_ms", "spread_ms", "reference_ms", "stderr_ms", "contention", "energy_mj")


class Measurements(Database):
    """Latencies and predictors of the jobs, written under their leases."""

    @again
    def add_measurements(
        self,
        lease: Lease,
        results: Iterable[tuple[NewSubnet, Measurement | Failure]],
        *,
        device_id: int,
        purpose: str,
        networks: Mapping[str, str] = MappingProxyType({}),
        reused: Mapping[str, datetime] = MappingProxyType({}),
    ) -> None:
        """What measuring subnets on a device came to, in one transaction; what is there already stays.

        A failed one gives way to the next attempt. purpose: sample, search or finalist.
        networks: hashes by which other jobs find it, by the subnet's key.
        reused: when it was measured, of what other jobs have measured, by the subnet's key.
        """
        batch = list(results)
        shared = {"job_id": lease.job.id, "device_id": device_id, "purpose": purpose}
        moment = now()
        with lease.write() as connection:
            ids = subnet_ids(connection, lease.job.id, (subnet for subnet, _ in batch))
            rows = [
                {
                    **shared,
                    "subnet_id": ids[subnet.key],
                    "network": networks.get(subnet.key),
                    "reused": subnet.key in reused,
                    "created_at": reused.get(subnet.key, moment),
                    **_columns(result),
                }
                for subnet, result in batch
            ]
            _remove_failed(connection, rows)
            insert_missing(connection, t.measurements, rows)

    @again
    def measurements(self, job: Job, purpose: str | None = None) -> list[MeasurementRow[Measurement]]:
        """The job's latencies in the order in which they came, for one purpose or for all.

        Those that earlier versions stored and that cannot be count as not measured.
        """
        c = t.measurements.c
        rows = self._measurement_rows(job, purpose, (c.state == "ok") & plausible(c.latency_ms))
        return [MeasurementRow(**_place(row), result=_measurement(row)) for row in rows]

    @again
    def measurements_of(
        self, networks: Collection[str], device_id: int, *, purpose: str, since: datetime
    ) -> dict[str, StoredMeasurement]:
        """The latest measurements of networks on a device since a moment, by network, whichever job's."""
        c = t.measurements.c
        which = c.network.in_(networks) & (c.device_id == device_id) & (c.purpose == purpose)
        which &= (c.state == "ok") & plausible(c.latency_ms) & (c.created_at >= since)
        query = sa.select(t.measurements).where(which).order_by(c.created_at, c.id)
        with self.read() as connection:
            rows = connection.execute(query).mappings().all()
        stored = {
            row["network"]: StoredMeasurement(_measurement(dict(row)), row["created_at"]) for row in rows
        }
        return {network: one for network, one in stored.items() if is_whole(one.result)}

    @again
    def failures(self, job: Job, purpose: str | None = None) -> list[MeasurementRow[Failure]]:
        """What could not be measured, as `measurements`."""
        rows = self._measurement_rows(job, purpose, t.measurements.c.state == "failed")
        return [
            MeasurementRow(**_place(row), result=Failure(row["reason"] or "", row["raw"])) for row in rows
        ]

    def _measurement_rows(
        self, job: Job, purpose: str | None, which: sa.ColumnElement[bool]
    ) -> list[dict[str, Any]]:
        c = t.measurements.c
        for_purpose = sa.true() if purpose is None else c.purpose == purpose
        which &= (c.job_id == job.id) & for_purpose & _is_device(c.device_id)
        query = with_subnet(t.measurements).where(which).order_by(c.id)
        with self.read() as connection:
            return [nested(row) for row in connection.execute(query).mappings()]

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
        query = query.where(_is_device(c.device_id))
        with self.read() as connection:
            first = fetch(connection, Predictor, query.order_by(c.id).limit(1))
        return first[0] if first else None

    @again
    def put_device_quality(self, lease: Lease, device_id: int, new: NewDeviceQuality) -> None:
        """Stores a quality on a device in place of the one of the same subnet, split and weights."""
        names = ("split", "weights", "metric", "basis", "count", "reason", "reused")
        row: dict[str, Any] = {name: getattr(new, name) for name in names}
        numbers = ("value", "stderr", "difference", "difference_stderr")
        row |= {name: finite(getattr(new, name)) for name in numbers}
        objectives = {name: finite(value) for name, value in new.objectives.items()}
        row |= {"objectives": objectives, "state": "failed" if row["value"] is None else "ok"}
        row |= {"scores": None if new.scores is None else packed(new.scores), "created_at": now()}
        c = t.device_qualities.c
        with lease.write() as connection:
            subnet_id = subnet_ids(connection, lease.job.id, [new.subnet])[new.subnet.key]
            same = (c.subnet_id == subnet_id) & (c.device_id == device_id)
            same &= (c.split == new.split) & (c.weights == new.weights)
            connection.execute(sa.delete(t.device_qualities).where(same))
            row |= {"job_id": lease.job.id, "subnet_id": subnet_id, "device_id": device_id}
            connection.execute(sa.insert(t.device_qualities).values(row))

    @again
    def device_qualities(self, job: Job, device_id: int | None = None) -> list[DeviceQuality]:
        """The job's qualities on devices in the order in which they came, on one device or on all."""
        c = t.device_qualities.c
        on_device = sa.true() if device_id is None else c.device_id == device_id
        query = with_subnet(t.device_qualities).where(
            (c.job_id == job.id) & on_device & _is_device(c.device_id)
        )
        with self.read() as connection:
            rows = [nested(row) for row in connection.execute(query.order_by(c.id)).mappings()]
        return [DeviceQuality(**{k: value for k, value in row.items() if k != "scores"}) for row in rows]

    @again
    def device_scores(self, basis: str, device_id: int) -> Scores | None:
        """What examples score on a device by this basis, as any job has stored it; None: no job has."""
        c = t.device_qualities.c
        which = (c.basis == basis) & (c.device_id == device_id) & (c.state == "ok") & c.scores.is_not(None)
        query = sa.select(c.count, c.scores).where(which).order_by(c.id).limit(1)
        with self.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else unpacked(row[1], row[0])


def _is_device(device_id: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Whether there is the device: a row of one that is gone says nothing, as one of a gone subnet."""
    return device_id.in_(sa.select(t.devices.c.id))


def plausible(milliseconds: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    """Whether a time is above 0 and below a day; of NULL it is not."""
    return sa.func.coalesce((milliseconds > 0) & (milliseconds < DAY_MS), sa.false())


def _columns(result: Measurement | Failure) -> dict[str, Any]:
    """A result as the columns of its row; a latency that cannot be is a failure."""
    if isinstance(result, Failure):
        empty = dict.fromkeys((*NUMBERS, "memory_bytes"))
        return {**empty, "state": "failed", "reason": result.reason, "rounds": 0, "raw": result.raw}
    row: dict[str, Any] = {name: finite(getattr(result, name)) for name in NUMBERS}
    row |= {"rounds": result.rounds, "raw": result.raw, "memory_bytes": result.peak_memory_bytes}
    if is_time(row["latency_ms"]):
        return {**row, "state": "ok", "reason": None}
    reason = f"its latency is {result.latency_ms}"
    return {**row, "latency_ms": None, "state": "failed", "reason": reason}


def _place(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `MeasurementRow` but for its result."""
    subnet: Subnet = row["subnet"]
    names = ("id", "job_id", "device_id", "purpose", "created_at", "reused")
    return {"subnet": subnet, **{name: row[name] for name in names}}


def _measurement(row: Mapping[str, Any]) -> Measurement:
    numbers = {name: row[name] for name in NUMBERS}
    return Measurement(**numbers, rounds=row["rounds"], raw=row["raw"], peak_memory_bytes=row["memory_bytes"])


def _remove_failed(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    c = t.measurements.c
    same = [c[name] == sa.bindparam(f"this_{name}") for name in ("subnet_id", "device_id", "purpose")]
    again = [{f"this_{name}": row[name] for name in ("subnet_id", "device_id", "purpose")} for row in rows]
    if again:
        worthless = (c.state == "failed") | sa.not_(plausible(c.latency_ms))
        connection.execute(sa.delete(t.measurements).where(worthless & sa.and_(*same)), again)

"""What a job finds out: subnets, their qualities and latencies, predictors, events."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from nas.store import _tables as t
from nas.store._database import Database, fetch
from nas.store._engine import insert_missing
from nas.store._lease import Lease
from nas.store._records import (
    Evaluation,
    Event,
    Job,
    Measurement,
    NewEvaluation,
    NewEvent,
    NewMeasurement,
    NewSubnet,
    Predictor,
    Subnet,
)
from nas.store._values import checked_name, finite, now
from search_spaces._errors import NotFoundError, UsageError

KEYS_A_QUERY = 1000
MEASURED = ("latency_ms", "spread_ms", "reference_ms", "stderr_ms", "contention", "energy_mj")


class Results(Database):
    """The results of the jobs. Everything that a job writes takes its lease and is fenced."""

    def add_subnets(self, lease: Lease, subnets: Iterable[NewSubnet]) -> dict[str, int]:
        """The id of every subnet by its key; those the job has already keep theirs."""
        with lease.write() as connection:
            return _subnet_ids(connection, lease.job.id, subnets)

    def subnets(self, job: Job) -> list[Subnet]:
        """The job's subnets in the order in which they came."""
        query = sa.select(t.subnets).where(t.subnets.c.job_id == job.id).order_by(t.subnets.c.id)
        with self.read() as connection:
            return fetch(connection, Subnet, query)

    def subnet(self, job: Job, key_prefix: str) -> Subnet:
        """The subnet whose key begins so. Raises NotFoundError for none, UsageError for several."""
        c = t.subnets.c
        begins = sa.func.substr(c.key, 1, len(key_prefix)) == key_prefix
        query = sa.select(t.subnets).where((c.job_id == job.id) & begins).order_by(c.key).limit(3)
        found: list[Subnet] = []
        if key_prefix.isascii() and key_prefix.isprintable() and key_prefix:
            with self.read() as connection:
                found = fetch(connection, Subnet, query)
        if not found:
            raise NotFoundError(
                f"Job '{job.name}' has no subnet {key_prefix[:40]!a}.",
                f"`nas front {job.id}` lists the best.",
            )
        if len(found) > 1 and found[0].key != key_prefix:
            some = ", ".join(subnet.key for subnet in found)
            raise UsageError(
                f"Several subnets of job '{job.name}' begin with '{key_prefix}'.", f"Such as: {some}."
            )
        return found[0]

    def add_evaluations(self, lease: Lease, evaluations: Iterable[NewEvaluation]) -> None:
        """A batch with its subnets, in one transaction; evaluations that are there already stay."""
        batch = list(evaluations)
        with lease.write() as connection:
            ids = _subnet_ids(connection, lease.job.id, (new.subnet for new in batch))
            rows = [_evaluation_row(lease.job.id, ids[new.subnet.key], new) for new in batch]
            insert_missing(connection, t.evaluations, rows)

    def replace_evaluation(
        self, lease: Lease, new: NewEvaluation, *, stage: str, key: str, result: Mapping[str, Any]
    ) -> None:
        """An evaluation in place of the one with the same subnet, split, weights and metric.

        The stage that made it is done with this result: both or neither.
        """
        c, moment = t.evaluations.c, now()
        with lease.write() as connection:
            subnet_id = _subnet_ids(connection, lease.job.id, [new.subnet])[new.subnet.key]
            same = (c.subnet_id == subnet_id) & (c.split == new.split)
            same &= (c.weights == new.weights) & (c.metric == new.metric)
            connection.execute(sa.delete(t.evaluations).where(same))
            row = _evaluation_row(lease.job.id, subnet_id, new)
            connection.execute(sa.insert(t.evaluations).values(row))
            name = checked_name(stage, what="stage")
            earlier = (t.stages.c.job_id == lease.job.id) & (t.stages.c.name == name)
            connection.execute(sa.delete(t.stages).where(earlier))
            values = {"key": key, "state": "done", "started_at": moment, "finished_at": moment}
            values |= {"job_id": lease.job.id, "name": name, "result": result}
            connection.execute(sa.insert(t.stages).values(values))

    def evaluations(
        self, job: Job, split: str | None = None, *, weights: str | None = "inherited"
    ) -> list[Evaluation]:
        """The job's evaluations by position (those without one last), of one split or of all.

        weights: `inherited`, or what retraining made of a subnet (`finetuned`, `scratch`), or None for all.
        """
        c = t.evaluations.c
        of_split = sa.true() if split is None else c.split == split
        with_weights = sa.true() if weights is None else c.weights == weights
        query = _with_subnet(t.evaluations).where((c.job_id == job.id) & of_split & with_weights)
        with self.read() as connection:
            rows = connection.execute(query.order_by(c.position.is_(None), c.position, c.id)).mappings()
            return [Evaluation(**_nested(row)) for row in rows]

    def add_measurements(self, lease: Lease, measurements: Iterable[NewMeasurement]) -> None:
        """Latencies with their subnets, in one transaction; those that are there already stay as they are.

        A failed one gives way to the next attempt.
        """
        batch = list(measurements)
        with lease.write() as connection:
            ids = _subnet_ids(connection, lease.job.id, (new.subnet for new in batch))
            rows = [_measurement_row(lease.job.id, ids[new.subnet.key], new) for new in batch]
            _remove_failed(connection, rows)
            insert_missing(connection, t.measurements, rows)

    def measurements(
        self, job: Job, purpose: str | None = None, *, state: str | None = "ok"
    ) -> list[Measurement]:
        """The job's measurements in the order in which they came, for one purpose or for all.

        state: `ok`, `failed`, or None for both.
        """
        c = t.measurements.c
        for_purpose = sa.true() if purpose is None else c.purpose == purpose
        in_state = sa.true() if state is None else c.state == state
        which = (c.job_id == job.id) & for_purpose & in_state
        query = _with_subnet(t.measurements).where(which).order_by(c.id)
        with self.read() as connection:
            return [Measurement(**_nested(row)) for row in connection.execute(query).mappings()]

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

    def predictor(
        self, job: Job, device_id: int | None = None, *, metric: str = "latency_ms"
    ) -> Predictor | None:
        """The job's predictor of a metric on a device, by default on its own; None when there is none.

        Its own device is the one that it searched for: it was measured first.
        """
        c = t.predictors.c
        on_device = sa.true() if device_id is None else c.device_id == device_id
        query = sa.select(t.predictors).where((c.job_id == job.id) & (c.metric == metric) & on_device)
        with self.read() as connection:
            found = fetch(connection, Predictor, query.order_by(c.id).limit(1))
        return found[0] if found else None

    def add_events(self, lease: Lease, events: Iterable[NewEvent]) -> None:
        """Events in one transaction; one with a step that is there already stays as it is."""
        shared = {"job_id": lease.job.id, "created_at": now()}
        rows = [
            {**shared, "stage": new.stage, "kind": new.kind, "step": new.step, "data": new.data}
            for new in events
        ]
        with lease.write() as connection:
            insert_missing(connection, t.events, rows)

    def events(self, job: Job, kind: str | None = None) -> list[Event]:
        """The job's events in the order in which they came, of one kind or of all."""
        c = t.events.c
        of_kind = sa.true() if kind is None else c.kind == kind
        with self.read() as connection:
            return fetch(
                connection, Event, sa.select(t.events).where((c.job_id == job.id) & of_kind).order_by(c.id)
            )


def _subnet_ids(connection: Connection, job_id: int, subnets: Iterable[NewSubnet]) -> dict[str, int]:
    new = {subnet.key: subnet for subnet in subnets}
    rows: list[dict[str, Any]] = [
        {
            "job_id": job_id,
            "key": key,
            "architecture": s.architecture,
            "params": int(s.params),
            "macs": int(s.macs),
        }
        for key, s in new.items()
    ]
    insert_missing(connection, t.subnets, rows)
    keys, ids = list(new), dict[str, int]()
    c = t.subnets.c
    for start in range(0, len(keys), KEYS_A_QUERY):
        some = c.key.in_(keys[start : start + KEYS_A_QUERY])
        for row in connection.execute(sa.select(c.key, c.id).where((c.job_id == job_id) & some)):
            ids[row.key] = row.id
    return ids


def _evaluation_row(job_id: int, subnet_id: int, new: NewEvaluation) -> dict[str, Any]:
    objectives = {name: finite(told) for name, told in new.objectives.items()}
    value = finite(new.value)
    reason = new.reason
    if value is None:
        reason = reason or f"{new.metric} is {'missing' if new.value is None else new.value}"
    for name, objective in objectives.items():
        if objective is None and new.objectives[name] is not None:
            value, reason = None, reason or f"{name} is {new.objectives[name]}"
    row = {name: getattr(new, name) for name in ("split", "weights", "metric", "count", "batch", "position")}
    row |= {"job_id": job_id, "subnet_id": subnet_id, "objectives": objectives, "created_at": now()}
    row |= {"state": "failed" if value is None else "ok", "value": value, "stderr": finite(new.stderr)}
    return {**row, "reason": reason}


def _measurement_row(job_id: int, subnet_id: int, new: NewMeasurement) -> dict[str, Any]:
    row = {name: getattr(new, name) for name in ("device_id", "purpose", "rounds", "raw", "memory_bytes")}
    row |= {name: finite(getattr(new, name)) for name in MEASURED}
    failed, reason = row["latency_ms"] is None, new.reason
    if failed:
        reason = reason or f"its latency is {'missing' if new.latency_ms is None else new.latency_ms}"
    row |= {"state": "failed" if failed else "ok", "reason": reason}
    return {**row, "job_id": job_id, "subnet_id": subnet_id, "created_at": now()}


def _remove_failed(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    c = t.measurements.c
    same = [c[name] == sa.bindparam(f"this_{name}") for name in ("subnet_id", "device_id", "purpose")]
    again = [{f"this_{name}": row[name] for name in ("subnet_id", "device_id", "purpose")} for row in rows]
    if again:
        connection.execute(sa.delete(t.measurements).where((c.state == "failed") & sa.and_(*same)), again)


def _with_subnet(table: sa.Table) -> sa.Select[Any]:
    subnet: Sequence[sa.ColumnElement[Any]] = [
        column.label(f"subnet__{column.name}") for column in t.subnets.c
    ]
    return sa.select(table, *subnet).join(t.subnets, t.subnets.c.id == table.c.subnet_id)


def _nested(row: RowMapping) -> dict[str, Any]:
    fields = {name: value for name, value in row.items() if not name.startswith("subnet_")}
    inner = {
        name.removeprefix("subnet__"): value for name, value in row.items() if name.startswith("subnet__")
    }
    return {**fields, "subnet": Subnet(**inner)}

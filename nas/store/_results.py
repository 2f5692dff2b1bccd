"""What a job finds out: subnets, their qualities, events."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from nas.store import _tables as t
from nas.store._database import Database, fetch
from nas.store._engine import insert_missing
from nas.store._lease import Lease
from nas.store._patience import again
from nas.store._records import (
    Evaluation,
    Event,
    Job,
    NewEvaluation,
    NewEvent,
    NewSubnet,
    Subnet,
)
from nas.store._subnets import nested, subnet_ids, with_subnet
from nas.store._values import checked_name, finite, now
from search_spaces._errors import NotFoundError, UsageError


class Results(Database):
    """The results of the jobs. Everything that a job writes takes its lease and is fenced."""

    @again
    def add_subnets(self, lease: Lease, subnets: Iterable[NewSubnet]) -> dict[str, int]:
        """The id of every subnet by its key; those the job has already keep theirs."""
        with lease.write() as connection:
            return subnet_ids(connection, lease.job.id, subnets)

    @again
    def subnets(self, job: Job) -> list[Subnet]:
        """The job's subnets in the order in which they came."""
        query = sa.select(t.subnets).where(t.subnets.c.job_id == job.id).order_by(t.subnets.c.id)
        with self.read() as connection:
            return fetch(connection, Subnet, query)

    @again
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

    @again
    def add_evaluations(
        self,
        lease: Lease,
        evaluations: Iterable[NewEvaluation],
        hits: Mapping[str, NDArray[np.bool_]] = MappingProxyType({}),
    ) -> None:
        """A batch with its subnets, in one transaction; evaluations that are there already stay.

        hits: which of the split's first examples a subnet classifies right, by its key, if that is kept.
        """
        with lease.write() as connection:
            batch = list(evaluations)
            ids = subnet_ids(connection, lease.job.id, (new.subnet for new in batch))
            _insert(connection, lease.job.id, ids, batch, hits)

    @again
    def replace_evaluations(
        self, lease: Lease, evaluations: Iterable[NewEvaluation], hits: Mapping[str, NDArray[np.bool_]]
    ) -> None:
        """A batch in place of the evaluations with the same subnet, split, weights and metric.

        hits: as of `add_evaluations`; what was kept before is replaced, too.
        """
        batch = list(evaluations)
        with lease.write() as connection:
            ids = subnet_ids(connection, lease.job.id, (new.subnet for new in batch))
            for new in batch:
                key = {"subnet_id": ids[new.subnet.key], "split": new.split, "weights": new.weights}
                connection.execute(sa.delete(t.evaluations).filter_by(**key, metric=new.metric))
                connection.execute(sa.delete(t.hits).filter_by(**key))
            _insert(connection, lease.job.id, ids, batch, hits)

    @again
    def replace_evaluation(
        self, lease: Lease, new: NewEvaluation, *, stage: str, key: str, result: Mapping[str, Any]
    ) -> None:
        """An evaluation in place of the one with the same subnet, split, weights and metric.

        The stage that made it is done with this result: both or neither.
        """
        c, moment = t.evaluations.c, now()
        with lease.write() as connection:
            subnet_id = subnet_ids(connection, lease.job.id, [new.subnet])[new.subnet.key]
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

    @again
    def evaluations(
        self,
        job: Job,
        split: str | None = None,
        *,
        weights: str | None = "inherited",
        key: str | None = None,
        reported: bool = False,
    ) -> list[Evaluation]:
        """The job's evaluations by position (those without one last), of one split or of all.

        weights: `inherited`, or what retraining made of a subnet (`finetuned`, `scratch`), or None for all.
        key: only those of this subnet.  reported: only those of subnets that the report split has seen.
        """
        c = t.evaluations.c
        of_split = sa.true() if split is None else c.split == split
        with_weights = sa.true() if weights is None else c.weights == weights
        query = with_subnet(t.evaluations).where((c.job_id == job.id) & of_split & with_weights)
        if key is not None:
            query = query.where((t.subnets.c.key == key) & (t.subnets.c.job_id == job.id))
        if reported:
            seen = sa.select(c.subnet_id).where((c.job_id == job.id) & (c.split == "report"))
            query = query.where(c.subnet_id.in_(seen))
        with self.read() as connection:
            rows = connection.execute(query.order_by(c.position.is_(None), c.position, c.id)).mappings()
            return [Evaluation(**nested(row)) for row in rows]

    @again
    def hits(self, job: Job, split: str) -> dict[str, NDArray[np.bool_]]:
        """Which of the first examples of a split subnets classify right with inherited weights, by key.

        Only of the evaluations with which it was kept; of how many examples differs.
        """
        h = t.hits.c
        query = sa.select(t.subnets.c.key, h.count, h.bits).join(t.subnets, t.subnets.c.id == h.subnet_id)
        query = query.where((h.job_id == job.id) & (h.split == split) & (h.weights == "inherited"))
        with self.read() as connection:
            rows = connection.execute(query.order_by(h.id)).all()
        return {key: _unpacked(bits, count) for key, count, bits in rows}

    @again
    def add_events(self, lease: Lease, events: Iterable[NewEvent]) -> None:
        """Events in one transaction; one with a step that is there already stays as it is."""
        shared = {"job_id": lease.job.id, "created_at": now()}
        rows = [
            {**shared, "stage": new.stage, "kind": new.kind, "step": new.step, "data": new.data}
            for new in events
        ]
        with lease.write() as connection:
            insert_missing(connection, t.events, rows)

    @again
    def events(self, job: Job, kind: str | None = None) -> list[Event]:
        """The job's events in the order in which they came, of one kind or of all."""
        c = t.events.c
        of_kind = sa.true() if kind is None else c.kind == kind
        with self.read() as connection:
            return fetch(
                connection, Event, sa.select(t.events).where((c.job_id == job.id) & of_kind).order_by(c.id)
            )


def _hits_row(job_id: int, subnet_id: int, new: NewEvaluation, hits: NDArray[np.bool_]) -> dict[str, Any]:
    row = {"job_id": job_id, "subnet_id": subnet_id, "split": new.split, "weights": new.weights}
    return {**row, "count": len(hits), "bits": np.packbits(hits).tobytes()}


def _unpacked(bits: bytes, count: int) -> NDArray[np.bool_]:
    packed: NDArray[np.uint8] = np.frombuffer(bits, dtype=np.uint8)
    return np.unpackbits(packed, count=count).astype(np.bool_)


def _insert(
    connection: Connection,
    job_id: int,
    ids: Mapping[str, int],
    batch: Sequence[NewEvaluation],
    hits: Mapping[str, NDArray[np.bool_]],
) -> None:
    rows = [_evaluation_row(job_id, ids[new.subnet.key], new) for new in batch]
    insert_missing(connection, t.evaluations, rows)
    kept = [new for new in batch if new.subnet.key in hits]
    rows = [_hits_row(job_id, ids[n.subnet.key], n, hits[n.subnet.key]) for n in kept]
    insert_missing(connection, t.hits, rows)


def _evaluation_row(job_id: int, subnet_id: int, new: NewEvaluation) -> dict[str, Any]:
    objectives = {name: finite(told) for name, told in new.objectives.items()}
    value = finite(new.value) if new.succeeded else None
    reason = new.reason
    if finite(new.value) is None:
        reason = reason or f"{new.metric} is {'missing' if new.value is None else new.value}"
    for name, objective in objectives.items():
        if objective is None and new.objectives[name] is not None:
            reason = reason or f"{name} is {new.objectives[name]}"
    row = {name: getattr(new, name) for name in ("split", "weights", "metric", "count", "batch", "position")}
    row |= {"job_id": job_id, "subnet_id": subnet_id, "objectives": objectives, "created_at": now()}
    row |= {"state": "failed" if value is None else "ok", "value": value, "stderr": finite(new.stderr)}
    return {**row, "reason": reason}

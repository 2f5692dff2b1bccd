"""What a job finds out: subnets, their qualities, events."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from nas.store import tables as t
from nas.store.connection.database import Database, fetch
from nas.store.connection.engine import insert_missing
from nas.store.connection.patience import again
from nas.store.leases import Lease
from nas.store.records import (
    JSON,
    Evaluation,
    EvaluationBasis,
    Event,
    Job,
    NewEvaluation,
    NewEvent,
    NewSubnet,
    SearchedSubnets,
    Subnet,
)
from nas.store.subnets import KEYS_A_QUERY, nested, subnet_ids, with_subnet
from nas.store.values import checked_name, finite, now
from search_spaces.errors import NotFoundError, UsageError
from search_spaces.union import MEMBER
from supernet.tasks import Scores

INHERITED = "inherited"
ROWS_AT_ONCE = 4096  # soon let go of: Python looks through all rows that it holds, again and again
NUMBERS = np.dtype("<f4")
BASIS = tuple(field.name for field in fields(EvaluationBasis))
# What may stand in the columns of `SearchedSubnets`.
NUMBER: set[type] = {int, float}
NOTHING = type(None)
SEARCHED: tuple[set[type], ...] = ({int}, {str}, {int}, NUMBER, {*NUMBER, NOTHING}, {int, NOTHING})


def _hits_by(key: sa.ColumnElement[str]) -> sa.Select[Any]:
    query = sa.select(key, t.hits.c.count, t.hits.c.bits)
    query = query.join(t.hits, t.hits.c.subnet_id == t.subnets.c.id)
    query = query.where(key.in_(sa.bindparam("keys", expanding=True)), t.hits.c.weights == INHERITED)
    return query.where(*(t.hits.c[name] == sa.bindparam(name) for name in ("split", *BASIS)))


def _told_by_most(keys: Sequence[str], examples: Sequence[int | None]) -> Iterable[int]:
    """Of each key the place with the most examples, the first of several."""
    best: dict[str, int] = {}
    for place, key in enumerate(keys):
        other = best.setdefault(key, place)
        if other != place and (examples[place] or 0) > (examples[other] or 0):
            best[key] = place
    return best.values()


# Built once: it is asked before every batch. Jobs with several supernets have keys of their own for subnets.
STORED_HITS = sa.union_all(_hits_by(t.subnets.c.key), _hits_by(t.subnets.c.own_key))


class Results(Database):
    """The results of the jobs. Everything that a job writes takes its lease and is fenced."""

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
        subnets: list[Subnet] = []
        if key_prefix.isascii() and key_prefix.isprintable() and key_prefix:
            with self.read() as connection:
                subnets = fetch(connection, Subnet, query)
        if not subnets:
            raise NotFoundError(
                f"Job '{job.name}' has no subnet {key_prefix[:40]!a}.",
                f"`nas front {job.id}` lists the best.",
            )
        if len(subnets) > 1 and subnets[0].key != key_prefix:
            some = ", ".join(subnet.key for subnet in subnets)
            raise UsageError(
                f"Several subnets of job '{job.name}' begin with '{key_prefix}'.", f"Such as: {some}."
            )
        return subnets[0]

    @again
    def add_subnets(self, lease: Lease, subnets: Iterable[NewSubnet]) -> None:
        """Subnets that were looked at otherwise than by an evaluation; those that are there already stay."""
        with lease.write() as connection:
            subnet_ids(connection, lease.job.id, subnets)

    @again
    def add_evaluations(
        self,
        lease: Lease,
        evaluations: Iterable[NewEvaluation],
        hits: Mapping[str, Scores] = MappingProxyType({}),
    ) -> None:
        """A batch with its subnets, in one transaction; evaluations that are there already stay.

        hits: what a subnet scores on the split's first examples, by its key, if that is kept.
        """
        with lease.write() as connection:
            batch = list(evaluations)
            ids = subnet_ids(connection, lease.job.id, (new.subnet for new in batch))
            _insert(connection, lease, ids, batch, hits)

    @again
    def replace_evaluations(
        self, lease: Lease, evaluations: Iterable[NewEvaluation], hits: Mapping[str, Scores]
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
            _insert(connection, lease, ids, batch, hits)

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
        # A sum is in no index: the few subnets that were reported are looked up instead of all of the job's.
        of_job = (c.job_id + 0 if reported else c.job_id) == job.id
        query = with_subnet(t.evaluations).where(of_job & of_split & with_weights)
        if key is not None:
            query = query.where((t.subnets.c.key == key) & (t.subnets.c.job_id == job.id))
        if reported:
            seen = sa.select(c.subnet_id).where((c.job_id == job.id) & (c.split == "report"))
            query = query.where(c.subnet_id.in_(seen))
        with self.read() as connection:
            rows = connection.execute(query.order_by(c.position.is_(None), c.position, c.id)).mappings()
            return [Evaluation(**nested(row)) for row in rows]

    @again
    def evaluation_count(self, job: Job) -> int:
        """How many subnets the job has evaluated on the search split."""
        c = t.evaluations.c
        which = (c.job_id == job.id) & (c.split == "search") & (c.weights == INHERITED)
        with self.read() as connection:
            return int(connection.scalar(sa.select(sa.func.count()).where(which)) or 0)

    @again
    def searched(self, jobs: Collection[int], metric: str) -> SearchedSubnets:
        """What these jobs have evaluated with success on the search split with inherited weights.

        jobs: their ids.  A subnet that several jobs have looked at is there once, with the evaluation that
        the most examples tell.
        """
        c, s = t.evaluations.c, t.subnets.c
        of_rows = (s.id, s.key, s.macs, c.value, c.stderr, c.count)
        types = (sa.Integer, sa.Text, sa.BigInteger, sa.Double, sa.Double, sa.Integer)
        # There may be 100,000s: types are looked at column by column, not value by value.
        plain: list[sa.ColumnElement[Any]] = [
            sa.type_coerce(column, kind) for column, kind in zip(of_rows, types, strict=True)
        ]
        query = sa.select(*plain).select_from(t.evaluations).join(t.subnets, s.id == c.subnet_id)
        query = query.where(c.job_id.in_(jobs) & (c.split == "search") & (c.weights == INHERITED))
        query = query.where((c.metric == metric) & (c.state == "ok") & c.value.is_not(None))
        columns: list[list[Any]] = [[] for _ in plain]
        with self.read() as connection:
            for rows in connection.execute(query.order_by(c.id)).partitions(ROWS_AT_ONCE):
                for column, values in zip(columns, zip(*rows, strict=True), strict=True):
                    column.extend(values)
        for column, kinds in zip(columns, SEARCHED, strict=True):
            if other := set(map(type, column)) - kinds:
                raise t.damaged("a column", f"a {other.pop().__name__} stands where it cannot be")
        ids, keys, macs, quality, stderr, examples = columns
        subnets = SearchedSubnets(
            ids, keys, np.array(macs, np.int64), np.array(quality, np.float64), stderr, examples
        )
        return subnets.at(_told_by_most(keys, examples))

    @again
    def architectures(self, subnet_ids: Sequence[int]) -> list[JSON]:
        """The architectures of subnets, by whose ids they are asked for, in that order."""
        c, rows = t.subnets.c, dict[int, JSON]()
        with self.read() as connection:
            for start in range(0, len(subnet_ids), KEYS_A_QUERY):
                some = c.id.in_(subnet_ids[start : start + KEYS_A_QUERY])
                rows |= {
                    row[0]: row[1] for row in connection.execute(sa.select(c.id, c.architecture).where(some))
                }
        return [rows[subnet_id] for subnet_id in subnet_ids]

    @again
    def hits(self, job: Job, split: str) -> dict[str, Scores]:
        """What subnets score on the first examples of a split with inherited weights, by key.

        Only of the evaluations with which it was kept; of how many examples differs.
        """
        h = t.hits.c
        query = sa.select(t.subnets.c.key, h.count, h.bits).join(t.subnets, t.subnets.c.id == h.subnet_id)
        query = query.where((h.job_id == job.id) & (h.split == split) & (h.weights == "inherited"))
        with self.read() as connection:
            rows = connection.execute(query.order_by(h.id)).all()
        return {key: unpacked(bits, count) for key, count, bits in rows}

    @again
    def stored_hits(self, basis: EvaluationBasis, split: str, keys: Sequence[str]) -> dict[str, Scores]:
        """What subnets score on the first examples of a split, by key, as any job has kept it.

        Of what several have kept the longest.
        """
        about = {**asdict(basis), "split": split}
        longest: dict[str, tuple[int, bytes]] = {}
        with self.read() as connection:
            for start in range(0, len(keys), KEYS_A_QUERY):
                some = keys[start : start + KEYS_A_QUERY]
                for key, count, bits in connection.execute(STORED_HITS, {**about, "keys": some}):
                    longest[key] = max(longest.get(key, (0, b"")), (count, bits))
        return {key: unpacked(bits, count) for key, (count, bits) in longest.items()}

    @again
    def keep_hits(self, lease: Lease, split: str, hits: Mapping[str, Scores]) -> None:
        """Keeps for others what subnets of the job score on all examples of a split, by key."""
        c = t.subnets.c
        columns = (c.key, c.id, c.architecture, c.own_key)
        query = sa.select(*columns).where((c.job_id == lease.job.id) & c.key.in_(list(hits)))
        with lease.write() as connection:
            stored = connection.execute(query).all()
            supernets = ["" if row.own_key is None else str(row.architecture.get(MEMBER)) for row in stored]
            rows = [
                _hits_row(lease, row.id, supernet, split, INHERITED, hits[row.key])
                for row, supernet in zip(stored, supernets, strict=True)
            ]
            insert_missing(connection, t.hits, rows)

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

    @again
    def last_event(self, job: Job, kind: str) -> Event | None:
        """The job's latest event of a kind."""
        c = t.events.c
        query = sa.select(t.events).where((c.job_id == job.id) & (c.kind == kind))
        with self.read() as connection:
            return next(iter(fetch(connection, Event, query.order_by(c.id.desc()).limit(1))), None)


def _hits_row(
    lease: Lease, subnet_id: int, supernet: str, split: str, weights: str, hits: Scores
) -> dict[str, Any]:
    """supernet: of a job with several which the subnet is of."""
    row = {"job_id": lease.job.id, "subnet_id": subnet_id, "split": split, "weights": weights}
    shared = weights == INHERITED and split not in lease.unshared
    basis = lease.bases.get(supernet) if shared else None
    row |= dict.fromkeys(BASIS) if basis is None else asdict(basis)
    return {**row, "count": len(hits), "bits": packed(hits)}


def packed(scores: Scores) -> bytes:
    """Right and wrong eight to a byte; numbers as they are, four bytes each, the lowest first."""
    if scores.dtype == np.bool_:
        return np.packbits(scores.astype(np.bool_)).tobytes()
    return scores.astype(NUMBERS, casting="safe").tobytes()


def unpacked(content: bytes, count: int) -> Scores:
    """The scores of so many examples; how many bytes they take tells of which kind they are.

    Raises StoreError where it can be neither.
    """
    if count and len(content) == NUMBERS.itemsize * count:
        return np.frombuffer(content, dtype=NUMBERS).astype(np.float32)
    if len(content) != -(-count // 8):
        raise t.damaged("scores", f"{len(content)} bytes tell nothing of {count} examples")
    bits: NDArray[np.uint8] = np.frombuffer(content, dtype=np.uint8)
    return np.unpackbits(bits, count=count).astype(np.bool_)


def _insert(
    connection: Connection,
    lease: Lease,
    ids: Mapping[str, int],
    batch: Sequence[NewEvaluation],
    hits: Mapping[str, Scores],
) -> None:
    rows = [_evaluation_row(lease.job.id, ids[new.subnet.key], new) for new in batch]
    insert_missing(connection, t.evaluations, rows)
    kept = [new for new in batch if new.subnet.key in hits]
    rows = [
        _hits_row(lease, ids[n.subnet.key], n.subnet.supernet, n.split, n.weights, hits[n.subnet.key])
        for n in kept
    ]
    insert_missing(connection, t.hits, rows)


def _evaluation_row(job_id: int, subnet_id: int, new: NewEvaluation) -> dict[str, Any]:
    objectives = {name: finite(value) for name, value in new.objectives.items()}
    value = finite(new.value) if new.succeeded else None
    reason = new.reason
    if finite(new.value) is None:
        reason = reason or f"{new.metric} is {'missing' if new.value is None else new.value}"
    for name, objective in objectives.items():
        if objective is None and new.objectives[name] is not None:
            reason = reason or f"{name} is {new.objectives[name]}"
    names = ("split", "weights", "metric", "count", "batch", "position", "reused")
    row = {name: getattr(new, name) for name in names}
    row |= {"job_id": job_id, "subnet_id": subnet_id, "objectives": objectives, "created_at": now()}
    row |= {"state": "failed" if value is None else "ok", "value": value, "stderr": finite(new.stderr)}
    return {**row, "reason": reason}

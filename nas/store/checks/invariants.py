"""Rules that no committed transaction may break, whatever is killed: each finds the rows that do."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from nas.store import tables as t
from nas.store.connection.patience import again
from nas.store.connection.rows import OF_DEVICE, ROOT
from nas.store.jobs import ENDED
from nas.store.requests import PENDING

if TYPE_CHECKING:
    from nas.store import Store

MOST_NAMED = 20  # rows for each rule
JOB_STATES = ("queued", "running", *ENDED)
STAGE_STATES = ("running", "done", "failed")
REQUEST_STATES = (*PENDING, "done", "failed", "cancelled")
SUPERNET_STATES = ("training", "trained")
RESULT_STATES = ("ok", "failed")


@dataclass(frozen=True)
class Rule:
    """What is wrong with a row, and the ids of the rows that break it."""

    table: str
    wrong: str
    breaks: sa.Select[Any]


@again
def broken_rules(store: "Store") -> list[str]:
    """Every row that breaks a rule, one sentence each, of very many the first."""
    problems: list[str] = []
    with store.read() as connection:
        for rule in rules():
            numbers = list(connection.scalars(rule.breaks.limit(MOST_NAMED + 1)))
            problems += [f"row {number} of {rule.table} {rule.wrong}" for number in numbers[:MOST_NAMED]]
            if numbers[MOST_NAMED:]:
                problems.append(f"more rows of {rule.table} than {MOST_NAMED}: each {rule.wrong}")
    return problems


def rules() -> Iterator[Rule]:
    """All rules."""
    yield from _of_jobs()
    yield from _of_leases()
    yield from _of_states()
    yield from _of_evaluations()
    yield from _of_supernets()
    yield from _of_artifacts()


def _rule(table: sa.Table, wrong: str, breaks: sa.ColumnElement[bool]) -> Rule:
    return Rule(table.name, wrong, sa.select(table.c.id).where(breaks).order_by(table.c.id))


def _differ(one: sa.ColumnElement[bool], other: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.or_(one & ~other, ~one & other)


def _of_jobs() -> Iterator[Rule]:
    c = t.jobs.c
    begun = c.state.in_(("running", "succeeded"))
    yield _rule(t.jobs, "is in no state that a job can be in", c.state.not_in(JOB_STATES))
    ended = _differ(c.state.in_(ENDED), c.finished_at.is_not(None))
    yield _rule(t.jobs, "has ended without a time, or has a time and has not ended", ended)
    yield _rule(t.jobs, "is held and does not run", c.owner.is_not(None) & (c.state != "running"))
    yield _rule(t.jobs, "has failed without a reason", (c.state == "failed") & c.error.is_(None))
    yield _rule(t.jobs, "has succeeded with an error", (c.state == "succeeded") & c.error.is_not(None))
    yield _rule(t.jobs, "runs or has succeeded without an attempt", begun & (c.attempt < 1))
    too_often = c.submitted_at.is_not(None) & (c.attempt > c.last_attempt)
    yield _rule(t.jobs, "was begun more often than it may", too_often)
    paused = c.paused.is_(sa.true()) & c.state.in_(("queued", "succeeded", "failed"))
    yield _rule(t.jobs, "is paused and was not stopped", paused)


def _of_leases() -> Iterator[Rule]:
    for table in (t.jobs, t.supernets, t.requests):
        half = _differ(table.c.owner.is_(None), table.c.lease_until.is_(None))
        yield _rule(table, "has half of a lease", half)
    shared = t.jobs.alias()
    same = sa.exists().where((shared.c.owner == t.jobs.c.owner) & (shared.c.id != t.jobs.c.id))
    yield _rule(t.jobs, "is held under the name of another one's holder", same)


def _of_states() -> Iterator[Rule]:
    c, s = t.requests.c, t.stages.c
    yield _rule(t.requests, "is in no state that a request can be in", c.state.not_in(REQUEST_STATES))
    held = _differ(c.owner.is_not(None), c.state == "running")
    yield _rule(t.requests, "runs and nobody holds it, or is held and does not run", held)
    yield _rule(t.stages, "is in no state that a stage can be in", s.state.not_in(STAGE_STATES))
    done = _differ(s.state != "running", s.finished_at.is_not(None) & s.result.is_not(None))
    yield _rule(t.stages, "has ended without a result and a time, or has them and runs", done)


def _of_evaluations() -> Iterator[Rule]:
    for table in (t.evaluations, t.measurements, t.device_qualities):
        value = table.c.latency_ms if table is t.measurements else table.c.value
        ok = _differ(table.c.state == "ok", value.is_not(None))
        yield _rule(table, "has no value and is no failure, or has both", ok)
        yield _rule(table, "is in no state that a result can be in", table.c.state.not_in(RESULT_STATES))
    for table in (t.evaluations, t.measurements, t.hits, t.device_qualities):
        other = sa.exists().where(
            (t.subnets.c.id == table.c.subnet_id) & (t.subnets.c.job_id != table.c.job_id)
        )
        yield _rule(table, "is about another job's subnet", other)
    yield from _of_uniqueness()
    yield from _of_positions()


def _of_uniqueness() -> Iterator[Rule]:
    """What unique constraints hold, too: a database that was damaged or changed by hand may lack them."""
    for table, names in (
        (t.subnets, ("job_id", "key")),
        (t.evaluations, ("subnet_id", "split", "weights", "metric")),
        (t.measurements, ("subnet_id", "device_id", "purpose")),
        (t.hits, ("subnet_id", "split", "weights")),
        (t.device_qualities, ("subnet_id", "device_id", "split", "weights")),
        (t.stages, ("job_id", "name")),
        (t.artifacts, ("path",)),
    ):
        first = table.alias()
        same = sa.and_(*(first.c[name] == table.c[name] for name in names))
        yield _rule(table, "is there twice", sa.exists().where(same & (first.c.id < table.c.id)))


def _of_positions() -> Iterator[Rule]:
    """The evaluations of a search are numbered from 0 without a gap, in the order of their batches."""
    c = t.evaluations.c
    numbered = c.position.is_not(None) & (c.weights == "inherited") & (c.split == "search")
    each = sa.select(c.job_id).where(numbered).group_by(c.job_id)
    gap = (sa.func.max(c.position) + 1 != sa.func.count()) | (sa.func.min(c.position) != 0)
    gap |= sa.func.count(sa.distinct(c.position)) != sa.func.count()
    wrong = "has a search in which a position is missing or is there twice"
    yield Rule("jobs", wrong, each.having(gap).order_by(c.job_id))
    earlier = t.evaluations.alias()
    same_search = (earlier.c.job_id == c.job_id) & (earlier.c.split == "search")
    before = same_search & (earlier.c.weights == "inherited") & (earlier.c.position == c.position - 1)
    order = numbered & sa.exists().where(before & (earlier.c.batch > c.batch))
    yield _rule(t.evaluations, "is of an earlier batch than the one before it", order)


def _of_supernets() -> Iterator[Rule]:
    c = t.supernets.c
    trained = c.state == "trained"
    yield _rule(t.supernets, "is in no state that a supernet can be in", c.state.not_in(SUPERNET_STATES))
    yield _rule(t.supernets, "is trained and somebody trains it", trained & c.owner.is_not(None))
    weights = sa.exists().where(t.artifacts.c.supernet_id == c.id)
    yield _rule(t.supernets, "is trained and has no file", trained & ~weights)


def _of_artifacts() -> Iterator[Rule]:
    c = t.artifacts.c
    nobodys = c.job_id.is_(None) & c.supernet_id.is_(None) & c.kind.not_in((ROOT, OF_DEVICE))
    yield _rule(t.artifacts, "is nobody's file", nobodys)

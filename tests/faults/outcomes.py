"""What two runs of one job must agree on, and what one run must never lose or do twice."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from nas_process import Place

ROWS = {
    "evaluations": "SELECT id, subnet_id, split, batch, position, value, created_at FROM evaluations",
    "measurements": "SELECT id, subnet_id, device_id, purpose, latency_ms, created_at FROM measurements",
    "subnets": "SELECT id, key, params FROM subnets",
    "events": "SELECT id, stage, kind, step, data, created_at FROM events",
    "stages": "SELECT id, name, key, started_at, finished_at, result FROM stages WHERE state = 'done'",
}


@dataclass(frozen=True)
class Outcome:
    """Everything of a finished job that does not depend on a clock, nor on the kind of its store."""

    search: list[tuple[Any, ...]]
    report: list[tuple[Any, ...]]
    training: list[tuple[Any, ...]]
    hypervolume: list[tuple[Any, ...]]
    weights: list[tuple[Any, ...]]


def outcome(place: Place) -> Outcome:
    """Batches, order, keys and qualities of the search, the finalists' qualities, the weights' SHA-256."""
    columns = "s.key, e.value, e.stderr, e.count, e.state"
    joined = "FROM evaluations e JOIN subnets s ON s.id = e.subnet_id"
    return Outcome(
        place.query(
            f"SELECT e.batch, e.position, {columns} {joined} WHERE split = 'search' ORDER BY position"
        ),
        place.query(f"SELECT {columns} {joined} WHERE split = 'report' ORDER BY s.key"),
        [
            (step, json.dumps(json.loads(data) | {"waited": None}, sort_keys=True))  # that is a clock's
            for step, data in place.query("SELECT step, data FROM events WHERE kind = 'train' ORDER BY step")
        ],
        place.query("SELECT step, data FROM events WHERE kind = 'hypervolume' ORDER BY step"),
        # A server's store has a token besides.
        place.query("SELECT kind, sha256, step FROM artifacts WHERE kind != 'root' ORDER BY id"),
    )


def rows(place: Place) -> dict[str, set[tuple[Any, ...]]]:
    """Everything that is finished at this moment."""
    return {name: set(place.query(sql)) for name, sql in ROWS.items()}


def assert_kept(before: dict[str, set[tuple[Any, ...]]], place: Place) -> None:
    """Every row is still there as it was: nothing lost, nothing made again, no stage begun anew."""
    after = rows(place)
    for name, old in before.items():
        assert old <= after[name], f"{name} changed: {sorted(old - after[name])}"


def assert_once(place: Place) -> None:
    """Nothing was evaluated or measured twice, and no number is missing."""
    evaluated = place.query("SELECT job_id, split, subnet_id FROM evaluations")
    measured = place.query("SELECT job_id, purpose, device_id, subnet_id FROM measurements")
    for counted in (Counter(evaluated), Counter(measured)):
        assert set(counted.values()) == {1}
    places = place.query("SELECT position FROM evaluations WHERE split = 'search' ORDER BY position")
    assert places == [(i,) for i in range(len(places))]

"""Subnets that would enter the front on an uncertain prediction are measured before that is made of it."""

from collections.abc import Sequence
from dataclasses import replace

import moocore
import numpy as np

from nas.stages._measuring import build_device, measure, stored
from nas.stages._objectives import Objectives, values_of
from nas.stages._run import Run
from nas.store import NewEvaluation
from search_spaces import Architecture

MOST = 4  # measurements a batch: they take as long as some evaluations


def with_intervals(
    objectives: Objectives, archs: Sequence[Architecture], rows: Sequence[NewEvaluation]
) -> list[NewEvaluation]:
    """The rows with the prediction of each subnet's latency and the ends of its interval, in ms."""
    told = objectives.latency.intervals(objectives.space.encode(archs))
    return [
        replace(row, objectives={**row.objectives, **{name: float(told[name][i]) for name in told}})
        for i, row in enumerate(rows)
    ]


def measured_where_uncertain(
    run: Run,
    objectives: Objectives,
    archs: Sequence[Architecture],
    rows: Sequence[NewEvaluation],
) -> list[NewEvaluation]:
    """The rows, with measured latencies for those that no other beats and whose interval is wide.

    Wide: half of it is more than `search.measure_above` of the prediction. What is measured is what the
    searcher is told, and stays with the evaluation: a resumed search sees the same.
    """
    threshold = run.config.search.measure_above
    if threshold is None or "latency_ms" not in objectives.names:
        return list(rows)
    wanted = [i for i in _front(run, objectives, rows) if _half_width(rows[i]) > threshold]
    wanted = sorted(wanted, key=lambda i: -_half_width(rows[i]))[:MOST]
    if not wanted:
        return list(rows)
    device = objectives.latency.device
    sample = {m.subnet.key: m.latency_ms for m in stored(run, device, "sample")}
    found = {archs[i]: sample[archs[i].key] for i in wanted if archs[i].key in sample}
    left = [archs[i] for i in wanted if archs[i] not in found]
    if left:
        found |= measure(run, objectives.space, build_device(run), device, left, purpose="search")
    return [
        replace(
            row, objectives={**row.objectives, "latency_ms": found.get(arch, row.objectives["latency_ms"])}
        )
        for arch, row in zip(archs, rows, strict=True)
    ]


def _half_width(row: NewEvaluation) -> float:
    told = row.objectives
    predicted, high = told["predicted_ms"], told["predicted_high_ms"]
    assert predicted is not None, "it has just been predicted"
    assert high is not None, "it has just been predicted"
    return high / predicted - 1


def _front(run: Run, objectives: Objectives, rows: Sequence[NewEvaluation]) -> list[int]:
    """The rows that no other and no earlier evaluation beats, as things look by the predictions."""
    names = objectives.names
    told = np.array([[row.objectives.get(name) for name in names] for row in rows], dtype=np.float64)
    good = np.flatnonzero(np.isfinite(told).all(axis=1))
    if not len(good):
        return []
    done = [e for e in run.store.evaluations(run.lease.job, "search") if e.state == "ok"]
    points = objectives.minimised(np.concatenate([told[good], values_of(objectives, done)]))
    best = moocore.is_nondominated(points, keep_weakly=True)[: len(good)]
    return [int(i) for i in good[best]]

"""Subnets that would enter the front on an uncertain prediction are measured before that is made of it."""

from collections.abc import Sequence
from dataclasses import replace

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.job_run import Run
from nas.measuring.latency import Latency
from nas.measuring.subnets import build_device, measure, stored
from nas.search.objectives import Objectives, values_of
from nas.store import Evaluation, NewEvaluation
from search_spaces import Architecture

MOST = 4  # measurements a batch: they take as long as some evaluations


def with_intervals(
    objectives: Objectives, archs: Sequence[Architecture], rows: Sequence[NewEvaluation]
) -> list[NewEvaluation]:
    """The rows with the predictions of each subnet's latency and the ends of their intervals, in ms."""
    intervals = objectives.intervals(objectives.space.encode(archs))
    return [
        replace(row, objectives={**row.objectives, **{name: float(ms[i]) for name, ms in intervals.items()}})
        for i, row in enumerate(rows)
    ]


def measured_where_uncertain(
    run: Run,
    objectives: Objectives,
    archs: Sequence[Architecture],
    rows: Sequence[NewEvaluation],
    earlier: NDArray[np.float64],
) -> list[NewEvaluation]:
    """The rows, with measured latencies for those that no other beats and whose interval is wide.

    Wide: half of it is more than `search.measure_above` of the prediction. What is measured is what the
    searcher is told, and stays with the evaluation: a resumed search sees the same. With several devices each
    is measured on where its own interval is wide, if its latency is an objective. Rows that are measured have
    a `measured_ms` beside `latency_ms`.
    earlier: objective values (n, objectives) of what was evaluated before.
    """
    threshold, rows = run.config.search.measure_above, list(rows)
    optimised = [one for one in objectives.latencies if one.named("latency_ms") in objectives.names]
    if threshold is None or not optimised:
        return rows
    front = _front(objectives, rows, earlier)
    for latency in optimised:
        wide = {i: width for i in front if (width := _half_width(rows[i], latency)) > threshold}
        wanted = [archs[i] for i in sorted(wide, key=lambda i: -wide[i])[:MOST]]
        measured = _measured(run, objectives, latency, wanted)
        rows = [
            _as_measured(row, latency, measured[arch]) if arch in measured else row
            for arch, row in zip(archs, rows, strict=True)
        ]
    return rows


def was_measured(evaluation: Evaluation | NewEvaluation, latency: Latency) -> bool:
    """Whether the latency of an evaluated subnet was measured during the search, and is no prediction.

    Searches of before there was a `measured_ms` tell it by a latency that is not the predicted one.
    """
    values = evaluation.objectives
    if latency.named("measured_ms") in values:
        return True
    latency_ms = values.get(latency.named("latency_ms"))
    return latency_ms != values.get(latency.named("predicted_ms"), latency_ms)


def _as_measured(row: NewEvaluation, latency: Latency, latency_ms: float) -> NewEvaluation:
    measured = {latency.named(name): latency_ms for name in ("latency_ms", "measured_ms")}
    return replace(row, objectives={**row.objectives, **measured})


def _measured(
    run: Run, objectives: Objectives, latency: Latency, archs: Sequence[Architecture]
) -> dict[Architecture, float]:
    """Latencies in ms on a device; those of its sample were measured before."""
    sample = {m.subnet.key: m.result.latency_ms for m in stored(run, latency.device, "sample")}
    measured = {arch: sample[arch.key] for arch in archs if arch.key in sample}
    left = [arch for arch in archs if arch not in measured]
    if left:
        device = build_device(run, latency.called)
        measured |= measure(run, objectives.space, device, latency.device, left, purpose="search")
    return measured


def _half_width(row: NewEvaluation, latency: Latency) -> float:
    values = row.objectives
    predicted, high = (values[latency.named(name)] for name in ("predicted_ms", "predicted_high_ms"))
    assert predicted is not None, "it has just been predicted"
    assert high is not None, "it has just been predicted"
    return high / predicted - 1


def _front(objectives: Objectives, rows: Sequence[NewEvaluation], earlier: NDArray[np.float64]) -> list[int]:
    """The rows that no other and no earlier evaluation beats, as things look by the predictions."""
    values = values_of(objectives, rows)
    good = np.flatnonzero(np.isfinite(values).all(axis=1))
    if not len(good):
        return []
    points = objectives.minimised(np.concatenate([values[good], earlier]))
    best = moocore.is_nondominated(points, keep_weakly=True)[: len(good)]
    return [int(i) for i in good[best]]

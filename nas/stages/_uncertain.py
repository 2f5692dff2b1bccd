"""Subnets that would enter the front on an uncertain prediction are measured before that is made of it."""

from collections.abc import Sequence
from dataclasses import replace

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.stages._measuring import build_device, measure, stored
from nas.stages._objectives import Objectives, values_of
from nas.stages._run import Run
from nas.stages.latency import Latency
from nas.store import NewEvaluation
from search_spaces import Architecture

MOST = 4  # measurements a batch: they take as long as some evaluations


def with_intervals(
    objectives: Objectives, archs: Sequence[Architecture], rows: Sequence[NewEvaluation]
) -> list[NewEvaluation]:
    """The rows with the predictions of each subnet's latency and the ends of their intervals, in ms."""
    told = objectives.intervals(objectives.space.encode(archs))
    return [
        replace(row, objectives={**row.objectives, **{name: float(told[name][i]) for name in told}})
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
    is measured on where its own interval is wide, if its latency is an objective.
    earlier: objective values (n, objectives) of what was evaluated before.
    """
    threshold, told = run.config.search.measure_above, list(rows)
    optimised = [one for one in objectives.latencies if one.named("latency_ms") in objectives.names]
    if threshold is None or not optimised:
        return told
    front = _front(objectives, rows, earlier)
    for latency in optimised:
        wide = {i: width for i in front if (width := _half_width(rows[i], latency)) > threshold}
        wanted = [archs[i] for i in sorted(wide, key=lambda i: -wide[i])[:MOST]]
        found, name = _measured(run, objectives, latency, wanted), latency.named("latency_ms")
        told = [
            replace(row, objectives={**row.objectives, name: found.get(arch, row.objectives[name])})
            for arch, row in zip(archs, told, strict=True)
        ]
    return told


def _measured(
    run: Run, objectives: Objectives, latency: Latency, archs: Sequence[Architecture]
) -> dict[Architecture, float | None]:
    """Latencies in ms on a device; those of its sample are known."""
    sample = {m.subnet.key: m.latency_ms for m in stored(run, latency.device, "sample")}
    found = {arch: sample[arch.key] for arch in archs if arch.key in sample}
    left = [arch for arch in archs if arch not in found]
    if left:
        device = build_device(run, latency.called)
        found |= measure(run, objectives.space, device, latency.device, left, purpose="search")
    return found


def _half_width(row: NewEvaluation, latency: Latency) -> float:
    told = row.objectives
    predicted, high = (told[latency.named(name)] for name in ("predicted_ms", "predicted_high_ms"))
    assert predicted is not None, "it has just been predicted"
    assert high is not None, "it has just been predicted"
    return high / predicted - 1


def _front(objectives: Objectives, rows: Sequence[NewEvaluation], earlier: NDArray[np.float64]) -> list[int]:
    """The rows that no other and no earlier evaluation beats, as things look by the predictions."""
    told = values_of(objectives, rows)
    good = np.flatnonzero(np.isfinite(told).all(axis=1))
    if not len(good):
        return []
    points = objectives.minimised(np.concatenate([told[good], earlier]))
    best = moocore.is_nondominated(points, keep_weakly=True)[: len(good)]
    return [int(i) for i in good[best]]

"""Stage `finalists`: the front of the search, evaluated on the report split and measured on the device."""

from collections.abc import Mapping, Sequence
from typing import Any

import moocore
import numpy as np

from nas.datasets import DataSet
from nas.evaluation import Evaluator
from nas.stages._measuring import build_device, measure
from nas.stages._objectives import Objectives, values_of
from nas.stages._qualities import qualities
from nas.stages._run import Run, subnet_row
from nas.store import Evaluation, NewEvaluation
from search_spaces import Architecture
from search_spaces._errors import JobFailedError


def report(run: Run, objectives: Objectives, data: DataSet, pool: Evaluator) -> None:
    """Chooses finalists on the search split only, then tells how good and how fast they are."""
    inputs = {"finalists": run.config.search.finalists}
    run.once("finalists", inputs, lambda: _report(run, objectives, data, pool))


def choose(objectives: Objectives, evaluations: Sequence[Evaluation], count: int) -> list[Evaluation]:
    """At most `count` non-dominated evaluations: both ends, then by greatest gain in hypervolume."""
    done = [e for e in evaluations if e.state == "ok"]
    if not done:
        return []
    points = objectives.minimised(values_of(objectives, done))
    front = np.flatnonzero(moocore.is_nondominated(points))
    ends = [front[np.argmin(points[front, i])] for i in range(points.shape[1])]
    chosen = list(dict.fromkeys(int(i) for i in ends))[:count]
    left = [int(i) for i in front if i not in chosen]
    reference = np.full(points.shape[1], 1.1)
    while left and len(chosen) < count:
        gains = [float(moocore.hypervolume(points[[*chosen, i]], ref=reference)) for i in left]
        chosen.append(left.pop(int(np.argmax(gains))))
    return [done[i] for i in chosen]


def _report(run: Run, objectives: Objectives, data: DataSet, pool: Evaluator) -> dict[str, Any]:
    space = objectives.space
    evaluations = run.store.evaluations(run.lease.job, "search")
    keeping = [e for e in evaluations if _keeps_when_measured(run, e)]
    found = choose(objectives, keeping, run.config.search.finalists)
    if not found:
        raise JobFailedError("No subnet was evaluated with success.", "`nas show JOB` tells why they failed.")
    archs = [space.architecture(e.subnet.architecture) for e in found]
    reported = {e.subnet.key for e in run.store.evaluations(run.lease.job, "report")}
    missing = [arch for arch in archs if arch.key not in reported]
    rows = [
        NewEvaluation(
            subnet_row(space, arch), quality.value, split="report", stderr=quality.stderr, count=quality.count
        )
        for arch, quality in zip(missing, qualities(pool, data, missing, "report"), strict=True)
    ]
    run.store.add_evaluations(run.lease, rows)
    measured = measure(run, space, build_device(run), objectives.latency.device, archs, purpose="finalist")
    _warn_of_broken_limits(run, measured)
    return {"finalists": len(found)}


def _keeps_when_measured(run: Run, evaluation: Evaluation) -> bool:
    """Whether a subnet that was measured during the search keeps the limits on latency, as all others do."""
    told = evaluation.objectives
    if told.get("latency_ms") == told.get("predicted_ms", told.get("latency_ms")):
        return True
    return all(limit.holds(told) for limit in run.config.limits if limit.name == "latency_ms")


def _warn_of_broken_limits(run: Run, measured: Mapping[Architecture, float]) -> None:
    """Tells which measured finalists break a limit on latency: the search had predictions to go by."""
    for limit in (limit for limit in run.config.limits if limit.name == "latency_ms"):
        for arch, latency_ms in measured.items():
            if not limit.holds({"latency_ms": latency_ms}):
                run.warn(f"Subnet {arch.key} was measured with {latency_ms:.4g} ms and breaks {limit}.")

"""Stage `finalists`: the front of the search, evaluated on the report split and measured on the devices."""

from collections.abc import Mapping, Sequence
from typing import Any

import moocore
import numpy as np

from nas.datasets import DataSet
from nas.evaluation import Evaluator, Failed
from nas.stages._beliefs import believed
from nas.stages._measuring import build_device, measure
from nas.stages._objectives import Objectives
from nas.stages._qualities import baseline, qualities
from nas.stages._run import Run, subnet_row
from nas.stages._seen_more import show_more
from nas.store import Evaluation, NewEvaluation
from search_spaces import Architecture
from search_spaces._errors import JobFailedError
from supernet._evaluate import Quality


def report(run: Run, objectives: Objectives, data: DataSet, pool: Evaluator) -> None:
    """Chooses finalists on the search split only, then tells how good and how fast they are."""
    inputs = {"finalists": run.config.search.finalists}
    run.once("finalists", inputs, lambda: _report(run, objectives, data, pool))


def choose(objectives: Objectives, evaluations: Sequence[Evaluation], count: int) -> list[Evaluation]:
    """At most `count` evaluations that are not believed to be dominated: both ends, then by greatest gain in
    hypervolume.

    With one objective the `count` best, so that the report split can tell which of them was only lucky.
    """
    done = [e for e in evaluations if e.state == "ok"]
    if not done:
        return []
    points = objectives.minimised(believed(objectives, done))
    if len(objectives.names) == 1:
        return [done[i] for i in np.argsort(points[:, 0], kind="stable")[:count]]
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

    def chosen() -> list[Evaluation]:
        evaluations = run.store.evaluations(run.lease.job, "search")
        keeping = [e for e in evaluations if _keeps_when_measured(run, objectives, e)]
        return choose(objectives, keeping, run.config.search.finalists)

    if run.config.search.racing is not None:
        show_more(run, objectives, data, pool, chosen)
    found = chosen()
    if not found:
        raise JobFailedError("No subnet was evaluated with success.", "`nas show JOB` tells why they failed.")
    archs = [space.architecture(e.subnet.architecture) for e in found]
    reported = {e.subnet.key for e in run.store.evaluations(run.lease.job, "report")}
    missing = [arch for arch in archs if arch.key not in reported]
    told = qualities(pool, data, missing, "report")
    rows = [_row(objectives, arch, one) for arch, one in zip(missing, told, strict=True)]
    run.store.add_evaluations(run.lease, rows)
    for place, latency in enumerate(objectives.latencies):
        device, count = build_device(run, latency.called), len(archs)
        shown = place * count, len(objectives.latencies) * count
        measured = measure(run, space, device, latency.device, archs, purpose="finalist", shown=shown)
        _warn_of_broken_limits(run, latency.named("latency_ms"), measured)
    return {"finalists": len(found), "baseline": baseline(data)}


def _row(objectives: Objectives, arch: Architecture, told: Mapping[str, Quality] | Failed) -> NewEvaluation:
    subnet = subnet_row(objectives.space, arch)
    if isinstance(told, Failed):
        return NewEvaluation(subnet, None, split="report", metric=objectives.quality, reason=told.reason)
    quality = told[objectives.quality]
    return NewEvaluation(
        subnet,
        quality.value,
        split="report",
        metric=objectives.quality,
        stderr=quality.stderr,
        count=quality.count,
        objectives={name: one.value for name, one in told.items()},
    )


def _keeps_when_measured(run: Run, objectives: Objectives, evaluation: Evaluation) -> bool:
    """Whether a subnet that was measured during the search keeps the limits on latency, as all others do."""
    told = evaluation.objectives
    for latency in objectives.latencies:
        name = latency.named("latency_ms")
        if told.get(name) != told.get(latency.named("predicted_ms"), told.get(name)) and not all(
            limit.holds(told) for limit in run.config.limits if limit.name == name
        ):
            return False
    return True


def _warn_of_broken_limits(run: Run, name: str, measured: Mapping[Architecture, float]) -> None:
    """Tells which measured finalists break a limit on latency: the search had predictions to go by.

    name: that of the latency in the limits.
    """
    for limit in (limit for limit in run.config.limits if limit.name == name):
        for arch, latency_ms in measured.items():
            if not limit.holds({name: latency_ms}):
                run.warn(f"Subnet {arch.key} was measured with {latency_ms:.4g} ms and breaks {limit}.")

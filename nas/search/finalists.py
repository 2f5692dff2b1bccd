"""Stage `finalists`: the front of the search, evaluated on the report split and measured on the devices.

Where the finalists are trained further, stage `choose` says before who they are.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.config import JobConfig
from nas.datasets import DataSet
from nas.errors import JobFailedError
from nas.evaluation import Evaluator, Failed, Scores
from nas.evaluation.qualities import Evaluate, Qualities, baseline, evaluating
from nas.job_run import Run, subnet_row
from nas.measuring.subnets import build_device, measure
from nas.results.frames import INHERITED, SPECIALISED
from nas.search.belief import believed
from nas.search.confirmation import was_measured
from nas.search.objectives import Objectives
from nas.search.racing import race_of
from nas.store import Evaluation, NewEvaluation
from search_spaces import Architecture
from supernet.evaluation.scores import Quality

SHARE = 0.2  # of the examples that the search would have looked at without racing
SPLITS = {INHERITED: ("report",), SPECIALISED: ("search", "report")}  # on which the last stage evaluates

Floats = NDArray[np.float64]


def report(run: Run, objectives: Objectives, data: DataSet, pool: Evaluator) -> None:
    """Chooses finalists on the search split only, then tells how good and how fast they are."""

    def reported() -> dict[str, Any]:
        archs = _chosen(run, objectives, data, pool)
        _evaluate(run, objectives, archs, INHERITED, evaluating(pool, data))
        return _measured(run, objectives, data, archs)

    run.once("finalists", _inputs(run), reported)


def choose_to_train(run: Run, objectives: Objectives, data: DataSet, pool: Evaluator) -> list[Architecture]:
    """The finalists, chosen on the search split only, of a job that trains them before it reports them."""

    def chosen() -> dict[str, Any]:
        return {"chosen": [arch.key for arch in _chosen(run, objectives, data, pool)]}

    keys = run.once("choose", _inputs(run), chosen)["chosen"]
    subnets = {subnet.key: subnet for subnet in run.store.subnets(run.lease.job)}
    return [objectives.space.architecture(subnets[key].architecture) for key in keys]


def report_trained(
    run: Run,
    objectives: Objectives,
    data: DataSet,
    archs: Sequence[Architecture],
    evaluators: Mapping[str, AbstractContextManager[Evaluate]],
) -> None:
    """Tells how good finalists are that were trained further, before and after it, and how fast.

    evaluators: by the weights with which they evaluate.
    """

    def reported() -> dict[str, Any]:
        for weights, context in evaluators.items():
            with context as evaluate:
                _evaluate(run, objectives, archs, weights, evaluate)
        return _measured(run, objectives, data, archs)

    run.once("finalists", _inputs(run), reported)


def _inputs(run: Run) -> dict[str, Any]:
    return {"finalists": run.config.search.finalists}


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


def chosen_of(
    config: JobConfig, objectives: Objectives, evaluations: Sequence[Evaluation], count: int
) -> list[Evaluation]:
    """The finalists of a search: of its evaluations those that `choose` takes, without such as were measured
    and break a limit.
    """
    keeping = [one for one in evaluations if _keeps_when_measured(config, objectives, one)]
    return choose(objectives, keeping, count)


def show_more(
    run: Run,
    objectives: Objectives,
    data: DataSet,
    pool: Evaluator,
    chosen: Callable[[], Sequence[Evaluation]],
) -> None:
    """Shows the next part of the search split to those of the chosen that have seen least of it, and again.

    A race leaves a subnet as soon as others of its batch are more promising; which of all that were evaluated
    are on the front is known only at the end.
    Ends when all that are chosen have seen all, or when SHARE is used up. Each part is one transaction: what
    is interrupted goes on with the next.
    chosen: the subnets that would be finalists by what the store knows now, the most important first.
    """
    job = run.lease.job
    race = race_of(run, objectives, data, pool, run.store.evaluations(job, "search"))
    hits, examples = run.store.hits(job, "search"), race.examples
    failed = set[str]()  # they stay as they are
    while part := _least_seen([one for one in chosen() if one.subnet.key not in failed], hits, examples):
        run.check_stop()
        seen = len(hits[part[0].subnet.key])
        left = SHARE * examples * len(hits) - sum(map(len, hits.values()))
        part = part[: max(int(left / (race.next_stop(seen) - seen)), 0)]
        if not part:
            return
        archs = [objectives.space.architecture(one.subnet.architecture) for one in part]
        raced = race.more(archs, [hits[one.subnet.key] for one in part])
        rows = []
        for one, longer in zip(part, raced, strict=True):
            if longer.quality is None:
                failed.add(one.subnet.key)
            else:
                hits[one.subnet.key] = longer.scores
                rows.append(_improved(objectives, one, longer.quality))
        run.store.replace_evaluations(run.lease, rows, hits)


def _chosen(run: Run, objectives: Objectives, data: DataSet, pool: Evaluator) -> list[Architecture]:
    """The finalists, after those that would be have seen more. Raises JobFailedError without any."""

    def chosen() -> list[Evaluation]:
        evaluations = run.store.evaluations(run.lease.job, "search")
        return chosen_of(run.config, objectives, evaluations, run.config.search.finalists)

    if run.config.search.racing is not None:
        show_more(run, objectives, data, pool, chosen)
    finalists = chosen()
    if not finalists:
        raise JobFailedError("No subnet was evaluated with success.", "`nas show JOB` tells why they failed.")
    return [objectives.space.architecture(e.subnet.architecture) for e in finalists]


def _evaluate(
    run: Run, objectives: Objectives, archs: Sequence[Architecture], weights: str, evaluate: Evaluate
) -> None:
    """Evaluates what is not evaluated yet, each split in full."""
    for split in SPLITS[weights]:
        done = {e.subnet.key for e in run.store.evaluations(run.lease.job, split, weights=weights)}
        answers = evaluate([arch for arch in archs if arch.key not in done], split)
        rows = [_row(objectives, arch, by_name, split, weights) for arch, by_name in answers.items()]
        run.store.add_evaluations(run.lease, rows)


def _measured(
    run: Run, objectives: Objectives, data: DataSet, archs: Sequence[Architecture]
) -> dict[str, Any]:
    """Measures the finalists on all devices; the result of the stage."""
    for place, latency in enumerate(objectives.latencies):
        device, count = build_device(run, latency.called), len(archs)
        shown = place * count, len(objectives.latencies) * count
        measured = measure(
            run, objectives.space, device, latency.device, archs, purpose="finalist", shown=shown
        )
        _warn_of_broken_limits(run, latency.named("latency_ms"), measured)
    return {"finalists": len(archs), "baseline": baseline(data)}


def _row(
    objectives: Objectives, arch: Architecture, by_name: Qualities | Failed, split: str, weights: str
) -> NewEvaluation:
    which: dict[str, Any] = {"split": split, "weights": weights, "metric": objectives.quality}
    subnet = subnet_row(objectives.space, arch)
    if isinstance(by_name, Failed):
        return NewEvaluation(subnet, None, reason=by_name.reason, **which)
    quality = by_name[objectives.quality]
    return NewEvaluation(
        subnet,
        quality.value,
        stderr=quality.stderr,
        count=quality.count,
        objectives={name: one.value for name, one in by_name.items()},
        **which,
    )


def _keeps_when_measured(config: JobConfig, objectives: Objectives, evaluation: Evaluation) -> bool:
    """Whether a subnet that was measured during the search keeps the limits on latency, as all others do."""
    values = evaluation.objectives
    for latency in objectives.latencies:
        name = latency.named("latency_ms")
        limits = [limit for limit in config.limits if limit.name == name]
        if was_measured(evaluation, latency) and not all(limit.holds(values) for limit in limits):
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


def _least_seen(chosen: Sequence[Evaluation], hits: Mapping[str, Scores], examples: int) -> list[Evaluation]:
    """Those of the chosen that have seen least examples, if not all of them; in their order."""
    seen = [len(hits.get(one.subnet.key, ())) or examples for one in chosen]
    least = min(seen, default=examples)
    return [one for one, count in zip(chosen, seen, strict=True) if count == least < examples]


def _improved(objectives: Objectives, one: Evaluation, quality: Quality) -> NewEvaluation:
    return NewEvaluation(
        subnet_row(objectives.space, objectives.space.architecture(one.subnet.architecture)),
        quality.value,
        stderr=quality.stderr,
        count=quality.count,
        metric=objectives.quality,
        batch=one.batch,
        position=one.position,
        objectives=one.objectives | {objectives.quality: quality.value},
    )

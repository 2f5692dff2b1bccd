"""Stage `search`: the pool evaluates batches of subnets, one transaction stores each.

A searcher proposes them, unless the budget covers all that there are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

import numpy as np

from nas import checkpoints, searchers
from nas.config import JobConfig
from nas.datasets import DataSet
from nas.errors import JobFailedError
from nas.evaluation import Evaluator, Failed
from nas.evaluation.stored import reused_keys
from nas.job_run import Run, subnet_row
from nas.search.budget import Clock
from nas.search.confirmation import measured_where_uncertain, with_intervals
from nas.search.objectives import Objectives, values_of
from nas.search.racing import Raced, race_of, raced_by
from nas.search.reproducibility import reproducibility
from nas.search.sensitivity import with_sensitivities
from nas.search.source import with_source
from nas.search.stopping import Gains
from nas.searchers import Learning, Paced, Searcher, SearchProblem, with_directions
from nas.store import Evaluation, NewEvaluation, NewEvent
from search_spaces import Architecture
from search_spaces.space import Codes

UNIFORM_SEEDS = 8
SURE = 0.5  # of the evaluations that were planned for a time: so many will be made


def search(
    run: Run,
    objectives: Objectives,
    data: DataSet,
    pool: Evaluator,
    clock: Clock | None = None,
    *,
    weights: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Evaluates subnets until the budget is used or none is left; goes on after the last stored batch.

    clock: of a job with a budget in time; `search.evaluations` is then what was planned.
    weights: of the job's supernets, by their names, for a search that asks what their choices are worth.
    """
    config = run.config
    searched = problem(config, objectives, partial(probe, run, pool))
    if affordable(searched, config.search.evaluations) is None:
        searched = with_sensitivities(run, searched, data, weights)
    # Without these the key is that of jobs of before they were there.
    start = None if config.search.start == "uniform" else config.search.start
    later = {"stop": config.search.stop, "source": config.search.source, "start": start}
    hidden = {"finalists", *(name for name, value in later.items() if value is None)}
    section = config.search.inputs(exclude=hidden)
    inputs = {"search": section, "objectives": objectives.names, "constraints": config.constraints}
    inputs |= {} if config.quality_on is None else {"quality_on": config.quality_on}
    run.once("search", inputs, lambda: _search(run, objectives, data, pool, searched, clock))


def affordable(searched: SearchProblem, budget: int) -> list[Architecture] | None:
    """Every architecture within the limits, in the order in which neighbours share their first layers.

    None when there are more than `budget`, and for a space that is too large to be listed.
    """
    space = searched.space
    if not space.listable or (not searched.limits and space.size > budget):
        return None
    codes = searched.listed
    if codes is None or len(codes) > budget:
        return None
    return sorted(space.decode(codes), key=lambda arch: str(arch.values))


def problem(
    config: JobConfig,
    objectives: Objectives,
    probe: Callable[[Sequence[Architecture]], Sequence[Mapping[str, float]]] | None = None,
) -> SearchProblem:
    """What the job's searcher has to know."""
    space = objectives.space
    return SearchProblem(
        space,
        with_directions(objectives.names, objectives.quality),
        objectives.costs,
        objectives.bounds,
        limits=config.limits,
        start=tuple(space.uniform(UNIFORM_SEEDS)),
        seed=config.seed if config.search.seed is None else config.search.seed,
        budget=config.search.evaluations,
        population=config.search.population,
        batch=config.search.batch,
        probe=probe,
    )


def _search(
    run: Run,
    objectives: Objectives,
    data: DataSet,
    pool: Evaluator,
    searched: SearchProblem,
    clock: Clock | None,
) -> dict[str, Any]:
    stored = run.store.evaluations(run.lease.job, "search")
    stored = with_source(run, objectives, searched, stored)
    total = run.config.search.evaluations
    # What was planned for a time may turn out to take longer: in their order a part of all is no sample.
    everything = affordable(searched, total if clock is None else int(SURE * total))
    if everything is not None:
        total, clock = len(everything), None
    learned: dict[str, Any] = {}
    evaluated = _Evaluated(run, objectives, data, pool, total, stored, clock)
    if everything is None:
        learned = _ask_searcher(run, objectives, searched, evaluated, stored)
    else:
        evaluated_keys = {evaluation.subnet.key for evaluation in stored}
        left = [arch for arch in everything if arch.key not in evaluated_keys]
        for start in range(0, len(left), run.config.search.batch):
            evaluated.add(left[start : start + run.config.search.batch])
    if evaluated.count == 0:
        raise JobFailedError("The search found no subnet to evaluate.", "Check the constraints of the job.")
    reproduced = {"reproducibility": reproducibility(run, objectives.space, data)}
    counts = {"evaluations": evaluated.count, "reused": evaluated.reused, "batches": evaluated.batch}
    return {**counts, **reproduced, **learned}


class _Evaluated:
    """What has been evaluated: `count` subnets in `batch` batches, of at most `total`.

    reused: how many of them other jobs had paid for.  volume: the hypervolume of all of them.
    clock: changes the total as time passes; what it is stands with every batch.
    """

    def __init__(
        self,
        run: Run,
        objectives: Objectives,
        data: DataSet,
        pool: Evaluator,
        total: int,
        stored: Sequence[Evaluation],
        clock: Clock | None,
    ) -> None:
        self._clock = clock
        self._run, self._objectives, self._pool, self.total = run, objectives, pool, total
        self.count, self.batch = len(stored), (stored[-1].batch or 0) + 1 if stored else 0
        self.reused = sum(evaluation.reused for evaluation in stored)
        self._race = race_of(run, objectives, data, pool, stored)
        self._values = values_of(objectives, [e for e in stored if e.state == "ok"])
        self.volume = objectives.hypervolume(self._values)
        if clock is not None:
            planned = clock.total(self.count)
            self.total = _total_then(run, self.count) or planned
        if stored:
            self._show()  # a crash may have come between the last batch and its point
        else:
            run.progress.update(0, total)  # the pace of the first batch is counted from here

    def add(self, archs: Sequence[Architecture]) -> list[NewEvaluation]:
        """Evaluates a batch and stores it in one transaction."""
        self._run.check_stop()
        costs = self._objectives.costs(self._objectives.space.encode(archs))
        raced = self._race.run(archs, self._objectives.costs_alone(costs))
        rows = _rows(self._objectives, archs, raced, costs, batch=self.batch, position=self.count)
        reused = reused_keys(self._pool, archs)
        rows = [replace(row, reused=row.subnet.key in reused) for row in rows]
        rows = measured_where_uncertain(self._run, self._objectives, archs, rows, self._values)
        scores = {a.key: one.scores for a, one in zip(archs, raced, strict=True) if one.quality is not None}
        self._run.store.add_evaluations(self._run.lease, rows, scores)
        self._race.remember([one.scores for one in raced], [raced_by(self._objectives, row) for row in rows])
        new = values_of(self._objectives, [row for row in rows if row.succeeded])
        self._values = np.concatenate([self._values, new])
        self.count, self.batch = self.count + len(rows), self.batch + 1
        self.reused += len(reused)
        self.volume = self._objectives.hypervolume(self._values)
        if self._clock is not None:
            self.total = self._clock.total(self.count)
        self._show()
        return rows

    def end(self, reason: str) -> dict[str, Any]:
        """Tells the user and the job's log that the rest is not evaluated, and why; what the stage tells."""
        message = f"The search ended after {self.count} of {self.total} subnets: {reason}."
        log = NewEvent("log", {"message": message}, stage="search", step=self.count)
        self._run.store.add_events(self._run.lease, [log])
        self._show(**{"ended because": reason})
        return {"ended": reason}

    def _show(self, **info: str) -> None:
        run = self._run
        data = {"evaluations": self.count, "hypervolume": self.volume, "of": self.total}
        data |= {} if self._clock is None else {"spent": self._clock.spent}
        run.store.add_events(run.lease, [NewEvent("hypervolume", data, stage="search", step=self.count)])
        run.progress.update(self.count, self.total, hypervolume=round(self.volume, 4), **info)


def _total_then(run: Run, count: int) -> int | None:
    """How many were to be evaluated when the last batch was stored; None where that batch told nothing."""
    points = [event for event in run.store.events(run.lease.job, "hypervolume") if event.step == count]
    return points[-1].data.get("of") if points else None


def _ask_searcher(
    run: Run,
    objectives: Objectives,
    searched: SearchProblem,
    evaluated: _Evaluated,
    stored: Sequence[Evaluation],
) -> dict[str, Any]:
    """Evaluates what the searcher proposes until the budget is used, nothing more is proposed, or
    `search.stop` ends it.

    Returns what the searcher leaves beside the evaluations, and why it ended early.
    """
    section, space = run.config.search, objectives.space
    searcher = searchers.build(section.searcher, searched, **section.options)
    for _, batch in groupby(stored, key=lambda evaluation: evaluation.batch):
        rows = list(batch)
        archs = [space.architecture(row.subnet.architecture) for row in rows]
        _tell(searcher, objectives, space.encode(archs), rows)
    gains = Gains.of(section.stop, objectives, stored)
    while evaluated.count < evaluated.total and gains.reason is None:
        pace = searcher.pace if isinstance(searcher, Paced) else section.batch
        codes = searcher.ask(min(section.batch, pace, evaluated.total - evaluated.count))
        if not len(codes):
            break
        _tell(searcher, objectives, codes, evaluated.add(space.decode(codes)))
        gains = gains.after(evaluated.volume)
        _store_curve(run, searcher)
    early = gains.reason if evaluated.count < evaluated.total else None
    ended = {} if early is None else evaluated.end(early)
    return _left_behind(run, searcher, step=evaluated.count) | ended


def _tell(
    searcher: Searcher,
    objectives: Objectives,
    codes: Codes,
    rows: Sequence[NewEvaluation] | Sequence[Evaluation],
) -> None:
    """Tells a batch; only the quality has a standard error."""
    errors = np.full((len(rows), len(objectives.names)), np.nan)
    if objectives.quality in objectives.names:
        stderrs: list[Any] = [row.stderr for row in rows]
        errors[:, objectives.names.index(objectives.quality)] = np.array(stderrs, dtype=np.float64)
    searcher.tell(codes, values_of(objectives, rows), errors)


def _store_curve(run: Run, searcher: Searcher) -> None:
    """Stores how the learning goes; rounds that are stored already stay as they are."""
    if isinstance(searcher, Learning):
        points = [NewEvent("generator", p, stage="search", step=p["round"]) for p in searcher.curve]
        run.store.add_events(run.lease, points)


def _left_behind(run: Run, searcher: Searcher, *, step: int) -> dict[str, Any]:
    """Stores what a searcher has learned, after a last lesson from everything."""
    if not isinstance(searcher, Learning) or not searcher.curve:
        return {}
    searcher.finish()
    _store_curve(run, searcher)
    saved = checkpoints.save(run.store, run.lease, "generator", searcher.tensors(), step=step)
    return {"generator": saved.id}


def _rows(
    objectives: Objectives,
    archs: Sequence[Architecture],
    raced: Sequence[Raced],
    costs: Mapping[str, Any],
    *,
    batch: int,
    position: int,
) -> list[NewEvaluation]:
    rows = [
        NewEvaluation(
            subnet_row(objectives.space, arch),
            one.value,
            stderr=one.quality.stderr if one.quality else None,
            count=one.quality.count if one.quality else None,
            metric=objectives.quality,
            batch=batch,
            position=position + i,
            objectives={objectives.quality: one.value}
            | {name: float(column[i]) for name, column in costs.items()},
            reason=one.reason,
        )
        for i, (arch, one) in enumerate(zip(archs, raced, strict=True))
    ]
    return with_intervals(objectives, archs, rows)


def probe(run: Run, pool: Evaluator, archs: Sequence[Architecture]) -> list[dict[str, float]]:
    """How much the loss of each network rises without each of its blocks; all reactions are stored."""
    probings = pool.probe(archs)
    events = [
        NewEvent("probe", {"subnet": arch.key, **asdict(probing)}, stage=f"search {arch.key}", step=0)
        for arch, probing in zip(archs, probings, strict=True)
        if not isinstance(probing, Failed)
    ]
    run.store.add_events(run.lease, events)
    return [
        {}
        if isinstance(probing, Failed)
        else {name: max(r.bypass, 0.0) for name, r in probing.reactions.items() if _is_known(r.bypass)}
        for probing in probings
    ]


def _is_known(bypass: float | None) -> TypeGuard[float]:
    return bypass is not None and math.isfinite(bypass)

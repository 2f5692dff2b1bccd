"""Stage `search`: the pool evaluates batches of subnets, one transaction stores each.

A searcher proposes them, unless the budget covers all that there are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from nas import searchers
from nas.conditions import distance
from nas.config import JobConfig
from nas.datasets import DataSet
from nas.evaluation import Evaluator
from nas.searchers import SearchProblem, SpaceExhausted
from nas.searchers._distinct import architecture, distributions
from nas.stages._exhaustive import affordable
from nas.stages._learning import left_behind, probe, store_curve
from nas.stages._objectives import Objectives, values_of
from nas.stages._qualities import searched_images
from nas.stages._racing import Race, Raced, rungs
from nas.stages._reproducibility import reproducibility
from nas.stages._run import Run, subnet_row
from nas.stages._uncertain import measured_where_uncertain, with_intervals
from nas.store import Evaluation, NewEvaluation, NewEvent
from search_spaces import Architecture, SearchSpace
from search_spaces._errors import JobFailedError
from search_spaces._space import Codes

UNIFORM_SEEDS = 8


def search(run: Run, objectives: Objectives, data: DataSet, pool: Evaluator) -> None:
    """Evaluates subnets until the budget is used or none is left; goes on after the last stored batch."""
    config = run.config
    section = config.search.inputs(exclude={"finalists"})
    inputs = {"search": section, "objectives": objectives.names, "constraints": config.constraints}
    run.once("search", inputs, lambda: _search(run, objectives, data, pool))


def _search(run: Run, objectives: Objectives, data: DataSet, pool: Evaluator) -> dict[str, Any]:
    stored = run.store.evaluations(run.lease.job, "search")
    feasible = partial(_feasible, run.config, objectives) if run.config.limits else None
    everything = affordable(objectives.space, feasible, run.config.search.evaluations)
    total = run.config.search.evaluations if everything is None else len(everything)
    learned: dict[str, Any] = {}
    evaluated = _Evaluated(run, objectives, data, pool, total, stored)
    if everything is None:
        learned = _ask_searcher(run, objectives, pool, evaluated, stored)
    else:
        known = {evaluation.subnet.key for evaluation in stored}
        left = [arch for arch in everything if arch.key not in known]
        for start in range(0, len(left), run.config.search.batch):
            evaluated.add(left[start : start + run.config.search.batch])
    if evaluated.told == 0:
        raise JobFailedError("The search found no subnet to evaluate.", "Check the constraints of the job.")
    told = {"reproducibility": reproducibility(run, objectives.space, data)}
    return {"evaluations": evaluated.told, "batches": evaluated.batch, **told, **learned}


class _Evaluated:
    """What has been evaluated: `told` subnets in `batch` batches, of at most `total`."""

    def __init__(
        self,
        run: Run,
        objectives: Objectives,
        data: DataSet,
        pool: Evaluator,
        total: int,
        stored: Sequence[Evaluation],
    ) -> None:
        self._run, self._objectives, self.total = run, objectives, total
        self.told, self.batch = len(stored), (stored[-1].batch or 0) + 1 if stored else 0
        hits = run.store.hits(run.lease.job, "search")
        good = [e for e in stored if e.state == "ok"]
        self._race = _race(run, data, pool, from_start=all(e.subnet.key in hits for e in good))
        done = [e for e in good if e.subnet.key in hits]
        self._race.remember([hits[e.subnet.key] for e in done], [self._optimised(e) for e in done])
        self._values = values_of(objectives, good)
        if stored:
            self._show()  # a crash may have come between the last batch and its point
        else:
            run.progress.update(0, total)  # the pace of the first batch is counted from here

    def add(self, archs: Sequence[Architecture]) -> list[NewEvaluation]:
        """Evaluates a batch and stores it in one transaction."""
        self._run.check_stop()
        costs = self._objectives.costs(self._objectives.space.encode(archs))
        raced = self._race.run(archs, self._objectives.costs_alone(costs))
        rows = _rows(self._objectives, archs, raced, costs, batch=self.batch, position=self.told)
        rows = measured_where_uncertain(self._run, self._objectives, archs, rows, self._values)
        hits = {a.key: one.hits for a, one in zip(archs, raced, strict=True) if one.quality is not None}
        self._run.store.add_evaluations(self._run.lease, rows, hits)
        self._race.remember([one.hits for one in raced], [self._optimised(row) for row in rows])
        new = values_of(self._objectives, [row for row in rows if row.succeeded])
        self._values = np.concatenate([self._values, new])
        self.told, self.batch = self.told + len(rows), self.batch + 1
        self._show()
        return rows

    def _optimised(self, row: NewEvaluation | Evaluation) -> dict[str, float | None]:
        return {
            name: row.objectives.get(name) for name in (self._objectives.quality, *self._objectives.names)
        }

    def _show(self) -> None:
        run, volume = self._run, self._objectives.hypervolume(self._values)
        data = {"evaluations": self.told, "hypervolume": volume, "of": self.total}
        run.store.add_events(run.lease, [NewEvent("hypervolume", data, stage="search", step=self.told)])
        run.progress.update(self.told, self.total, hypervolume=round(volume, 4))


def _race(run: Run, data: DataSet, pool: Evaluator, *, from_start: bool) -> Race:
    """from_start: whether it is kept which images all subnets so far classify right, as a race needs."""
    config, counted = run.config, searched_images(run, data)
    rate = config.search.racing if from_start and config.quality in config.objectives else None
    seen = (counted.count,) if rate is None else rungs(counted.count)
    return Race(pool, seen, rate=rate or 0.5, counted=counted, quality=config.quality)


def _ask_searcher(
    run: Run,
    objectives: Objectives,
    pool: Evaluator,
    evaluated: _Evaluated,
    stored: Sequence[Evaluation],
) -> dict[str, Any]:
    """Evaluates what the searcher proposes until the budget is used or it proposes nothing more.

    Returns what the searcher leaves beside the evaluations.
    """
    config = run.config
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    history = tuple(objectives.space.architecture(e.subnet.architecture) for e in stored)
    probing = partial(probe, run, pool)
    sampler = searchers.build(
        config.search.searcher, problem(config, objectives, history, probing), **config.search.options
    )
    study = optuna.create_study(directions=objectives.directions, sampler=sampler)
    for number, batch in groupby(stored, key=lambda evaluation: evaluation.batch):
        assert number is not None
        _replay(study, objectives, list(batch))
    while evaluated.told < evaluated.total:
        trials = _ask(study, objectives.space, min(config.search.batch, evaluated.total - evaluated.told))
        if not trials:
            break
        archs = [architecture(objectives.space, trial.params) for trial in trials]
        for trial, row in zip(trials, evaluated.add(archs), strict=True):
            _tell(study, objectives, trial, row)
        store_curve(run, sampler)
    return left_behind(run, study, sampler, step=evaluated.told)


def _feasible(config: JobConfig, objectives: Objectives, codes: Codes) -> NDArray[np.bool_]:
    """Which architectures keep the hard limits, exact or predicted."""
    keeps: NDArray[np.bool_] = _outside(config, objectives, codes) == 0
    return keeps


def _outside(config: JobConfig, objectives: Objectives, codes: Codes) -> NDArray[np.float64]:
    """How far architectures are from keeping the hard limits, exact or predicted; 0: they do."""
    return distance(config.limits, objectives.bounds(codes) if config.limits else {}, len(codes))


def problem(
    config: JobConfig,
    objectives: Objectives,
    history: tuple[Architecture, ...] = (),
    probe: Callable[[Sequence[Architecture]], Sequence[Mapping[str, float]]] | None = None,
) -> SearchProblem:
    """What the job's searcher has to know."""
    space = objectives.space
    return SearchProblem(
        space=space,
        feasible=partial(_feasible, config, objectives),
        start=tuple(space.uniform(UNIFORM_SEEDS)),
        population=config.search.population,
        seed=config.seed,
        history=history,
        outside=partial(_outside, config, objectives),
        budget=config.search.evaluations,
        metrics=objectives.bounds,
        objectives=objectives.names,
        limits=config.limits,
        known=objectives.costs,
        batch=config.search.batch,
        probe=probe,
    )


def _ask(study: optuna.Study, space: SearchSpace, count: int) -> list[optuna.Trial]:
    trials, choices = list[optuna.Trial](), distributions(space)
    for _ in range(count):
        try:
            trials.append(study.ask(choices))
        except SpaceExhausted:
            break
    return trials


def _tell(
    study: optuna.Study, objectives: Objectives, trial: optuna.Trial, row: NewEvaluation | Evaluation
) -> None:
    told: list[Any] = [row.objectives.get(name) for name in objectives.names]
    if row.stderr is not None and math.isfinite(row.stderr):
        trial.set_user_attr(searchers.STDERR, {objectives.quality: row.stderr})
    if any(value is None or not math.isfinite(value) for value in told):
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, told)


def _replay(study: optuna.Study, objectives: Objectives, batch: Sequence[Evaluation]) -> None:
    """Asks and tells a stored batch again, so that the sampler sees the history that it had."""
    trials = [study.ask(distributions(objectives.space)) for _ in batch]
    for trial, evaluation in zip(trials, batch, strict=True):
        _tell(study, objectives, trial, evaluation)


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

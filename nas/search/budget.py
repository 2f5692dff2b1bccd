"""Stage `budget`: the time that a job may take is divided over its training, its search and its finalists.

A short calibration tells how long a step and an evaluation of this job take here. The training and the search
have numbers then like those of a job that was given them, and go on with the same after an interruption. The
search ends when what is left is needed by the finalists: what others take less, or more, is its gain or loss.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

import supernet
from nas.config import AnchorsInit, JobConfig, TrainedAnchor
from nas.datasets import DataSet
from nas.evaluation import EvaluationSetup, Failed, Scores
from nas.evaluation.qualities import searched_examples
from nas.evaluation.tasks import batch_of
from nas.evaluation.worker import EvaluationWorker
from nas.job_run import Run
from nas.progress import seconds_left
from nas.results.job_devices import LATENCY
from nas.results.running.time_left import BUDGET
from nas.search.objectives import Objectives
from nas.search.racing import race_of
from nas.store import Supernet
from nas.store.values import now
from nas.training.keys import supernet_key
from nas.training.pace import seconds_per_step
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from supernet.evaluation.probe import Probing

TRAINING = 0.6  # of the budget, for the supernet and the finalists' further training
CALIBRATION = 0.02  # of the budget, for the steps that are timed
LONGEST_CALIBRATION = 20.0  # seconds
WARM_UP = 0.1  # of the steps, at most: who gives a time cannot know how many there will be
RACED_AGAIN = 2  # times the finalists see all examples before they are chosen
BATCHES = 2  # that are evaluated to see how long it takes; of the first everything is made anew
BEGIN = 5.0  # seconds until the processes that evaluate have begun
FEWEST = 0.25  # of a batch that is worth the proposals
MOST_EVALUATIONS = 10_000_000


@dataclass(frozen=True)
class Clock:
    """The time of a search, from which follows how many subnets it evaluates in all.

    until: when the job is to end, by `time.monotonic`.  after: seconds that what follows the search takes.
    per_evaluation: seconds, as long as this process has evaluated nothing.
    """

    until: float
    budget: float
    after: float
    per_evaluation: float
    batch: int
    points: list[tuple[float, int]] = field(default_factory=list)

    @property
    def spent(self) -> float:
        """Seconds that the job has taken, earlier attempts included."""
        return self.budget - (self.until - time.monotonic())

    def total(self, count: int) -> int:
        """How many subnets are going to be evaluated, `count` being done: at least these, at least one."""
        self.points.append((time.monotonic(), count))
        pace = seconds_left(self.points, count + 1) or self.per_evaluation
        left = self.until - time.monotonic() - self.after
        rest = int(max(0.0, min(left / pace, MOST_EVALUATIONS)))
        return max(1, count + (rest if rest >= FEWEST * self.batch else 0))


@dataclass(frozen=True)
class _Paces:
    """Seconds that an evaluation takes here: as its race goes, and on all examples of the report split or the
    search split.
    """

    evaluation: float = 0.0
    report: float = 0.0
    search: float = 0.0


def divided(
    run: Run,
    space: SearchSpace,
    data: DataSet,
    objectives: Objectives | None = None,
    setup: EvaluationSetup | None = None,
) -> tuple[Run, Clock]:
    """The run with numbers of steps and evaluations for the time that it has, and the clock of its search.

    objectives, setup: of a job that searches, and with what it evaluates; the weights are not used.
    Raises UsageError for a budget that is too short to evaluate one subnet.
    """
    budget = run.config.budget
    assert budget is not None, "the job file gives one"
    until = run.began + budget - _spent_before(run)

    def division() -> dict[str, Any]:
        paces = _Paces() if objectives is None or setup is None else _paces(run, objectives, data, setup)
        return _parts(run, space, data, paces, lambda: until - time.monotonic())

    parts = run.once(BUDGET, {"budget": budget}, division)
    _keep(run, parts)
    clock = Clock(
        until,
        budget,
        after=parts["specialise"]["seconds"] + parts["finalists"]["seconds"],
        per_evaluation=parts["search"]["seconds_per_evaluation"],
        batch=run.config.search.batch,
    )
    return replace(run, config=_with(run.config, parts)), clock


def _numbers(parts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the division is in the job file."""
    train, search = parts["train"], parts["search"]
    return {
        "train": {"steps": train["steps"], "warmup": train["warmup"]},
        "search": {"evaluations": search["evaluations"]},
    }


def _keep(run: Run, parts: dict[str, Any]) -> None:
    """Gives the stored job the numbers, for all who read it."""
    config = run.lease.job.config
    sections = {name: {**config[name], **numbers} for name, numbers in _numbers(parts).items()}
    if {**config, **sections} != config:
        run.store.replace_config(run.lease, {**config, **sections})


def _with(config: JobConfig, parts: dict[str, Any]) -> JobConfig:
    numbers = _numbers(parts)
    return config.model_copy(
        update={
            "train": config.train.model_copy(update=numbers["train"]),
            "search": config.search.model_copy(update=numbers["search"]),
        }
    )


def _parts(
    run: Run, space: SearchSpace, data: DataSet, paces: _Paces, left: Callable[[], float]
) -> dict[str, Any]:
    """The division: the stage's result. left: the seconds that the job has left."""
    budget, searches = run.config.budget or 0.0, paces.evaluation > 0
    after = _seconds_of_finalists(run, space, data, paces) if searches else 0.0
    needed = after + BEGIN + paces.evaluation
    if left() < needed:
        raise _too_short(budget, left(), needed)
    train = _training(run, space, data, lambda: left() - needed)
    specialise = _steps_of_finalists(run.config, train["steps"]) * train["seconds_per_step"]
    rest = left() - train["seconds"] - specialise - after - BEGIN
    evaluations = int(min(rest / paces.evaluation, MOST_EVALUATIONS)) if searches else 1
    if train["steps"] < 1 or evaluations < 1:
        raise _too_short(budget, left(), needed + train["seconds_per_step"])
    run.warn(
        f"The budget of {budget:g} s: {train['steps']:,} steps of training"
        + (f"; evaluations: about {evaluations:,}." if searches else ".")
    )
    return {
        "seconds": budget,
        "spent": budget - left(),
        "train": train,
        "search": {
            "evaluations": evaluations if searches else run.config.search.evaluations,
            "seconds": rest if searches else 0.0,
            "seconds_per_evaluation": paces.evaluation,
        },
        "specialise": {"seconds": specialise},
        "finalists": {"seconds": after},
    }


def _too_short(budget: float, left: float, needed: float) -> UsageError:
    return UsageError(
        f"A budget of {budget:g} s is too short for one evaluation: {budget - left:.0f} s have passed, and "
        f"the shortest training, one evaluation and the finalists take about {needed:.0f} s more.",
        f"Give budget: {math.ceil(2 * (budget - left + needed))}s, or fewer search.finalists.",
    )


def _training(run: Run, space: SearchSpace, data: DataSet, most: Callable[[], float]) -> dict[str, Any]:
    """Steps of the supernet, whose share is also that of the finalists' further training, and what they take.

    most: the seconds that it may take at most.
    """
    config, budget = run.config, run.config.budget or 0.0
    made = _made_for_it(run, space, data)
    is_found = config.supernet.use is not None or (made is not None and made.is_trained)
    if is_found and config.finalists.train is None:
        per_step = 0.0
    else:
        seconds = min(CALIBRATION * budget, LONGEST_CALIBRATION)
        per_step = seconds_per_step(run, space, data, seconds=seconds)
    steps, warmup = config.train.steps, config.train.warmup
    if config.supernet.use is None:
        wanted = (min(TRAINING * budget, most()) - _fixed_steps(config, per_step)) / (per_step or math.inf)
        steps = _rounded(wanted / (1 + _share_of_finalists(config))) if made is None else made.steps
        warmup = _warmup(config, steps)
    count = 0 if is_found else steps + _steps_of_anchors(config)
    return {"steps": steps, "warmup": warmup, "seconds": count * per_step, "seconds_per_step": per_step}


def _warmup(config: JobConfig, steps: int) -> int:
    return min(config.train.warmup, int(WARM_UP * steps))


def _fixed_steps(config: JobConfig, per_step: float) -> float:
    """Seconds of the trainings whose number of steps the job file says."""
    further = config.finalists.train
    fixed = _steps_of_anchors(config)
    if further is not None and isinstance(further.steps, int):
        fixed += _steps_of_finalists(config, config.train.steps)
    return fixed * per_step


def _share_of_finalists(config: JobConfig) -> float:
    """Of the supernet's steps, what the finalists' further training has besides."""
    further = config.finalists.train
    if further is None or isinstance(further.steps, int):
        return 0.0
    return further.steps * (config.search.finalists if further.how == "alone" else 1)


def _steps_of_finalists(config: JobConfig, steps: int) -> int:
    further = config.finalists.train
    if further is None:
        return 0
    return further.count(steps) * (config.search.finalists if further.how == "alone" else 1)


def _steps_of_anchors(config: JobConfig) -> int:
    init = config.supernet.init
    anchors = init.anchors if isinstance(init, AnchorsInit) else ()
    return sum(anchor.steps for anchor in anchors if isinstance(anchor, TrainedAnchor))


def _rounded(steps: float) -> int:
    """With two significant digits: no calibration is exacter."""
    whole = int(min(max(steps, 0.0), 1e9))
    unit: int = 10 ** max(0, len(str(whole)) - 2)
    return whole // unit * unit


def _made_for_it(run: Run, space: SearchSpace, data: DataSet) -> Supernet | None:
    """The supernet that another job with this budget has trained, or begun; the oldest of several.

    It is the same but for its steps, of which a calibration on a busy day finds others.
    """
    if not run.config.reuse or run.config.supernet.use is not None:
        return None
    made = (one for one in run.store.supernets() if one.settings.get("budget") == run.config.budget)
    return next((one for one in made if one.key == _key(run, space, data, one.steps)), None)


def _key(run: Run, space: SearchSpace, data: DataSet, steps: int) -> str:
    train = run.config.train
    numbers = {"steps": steps, "warmup": _warmup(run.config, steps)}
    config = run.config.model_copy(update={"train": train.model_copy(update=numbers)})
    return supernet_key(config, space, data)


def _paces(run: Run, objectives: Objectives, data: DataSet, setup: EvaluationSetup) -> _Paces:
    """Times two batches of random subnets with untrained weights, raced as in the search, in this process."""
    space, execution = objectives.space, run.config.execution
    rng, threads = np.random.default_rng(run.config.seed), torch.get_num_threads()
    untrained = supernet.build(space, seed=run.config.seed).shared.state_dict()
    worker = EvaluationWorker(setup, save({name: one.contiguous() for name, one in untrained.items()}))
    try:
        worker.begin()
        race = race_of(run, objectives, data, _Here(worker, data), [])
        for _ in range(BATCHES):
            run.check_stop()
            codes = np.unique(space.sample_choices(rng, run.config.search.batch), axis=0)
            costs = objectives.costs_alone(objectives.costs(codes))
            began = time.monotonic()
            raced = race.run(space.decode(codes), costs)
            seconds = time.monotonic() - began
    finally:
        torch.set_num_threads(threads)
    workers = min(
        execution.workers, (os.cpu_count() or 1) if execution.engine == "local" else execution.workers
    )
    per_example = seconds / sum(len(one.scores) for one in raced) / workers
    return _Paces(
        evaluation=seconds / len(raced) / workers,
        report=data.sizes["report"] * per_example,
        search=searched_examples(run, data).count * per_example,
    )


class _Here:
    """An `Evaluator` of one worker in this process."""

    def __init__(self, worker: EvaluationWorker, data: DataSet) -> None:
        self._worker, self._data = worker, data

    def scored(
        self, archs: Sequence[Architecture], split: str, images: slice | None = None
    ) -> list[Scores | Failed]:
        """See `Evaluator`."""
        wanted = slice(0, self._data.sizes[split]) if images is None else images
        borders = [*range(wanted.start, wanted.stop, batch_of(self._data)), wanted.stop]
        parts = [self._worker.scored(archs, split, slice(*ends)) for ends in pairwise(borders)]
        return list(np.concatenate(parts, axis=1))

    def probe(self, archs: Sequence[Architecture]) -> list[Probing | Failed]:
        """See `Evaluator`."""
        return list(self._worker.probe(archs))


def _seconds_of_finalists(run: Run, space: SearchSpace, data: DataSet, paces: _Paces) -> float:
    """What they take, but for their further training: they see more examples, are reported and measured."""
    config = run.config
    count = int(min(config.search.finalists, space.size))
    evaluating = paces.report + (RACED_AGAIN * paces.search if config.search.racing is not None else 0.0)
    pools = 0
    if config.finalists.train is not None:
        evaluating, pools = evaluating + paces.report + paces.search, 2
    return count * (evaluating + _seconds_to_measure(run)) + pools * BEGIN


def _seconds_to_measure(run: Run) -> float:
    """One subnet on all devices, as the samples went: here, or in the job that measured all of them."""
    rows, total = run.store.measurements(run.lease.job, "sample"), 0.0
    for stage in run.store.stages(run.lease.job):
        device_id = (stage.result or {}).get("device_id")
        if stage.name.partition(":")[0] != LATENCY or stage.finished_at is None:
            continue
        sample = [row for row in rows if row.device_id == device_id]
        measured = sum(not row.reused for row in sample)
        spent = (stage.finished_at - stage.started_at).total_seconds()
        total += spent / measured if measured else _seconds_between(row.created_at for row in sample)
    return total


def _seconds_between(moments: Iterable[datetime]) -> float:
    """For each of what was stored at these moments, batch by batch; 0 where there was one batch."""
    batches = sorted(Counter(moments).items())
    gaps = [(later - earlier).total_seconds() / count for (earlier, _), (later, count) in pairwise(batches)]
    return median(gaps) if gaps else 0.0


def _spent_before(run: Run) -> float:
    """Seconds that earlier attempts at the job took, as far as rows tell it."""
    job, store = run.lease.job, run.store
    if run.lease.attempt == 1:
        return 0.0
    batches = [event.data for event in store.events(job, "hypervolume")]
    if batches and isinstance(spent := batches[-1].get("spent"), int | float):
        return float(spent)
    division = store.stage(job, BUDGET)
    if division is not None and division.state == "done":
        use = store.supernet_of(job)
        trained = 0.0 if use is None or use.reused else use.supernet.seconds
        return float(division.told("spent")) + trained
    began = now() - timedelta(seconds=time.monotonic() - run.began)
    return sum(
        (stage.finished_at - stage.started_at).total_seconds()
        for stage in store.stages(job)
        if stage.finished_at is not None and stage.started_at < began
    )

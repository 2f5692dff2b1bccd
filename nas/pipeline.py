"""The main job as a straight line: every stage is one call, and is skipped when the store has its result."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import search_spaces
from nas import datasets
from nas.artifacts import verified
from nas.config.components import stored_config
from nas.config.paths import located
from nas.datasets import DataSet
from nas.evaluation import EvaluationSetup, SharedWeights, evaluator
from nas.evaluation.qualities import Evaluate, evaluating
from nas.evaluation.stored import stored_first
from nas.evaluation.tasks import batch_of
from nas.job_data import MANIFEST, check_data, write_manifest
from nas.job_run import Run, attempt
from nas.measuring.baselines import baselines
from nas.measuring.latency import latencies
from nas.notifications import notify_of_end
from nas.progress import Progress
from nas.results.frames import INHERITED, SPECIALISED
from nas.search.budget import divided
from nas.search.device_quality import report_on_devices, searched_on
from nas.search.finalists import choose_to_train, report, report_trained
from nas.search.objectives import Objectives
from nas.search.stage import search
from nas.spaces.initial import with_layer_order
from nas.spaces.job_space import resolve, whole
from nas.store import Artifact, Job, Store
from nas.training.sharing import train
from nas.training.specialisation import specialise, specialised_evaluator
from nas.training.supernets import torch_device
from nas.watchdog import Leave
from search_spaces import Architecture, SearchSpace
from search_spaces.registry import allow

NO_WEIGHTS = Path()
TRAINED = "supernet"  # the goal of a job that ends when its supernet is trained


def run(
    store: Store, job: Job, *, progress: Progress, end: Leave | None = None, owner: str | None = None
) -> None:
    """Runs a job to its goal, mostly its front, or goes on where it was left.

    Raises JobFailedError when it cannot be finished, ConflictError when it runs elsewhere, KeyboardInterrupt
    when it was asked to stop; in each case everything that was finished is in the store.
    end: ends the process when what the job is at hangs so that it cannot even be interrupted.
    owner: of a worker's claim to the job, under which this process runs it; the worker notifies of its end.
    """
    try:
        _run(store, job, progress=progress, end=end, owner=owner)
    finally:
        if owner is None:
            notify_of_end(store, job, tell=progress.warn)


def _run(store: Store, job: Job, *, progress: Progress, end: Leave | None, owner: str | None) -> None:
    config = located(stored_config(job))
    data = datasets.prepared(config.data.name, config.data.options, progress)
    with attempt(store, job, config, progress, end=end, owner=owner) as run:
        space = _space(run, data)
        if job.goal == TRAINED:
            if config.budget is not None:
                run, _ = divided(run, space, data)
            _trained(run, space, data)
            run.lease.finish("succeeded")
            return
        first, *others = latencies(run, space)
        objectives = Objectives(config.objectives, space, first, tuple(others), config.quality)
        baselines(run, data)
        clock = None
        if config.budget is not None:
            untrained = _setup(run, space, data, dict.fromkeys(space.members, NO_WEIGHTS))
            run, clock = divided(run, space, data, objectives, untrained)
        weights = _trained(run, space, data)
        files = {name: verified(store, artifact) for name, artifact in weights.items()}
        setup = _setup(run, space, data, files)
        with evaluator(setup, config.execution, warn=run.warn) as paid:
            pool = stored_first(run, space, data, paid, torch_device=setup.torch_device)
            searching = searched_on(run, space, data, pool, files)
            search(run, objectives, data, searching, clock, weights=files)
            if config.finalists.train is None:
                report(run, objectives, data, searching)
            else:
                archs = choose_to_train(run, objectives, data, searching)
        if config.finalists.train is not None:
            _train_finalists(run, objectives, data, setup, weights[""], archs)
        report_on_devices(run, data)
        run.lease.finish("succeeded")


def _space(run: Run, data: DataSet) -> SearchSpace:
    """The space, and a check that the data are still those with which the job began.

    It is resolved once: what it came from (a folder of weights) may be gone when the job goes on.
    """

    def describe() -> dict[str, Any]:
        spaces = {name: _space_alone(run.alone(name) if name else run, data) for name in run.config.each}
        space = whole(spaces)
        allow([one.family for one in spaces.values()])  # the job's own spaces say so
        return {"space": search_spaces.description(space), "data": datasets.described(data)}

    config = run.config
    each = {name: alone.supernet.inputs() for name, alone in config.each.items()}
    inputs = {"config": each[""]} if "" in each else {"supernets": each}
    stored = run.once("space", inputs, describe)
    check_data(run, data)
    if not run.store.artifacts(run.lease.job, MANIFEST):
        write_manifest(run.store, run.lease, data)
    return search_spaces.described(stored["space"])


def _space_alone(run: Run, data: DataSet) -> SearchSpace:
    """Of the job's supernet, or that of several which the run is about."""
    if run.config.supernet.use is None:
        announce = partial(run.progress.stage, "order of layers")
        return with_layer_order(run.config, resolve(run.config, data), data, announce)
    use = run.store.supernet_of(run.lease.job, run.supernet)
    supernet = run.store.supernet(run.config.supernet.use) if use is None else use.supernet
    return search_spaces.described(supernet.space)


def _trained(run: Run, space: SearchSpace, data: DataSet) -> dict[str, Artifact]:
    """The weights of the job's supernets by their names; of one that has one under ""."""
    return {
        name: train(run.alone(name) if name else run, member, data) for name, member in space.members.items()
    }


def _train_finalists(
    run: Run,
    objectives: Objectives,
    data: DataSet,
    setup: EvaluationSetup,
    weights: Artifact,
    archs: Sequence[Architecture],
) -> None:
    """Trains the finalists further, then reports them with the weights of before and after."""
    specialised = specialise(run, objectives.space, data, weights, archs)
    evaluators = {
        INHERITED: _inherited_evaluator(run, objectives.space, setup, data),
        SPECIALISED: specialised_evaluator(run, setup, data, specialised),
    }
    report_trained(run, objectives, data, archs, evaluators)


@contextmanager
def _inherited_evaluator(
    run: Run, space: SearchSpace, setup: EvaluationSetup, data: DataSet
) -> Iterator[Evaluate]:
    with evaluator(setup, run.config.execution, warn=run.warn) as pool:
        stored = stored_first(run, space, data, pool, torch_device=setup.torch_device)
        yield evaluating(stored, data)


def _setup(run: Run, space: SearchSpace, data: DataSet, weights: Mapping[str, Path]) -> EvaluationSetup:
    config = run.config
    return EvaluationSetup(
        supernets={
            name: SharedWeights(member.family, dict(member.options), weights[name])
            for name, member in space.members.items()
        },
        data_name=config.data.name,
        data_options=config.data.options,
        data_digest=data.digest,
        data_sizes=data.sizes,
        torch_device=str(torch_device(config)),
        threads=config.execution.threads,
        cache_mib=config.execution.cache_mib,
        siblings=config.execution.siblings,
        task=datasets.task_name(data),
        batch=batch_of(data),
    )

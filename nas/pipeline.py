"""The main job as a straight line: every stage is one call, and is skipped when the store has its result."""

from typing import Any

import search_spaces
from nas import datasets
from nas.artifacts import verified
from nas.config import JobConfig
from nas.datasets import DataSet, told_of
from nas.evaluation import EvaluationSetup, evaluator
from nas.progress import Progress
from nas.spaces import resolve
from nas.stages._objectives import Objectives
from nas.stages._run import Run, check_data, graceful_stop
from nas.stages.anchors import train_anchors
from nas.stages.finalists import report
from nas.stages.latency import latencies
from nas.stages.search import search
from nas.stages.train import torch_device, train
from nas.store import Artifact, Job, Store
from search_spaces import SearchSpace


def run(store: Store, job: Job, *, progress: Progress) -> None:
    """Runs a job to its front, or goes on where it was left.

    Raises JobFailedError when it cannot be finished, ConflictError when it runs elsewhere, KeyboardInterrupt
    when it was asked to stop; in each case everything that was finished is in the store.
    """
    config = JobConfig.model_validate(job.config, strict=False)
    data = datasets.build(config.data.name, **config.data.options)
    with store.acquire(job) as lease, graceful_stop() as stop:
        run = Run(store, lease, config, progress, stop)
        space = _space(run, data)
        first, *others = latencies(run, space)
        weights = train(run, space, data, train_anchors(run, space, data))
        setup = _setup(run, space, data, weights)
        with evaluator(setup, config.execution, warn=run.warn) as pool:
            objectives = Objectives(config.objectives, space, first, tuple(others))
            search(run, objectives, data, pool)
            report(run, objectives, data, pool)
        lease.finish("succeeded")


def _space(run: Run, data: DataSet) -> SearchSpace:
    """The space, and a check that the data are still those with which the job began.

    It is resolved once: what it came from (a folder of weights) may be gone when the job goes on.
    """

    def describe() -> dict[str, Any]:
        space = resolve(run.config, data)
        return {
            "space": {"family": space.family, "options": dict(space.options), "size": str(space.size)},
            "data": {"name": data.name, "digest": data.digest, "sizes": data.sizes, **told_of(data)},
        }

    stored = run.once("space", {"config": run.config.supernet.inputs()}, describe)
    check_data(run, data)
    return search_spaces.get(stored["space"]["family"], **stored["space"]["options"])


def _setup(run: Run, space: SearchSpace, data: DataSet, weights: Artifact) -> EvaluationSetup:
    config = run.config
    return EvaluationSetup(
        family=space.family,
        space_options=dict(space.options),
        weights=verified(run.store, weights),
        data_name=config.data.name,
        data_options=config.data.options,
        data_digest=data.digest,
        data_sizes=data.sizes,
        torch_device=str(torch_device(config)),
        threads=config.execution.threads,
        cache_mib=config.execution.cache_mib,
        siblings=config.execution.siblings,
    )

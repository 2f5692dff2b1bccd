"""Training as stages do it: checkpoints from which an interrupted training goes on exactly, and one artifact.

Checkpoints are of the training that runs; they are gone when its artifact is there.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nas import checkpoints
from nas.artifacts import damage
from nas.datasets import DataSet
from nas.errors import JobFailedError
from nas.job_run import Run
from nas.results.running.stage_progress import WAITED
from nas.store import Artifact, NewEvent, SupernetLease
from nas.training.loading import Loading, loading
from nas.watchdog import OverdueError, patient
from supernet.supernet import Supernet
from supernet.training.trainer import Training

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Fit:
    """One training of a job.

    stage: how its events are called.  kind, checkpoint: how its artifact and its checkpoints are.
    begin: makes a training at step 0.  start: gives it weights to begin with, unless it goes on.
    finish: what is kept of one that has ended.
    lease: of the supernet, whose the files then are and which other jobs may have begun; None: the job's.
    supernet_id: of the supernet whose files those are that it looks for; None: any of the job's.
    saved: called when all so far is in the store.
    """

    stage: str
    kind: str
    steps: int
    batch_size: int
    seed: int
    begin: Callable[[], Training]
    start: Callable[[Training], None]
    finish: Callable[[Training], dict[str, Tensor]] = Training.weights
    checkpoint: str = "checkpoint"
    lease: SupernetLease | None = None
    supernet_id: int | None = None
    saved: Callable[[], None] = lambda: None


def fit(run: Run, data: DataSet, job: Fit) -> dict[str, object]:
    """Trains, or finds it trained; the stage's result names the artifact with the weights."""
    lease = job.lease or run.lease
    for one in {run.lease, lease}:
        run.store.remove_orphans(one)
    weights = stored_weights(run, job.kind, job.steps, supernet_id=job.supernet_id)
    if weights is not None:
        return _finished(run, job, weights)
    training = job.begin()
    if not _resume(run, job, training):
        job.start(training)
    device = device_of(training.supernet)

    with loading(data, job.seed, job.batch_size, device, processes=run.config.train.loaders) as batches:
        while training.step < job.steps:
            try:
                _advance(run, job, training, batches)
            except OverdueError:
                if training.whole:
                    _checkpoint(run, job, training)
                raise
            if training.step < job.steps:
                _checkpoint(run, job, training)
                run.check_stop()
    tensors = job.finish(training)
    return _finished(run, job, checkpoints.save(run.store, lease, job.kind, tensors, step=training.step))


def device_of(net: Supernet) -> torch.device:
    """Where the supernet's weights are."""
    return next(net.parameters()).device


def stored_weights(run: Run, kind: str, steps: int, *, supernet_id: int | None = None) -> Artifact | None:
    """The weights of a training that has ended, whether or not that was noted; None if they are damaged.

    supernet_id: of the supernet whose they are; None: of the job, which has one.
    """
    for artifact in run.store.artifacts(run.lease.job, kind):
        of_it = supernet_id in (None, artifact.supernet_id)
        if of_it and artifact.step == steps and damage(run.store, artifact) is None:
            return artifact
    return None


def _finished(run: Run, job: Fit, weights: Artifact) -> dict[str, object]:
    for old in _checkpoints(run, job):
        _remove(run, job, old)
    job.saved()
    return {"artifact": weights.id, "steps": weights.step}


def _checkpoints(run: Run, job: Fit) -> list[Artifact]:
    """The training's checkpoints, the oldest first: of a supernet those that any job has left.

    Those of the job itself are of a version that knew no supernets.
    """
    stored = run.store.artifacts(run.lease.job, job.checkpoint)
    if job.lease is None:
        return [one for one in stored if one.supernet_id is None]
    return [one for one in stored if one.supernet_id in (None, job.supernet_id)]


def _remove(run: Run, job: Fit, artifact: Artifact) -> None:
    lease = job.lease if artifact.supernet_id is not None else run.lease
    assert lease is not None, "only who trains a supernet sees its checkpoints"
    run.store.remove_artifact(lease, artifact)


def _advance(run: Run, job: Fit, training: Training, batches: Loading) -> None:
    """Trains to the next checkpoint, or to where a stop is asked for."""
    began, waited = time.perf_counter(), batches.waited
    every = run.config.train.checkpoint_every
    until = (training.step // every + 1) * every
    for metrics in training.run(batches, until=until):
        for remark in training.remarks():
            run.warn(remark)
        while batches.warnings:  # which the thread that prepares batches goes on to fill
            run.warn(batches.warnings.pop(0))
        share = (batches.waited - waited) / (time.perf_counter() - began)
        began, waited, metrics = time.perf_counter(), batches.waited, metrics | {WAITED: round(share, 4)}
        kind = job.stage.partition(":")[0]
        run.store.add_events(run.lease, [NewEvent(kind, metrics, stage=job.stage, step=training.step)])
        run.progress.update(training.step, job.steps, loss=round(metrics["loss"], 3))
        if run.stop.is_set() or run.lease.stop_requested():
            return


def _checkpoint(run: Run, job: Fit, training: Training) -> None:
    with patient():
        lease = job.lease or run.lease
        checkpoints.save(run.store, lease, job.checkpoint, training.state(), step=training.step)
    for old in _checkpoints(run, job)[:-KEPT_CHECKPOINTS]:
        _remove(run, job, old)
    job.saved()


def _resume(run: Run, job: Fit, training: Training) -> bool:
    """Loads the newest checkpoint that is whole; tells of every damaged one."""
    for artifact in reversed(_checkpoints(run, job)):
        try:
            training.load_state(checkpoints.load(run.store, artifact))
        except JobFailedError as error:
            run.warn(f"{error.message} Going back to the checkpoint before it, or to the start.")
        else:
            return True
    return False

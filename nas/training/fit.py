"""Training as stages do it: checkpoints from which an interrupted training goes on exactly, and one artifact.

Checkpoints are of the training that runs; they are gone when its artifact is there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas import checkpoints
from nas.artifacts import is_whole
from nas.datasets import DataSet
from nas.errors import DamagedError
from nas.job_run import Run
from nas.store import Artifact, NewEvent, SupernetLease
from nas.training.loading import Loading, loading
from nas.training.ranks.group import Listener, Start, trained_by_ranks
from nas.training.ranks.work import on_cpu, stepping, warnings_of
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
    ranks: starts those who train it, each a part of every batch; None: this process does.
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
    ranks: Start | None = None


def fit(run: Run, data: DataSet, job: Fit) -> dict[str, object]:
    """Trains, or finds it trained; the stage's result names the artifact with the weights."""
    lease = job.lease or run.lease
    for one in {run.lease, lease}:
        run.store.remove_orphans(one)
    weights = stored_weights(run, job.kind, job.steps, supernet_id=job.supernet_id)
    if weights is not None:
        return _finished(run, job, weights)
    training = (_trained_here if job.ranks is None else _trained_by_ranks)(run, data, job)
    tensors = job.finish(training)
    return _finished(run, job, checkpoints.save(run.store, lease, job.kind, tensors, step=training.step))


def _begun(run: Run, job: Fit) -> Training:
    """The training at its start, or at the last checkpoint."""
    training = job.begin()
    if not _resume(run, job, training):
        job.start(training)
    return training


def _trained_here(run: Run, data: DataSet, job: Fit) -> Training:
    training = _begun(run, job)
    device = device_of(training.supernet)
    with loading(data, job.seed, job.batch_size, device, processes=run.config.train.loaders) as batches:
        while training.step < job.steps:
            try:
                _advance(run, job, training, batches)
            except OverdueError:
                if training.whole:
                    _checkpoint(run, job, training.state())
                raise
            if training.step < job.steps:
                _checkpoint(run, job, training.state())
                run.check_stop()
    return training


def _trained_by_ranks(run: Run, data: DataSet, job: Fit) -> Training:
    assert job.ranks is not None
    # This process needs its place on a GPU for nothing but the begin and the end.
    state = on_cpu(_begun(run, job).state())

    def save(state: dict[str, Tensor]) -> None:
        if int(state["step"]) < job.steps:
            _checkpoint(run, job, state)

    listener = Listener(
        metrics=lambda content: _tell(run, job, content),
        warn=run.warn,
        stops=lambda: run.stop.is_set() or run.lease.stop_requested(),
        save=save,
    )
    state = trained_by_ranks(job.ranks, state, job.steps, listener)
    if int(state["step"]) < job.steps:
        raise KeyboardInterrupt  # a stop was asked for
    training = job.begin()
    training.load_state(state)
    return training


def device_of(net: Supernet) -> torch.device:
    """Where the supernet's weights are."""
    return next(net.parameters()).device


def stored_weights(run: Run, kind: str, steps: int, *, supernet_id: int | None = None) -> Artifact | None:
    """The weights of a training that has ended, whether or not that was noted; None if they are damaged.

    supernet_id: of the supernet whose they are; None: of the job, which has one.
    """
    for artifact in run.store.artifacts(run.lease.job, kind):
        of_it = supernet_id in (None, artifact.supernet_id)
        if of_it and artifact.step == steps and is_whole(run.store, artifact):
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
    every = run.config.train.checkpoint_every
    until = (training.step // every + 1) * every
    for metrics in stepping(training, batches, until=until):
        for warning in warnings_of(training, batches):
            run.warn(warning)
        _tell(run, job, metrics)
        if run.stop.is_set() or run.lease.stop_requested():
            return


def _tell(run: Run, job: Fit, metrics: dict[str, Any]) -> None:
    kind, step = job.stage.partition(":")[0], int(metrics["step"])
    run.store.add_events(run.lease, [NewEvent(kind, metrics, stage=job.stage, step=step)])
    run.progress.update(step, job.steps, loss=round(metrics["loss"], 3))


def _checkpoint(run: Run, job: Fit, state: dict[str, Tensor]) -> None:
    with patient():
        lease = job.lease or run.lease
        checkpoints.save(run.store, lease, job.checkpoint, state, step=int(state["step"]))
    for old in _checkpoints(run, job)[:-KEPT_CHECKPOINTS]:
        _remove(run, job, old)
    job.saved()


def _resume(run: Run, job: Fit, training: Training) -> bool:
    """Loads the newest checkpoint that is whole; tells of every damaged one."""
    for artifact in reversed(_checkpoints(run, job)):
        try:
            training.load_state(checkpoints.load(run.store, artifact))
        except DamagedError as error:
            run.warn(f"{error.message} Going back to the checkpoint before it, or to the start.")
        else:
            return True
    return False

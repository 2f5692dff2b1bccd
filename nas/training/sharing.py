"""Stage `train`: a supernet is found, waited for or trained here; what is trained once serves all jobs.

A job that needs a supernet which another one trains waits for it. Whoever trains holds the lease of the
supernet; when it has gone, the next goes on from the last checkpoint.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import search_spaces
from nas import datasets
from nas.artifacts import verified
from nas.datasets import DataSet
from nas.errors import JobFailedError
from nas.job_run import Run
from nas.store import Artifact, NewSupernet, Supernet, SupernetLease, SupernetUse
from nas.training.anchors import train_anchors
from nas.training.fit import Fit, fit, stored_weights
from nas.training.keys import supernet_key
from nas.training.supernets import WEIGHTS, training_of
from search_spaces import SearchSpace

POLL_SECONDS = 1.0


def train(run: Run, space: SearchSpace, data: DataSet) -> Artifact:
    """The trained weights of the job's supernet, or of that of several which the run is about.

    Raises NotFoundError where the job file names a supernet that is gone.
    """
    use = run.store.supernet_of(run.lease.job, run.supernet) or _chosen(run, space, data)
    with ExitStack() as held:
        settled = _is_done(run) or run.config.supernet.use is not None
        lease = None if settled else _turn(run, use.supernet, held)
        if not settled:
            use = _noted(run, use, lease)
        # Who finds the supernet trained needs no anchors.
        anchors = {} if use.reused else train_anchors(run, space, data)

        def made() -> dict[str, Any]:
            if use.reused:
                return _reused(run, use)
            turn = lease or _turn(run, use.supernet, held)
            job = training_of(run, space, data, anchors)
            if turn is None:
                return fit(run, data, replace(job, supernet_id=use.supernet.id))
            mine = replace(job, lease=turn, supernet_id=turn.supernet.id, saved=_clock(turn))
            result = fit(run, data, mine)
            turn.finish()
            return result | {"supernet": use.supernet.name}

        result = run.once(run.stage("train"), _inputs(run), made)
    return run.store.artifact(result["artifact"])


def _inputs(run: Run) -> dict[str, Any]:
    """What the stage is known by."""
    config = run.config
    sections = {
        "train": config.train.inputs(),
        "init": config.supernet.inputs().get("init"),
        "seed": config.seed,
    }
    return sections if config.supernet.use is None else {"use": config.supernet.use}


def _is_done(run: Run) -> bool:
    stage = run.store.stage(run.lease.job, run.stage("train"))
    return stage is not None and stage.state == "done"


def _chosen(run: Run, space: SearchSpace, data: DataSet) -> SupernetUse:
    """The supernet that the job needs: named, the one with the same key, or a new one.

    A job without `reuse` has one of its own that no key names.
    """
    config = run.config
    if config.supernet.use is not None:
        named = run.store.supernet(config.supernet.use)
        return run.store.use_supernet(run.lease, named, reused=True, name=run.supernet)
    wanted = NewSupernet(
        name="-".join(filter(None, (run.lease.job.name, run.supernet))),
        key=supernet_key(config, space, data) if config.reuse else None,
        space=search_spaces.description(space),
        data=datasets.described(data),
        settings={
            "supernet": config.supernet.model_dump(mode="json"),
            "train": config.train.model_dump(mode="json"),
            "seed": config.seed,
            **({} if config.budget is None else {"budget": config.budget}),
        },
        steps=config.train.steps,
    )
    return run.store.use_supernet(run.lease, wanted, name=run.supernet)


def fit_shared(run: Run, data: DataSet, job: Fit, wanted: NewSupernet) -> dict[str, Any]:
    """As `fit`, of weights with a key: other jobs that need the same find them, or wait for them.

    wanted: what they are called if this job is the first.
    """
    use = run.store.use_supernet(run.lease, wanted)
    with ExitStack() as held:
        lease = _turn(run, use.supernet, held, kind=job.kind, stage=job.stage)
        if lease is not None:
            ours = replace(job, lease=lease, supernet_id=lease.supernet.id, saved=_clock(lease))
            result = fit(run, data, ours)
            lease.finish(job.stage)
            return result
    present = run.store.supernet(use.supernet.name)
    if present.trainer != run.lease.job.name:
        run.store.use_supernet(run.lease, present, reused=True)
        run.warn(f"{_found(present)}, is reused: {_saved(present)}.")
    weights = stored_weights(run, job.kind, job.steps, supernet_id=present.id)
    assert weights is not None, "it was there when nobody had to train it"
    return {"artifact": weights.id, "steps": weights.step}


def _turn(
    run: Run, supernet: Supernet, held: ExitStack, *, kind: str = WEIGHTS, stage: str = "train"
) -> SupernetLease | None:
    """The right to train the supernet, once nobody else has it; None when it is trained."""
    has_told = False
    while True:
        present = run.store.supernet(supernet.name)
        trained = present.is_trained
        if trained and stored_weights(run, kind, present.steps, supernet_id=present.id) is not None:
            return None
        lease = run.store.acquire_supernet(run.lease, present, anew=trained)
        if lease is not None:
            if trained:
                run.warn(f"The weights of supernet '{supernet.name}' are damaged: it is trained again.")
            return held.enter_context(lease)
        if not has_told:
            run.progress.stage(run.stage(stage))
            run.warn(f"Another job trains supernet '{supernet.name}', which this one needs, too: it waits.")
            has_told = True
        run.check_stop()
        time.sleep(POLL_SECONDS)


def _noted(run: Run, use: SupernetUse, lease: SupernetLease | None) -> SupernetUse:
    """The use as it turned out: without a lease somebody has trained the supernet."""
    now = run.store.supernet_of(run.lease.job, run.supernet)
    assert now is not None, "it was linked before"
    # This job's own: a crash came before its stage was noted as done.
    reused = lease is None and now.supernet.trainer != run.lease.job.name
    if now.reused == reused:
        return now
    return run.store.use_supernet(run.lease, use.supernet, reused=reused, name=run.supernet)


def _weights(run: Run, supernet: Supernet) -> Artifact | None:
    return stored_weights(run, WEIGHTS, supernet.steps, supernet_id=supernet.id)


def _reused(run: Run, use: SupernetUse) -> dict[str, Any]:
    """The stage's result for a supernet that is there; says what that saves."""
    now = run.store.supernet_of(run.lease.job, run.supernet)
    assert now is not None, "it was linked before"
    supernet, weights = now.supernet, _weights(run, now.supernet)
    if weights is None:
        for damaged in run.store.artifacts(run.lease.job, WEIGHTS):
            if damaged.supernet_id == supernet.id:
                verified(run.store, damaged)
        raise JobFailedError(f"The weights of supernet '{supernet.name}' are gone.", "Train it again.")
    run.warn(f"{_found(supernet)}, is reused: {_saved(supernet)}.")
    for old in run.store.artifacts(run.lease.job, "checkpoint"):
        if old.supernet_id is None:  # of a training that this job had begun
            run.store.remove_artifact(run.lease, old)
    return {
        "artifact": weights.id,
        "steps": weights.step,
        "supernet": supernet.name,
        "reused": True,
        "saved_seconds": supernet.seconds,
    }


def _found(supernet: Supernet) -> str:
    return f"Supernet '{supernet.name}', trained by job '{supernet.trainer}'"


def _saved(supernet: Supernet) -> str:
    seconds = supernet.seconds
    return f"{seconds:.0f} s of training are saved" if seconds else "its training is saved"


def _clock(lease: SupernetLease) -> Callable[[], None]:
    """Adds to the supernet's row what its training has taken since the last call."""
    last = [time.monotonic(), time.process_time()]

    def saved() -> None:
        now = [time.monotonic(), time.process_time()]
        lease.took(seconds=now[0] - last[0], cpu_seconds=now[1] - last[1])
        last[:] = now

    return saved

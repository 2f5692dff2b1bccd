"""Training subnets of a finished job's front by themselves, so that the outcome stands beside them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from torch import Tensor

from nas import checkpoints, datasets
from nas.artifacts import verified
from nas.config import JobConfig
from nas.datasets import DataSet
from nas.extraction import load_supernet
from nas.progress import Progress
from nas.stages._fit import device_of
from nas.stages._run import Run, check_data, graceful_stop
from nas.stages.retrain import (
    Retraining,
    Trial,
    report,
    retraining,
    train_here,
    trained,
    trials_of,
    use_threads,
)
from nas.stages.train import torch_device
from nas.store import Job, Store, Subnet
from search_spaces._errors import ConflictError, NotFoundError, UsageError, did_you_mean
from supernet._base import Supernet

ENGINES = ("local", "ray")
WORKERS = 2


@dataclass(frozen=True)
class Outcome:
    """What became of the subnets: the keys of those that are retrained, and why the others are not."""

    how: Retraining
    done: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def finetune(
    store: Store,
    job: Job,
    subnets: Sequence[str] | None,
    *,
    progress: Progress,
    from_scratch: bool = False,
    steps: int | None = None,
    lrs: Sequence[float] = (),
    engine: str = "local",
    workers: int | None = None,
    asha: bool | None = None,
) -> Outcome:
    """Trains subnets of the job's front by themselves; what was trained alike before is not trained again.

    subnets: the beginnings of their keys; None: all of the front.
    from_scratch: with fresh weights instead of the inherited ones.  steps, lrs: what is not given follows
    from the job's recipe; of several learning rates the best on the search split counts.
    engine: `local` trains one after the other in this process; `ray` trains `workers` (2) at a time under
    Ray Tune, and unless `asha` is False stops those learning rates of a subnet early that fall behind.
    Raises UsageError for impossible numbers, NotFoundError for subnets that are not on the front,
    ConflictError for a job without one, KeyboardInterrupt when a stop was asked for; what was finished is in
    the store then.
    """
    config = JobConfig.model_validate(job.config, strict=False)
    _check_options(steps, lrs, engine, workers, asha)
    chosen = _chosen(store, job, subnets)
    how = retraining(config, from_scratch=from_scratch, steps=steps, lrs=lrs)
    data = datasets.build(config.data.name, **config.data.options)
    use_threads(config)
    with _held(store, job, config, progress) as run:
        check_data(run, data)
        net = load_supernet(store, job).to(torch_device(config))
        trials = _trials(run, net, chosen, how)
        left_out = {}
        if engine == "ray":
            left_out = _train_with_ray(run, net, trials, workers or WORKERS, asha=asha is not False)
        for key, own in trials.items():
            if key not in left_out:
                _retrain(run, net, data, own, here=engine == "local")
        return Outcome(how, [key for key in trials if key not in left_out], left_out)


def _check_options(
    steps: int | None, lrs: Sequence[float], engine: str, workers: int | None, asha: bool | None
) -> None:
    if engine not in ENGINES:
        raise UsageError(f"There is no engine '{engine}'.", did_you_mean(engine, ENGINES))
    for name, number in {"steps": steps, "workers": workers}.items():
        if number is not None and number < 1:
            raise UsageError(f"{name} = {number} is not a positive number.")
    for lr in lrs:
        if not 0 < lr < float("inf"):
            raise UsageError(f"The learning rate {lr} is not a positive number.")
    if engine == "local" and (workers is not None or asha is not None):
        raise UsageError(
            "The engine 'local' trains one after the other, each to its end.",
            "Leave workers and asha away, or take the engine 'ray'.",
        )


def _chosen(store: Store, job: Job, subnets: Sequence[str] | None) -> list[Subnet]:
    stage = store.stage(job, "finalists")
    if stage is None or stage.state != "done":
        raise ConflictError(
            f"Job '{job.name}' has no front yet: it is not finished.",
            f"`nas resume {job.id}` goes on with it.",
        )
    front = {e.subnet.key: e.subnet for e in store.evaluations(job, "report") if e.state == "ok"}
    if subnets is None:
        return list(front.values())
    chosen = {found.key: found for found in (store.subnet(job, key) for key in subnets)}
    for key in chosen:
        if key not in front:
            raise NotFoundError(
                f"Subnet '{key}' is not on the front of job '{job.name}'.", f"`nas front {job.id}` lists it."
            )
    return list(chosen.values())


@contextmanager
def _held(store: Store, job: Job, config: JobConfig, progress: Progress) -> Iterator[Run]:
    """The job as ours for a while. It has succeeded, as its front shows, whatever becomes of this.

    Also when an earlier call was killed and left it as a running one.
    """
    finalists = store.stage(job, "finalists")
    assert finalists is not None
    ended = job.finished_at if job.state == "succeeded" else finalists.finished_at
    with store.acquire(job) as lease, graceful_stop() as stop:
        try:
            yield Run(store, lease, config, progress, stop)
        finally:
            lease.give_back(replace(job, state="succeeded", error=None, finished_at=ended))


def _trials(run: Run, net: Supernet, subnets: Sequence[Subnet], how: Retraining) -> dict[str, list[Trial]]:
    """The trainings of each subnet, by its key."""
    supernet = run.store.artifacts(run.lease.job, "supernet")[-1]
    archs = {subnet.key: net.space.architecture(subnet.architecture) for subnet in subnets}
    return {key: trials_of(run, supernet, arch, how) for key, arch in archs.items()}


def _retrain(run: Run, net: Supernet, data: DataSet, trials: Sequence[Trial], *, here: bool) -> None:
    """Stores what retraining made of a subnet, trained in this process or before.

    The old result stands until the new one is there.
    """
    run = replace(run, keys={})  # of one subnet nothing depends on the others
    trials = [trial for trial in trials if here or trained(run, trial) is not None]
    name, inputs = f"{trials[0].how.weights}-{trials[0].arch.key}", {"trials": [t.name for t in trials]}
    if run.known(name, inputs) is not None:
        return
    if any(trained(run, trial) is None for trial in trials):
        run.check_stop()
        run.progress.stage(name)
    files = [(trial, trained(run, trial) or train_here(run, net, data, trial)) for trial in trials]
    result = report(run, net, data, files)
    run.store.begin_stage(run.lease, name, run.key(name, inputs))
    run.store.finish_stage(run.lease, name, result)
    _remove_others(run, trials)


def _remove_others(run: Run, trials: Sequence[Trial]) -> None:
    """Deletes what earlier trainings of the same subnet that differ from these have left."""
    kept = {kind for trial in trials for kind in (trial.artifact, trial.checkpoint)}
    own = f"{trials[0].how.weights}-{trials[0].arch.key}-"
    for artifact in run.store.artifacts(run.lease.job):
        if artifact.kind.startswith((own, f"checkpoint-{own}")) and artifact.kind not in kept:
            run.store.remove_artifact(run.lease, artifact)


def _train_with_ray(
    run: Run, net: Supernet, trials: Mapping[str, Sequence[Trial]], workers: int, *, asha: bool
) -> dict[str, str]:
    """Trains what is not trained yet; why of some subnets nothing came out, by key."""
    from nas.stages._ray_tune import Listener, Setup, run_trials  # noqa: PLC0415 - imports ray

    waiting = [trial for own in trials.values() for trial in own if trained(run, trial) is None]
    taken = _Taken(run, len(waiting))
    if waiting:
        run.check_stop()
        run.progress.stage("retraining under Ray Tune")
        setup = Setup(
            config=run.lease.job.config,
            family=net.space.family,
            space_options=dict(net.space.options),
            weights=verified(run.store, run.store.artifacts(run.lease.job, "supernet")[-1]),
            torch_device=device_of(net).type,
            threads=run.config.execution.threads,
        )
        run_trials(
            setup, waiting, Listener(taken.ended, taken.failed, taken.stop), workers=workers, asha=asha
        )
        run.check_stop()
    left_out = [key for key, own in trials.items() if not any(trained(run, trial) for trial in own)]
    return {key: taken.reasons.get(key, "its training came to no end") for key in left_out}


class _Taken:
    """Takes what Ray's workers have trained into the store, and notes why others came to nothing."""

    def __init__(self, run: Run, total: int) -> None:
        self.reasons: dict[str, str] = {}
        self._run, self._over, self._total = run, 0, total

    def ended(self, trial: Trial, weights: dict[str, Tensor] | None, step: int) -> None:
        if weights is not None:
            checkpoints.save(self._run.store, self._run.lease, trial.artifact, weights, step=step)
        self._over += 1
        self._run.progress.update(self._over, self._total)

    def failed(self, trial: Trial, reason: str) -> None:
        self.reasons[trial.arch.key] = reason
        self._run.warn(f"Subnet {trial.arch.key} could not be trained: {reason}")

    def stop(self) -> bool:
        return self._run.stop.is_set() or self._run.lease.stop_requested()

"""Training subnets of a finished job's front by themselves, so that the outcome stands beside them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

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
    quality_of,
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
from supernet._alone import inherited
from supernet._base import Supernet

ENGINES = ("local", "ray")


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
    workers: int = 2,
    asha: bool = True,
) -> Outcome:
    """Trains subnets of the job's front by themselves; what was trained alike before is not trained again.

    subnets: the beginnings of their keys; None: all of the front.
    from_scratch: with fresh weights instead of the inherited ones.  steps, lrs: what is not given follows
    from the job's recipe; of several learning rates the best on the search split counts.
    engine: `local` trains one after the other in this process; `ray` trains `workers` at a time under Ray
    Tune, and with `asha` stops those early that gain least.
    Raises UsageError for impossible numbers, NotFoundError for subnets that are not on the front,
    ConflictError for a job without one, KeyboardInterrupt when a stop was asked for; what was finished is in
    the store then.
    """
    config = JobConfig.model_validate(job.config, strict=False)
    _check_numbers(steps, lrs, engine, workers)
    chosen = _chosen(store, job, subnets)
    how = retraining(config, from_scratch=from_scratch, steps=steps, lrs=lrs)
    data = datasets.build(config.data.name, **config.data.options)
    use_threads(config)
    with _held(store, job, config, progress) as run:
        check_data(run, data)
        net = load_supernet(store, job).to(torch_device(config))
        supernet = store.artifacts(job, "supernet")[-1]
        trials = {
            subnet.key: trials_of(run, supernet, net.space.architecture(subnet.architecture), how)
            for subnet in chosen
        }
        left_out = {}
        if engine == "ray":
            left_out = _train_with_ray(run, net, data, trials, workers=workers, asha=asha)
        outcome = Outcome(how, left_out=left_out)
        for key, own in trials.items():
            if key not in left_out:
                _report_one(run, net, data, key, own, here=engine == "local")
                outcome.done.append(key)
        return outcome


def _check_numbers(steps: int | None, lrs: Sequence[float], engine: str, workers: int) -> None:
    if engine not in ENGINES:
        raise UsageError(f"There is no engine '{engine}'.", did_you_mean(engine, ENGINES))
    for name, number in {"steps": steps, "workers": workers}.items():
        if number is not None and number < 1:
            raise UsageError(f"{name} = {number} is not a positive number.")
    for lr in lrs:
        if not 0 < lr < float("inf"):
            raise UsageError(f"The learning rate {lr} is not a positive number.")


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
    """The job as ours for a while. It has succeeded and stays so, whatever becomes of this."""
    with store.acquire(job) as lease, graceful_stop() as stop:
        try:
            yield Run(store, lease, config, progress, stop)
        finally:
            lease.give_back(job)


def _report_one(
    run: Run, net: Supernet, data: DataSet, key: str, trials: Sequence[Trial], *, here: bool
) -> None:
    """Stores what retraining made of a subnet, trained in this process or before."""
    trials = [trial for trial in trials if here or trained(run, trial) is not None]

    def make() -> Mapping[str, object]:
        files = [(trial, trained(run, trial) or train_here(run, net, data, trial)) for trial in trials]
        result = report(run, net, data, files)
        _remove_others(run, trials)
        return result

    run.once(f"{trials[0].how.weights}-{key}", {"trials": [trial.name for trial in trials]}, make)


def _remove_others(run: Run, trials: Sequence[Trial]) -> None:
    """Deletes the files of earlier trainings of the same subnet that differ from these."""
    kept = {trial.artifact for trial in trials}
    prefix = f"{trials[0].how.weights}-{trials[0].arch.key}-"
    for artifact in run.store.artifacts(run.lease.job):
        if artifact.kind.startswith(prefix) and artifact.kind not in kept:
            run.store.remove_artifact(run.lease, artifact)


def _train_with_ray(
    run: Run,
    net: Supernet,
    data: DataSet,
    trials: Mapping[str, Sequence[Trial]],
    *,
    workers: int,
    asha: bool,
) -> dict[str, str]:
    """Trains what is not trained yet; why of some subnets nothing came out, by key."""
    from nas.stages._ray_tune import Listener, Setup, run_trials  # noqa: PLC0415 - imports ray

    waiting = [trial for own in trials.values() for trial in own if trained(run, trial) is None]
    why: dict[str, str] = {}
    over: list[Trial] = []

    def ended(trial: Trial, weights: dict[str, Tensor] | None, step: int) -> None:
        over.append(trial)
        if weights is None:
            why[trial.arch.key] = f"stopped early by ASHA at step {step} of {trial.how.steps}"
        else:
            checkpoints.save(run.store, run.lease, trial.artifact, weights, step=step)
        run.progress.update(len(over), len(waiting))

    def failed(trial: Trial, reason: str) -> None:
        run.warn(f"Subnet {trial.arch.key} could not be trained: {reason}")
        why[trial.arch.key] = reason

    if waiting:
        run.check_stop()
        run.progress.stage("retraining under Ray Tune")
        run.progress.update(0, len(waiting))
        artifact = run.store.artifacts(run.lease.job, "supernet")[-1]
        setup = Setup(
            config=run.lease.job.config,
            family=net.space.family,
            space_options=dict(net.space.options),
            weights=verified(run.store, artifact),
            torch_device=device_of(net).type,
            threads=run.config.execution.threads,
        )
        before = {
            key: quality_of(inherited(net, own[0].arch), data, "search").value for key, own in trials.items()
        }
        listener = Listener(ended, failed, lambda: run.stop.is_set() or run.lease.stop_requested())
        run_trials(
            setup,
            [(trial, before[trial.arch.key]) for trial in waiting],
            listener,
            workers=workers,
            asha=asha,
        )
        run.check_stop()
    return {
        key: why.get(key, "not trained")
        for key, own in trials.items()
        if not any(trained(run, trial) for trial in own)
    }

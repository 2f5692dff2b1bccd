"""Training subnets of a finished job's front by themselves, so that the outcome stands beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from nas import checkpoints, datasets
from nas.artifacts import verified
from nas.components import stored_config
from nas.config import merged
from nas.datasets import DataSet
from nas.extraction import load_supernet
from nas.job_paths import located, with_absolute_paths
from nas.progress import Progress
from nas.stages._data import check_data
from nas.stages._fit import device_of
from nas.stages._run import Run, after_job, check_finished
from nas.stages._watchdog import Leave
from nas.stages.retrain import (
    Retraining,
    Trial,
    is_reported,
    report,
    retraining,
    train_here,
    trained,
    trials_of,
    use_threads,
)
from nas.stages.train import torch_device
from nas.store import Job, Store, Subnet
from search_spaces._errors import DivergedError, NotFoundError, UsageError, did_you_mean
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
    end: Leave | None = None,
) -> Outcome:
    """Trains subnets of the job's front by themselves; what was trained alike before is not trained again.

    subnets: the beginnings of their keys; None: all of the front.
    from_scratch: with fresh weights instead of the inherited ones.  steps, lrs: what is not given follows
    from the job's recipe; of several learning rates the best on the search split counts, and one at which the
    training diverges is left out.
    engine: `local` trains one after the other in this process; `ray` trains `workers` (2) at a time under
    Ray Tune, and unless `asha` is False stops those learning rates of a subnet early that fall behind.
    end: as of `pipeline.run`.
    Raises UsageError for impossible numbers, NotFoundError for subnets that are not on the front,
    ConflictError for a job without one, KeyboardInterrupt when a stop was asked for; what was finished is in
    the store then.
    """
    config = located(stored_config(job))
    _check_options(steps, lrs, engine, workers, asha)
    chosen = _chosen(store, job, subnets)
    how = retraining(config, from_scratch=from_scratch, steps=steps, lrs=lrs)
    data = datasets.prepared(config.data.name, config.data.options, progress)
    use_threads(config)
    with after_job(store, job, config, progress, end) as run:
        check_data(run, data)
        net = load_supernet(store, job).to(torch_device(config))
        trials = _trials(run, net, chosen, how)
        sieve = engine == "ray" and asha is not False and len(how.lrs) > 1
        due = {key: own for key, own in trials.items() if not is_reported(run, own, asha=sieve)}
        if engine == "ray":
            reasons = _train_with_ray(run, net, data, due, workers or WORKERS, asha=sieve)
        else:
            reasons = _train_one_by_one(run, net, data, due)
        for own in trials.values():
            _remove_others(run, own)
        left_out = {
            key: reasons.get(key, "its training came to no end")
            for key, own in due.items()
            if not _ended(run, own)
        }
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
    check_finished(store, job)
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


def _trials(run: Run, net: Supernet, subnets: Sequence[Subnet], how: Retraining) -> dict[str, list[Trial]]:
    """The trainings of each subnet, by its key."""
    supernet = run.store.artifacts(run.lease.job, "supernet")[-1]
    archs = {subnet.key: net.space.architecture(subnet.architecture) for subnet in subnets}
    return {key: trials_of(run, supernet, arch, how) for key, arch in archs.items()}


def _ended(run: Run, trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trained(run, trial) is not None]


def _train_one_by_one(
    run: Run, net: Supernet, data: DataSet, due: Mapping[str, Sequence[Trial]]
) -> dict[str, str]:
    """Trains in this process and stores what came out; why of some subnets nothing did, by key."""
    reasons = {}
    for key, own in due.items():
        for trial in own:
            if trained(run, trial) is None:
                run.check_stop()
                run.progress.stage(trial.artifact)
                try:
                    train_here(run, net, data, trial)
                except DivergedError as error:
                    reasons[key] = _failed(run, trial, error.message)
        if _ended(run, own):
            report(run, net, data, own, ())
    return reasons


def _train_with_ray(
    run: Run, net: Supernet, data: DataSet, due: Mapping[str, Sequence[Trial]], workers: int, *, asha: bool
) -> dict[str, str]:
    """Trains under Ray Tune and stores what came out; why of some subnets nothing did, by key."""
    from nas.stages._ray_tune import Listener, Setup, run_trials  # noqa: PLC0415 - imports ray

    waiting = [trial for own in due.values() for trial in own if trained(run, trial) is None]
    taken = _Taken(run, len(waiting))
    if waiting:
        run.check_stop()
        run.progress.stage("retraining under Ray Tune")
        setup = Setup(
            config=with_absolute_paths(merged(run.config), Path.cwd()),
            family=net.space.family,
            space_options=dict(net.space.options),
            weights=verified(run.store, run.store.artifacts(run.lease.job, "supernet")[-1]),
            torch_device=device_of(net).type,
            threads=run.config.execution.threads,
        )
        run_trials(
            setup, waiting, Listener(taken.ended, taken.failed, taken.stop), workers=workers, asha=asha
        )
    interrupted = taken.stop()
    for own in due.values():
        whole = all(trained(run, trial) or taken.is_over(trial) for trial in own)
        if _ended(run, own) and (whole or not interrupted):
            report(run, net, data, own, [trial for trial in own if trial.name in taken.stopped])
    run.check_stop()
    return {trial.arch.key: taken.failures[trial.name] for trial in waiting if trial.name in taken.failures}


def _failed(run: Run, trial: Trial, reason: str) -> str:
    """Tells of a training that came to nothing; the reason as it is told at the end."""
    reason = reason.rstrip(".")
    run.warn(f"Subnet {trial.arch.key} could not be trained at learning rate {trial.lr:g}: {reason}.")
    return reason


class _Taken:
    """Takes what Ray's workers have trained into the store, and notes what came to nothing.

    stopped: names of the trainings that ASHA has ended.  failures: name -> reason.
    """

    def __init__(self, run: Run, total: int) -> None:
        self.stopped: set[str] = set()
        self.failures: dict[str, str] = {}
        self._run, self._over, self._total = run, 0, total

    def ended(self, trial: Trial, weights: dict[str, Tensor] | None, step: int) -> None:
        if weights is None:
            self.stopped.add(trial.name)
        else:
            checkpoints.save(self._run.store, self._run.lease, trial.artifact, weights, step=step)
        self._over += 1
        self._run.progress.update(self._over, self._total)

    def failed(self, trial: Trial, reason: str) -> None:
        self.failures[trial.name] = _failed(self._run, trial, reason)

    def is_over(self, trial: Trial) -> bool:
        return trial.name in self.stopped or trial.name in self.failures

    def stop(self) -> bool:
        return self._run.stop.is_set() or self._run.lease.stop_requested()


def _remove_others(run: Run, trials: Sequence[Trial]) -> None:
    """Deletes what other trainings of the subnet have left, once these are reported."""
    if not _ended(run, trials):
        return
    kept = {kind for trial in trials for kind in (trial.artifact, trial.checkpoint)}
    own = f"{trials[0].how.weights}-{trials[0].arch.key}-"
    for artifact in run.store.artifacts(run.lease.job):
        if artifact.kind.startswith((own, f"checkpoint-{own}")) and artifact.kind not in kept:
            run.store.remove_artifact(run.lease, artifact)

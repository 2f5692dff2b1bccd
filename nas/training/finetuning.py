"""Training subnets of a finished job's front by themselves, so that the outcome stands beside them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from nas import checkpoints, datasets
from nas.artifacts import verified
from nas.config import merged
from nas.config.components import stored_config
from nas.config.paths import located, with_absolute_paths
from nas.datasets import DataSet
from nas.job_data import check_data
from nas.job_run import Run, after_job, check_finished
from nas.progress import Progress
from nas.results.extraction import load_supernet, specialised_file, supernet_file
from nas.results.frames import INHERITED, SPECIALISED
from nas.spaces.job_space import space_of
from nas.store import Artifact, Job, Store, Subnet
from nas.training.fit import device_of
from nas.training.retrain import (
    Retraining,
    Trial,
    failed,
    is_reported,
    report,
    retraining,
    train_here,
    trials_of,
    use_threads,
    weights_of,
)
from nas.training.supernets import torch_device
from nas.watchdog import Leave
from search_spaces import Architecture
from search_spaces.errors import NotFoundError, UsageError, did_you_mean
from supernet.supernet import Supernet
from supernet.training.trainer import DivergedError

ENGINES = ("local", "ray")
WORKERS = 2


@dataclass(frozen=True)
class Outcome:
    """What became of the subnets: the keys of those that are retrained, and why the others are not.

    how: of a job with several supernets that of the first one's subnets.
    """

    how: Retraining
    done: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def and_also(self, other: "Outcome") -> "Outcome":
        """This one, with what became of other subnets."""
        return Outcome(self.how, [*self.done, *other.done], self.left_out | other.left_out)


def finetune(
    store: Store,
    job: Job,
    subnets: Sequence[str] | None,
    *,
    progress: Progress,
    from_scratch: bool = False,
    weights: str | None = None,
    steps: int | None = None,
    lrs: Sequence[float] = (),
    engine: str = "local",
    workers: int | None = None,
    asha: bool | None = None,
    end: Leave | None = None,
) -> Outcome:
    """Trains subnets of the job's front by themselves; what was trained alike before is not trained again.

    subnets: the beginnings of their keys; None: all of the front.
    from_scratch: with fresh weights.  weights: `inherited`, or `specialised`, which is the default where the
    front reports those: what they begin with else.  steps, lrs: what is not given follows
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
    _check_weights(weights, from_scratch=from_scratch)
    chosen, space = _chosen(store, job, subnets), space_of(store, job)
    by_supernet = space.by_member({one.key: space.architecture(one.architecture) for one in chosen})
    data = datasets.prepared(config.data.name, config.data.options, progress)
    use_threads(config)
    outcome: Outcome | None = None
    with after_job(store, job, config, progress, end) as run:
        check_data(run, data)
        for name, some in by_supernet.items():
            alone = run.alone(name) if name else run
            how = retraining(alone.config, from_scratch=from_scratch, steps=steps, lrs=lrs)
            begins = _beginnings(store, job, some, weights, supernet=name)
            sieve = engine == "ray" and asha is not False and len(how.lrs) > 1
            pool = _Pool(begins.supernet, workers or WORKERS, sieve) if engine == "ray" else None
            new = _retrained(alone, data, some, how, begins, pool)
            outcome = new if outcome is None else outcome.and_also(new)
    return outcome or Outcome(retraining(config, from_scratch=from_scratch, steps=steps, lrs=lrs))


def _retrained(
    run: Run,
    data: DataSet,
    archs: Mapping[str, Architecture],
    how: Retraining,
    begins: "Beginnings",
    pool: "_Pool | None",
) -> Outcome:
    """Trains subnets, by their keys, of the supernet that the run is about.

    pool: under Ray; None: in this process.
    """
    file, job = begins.supernet, run.lease.job
    net = load_supernet(run.store, job, file, supernet=run.supernet).to(torch_device(run.config))
    trials = {
        key: trials_of(run, file, arch, how, alone=begins.alone.get(key)) for key, arch in archs.items()
    }
    sieve = pool is not None and pool.asha
    due = {key: some for key, some in trials.items() if not is_reported(run, some, asha=sieve)}
    if pool is not None:
        reasons = _train_with_ray(run, net, data, due, pool)
    else:
        reasons = _train_one_by_one(run, net, data, due)
    for some in trials.values():
        _remove_others(run, some)
    left_out = {
        key: reasons.get(key, "its training came to no end")
        for key, some in due.items()
        if not _ended(run, some)
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


def _check_weights(weights: str | None, *, from_scratch: bool) -> None:
    if weights is not None and from_scratch:
        raise UsageError(
            f"From scratch is with fresh weights, not with '{weights}'.", "Give one of the two only."
        )
    if weights not in (None, INHERITED, SPECIALISED):
        raise UsageError(
            f"A training cannot begin with weights '{weights}'.",
            did_you_mean(weights, (INHERITED, SPECIALISED)),
        )


@dataclass(frozen=True)
class Beginnings:
    """What trainings begin with: weights in a supernet, or, by their keys, those of subnets' own."""

    supernet: Artifact
    alone: dict[str, Artifact] = field(default_factory=dict)


def _beginnings(
    store: Store, job: Job, keys: Iterable[str], weights: str | None, *, supernet: str
) -> Beginnings:
    """supernet: of a job with several that of the subnets.

    Raises NotFoundError for subnets that do not have the weights that are asked for.
    """
    files = {key: specialised_file(store, job, key) for key in keys}
    without = [key for key, file in files.items() if file is None]
    if weights == SPECIALISED and without:
        raise NotFoundError(
            f"Subnet '{without[0]}' of job '{job.name}' has no weights '{SPECIALISED}'.",
            "Leave --weights away to begin with what the front reports.",
        )
    trained = {key: file for key, file in files.items() if file is not None and weights != INHERITED}
    # Subnets that keep the weights they came with have the same ones in the finalists' supernet.
    shared = next((one.file for one in trained.values() if one.shared), None)
    alone = {key: one.file for key, one in trained.items() if not one.shared}
    return Beginnings(shared or supernet_file(store, job, supernet), alone)


def _chosen(store: Store, job: Job, subnets: Sequence[str] | None) -> list[Subnet]:
    check_finished(store, job)
    front = {e.subnet.key: e.subnet for e in store.evaluations(job, "report") if e.state == "ok"}
    if subnets is None:
        return list(front.values())
    chosen = {subnet.key: subnet for subnet in (store.subnet(job, key) for key in subnets)}
    for key in chosen:
        if key not in front:
            raise NotFoundError(
                f"Subnet '{key}' is not on the front of job '{job.name}'.", f"`nas front {job.id}` lists it."
            )
    return list(chosen.values())


def _ended(run: Run, trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if weights_of(run, trial) is not None]


def _train_one_by_one(
    run: Run, net: Supernet, data: DataSet, due: Mapping[str, Sequence[Trial]]
) -> dict[str, str]:
    """Trains in this process and stores what came out; why of some subnets nothing did, by key."""
    reasons = {}
    for key, trials in due.items():
        for trial in trials:
            if weights_of(run, trial) is None:
                run.check_stop()
                run.progress.stage(trial.artifact)
                try:
                    train_here(run, net, data, trial)
                except DivergedError as error:
                    reasons[key] = failed(run, trial, error.message)
        if _ended(run, trials):
            report(run, net, data, trials, ())
    return reasons


@dataclass(frozen=True)
class _Pool:
    """Workers under Ray: the shared weights that they are given, how many, whether ASHA judges."""

    supernet: Artifact
    workers: int
    asha: bool


def _train_with_ray(
    run: Run, net: Supernet, data: DataSet, due: Mapping[str, Sequence[Trial]], pool: _Pool
) -> dict[str, str]:
    """Trains under Ray Tune and stores what came out; why of some subnets nothing did, by key."""
    from nas.training.ray_tune import Listener, Setup, run_trials  # noqa: PLC0415 - imports ray

    waiting = [trial for trials in due.values() for trial in trials if weights_of(run, trial) is None]
    taken = _Taken(run, len(waiting))
    if waiting:
        run.check_stop()
        run.progress.stage("retraining under Ray Tune")
        setup = Setup(
            config=with_absolute_paths(merged(run.config), Path.cwd()),
            family=net.space.family,
            space_options=dict(net.space.options),
            weights=verified(run.store, pool.supernet),
            torch_device=device_of(net).type,
            threads=run.config.execution.threads,
        )
        listener = Listener(taken.ended, taken.failed, taken.stop)
        run_trials(setup, waiting, listener, workers=pool.workers, asha=pool.asha)
    interrupted = taken.stop()
    for trials in due.values():
        whole = all(weights_of(run, trial) or taken.is_over(trial) for trial in trials)
        if _ended(run, trials) and (whole or not interrupted):
            report(run, net, data, trials, [trial for trial in trials if trial.name in taken.stopped])
    run.check_stop()
    return {trial.subnet: taken.failures[trial.name] for trial in waiting if trial.name in taken.failures}


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
        self.failures[trial.name] = failed(self._run, trial, reason)

    def is_over(self, trial: Trial) -> bool:
        return trial.name in self.stopped or trial.name in self.failures

    def stop(self) -> bool:
        return self._run.stop.is_set() or self._run.lease.stop_requested()


def _remove_others(run: Run, trials: Sequence[Trial]) -> None:
    """Deletes what other trainings of the subnet have left, once these are reported."""
    if not _ended(run, trials):
        return
    kept = {kind for trial in trials for kind in (trial.artifact, trial.checkpoint)}
    beginning = f"{trials[0].how.weights}-{trials[0].subnet}-"
    for artifact in run.store.artifacts(run.lease.job):
        if artifact.kind.startswith((beginning, f"checkpoint-{beginning}")) and artifact.kind not in kept:
            run.store.remove_artifact(run.lease, artifact)

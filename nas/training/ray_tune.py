"""Many trainings at once under Ray Tune; ASHA stops the learning rates of a subnet that fall behind.

It decides between the trainings of one subnet only. Between subnets it would stop the small ones for being
small, and what it left could not tell how far inherited qualities are to be trusted.

Ray is the muscle, never the record: workers write the weights of a training that has ended to a folder, and
this process takes them into the store.
"""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

import search_spaces
import supernet
from nas import datasets
from nas.config import JobConfig
from nas.errors import JobFailedError
from nas.limits import kind_of
from nas.ray_cluster import own_ray
from nas.training.retrain import Trial, quality_of, training_of
from nas.training.supernets import finished
from predictors.temporary_folders import passing_folder
from search_spaces import SearchSpace
from supernet.supernet import Supernet
from supernet.training.alone import Alone

REPORTS = 8  # per training
FIRST_RUNG = 0.25  # of the steps, before which nothing is stopped
REDUCTION = 2
STEP, QUALITY = "step", "quality"
HINT = "Try again, or train one by one: --engine local."


@dataclass(frozen=True)
class Setup:
    """All that a worker needs: plain data and the (verified) file of the shared weights.

    torch_device, threads: of each training.
    """

    config: Mapping[str, Any]
    family: str
    space_options: Mapping[str, Any]
    weights: Path
    torch_device: str
    threads: int


@dataclass(frozen=True)
class Listener:
    """What this process does meanwhile.

    ended: a training is over; its weights, or None when ASHA stopped it, and the step that it reached.
    failed: it could not be done, and why.  stop: whether all is to end.
    """

    ended: Callable[[Trial, dict[str, Tensor] | None, int], None]
    failed: Callable[[Trial, str], None]
    stop: Callable[[], bool]


def run_trials(
    setup: Setup,
    trials: Sequence[Trial],
    listener: Listener,
    *,
    workers: int,
    asha: bool,
) -> None:
    """Runs all trainings, `workers` at a time.

    Raises JobFailedError when Ray does not start or breaks down, and what the listener raises.
    """
    careful = CarefulListener(listener)
    share = {"gpu": 1 / workers} if setup.torch_device == "cuda" else {}
    with passing_folder(shared=True) as folder:
        with own_ray(workers * setup.threads, folder, hint=HINT):
            work = tune.with_parameters(_train, setup=setup, trials=list(trials), out=folder, judged=asha)
            tuner = tune.Tuner(
                tune.with_resources(work, {"cpu": setup.threads, **share}),
                param_space={"index": tune.grid_search(list(range(len(trials))))},
                tune_config=tune.TuneConfig(
                    metric=QUALITY if asha else None,
                    mode="max" if asha else None,
                    scheduler=_ASHABySubnet(trials) if asha else None,
                    max_concurrent_trials=workers,
                    reuse_actors=True,  # a worker takes seconds to import torch
                ),
                run_config=tune.RunConfig(
                    name="retraining",
                    storage_path=str(folder),
                    callbacks=[_Callback(trials, careful, folder)],
                    stop=_Stopper(careful.stop),
                    failure_config=tune.FailureConfig(max_failures=1),
                    verbose=0,
                ),
            )
            try:
                tuner.fit()
            except tune.TuneError as error:
                if careful.error is None:
                    raise JobFailedError(f"Ray Tune broke down: {last_line(error)}.") from error
        if careful.error is not None:
            raise careful.error


class CarefulListener:
    """Calls a listener; its first error ends the run and is kept: Ray would blame the training for it."""

    def __init__(self, listener: Listener) -> None:
        self.error: Exception | None = None
        self._listener = listener

    def ended(self, trial: Trial, weights: dict[str, Tensor] | None, step: int) -> None:
        self._call(self._listener.ended, trial, weights, step)

    def failed(self, trial: Trial, reason: str) -> None:
        self._call(self._listener.failed, trial, reason)

    def stop(self) -> bool:
        return bool(self._call(self._listener.stop)) or self.error is not None

    def _call(self, call: Callable[..., object], *args: object) -> object:
        if self.error is None:
            try:
                return call(*args)
            except Exception as error:
                self.error = error
        return None


def last_line(error: object) -> str:
    """What an error of a worker says, without its traceback and the name of its class."""
    lines = str(error or "").strip().splitlines() or ["the worker died"]
    return re.sub(r"^[\w.]+(Error|Exception): ", "", lines[-1]).rstrip(".")


class _ASHABySubnet(FIFOScheduler):
    """An ASHA for each subnet: among its trainings it always lets the best one go on.

    Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning" (arXiv 1810.05934).
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        steps = trials[0].how.steps
        grace = max(1, round(FIRST_RUNG * steps))
        self._subnet_of = [trial.arch.key for trial in trials]
        self._by_subnet = {
            key: ASHAScheduler(
                time_attr=STEP,
                metric=QUALITY,
                mode="max",
                max_t=steps,
                grace_period=grace,
                reduction_factor=REDUCTION,
            )
            for key in set(self._subnet_of)
        }

    def _own(self, trial: Any) -> ASHAScheduler:
        return self._by_subnet[self._subnet_of[trial.config["index"]]]

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        self._own(trial).on_trial_add(controller, trial)

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = self._own(trial).on_trial_result(controller, trial, result)
        return decision

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._own(trial).on_trial_complete(controller, trial, result)

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        self._own(trial).on_trial_remove(controller, trial)


class _OfThisProcess:
    """Left out of the snapshots that Ray takes of a run: the store and the lease are this process's."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class _Stopper(_OfThisProcess, tune.Stopper):
    """Ends everything when the job is asked to stop."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop()


class _Callback(_OfThisProcess, tune.Callback):
    """Tells the listener, in this process, what becomes of the trainings."""

    def __init__(self, trials: Sequence[Trial], listener: CarefulListener, folder: Path) -> None:
        self._trials, self._listener, self._folder = trials, listener, folder

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        index = trial.config["index"]
        trained, file = self._trials[index], self._folder / f"{index}.safetensors"
        reached = int(trial.last_result.get(STEP, 0))
        if reached >= trained.how.steps and file.exists():
            self._listener.ended(trained, load_file(file), reached)
        elif not self._listener.stop():
            self._listener.ended(trained, None, reached)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._listener.failed(self._trials[trial.config["index"]], last_line(trial.get_error()))


def _train(
    given: Mapping[str, Any], *, setup: Setup, trials: Sequence[Trial], out: Path, judged: bool
) -> None:
    """One training, in a worker: reports where it is now and then, and leaves its weights behind.

    judged: whether it reports its quality, too.
    """
    torch.set_num_threads(setup.threads)
    trial = trials[given["index"]]
    config = JobConfig.model_validate(setup.config, strict=False)
    data = datasets.build(config.data.name, **config.data.options)
    device, size = torch.device(setup.torch_device), config.train.batch_size
    net = _supernet(setup)
    training = training_of(net, config, data, trial, device)
    average = Alone(net, trial.arch, net.plain(trial.arch).to(device))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, targets = data.train_batch(config.seed, step, size)
        return x.to(device), targets.to(device)

    for report in range(1, REPORTS + 1):
        for _ in training.run(batch, until=trial.how.steps * report // REPORTS):
            pass
        if training.step == trial.how.steps:
            weights = {name: tensor.cpu().contiguous() for name, tensor in finished(training, data).items()}
            partial = out / f"{uuid.uuid4().hex}.partial"
            save_file(weights, partial)
            partial.replace(out / f"{given['index']}.safetensors")
        metrics: dict[str, float] = {STEP: training.step}
        if judged:
            average.shared.load_state_dict(training.weights())
            quality = quality_of(average, data, "search", metric=config.quality).value
            metrics[QUALITY] = kind_of(config.quality).sign * quality  # more is better
        tune.report(metrics)


def _supernet(setup: Setup) -> Supernet:
    space: SearchSpace = search_spaces.get(setup.family, **setup.space_options)
    net = supernet.build(space)  # on the CPU: the device is for the one subnet that is trained
    net.shared.load_state_dict(load_file(setup.weights), strict=True)
    return net

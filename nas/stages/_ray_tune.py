"""Many trainings at once under Ray Tune, the unpromising ones stopped by ASHA.

Ray is the muscle, never the record: workers write the weights of a training that has ended to a folder, and
this process takes them into the store. Ray is imported here and nowhere else.
"""

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

import search_spaces
import supernet
from nas import datasets
from nas.config import JobConfig
from nas.stages.retrain import Trial, quality_of, training_of
from nas.stages.train import finished
from search_spaces import SearchSpace
from search_spaces._errors import JobFailedError
from supernet._alone import Alone
from supernet._base import Supernet

REPORTS = 8  # per training, each an evaluation on the search split
FIRST_RUNG = 0.25  # of the steps, before which nothing is stopped
REDUCTION = 2
OBJECT_STORE_BYTES = 100 * 2**20
STEP, GAIN = "step", "gain"
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to others
    "RAY_AIR_NEW_OUTPUT": "0",  # stdout is for data
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    # A busy machine needs longer than Ray's 30 seconds to start its servers.
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_raylet_start_wait_time_s": "300",
}


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
    trials: Sequence[tuple[Trial, float]],
    listener: Listener,
    *,
    workers: int,
    asha: bool,
) -> None:
    """Runs all trainings, `workers` at a time; each comes with the inherited quality of its subnet.

    ASHA compares what the trainings have gained over the inherited quality: compared by quality alone, the
    small subnets would be stopped for being small.
    """
    folder = Path(tempfile.mkdtemp(prefix="nas-"))
    share = {"gpu": 1 / workers} if setup.torch_device == "cuda" else {}
    try:
        with _environment(), _ray(workers * setup.threads, folder):
            work = tune.with_parameters(_train, setup=setup, trials=list(trials), out=folder)
            tuner = tune.Tuner(
                tune.with_resources(work, {"cpu": setup.threads, **share}),
                param_space={"index": tune.grid_search(list(range(len(trials))))},
                tune_config=tune.TuneConfig(
                    metric=GAIN,
                    mode="max",
                    scheduler=_scheduler(trials[0][0].how.steps, asha=asha),
                    max_concurrent_trials=workers,
                    reuse_actors=True,  # a worker takes seconds to import torch
                ),
                run_config=tune.RunConfig(
                    name="retraining",
                    storage_path=str(folder),
                    callbacks=[_Callback(trials, listener, folder)],
                    stop=_Stopper(listener.stop),
                    failure_config=tune.FailureConfig(max_failures=1),
                    verbose=0,
                ),
            )
            tuner.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _scheduler(steps: int, *, asha: bool) -> TrialScheduler | None:
    if not asha:
        return None
    grace = max(1, round(FIRST_RUNG * steps))
    return ASHAScheduler(time_attr=STEP, max_t=steps, grace_period=grace, reduction_factor=REDUCTION)


@contextmanager
def _environment() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _ray(cpus: int, folder: Path) -> Iterator[None]:
    """A Ray of our own; one that already runs on this machine is left alone.

    Raises JobFailedError when it does not start.
    """
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder / "ray"),
        )
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise JobFailedError(
            f"Ray did not start on this machine: {reason}.", "Try again, or train one by one: --engine local."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


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

    def __init__(self, trials: Sequence[tuple[Trial, float]], listener: Listener, folder: Path) -> None:
        self._trials, self._listener, self._folder = trials, listener, folder

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        index = trial.config["index"]
        own, file = self._trials[index][0], self._folder / f"{index}.safetensors"
        reached = int(trial.last_result.get(STEP, 0))
        if reached >= own.how.steps and file.exists():
            self._listener.ended(own, load_file(file), reached)
        elif not self._listener.stop():
            self._listener.ended(own, None, reached)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lines = str(trial.get_error() or "").strip().splitlines()
        self._listener.failed(
            self._trials[trial.config["index"]][0], lines[-1] if lines else "the worker died"
        )


def _train(
    given: Mapping[str, Any], *, setup: Setup, trials: Sequence[tuple[Trial, float]], out: Path
) -> None:
    """One training, in a worker: reports its gain now and then, and leaves its weights behind."""
    torch.set_num_threads(setup.threads)
    trial, before = trials[given["index"]]
    config = JobConfig.model_validate(setup.config, strict=False)
    data = datasets.build(config.data.name, **config.data.options)
    training = training_of(_supernet(setup), config, data, trial)
    alone = training.supernet
    assert isinstance(alone, Alone)
    device, size = torch.device(setup.torch_device), config.train.batch_size

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, labels = data.train_batch(config.seed, step, size)
        return x.to(device), labels.to(device)

    for report in range(1, REPORTS + 1):
        for _ in training.run(batch, until=trial.how.steps * report // REPORTS):
            pass
        if training.step == trial.how.steps:
            weights = {name: tensor.cpu().contiguous() for name, tensor in finished(training, data).items()}
            partial = out / f"{uuid.uuid4().hex}.partial"
            save_file(weights, partial)
            partial.replace(out / f"{given['index']}.safetensors")
        gain = quality_of(alone, data, "search").value - before
        alone.train()
        tune.report({STEP: training.step, GAIN: gain})


def _supernet(setup: Setup) -> Supernet:
    space: SearchSpace = search_spaces.get(setup.family, **setup.space_options)
    net = supernet.build(space)
    net.shared.load_state_dict(load_file(setup.weights), strict=True)
    return net.to(setup.torch_device)

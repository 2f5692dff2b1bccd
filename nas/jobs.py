"""Jobs as a user meets them: checked, created, asked for a prediction; the latency of an extracted folder."""

import platform
import shutil
import subprocess
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import search_spaces
import supernet
from nas import datasets, searchers
from nas._ray_address import check_cluster
from nas.anchors import load_anchors
from nas.components import allow_named
from nas.config import REMOTE, STORED, AnchorsInit, JobConfig, merged
from nas.extraction import space_of
from nas.initial import initialise, load_folder
from nas.job_paths import with_absolute_paths
from nas.measuring import build_device
from nas.memory_limits import check_batch, check_memory
from nas.preprocessing import given_normalisation, prepared
from nas.searchers import SearchProblem
from nas.spaces import check_limits, data_sizes, exact_metrics, resolve
from nas.stages._latency_fit import MEMORY, check_needs_no_layers, smallest_sample, source_state
from nas.stages._watchdog import within
from nas.stages.anchors import check_trained_anchors
from nas.stages.latency import stored_predictor
from nas.stages.train import recipe, strategy, torch_device
from nas.store import Device, Job, Store, job_devices
from nas.targets import check_different, resolved
from predictors._intervals import interval
from predictors._measurement import Failure
from predictors._measurement import measure as measure_latency
from search_spaces import SearchSpace
from search_spaces._errors import JobFailedError, NotFoundError, UsageError
from supernet._teacher import load_teacher
from supernet._train import Training
from supernet.stitching import Stitching

PACKAGES = ("elastiform", "torch", "torchvision", "timm", "optuna", "numpy", "scikit-learn", "sqlalchemy")


def check(config: JobConfig) -> SearchSpace:
    """Everything that can be known to fail before a job runs; the job's space.

    Pretrained weights are loaded once, which fetches them: nothing else tells whether they are there and fit.
    Raises UsageError (or NotFoundError for components) for options that do not fit, data that are not there,
    limits that no subnet keeps, weights that cannot be had. Devices that only a store knows are left to
    `create`.
    """
    allow_named(config)
    torch_device(config)
    config = prepared(config)
    data = datasets.build(config.data.name, **config.data.options)
    space = resolve(config, data)
    check_memory(config, space, data, torch_device(config))
    if config.train.teacher is not None:
        load_teacher(config.train.teacher.timm, **data_sizes(data), given=given_normalisation(config))
    check_limits(space, config.limits, partial(exact_metrics, space))
    check_different(
        {
            name: build_device(name, {"backend": device.backend, **device.options}).fingerprint()
            for name, device in config.devices.items()
            if device.backend not in (REMOTE, STORED)
        }
    )
    _check_sample(config, space)
    _check_searcher(config, space)
    _check_cluster(config)
    net, init = supernet.build(space), config.supernet.init
    how = strategy(config.train.sampling, net)
    how.draw(space, np.random.default_rng(0))
    if isinstance(init, AnchorsInit):
        assert isinstance(net, Stitching), "the space takes anchors"
        check_trained_anchors(space, init)
        load_anchors(net, init, data_sizes(data), {}, seed=config.seed, given=given_normalisation(config))
    else:
        initialise(net, config.supernet, seed=config.seed)
    Training(net, how, recipe(config), seed=config.seed)
    return space


def create(store: Store, config: JobConfig, *, name: str | None, base: str | None = None) -> Job:
    """A queued job of a config that has passed `check`.

    Without a name, the job file's is used, or else `base`, made free by a number.
    Raises ConflictError for a name that is taken, UsageError for devices that the store does not know as the
    config says, or whose agent does not run, or on which the predictor cannot time single layers, and
    NotFoundError for a `predictor.source` without a predictor.
    """
    allow_named(config)
    config = prepared(resolved(store, config))
    settings = with_absolute_paths(merged(config), Path.cwd())
    for device_name, device in config.devices.items():
        if device.backend == REMOTE:
            check_needs_no_layers(config.predictor.name, device_name)
    source_state(store, config)
    row: dict[str, Any] = {"config": settings, "seed": config.seed, "provenance": provenance()}
    if name:
        return store.create_job(name, **row)
    return store.create_numbered_job(config.name or base or config.data.name, **row)


def provenance() -> dict[str, Any]:
    """Where and with what a job was made."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
    }


def predict(store: Store, job: Job, architecture: dict[str, Any]) -> dict[str, Any]:
    """Exact costs and predicted latency of any architecture of the job's space.

    latency: on the job's first device.  latencies: on each, if there are several.
    """
    space = space_of(store, job)
    arch = space.architecture(architecture)
    row = store.predictor(job)
    if row is None:
        raise NotFoundError(
            f"Job '{job.name}' has no latency predictor yet.", f"`nas show {job.id}` tells more."
        )
    codes = space.encode([arch])
    names, several = job_devices.device_names(store, job), job_devices.searched_for(store, job).values()
    devices = {device.id: device for device in store.devices()}
    rows = [devices[i] for i in several if store.predictor(job, i) is not None]
    own = devices[row.device_id]
    return {
        "job": job.name,
        "subnet": arch.key,
        "architecture": arch.to_dict(),
        **{name: int(column[0]) for name, column in exact_metrics(space, codes).items()},
        "latency": _latency(store, job, own, names[own.id], space, codes),
        **(
            {"latencies": [_latency(store, job, device, names[device.id], space, codes) for device in rows]}
            if len(rows) > 1
            else {}
        ),
        **_peak_memory(store, job, own, space, codes),
    }


def _latency(
    store: Store, job: Job, device: Device, name: str, space: SearchSpace, codes: Any
) -> dict[str, Any]:
    predictor = stored_predictor(store, job, space, device)
    assert predictor is not None, "the job has one for it"
    mean, std = predictor.predict(codes)
    return {
        "device": name,
        "predicted_ms": float(mean[0]),
        "std_ms": float(std[0]),
        "interval_ms": [float(end[0]) for end in interval(mean, std)],
    }


def _peak_memory(store: Store, job: Job, device: Device, space: SearchSpace, codes: Any) -> dict[str, float]:
    """The predicted peak in bytes, of a device that can tell it."""
    predictor = stored_predictor(store, job, space, device, metric=MEMORY)
    return {} if predictor is None else {MEMORY: float(predictor.predict(codes)[0][0])}


def measure(folder: Path, device_options: dict[str, Any]) -> dict[str, Any]:
    """The latency of an extracted subnet on a device of this host.

    device_options: `backend`, what its `build` takes, and perhaps `name`.
    """
    module = load_folder(folder)
    options = {"backend": "torch_cpu", **device_options}
    device = build_device(options.pop("name", options["backend"]), options)
    shape: Any = module.input_shape
    check_batch("--batch", device.batch, shape)
    example = torch.zeros(device.batch, *shape)
    result = measure_latency(device, {"it": lambda: module}, example, seed=0, within=within)["it"]
    if isinstance(result, Failure):
        raise JobFailedError(f"The subnet in '{folder}' could not be measured: {result.reason}")
    return {
        "folder": str(folder),
        "device": device.fingerprint() | {"name": device.name},
        "measured_ms": result.latency_ms,
        "spread_ms": result.spread_ms,
        "rounds": result.rounds,
    }


def _check_sample(config: JobConfig, space: SearchSpace) -> None:
    needed = smallest_sample(config)
    if space.size < needed:
        raise UsageError(
            f"Space '{space.name}' has {space.size} subnets; a latency predictor needs {needed}.",
            "Give the space more options; between stitched models: deeper models, or a larger kernel.",
        )
    if config.predictor.samples < needed:
        raise UsageError(
            f"predictor.samples is {config.predictor.samples}; a latency predictor needs {needed}.",
            "With predictor.source, the job of another device, 3 are enough.",
        )


def _check_searcher(config: JobConfig, space: SearchSpace) -> None:
    """Raises what the searcher raises for its options and for the job's objectives."""
    predicted = [config.named(metric, name) for metric in ("latency_ms", MEMORY) for name in config.devices]
    anything = SearchProblem(
        space,
        lambda codes: np.ones(len(codes), dtype=np.bool_),
        (),
        2,
        0,
        budget=config.search.evaluations,
        metrics=lambda codes: exact_metrics(space, codes) | dict.fromkeys(predicted, np.zeros(len(codes))),
        objectives=config.objectives,
        limits=config.limits,
    )
    searchers.build(config.search.searcher, anything, **config.search.options)


def _check_cluster(config: JobConfig) -> None:
    """Raises UsageError where the job names a Ray cluster and none answers."""
    if config.execution.address == "local":
        return
    try:
        check_cluster(config.execution.address)
    except JobFailedError as error:
        raise UsageError(f"execution.address: {error.message}", error.hint) from error


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this package's checkout, if it runs from one."""
    root = Path(search_spaces.__file__).parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    done = subprocess.run(
        ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None

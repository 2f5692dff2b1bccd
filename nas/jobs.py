"""Jobs as a user meets them: checked, created, asked for a prediction; the latency of an extracted folder."""

import platform
import shutil
import subprocess
from collections.abc import Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import search_spaces
import supernet
from nas import datasets, searchers
from nas.config import REMOTE, STORED, AnchorsInit, DeviceConfig, JobConfig, SupernetEntry, merged
from nas.config.components import allow_named, as_stored
from nas.config.job import WHERE, with_names
from nas.config.paths import with_absolute_paths
from nas.config.ray_address import check_cluster
from nas.datasets import DataSet, task_of
from nas.errors import ConflictError, JobFailedError
from nas.job_data import same_data
from nas.measuring.latency import stored_predictor
from nas.measuring.latency_fit import (
    MEMORY,
    check_needs_no_layers,
    smallest_sample,
    source_state,
    times_layers,
)
from nas.measuring.requests import build_device, running
from nas.measuring.targets import check_different, resolved
from nas.results import job_devices
from nas.search.device_quality import check_images, check_quality_on
from nas.search.source import check_source
from nas.searchers import SearchProblem, with_directions
from nas.spaces.baselines import load_baselines
from nas.spaces.initial import initialise, load_folder
from nas.spaces.job_space import check_limits, data_sizes, exact_metrics, resolve, space_of, whole
from nas.spaces.memory_limits import check_batch, check_memory
from nas.spaces.preprocessing import given_normalisation, prepared
from nas.spaces.pretrained import load_anchors
from nas.store import Device, Job, Store, Supernet
from nas.training.anchors import check_trained_anchors
from nas.training.keys import supernet_key
from nas.training.supernets import check_workers, strategy, torch_device
from nas.watchdog import within
from predictors.measurement.rounds import Failure
from predictors.measurement.rounds import measure as measure_latency
from predictors.regression.intervals import interval
from search_spaces import SearchSpace
from search_spaces.errors import NotFoundError, UsageError
from search_spaces.registry import load
from search_spaces.space import Codes
from search_spaces.workloads import as_run
from supernet.supernet import Joined
from supernet.training.recipe import Teacher
from supernet.training.teachers import load_teacher
from supernet.training.trainer import Training

PACKAGES = ("elastiform", "torch", "torchvision", "timm", "optuna", "numpy", "scikit-learn", "sqlalchemy")


def with_supernet(url: str, config: JobConfig) -> tuple[JobConfig, dict[str, Supernet]]:
    """The config of a job that uses trained supernets, with what those were trained from and how; and they.

    They come by their names in a job that has several, else under "". Of any other job the config as it is.
    Raises NotFoundError for a supernet that the store does not know, ConflictError for one that is not
    trained yet, StoreError where there is no store.
    """
    entries = list(config.supernets or (config.supernet,))
    if all(entry.use is None for entry in entries):
        return config, {}
    with Store.open(url, read_only=True) as store:
        used = [None if entry.use is None else _trained(store, entry.use) for entry in entries]
    if config.supernets is None:
        (one,) = used
        assert one is not None, "it is named"
        train = one.settings.get("train", {}) | config.train.model_dump(mode="json", include=set(WHERE))
        sections = {
            "supernet": one.settings.get("supernet", {}) | {"use": config.supernet.use},
            "train": train,
        }
        return as_stored(merged(config) | sections, where=f"Supernet '{one.name}'"), {"": one}
    entry_sections = [
        entry.model_dump(mode="json") if one is None else _as_it_was(config, entry, one)
        for entry, one in zip(config.supernets, used, strict=True)
    ]
    config = as_stored(merged(config) | {"supernets": entry_sections}, where="A supernet of the job")
    return config, {name: one for name, one in zip(config.each, used, strict=True) if one is not None}


def _as_it_was(config: JobConfig, entry: SupernetEntry, used: Supernet) -> dict[str, Any]:
    """One of several supernets of a job file with what it was trained from and how."""
    train = used.settings.get("train", {}) | config.train.model_dump(mode="json", include=set(WHERE))
    section: dict[str, Any] = used.settings.get("supernet", {})
    return section | {"use": entry.use, "name": entry.name, "train": train}


def _trained(store: Store, name: str) -> Supernet:
    named = store.supernet(name)
    if named.is_specialised:
        of = named.settings["specialised"].get("of")
        raise UsageError(
            f"Supernet '{named.name}' is what a training made of {named.space.get('size')} finalists: there "
            "is nothing to search in it.",
            f"`supernet: {{use: {of}}}` names the one that they are from." if of else "",
        )
    if named.is_trained:
        return named
    users = ", ".join(
        f"`nas resume {use.job_id}`" for use in store.supernet_uses() if use.supernet.id == named.id
    )
    hint = (
        "Wait until it is trained."
        if store.is_held(named)
        else f"{users or '`nas train FILE`'} goes on with it."
    )
    raise ConflictError(f"Supernet '{named.name}' is not trained to its end yet.", hint)


def check(config: JobConfig, used: Mapping[str, Supernet] = MappingProxyType({})) -> SearchSpace:
    """Everything that can be known to fail before a job runs; the job's space.

    used: the supernets that the config, as of `with_supernet`, names.
    Pretrained weights are loaded once, which fetches them: nothing else tells whether they are there and fit.
    Raises UsageError (or NotFoundError for components) for options that do not fit, data that are not there,
    limits that no subnet keeps, weights that cannot be had. Devices that only a store knows are left to
    `create`.
    """
    allow_named(config)
    torch_device(config)
    config = prepared(config)
    data = datasets.build(config.data.name, **config.data.options)
    spaces = {
        name: _space_of(used[name], data) if name in used else resolve(alone, data)
        for name, alone in config.each.items()
    }
    for name, alone in config.each.items():
        check_memory(alone, spaces[name], data, torch_device(config))
    _check_different_supernets(config, spaces, data, used)
    space = whole(spaces)
    check_limits(space, config.limits, partial(exact_metrics, space))
    for name, device in config.devices.items():
        _check_runs(space, name, device, config.predictor.name)
    check_different(
        {
            name: build_device(name, {"backend": device.backend, **device.options}).fingerprint()
            for name, device in config.devices.items()
            if device.backend not in (REMOTE, STORED)
        }
    )
    check_images(config, data)
    check_quality_on(config)
    _check_sample(config, space)
    check_searcher(config, space)
    _check_cluster(config)
    load_baselines(config, data)
    for name, alone in config.each.items():
        if name not in used:
            _check_training(alone, spaces[name], data)
    return space


def _check_runs(space: SearchSpace, name: str, device: DeviceConfig, predictor: str) -> None:
    """Raises UsageError for networks or layers that the device cannot run, or not on its workload."""
    as_run(space, device.options.get("workload"))
    if device.backend in (REMOTE, STORED):
        return
    backend = load("predictors.devices", device.backend)
    if hasattr(backend, "check_space"):
        backend.check_space(space, name=name, precision=device.precision)
    if times_layers(predictor) and not getattr(backend, "SINGLE_LAYERS", True):
        raise UsageError(
            f"predictor.name: {predictor} times single layers, which '{name}' cannot: {device.backend} takes "
            "whole networks.",
            "Take another predictor, such as roofline.",
        )


def _check_different_supernets(
    config: JobConfig, spaces: Mapping[str, SearchSpace], data: DataSet, used: Mapping[str, Supernet]
) -> None:
    """Raises UsageError where two of a job's supernets are the same one."""
    if config.supernets is None:
        return
    names = dict[str, str]()
    for name, alone in config.each.items():
        key = supernet_key(alone, spaces[name], data) if name not in used else used[name].key
        key = key or f"supernet {used[name].id}"
        if key in names:
            raise UsageError(
                f"Supernets '{names[key]}' and '{name}' of the job are the same one.",
                "Leave one of them out.",
            )
        names[key] = name


def _space_of(used: Supernet, data: DataSet) -> SearchSpace:
    """The space of a supernet that was trained on these data. Raises UsageError for other data."""
    classes, trained_on = used.data.get("num_classes"), used.data.get("name")
    if classes not in (None, data.num_classes):
        raise UsageError(
            f"Supernet '{used.name}' knows {classes} {task_of(data).choices}, and the data set '{data.name}' "
            f"has {data.num_classes}.",
            "Use one that was trained on the same data, or leave supernet.use out.",
        )
    if not same_data(str(used.data.get("digest")), data):
        raise UsageError(
            f"Supernet '{used.name}' was trained on other data ({trained_on}) than the job's ({data.name}), "
            "or on other splits or sizes of them.",
            "Give the same section `data`, or leave supernet.use out.",
        )
    return search_spaces.described(used.space)


def _check_training(config: JobConfig, space: SearchSpace, data: DataSet) -> None:
    """Raises what the training of the job's supernet would raise before its first step."""
    if isinstance(config.train.teacher, Teacher):
        load_teacher(config.train.teacher.timm, **data_sizes(data), given=given_normalisation(config))
    net, init = supernet.build(space), config.supernet.init
    how = strategy(config.train.sampling, net)
    how.draw(space, np.random.default_rng(0))
    if isinstance(init, AnchorsInit):
        assert isinstance(net, Joined), "the space takes anchors"
        check_trained_anchors(space, init)
        load_anchors(net, init, data_sizes(data), {}, seed=config.seed, given=given_normalisation(config))
    else:
        initialise(net, config.supernet, seed=config.seed)
    training = Training(net, how, config.train, seed=config.seed, task=task_of(data))
    check_workers(config)
    training.check_ranks(config.train.workers)


def create(
    store: Store, config: JobConfig, *, name: str | None, base: str | None = None, goal: str = "front"
) -> Job:
    """A queued job of a config that has passed `check`, to this goal.

    Without a name, the job file's is used, or else `base`, made free by a number.
    Raises ConflictError for a name that is taken, and what `new_values` raises.
    """
    values = new_values(store, config, goal=goal)
    if name:
        return store.create_job(name, **values)
    return store.create_numbered_job(config.name or base or config.data.name, **values)


def new_values(store: Store, config: JobConfig, *, goal: str = "front") -> dict[str, Any]:
    """What `Store.create_job` takes for a config that has passed `check`.

    Raises UsageError for devices that the store does not know as the config says, or whose agent does not
    run, or on which the predictor cannot time single layers, NotFoundError for a `predictor.source` without a
    predictor, and what `check_source` raises.
    """
    allow_named(config)
    config = with_names(prepared(resolved(store, config)))
    settings = with_absolute_paths(merged(config), Path.cwd())
    for device_name, device in config.devices.items():
        if device.backend == REMOTE:
            check_needs_no_layers(config.predictor.name, device_name)
    check_quality_on(config)
    source_state(store, config)
    check_source(store, config)
    uses = {
        name: _trained(store, alone.supernet.use)
        for name, alone in config.each.items()
        if alone.supernet.use is not None
    }
    row = {"config": settings, "seed": config.seed, "provenance": provenance(), "goal": goal}
    return row | {"uses": uses}


def provenance() -> dict[str, Any]:
    """Where and with what a job was made."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "packages": {name: installed for name in PACKAGES if (installed := _version(name))},
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
    first = devices[row.device_id]
    return {
        "job": job.name,
        "subnet": arch.key,
        "architecture": arch.to_dict(),
        **{name: int(column[0]) for name, column in exact_metrics(space, codes).items()},
        "latency": _latency(store, job, first, names[first.id], space, codes),
        **(
            {"latencies": [_latency(store, job, device, names[device.id], space, codes) for device in rows]}
            if len(rows) > 1
            else {}
        ),
        **_peak_memory(store, job, first, space, codes),
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

    device_options: `backend`, what its `build` takes, and perhaps `name` and `workload`.
    """
    module: Any = load_folder(folder)
    options = {"backend": "torch_cpu", **device_options}
    device = build_device(options.pop("name", options["backend"]), options)
    check_batch("--batch", device.batch, module.input_shape)
    running_module, example = running(module, device)
    result = measure_latency(device, {"it": lambda: running_module}, example, seed=0, within=within)["it"]
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


def check_searcher(config: JobConfig, space: SearchSpace) -> None:
    """Raises what the searcher raises for its options and for the job's objectives."""
    predicted = [config.named(metric, name) for metric in ("latency_ms", MEMORY) for name in config.devices]

    def costs(codes: Codes) -> dict[str, Any]:
        return exact_metrics(space, codes) | dict.fromkeys(predicted, np.zeros(len(codes)))

    problem = SearchProblem(
        space,
        with_directions(config.objectives, config.quality),
        costs,
        costs,
        limits=config.limits,
        budget=config.search.evaluations,
    )
    searchers.build(config.search.searcher, problem, **config.search.options)


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

"""The devices of a job: those that its search was for, and those on which it was measured afterwards."""

from collections.abc import Mapping
from typing import Any

from nas.store import Job, Store
from search_spaces.workloads import tokens_of

# What is predicted of a subnet on a device: its latency and the ends of the 90 % interval.
PREDICTED = ("predicted_ms", "predicted_low_ms", "predicted_high_ms")
LATENCY = "latency"  # the stage that measures on the first of the job's devices
DEVICE_QUALITY = "device_quality"  # the stage in which devices compute the quality of finalists
ELSEWHERE = "device"  # first part of the names of stages that measured a finished job on another device


def sections(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a stored job file says of each device by its name, without what is no section."""
    devices = config.get("devices")
    said = devices.items() if isinstance(devices, dict) else ()
    return {name: section for name, section in said if isinstance(section, dict)}


def own_device(store: Store, job: Job) -> int | None:
    """The id of the (first) device that the job searched for; None before anything was measured."""
    predictor = store.predictor(job)
    if predictor is not None:
        return predictor.device_id
    measured = store.measurements(job, "finalist") or store.measurements(job)
    return measured[0].device_id if measured else None


def searched_for(store: Store, job: Job) -> dict[str, int]:
    """The ids of the devices that the job searched for, by its own names for them, the first one first.

    Those on which its latency stage is done: another job may have registered the same device by another name.
    """
    first = own_device(store, job)
    names = list(job.config.get("devices") or {})
    if first is None or not names:
        return {}
    ids = {names[0]: first}
    for name in names[1:]:
        stage = store.stage(job, latency_stage(name))
        if stage is not None and stage.result is not None:
            ids[name] = stage.told("device_id")
    return ids


def searched_name(store: Store, job: Job, device_id: int | None = None) -> str | None:
    """The job's name for a device that it searched for, by default the first; None for any other."""
    asked = own_device(store, job) if device_id is None else device_id
    names = {device: name for name, device in searched_for(store, job).items()}
    return None if asked is None else names.get(asked)


def device_names(store: Store, job: Job) -> dict[int, str]:
    """The names of all devices by id; a job with several devices has its own names for those."""
    searched = {device_id: name for name, device_id in searched_for(store, job).items()}
    return {device.id: device.name for device in store.devices()} | (searched if _several(job) else {})


def tokens_a_run(store: Store, job: Job, device_id: int | None) -> int | None:
    """How many tokens a run on the device reads, or makes in a step of decoding; None for images."""
    device = next((one for one in store.devices() if one.id == device_id), None)
    if device is None:
        return None
    texts, workload = int(device.fingerprint.get("batch", 1)), device.fingerprint.get("workload")
    if workload is not None:
        tokens, is_step = tokens_of(workload)
        return texts if is_step else texts * tokens
    space = store.stage(job, "space")
    options = ((space and space.result) or {}).get("space", {}).get("options", {})
    return texts * int(options["context"]) if "context" in options else None


def of_device(values: Mapping[str, Any], device: str | None) -> dict[str, Any]:
    """What was told, with that of one of several devices under its plain name, too."""
    on = [(name, *name.partition("@")) for name in values]
    return {**values, **{metric: values[name] for name, metric, at, where in on if at and where == device}}


def latency_stage(device: str) -> str:
    """The name of the stage that measures on one of a job's devices behind the first."""
    return f"{LATENCY}:{device}"


def measured_elsewhere(device_id: int) -> str:
    """The name of the stage that measures a finished job on another device."""
    return f"{ELSEWHERE}-{device_id}"


def _several(job: Job) -> bool:
    return len(job.config.get("devices") or {}) > 1

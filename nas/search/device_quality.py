"""Stage `device_quality`: the finalists' quality on the report split as the backends of devices compute it.

A device in 8 bits, or compiled, is another network than the weights that the front reports. What its backend
makes of each finalist stands beside that, with the difference on the same examples.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import supernet
from nas.config import REMOTE, DeviceConfig, JobConfig
from nas.config.sections import ALL
from nas.datasets import DataSet
from nas.evaluation import Evaluator, Scores
from nas.evaluation.on_device import (
    SEARCH,
    OnDevice,
    check_tells_outputs,
    compared,
    device_scores,
    module_scores,
    places_of,
)
from nas.evaluation.tasks import batch_of
from nas.job_run import Run
from nas.measuring.remote import RemoteDevice
from nas.measuring.requests import WORN_OUT, worn_out
from nas.measuring.subnets import build_device
from nas.results.extraction import extract, weights_file
from nas.results.frames import INHERITED, reported
from nas.results.job_devices import DEVICE_QUALITY
from nas.store import HUNG, Evaluation, NewDeviceQuality, NewSubnet, digest
from nas.watchdog import within
from predictors.devices import Device
from predictors.measurement.deadlines import Deadlines
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import NASError, UsageError
from search_spaces.registry import constant

if TYPE_CHECKING:
    from torch import nn

    from supernet.supernet import Supernet

SPLIT = "report"
ASK_EVERY = 20  # batches after which the store is asked whether the job has to stop
NO_WEIGHTS = "it is an agent's, to which no weights are sent"
NO_WHOLE_TEXTS = "it runs a workload and not the whole texts by which the quality is told"


def asked(config: JobConfig) -> dict[str, int | str]:
    """On how many examples each device is asked for the quality of finalists, by the job's names for devices.

    Without those that are not asked.
    """
    images: dict[str, int | str] = {
        name: config.finalists.images_on(device.precision) for name, device in config.devices.items()
    }
    choices = {device.one_of for name, device in config.devices.items() if images[name]} - {None}
    images |= {
        name: ALL for name, one in config.devices.items() if one.one_of in choices and not images[name]
    }
    if config.quality_on is not None and config.finalists.device_images is None:
        images[config.quality_on] = ALL
    return {name: examples for name, examples in images.items() if examples}


def check_images(config: JobConfig, data: DataSet) -> None:
    """Raises UsageError for more examples than the report split has."""
    asked_for, size = config.finalists.device_images, data.sizes[SPLIT]
    if isinstance(asked_for, int) and asked_for > size:
        raise UsageError(
            f"finalists.device_images is {asked_for:,}, and the report split of '{data.name}' has {size:,}.",
            f"Give at most {size}, or `all`.",
        )


def refusal(device: DeviceConfig) -> str | None:
    """Why no quality is told of a device; None where it is."""
    if device.backend == REMOTE:
        return NO_WEIGHTS
    if device.workload is None or constant("predictors.devices", device.backend, "TEXTS_WHOLE", False):
        return None
    return NO_WHOLE_TEXTS


def check_quality_on(config: JobConfig) -> None:
    """Raises UsageError for a search for a quality on a device on which none is computed."""
    device = None if config.quality_on is None else config.devices[config.quality_on]
    if device is not None and (reason := refusal(device)) is not None:
        raise UsageError(
            f"objectives: no {config.quality} is computed on '{config.quality_on}': {reason}.",
            f"Search for {config.quality}, or for that of a device of this host.",
        )


def searched_on(
    run: Run, space: SearchSpace, data: DataSet, pool: Evaluator, weights: Mapping[str, Path]
) -> Evaluator:
    """Who evaluates in the search: the pool, or the device whose backend the job's objectives name.

    What that computes is about no supernet, so that other jobs do not find it as if it were.
    weights: of the job's supernets, by their names.
    Raises UsageError for a device of which no quality is told.
    """
    if run.config.quality_on is None:
        return pool
    check_quality_on(run.config)
    device = build_device(run, run.config.quality_on)
    assert not isinstance(device, RemoteDevice), "it is refused"
    check_tells_outputs(device)
    run.lease.unshared = frozenset({SEARCH})
    nets = {name: _loaded(space.members[name], file) for name, file in weights.items()}

    def network(arch: Architecture) -> "nn.Module":
        name, member_arch = space.own(arch)
        return nets[name].extract(member_arch)

    return OnDevice(device, data, pool, network=network, visited=_visited(run))


def _loaded(space: SearchSpace, weights: Path) -> "Supernet":
    from safetensors.torch import load_file  # noqa: PLC0415 - imports torch

    net = supernet.build(space)
    net.shared.load_state_dict(load_file(weights), strict=True)
    return net.eval()


def report_on_devices(run: Run, data: DataSet) -> None:
    """Tells how good the finalists are by the backends of the devices that are asked, or finds it told.

    What cannot be computed on a device is told with its reason, and the front goes on without it.
    """
    images = asked(run.config)
    if images:
        run.once(DEVICE_QUALITY, {"images": images}, partial(_reported, run, data, images))


def _reported(run: Run, data: DataSet, images: Mapping[str, int | str]) -> dict[str, Any]:
    finalists, refused = reported(run.store, run.lease.job), dict[str, str]()
    for place, (name, examples) in enumerate(images.items()):
        if (reason := refusal(run.config.devices[name])) is not None:
            refused[name] = reason
            run.warn(f"No quality is computed on '{name}': {reason}.")
            continue
        places = places_of(data, SPLIT, None if examples == ALL else int(examples))
        _on_device(run, data, name, places, finalists, (place * len(finalists), len(images) * len(finalists)))
    done = [one for one in run.store.device_qualities(run.lease.job) if one.state == "ok"]
    return {"devices": list(images), "qualities": len(done), "refused": refused}


def _on_device(
    run: Run,
    data: DataSet,
    name: str,
    places: Sequence[int],
    finalists: Sequence[Evaluation],
    shown: tuple[int, int],
) -> None:
    """Computes what is not stored yet; one transaction for each finalist.

    shown: how many the stage has computed before, of how many.
    """
    device, job = build_device(run, name), run.lease.job
    assert not isinstance(device, RemoteDevice), "it is refused"
    row, before, total = run.store.register_device(device.name, device.fingerprint()), *shown
    done = {(o.subnet.key, o.basis) for o in run.store.device_qualities(job, row.id) if o.state == "ok"}
    noted = [event.data for event in run.store.events(job, HUNG)]
    over = worn_out(about.get("subnet") for about in noted if about.get("device_id") == row.id)
    deadlines = Deadlines()
    for number, finalist in enumerate(finalists, start=1):
        run.check_stop()
        key, weights = finalist.subnet.key, finalist.weights
        file = weights_file(run.store, job, finalist.subnet, weights)
        own_key = finalist.subnet.own_key or key
        basis = digest([file.sha256, own_key, data.digest, SPLIT, len(places)])
        if (key, basis) not in done:
            new = _blank(finalist, basis)
            if key in over:
                new = replace(new, reason=WORN_OUT)
            else:
                with _limited(device, key, row.id, deadlines):
                    new = _computed(run, data, device, row.id, new, places)
            if new.reason is not None:
                run.warn(f"The quality of subnet {key} cannot be computed on '{name}': {new.reason}.")
            run.store.put_device_quality(run.lease, row.id, new)
        run.progress.update(before + number, total)


@contextmanager
def _limited(device: Device, key: str, device_id: int, deadlines: Deadlines) -> Iterator[None]:
    """Ends what takes far longer than others did; how long they took is seen here."""
    began = time.monotonic()
    what = f"The quality of subnet {key} on device '{device.name}'"
    with within(what, deadlines.seconds(DEVICE_QUALITY), device_id=device_id, subnet=key):
        yield
    deadlines.took(DEVICE_QUALITY, time.monotonic() - began)


def _blank(finalist: Evaluation, basis: str) -> NewDeviceQuality:
    subnet = finalist.subnet
    new = NewSubnet(subnet.key, subnet.architecture, subnet.params, subnet.macs, own_key=subnet.own_key)
    return NewDeviceQuality(new, finalist.metric, basis, finalist.weights, SPLIT)


def _computed(
    run: Run, data: DataSet, device: Device, device_id: int, new: NewDeviceQuality, places: Sequence[int]
) -> NewDeviceQuality:
    """The quality, or why there is none: a front goes on without it."""
    job, key, weights = run.lease.job, new.subnet.key, new.weights
    module = cache(partial(extract, run.store, job, key, weights=weights))
    try:
        stored = run.store.device_scores(new.basis, device_id) if run.config.reuse else None
        scores = _scores(run, data, device, module(), places) if stored is None else stored
        hits = run.store.hits(job, SPLIT).get(key) if weights == INHERITED else None
        if hits is not None and len(hits) == data.sizes[SPLIT]:
            reference = hits[list(places)]
        else:
            reference = module_scores(module(), data, SPLIT, places, batch=batch_of(data))
    except NASError as error:
        return replace(new, reason=error.message.rstrip("."))
    except Exception as error:
        return replace(new, reason=f"{type(error).__name__}: {error}")
    both = compared(new.metric, scores, reference, data, SPLIT, places)
    quality = both.qualities[new.metric]
    return replace(
        new,
        value=quality.value,
        stderr=quality.stderr,
        count=quality.count,
        difference=both.difference,
        difference_stderr=both.stderr,
        objectives={name: one.value for name, one in both.qualities.items()},
        scores=scores,
        reused=stored is not None,
    )


def _scores(run: Run, data: DataSet, device: Device, module: "nn.Module", places: Sequence[int]) -> Scores:
    """What the network scores by the device's backend."""
    with device.session():
        return device_scores(device, module, data, SPLIT, places, visited=_visited(run))


def _visited(run: Run) -> Callable[[], None]:
    """Asks now and then whether the job has to stop."""
    batches = count()

    def visited() -> None:
        if run.stop.is_set() or next(batches) % ASK_EVERY == 0:
            run.check_stop()

    return visited

"""What is measured: a device from its options, and a request as plain data that any host can execute."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import search_spaces
import supernet
from nas.store import NewMeasurement, NewSubnet
from predictors._measurement import Failure, Measurement, measure
from predictors._session import Within, unlimited
from predictors.devices import Device
from search_spaces import Architecture, SearchSpace
from search_spaces._errors import UsageError
from search_spaces._registry import call

TRIES = 3  # processes that may hang over a subnet so that they have to be ended
WORN_OUT = f"{TRIES} processes that measured it did not come back and could not be interrupted"

Results = dict[str, Measurement | Failure]


def build_device(name: str, options: Mapping[str, Any]) -> Device:
    """A device of this host; options: `backend`, and what its `build` takes.

    Raises NotFoundError for an unknown backend, UsageError for options that it does not have.
    """
    rest = dict(options)
    device: Device = call("predictors.devices", rest.pop("backend"), name=name, **rest)
    return device


def request(
    space: SearchSpace,
    archs: Iterable[Architecture],
    *,
    seed: int,
    rounds: int,
    max_rounds: int,
    reference_ms: float | None,
) -> dict[str, Any]:
    """What `execute` takes: the architectures by their keys, and how they are timed, as plain data."""
    return {
        "space": {"family": space.family, "options": dict(space.options)},
        "seed": seed,
        "archs": {arch.key: arch.to_dict() for arch in archs},
        "rounds": rounds,
        "max_rounds": max_rounds,
        "reference_ms": reference_ms,
    }


def subnets_of(payload: object) -> Mapping[str, Any]:
    """The architectures of a request's payload, which may be anything. Raises UsageError."""
    archs = payload.get("archs") if isinstance(payload, Mapping) else None
    if not isinstance(archs, Mapping):
        raise UsageError("The request cannot be read: it names no subnets.")
    return archs


def execute(
    device: Device,
    request: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
    within: Within = unlimited,
) -> dict[str, Any]:
    """Measures a request on a device of this host; for each key the fields of a Measurement or a Failure.

    progress, within: as `measure` calls them.
    Raises what `measure` raises, and NASError for an impossible space.
    """
    space = search_spaces.described(request["space"])
    net = supernet.build(space, seed=request["seed"])
    archs = {key: space.architecture(values) for key, values in request["archs"].items()}
    found = measure(
        device,
        {key: partial(net.extract, arch) for key, arch in archs.items()},
        net.example_input(device.batch),
        seed=request["seed"],
        rounds=request["rounds"],
        max_rounds=request["max_rounds"],
        reference_ms=request["reference_ms"],
        progress=progress,
        within=within,
    )
    return {key: asdict(result) for key, result in found.items()}


def worn_out(hung: Iterable[object]) -> set[str]:
    """The subnets with which nobody should begin again. hung: a key for every process that hung over it."""
    counted = Counter(key for key in hung if isinstance(key, str))
    return {key for key, count in counted.items() if count >= TRIES}


def results(plain: Mapping[str, Mapping[str, Any]]) -> Results:
    """What `execute` told, as Measurements and Failures."""
    return {key: Failure(**told) if "reason" in told else Measurement(**told) for key, told in plain.items()}


def row(subnet: NewSubnet, device_id: int, purpose: str, result: Measurement | Failure) -> NewMeasurement:
    """A result as the store keeps it."""
    if isinstance(result, Failure):
        return NewMeasurement(subnet, device_id, purpose, None, raw=result.raw, reason=result.reason)
    return NewMeasurement(
        subnet,
        device_id,
        purpose,
        result.latency_ms,
        result.spread_ms,
        result.reference_ms,
        result.rounds,
        result.raw,
        stderr_ms=result.stderr_ms,
        contention=result.contention,
        memory_bytes=result.peak_memory_bytes,
        energy_mj=result.energy_mj,
    )

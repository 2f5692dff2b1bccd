"""What is measured is a network, a plain class with its arguments: equal ones need one measurement."""

from collections.abc import Mapping
from datetime import timedelta

import supernet
from nas.errors import JobFailedError
from nas.job_run import Run
from nas.measuring.remote import RemoteDevice
from nas.measuring.targets import Target
from nas.store import Device as DeviceRow
from nas.store import StoredMeasurement, digest
from nas.store.values import now
from search_spaces import Architecture, SearchSpace

CALIBRATION_SECONDS = 0.5
TOLERANCE = (
    1.25  # between clean times of a calibrator that count as the same; busy machines differ by so much
)


def network_keys(space: SearchSpace, archs: Mapping[str, Architecture]) -> dict[str, str]:
    """A hash of each network's class and arguments, by the key of its architecture in this space.

    Those whose class does not tell its arguments are left out: they equal nothing.
    """
    keys: dict[str, str] = {}
    for name, of_member in space.by_member(archs).items():
        keys |= _keys_of(space.members[name], of_member)
    return {key: keys[key] for key in archs if key in keys}


def _keys_of(space: SearchSpace, archs: Mapping[str, Architecture]) -> dict[str, str]:
    import torch  # noqa: PLC0415 - takes seconds, and who reads results needs none

    from supernet.plain.layers import Network  # noqa: PLC0415 - imports torch

    # Families of ours need no memory for it; of somebody else's nothing is known.
    with torch.device("cpu" if "." in space.family else "meta"):
        net = supernet.build(space)
    keys = {}
    for key, arch in archs.items():
        with torch.device("meta"):
            module = net.plain(arch)
        if isinstance(module, Network):
            kind = type(module)
            keys[key] = digest([f"{kind.__module__}.{kind.__qualname__}", module.config])
    return keys


def measured_before(
    run: Run, device: Target, row: DeviceRow, networks: Mapping[str, str], purpose: str
) -> dict[str, StoredMeasurement]:
    """What other jobs measured of equal networks on the device for the same purpose, by architecture's key.

    No older than `predictor.max_age`. A finalist is measured anew although it was in a sample: it was chosen
    by that. Nothing where the calibrator's clean time is no longer what it was.
    """
    max_age = run.config.predictor.max_age
    if not run.config.reuse or not max_age or not networks:
        return {}
    since = now() - timedelta(seconds=max_age)
    stored = run.store.measurements_of(set(networks.values()), row.id, purpose=purpose, since=since)
    by_key = {key: stored[network] for key, network in networks.items() if network in stored}
    return by_key if by_key and _is_as_it_was(run, device, row) else {}


def _is_as_it_was(run: Run, device: Target, row: DeviceRow) -> bool:
    """Whether the device's calibrator takes as long as when it was first measured; asked once in an attempt.

    An agent's device cannot be asked from here, and is what its fingerprint says.
    """
    if isinstance(device, RemoteDevice) or row.id in run.unchanged:
        return run.unchanged.get(row.id, True)
    from nas.measuring.devices import clean_reference_ms  # noqa: PLC0415 - imports torch

    before = run.store.reference(row.id)
    try:
        clean_ms = clean_reference_ms(device, CALIBRATION_SECONDS)
    except JobFailedError:
        clean_ms = None
    same = bool(before and clean_ms and 1 / TOLERANCE <= clean_ms / before <= TOLERANCE)
    run.unchanged[row.id] = same
    if not same:
        shown = (
            "cannot be timed" if clean_ms is None else f"takes {clean_ms:.3g} ms and took {before or 0:.3g}"
        )
        run.warn(f"What other jobs measured on '{device.name}' is measured again: its calibrator {shown}.")
    return same

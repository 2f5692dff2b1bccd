"""Devices under names: registered with their options, tried out, listed."""

import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from nas.errors import ConflictError, JobFailedError
from nas.measuring.requests import build_device
from nas.store import Device as DeviceRow
from nas.store import Store, changes
from nas.watchdog import within
from predictors.devices import Device, own_calibrator
from predictors.measurement.labels import Row, clean_ms
from predictors.measurement.rounds import Failure, Measurement, measure
from search_spaces.errors import NASError, NotFoundError, UsageError
from search_spaces.registry import allow, names

WIDTH = 256  # of the network that is measured to try a device out
ROUNDS = 8
CALIBRATION_SECONDS = 2.0
MOST_SESSIONS = 100


def add(store: Store, name: str, options: Mapping[str, Any], *, replace: bool = False) -> DeviceRow:
    """Registers a device of this host under a name, with its options and its calibrator's clean time.

    options: `backend`, and what its `build` takes.  replace: the name may have stood for another device, and
    a known clean time is measured anew.
    Raises ConflictError for a device that has another name, and unless `replace` for a name that stood for a
    device with another fingerprint; JobFailedError when the device cannot time anything.
    """
    if name in names("predictors.devices"):
        raise UsageError(f"'{name}' is the name of a backend.", "Choose another name for the device.")
    allow([str(options.get("backend", ""))])
    device = build_device(name, options)
    fingerprint = device.fingerprint()
    with suppress(NotFoundError):
        changed = changes(store.device(name).fingerprint, fingerprint)
        if changed and not replace:
            raise ConflictError(
                f"Device '{name}' is registered as another one: {changed}.",
                "Measurements of the two do not compare: choose another name, or use --replace.",
            )
    row = store.register_device(name, fingerprint, options)
    if row.name != name:
        raise ConflictError(
            f"This device is registered already, as '{row.name}'.", "Use that name, or other options."
        )
    if replace or row.reference_ms is None:
        store.set_reference(row.id, clean_reference_ms(device), replace=replace)
    return store.device(name)


def clean_reference_ms(device: Device, seconds: float = CALIBRATION_SECONDS) -> float:
    """The clean time of a pass of the calibrator in ms, by the rule of the labels (`clean_ms`).

    Sessions of at least that many seconds count as one, with their rounds one after another.
    """
    rows: list[Row] = []
    began = time.monotonic()
    for turn in range(MOST_SESSIONS):
        for measured in _tried(device, extras=False):
            rows += [[turn * ROUNDS + (row[0] or 0.0), *row[1:]] for row in measured.raw]
        if time.monotonic() - began >= seconds:
            break
    return clean_ms([rows])


def check(device: Device, stored: DeviceRow | None = None) -> dict[str, Any]:
    """How well timings repeat on a device now, and what else it can tell, as plain data.

    stored: the row whose clean calibrator time stands for comparison.
    Raises JobFailedError when the device cannot time anything.
    """
    first, second = _tried(device, extras=True)
    reference = stored.reference_ms if stored is not None else None
    assert first.reference_ms is not None, "it has just been measured"
    return {
        "fingerprint": device.fingerprint(),
        "first": {"latency_ms": first.latency_ms, "spread_ms": first.spread_ms},
        "second": {"latency_ms": second.latency_ms, "spread_ms": second.spread_ms},
        "difference": abs(first.latency_ms - second.latency_ms) / first.latency_ms,
        "calibrator_ms": first.reference_ms,
        "stored_calibrator_ms": reference,
        "calibrator_change": None if reference is None else first.reference_ms / reference - 1,
        "contention": statistics.fmean([first.contention or 1.0, second.contention or 1.0]),
        "peak_memory": first.peak_memory_bytes is not None,
        "energy": first.energy_mj is not None,
    }


def backends() -> list[dict[str, Any]]:
    """Every backend, whether it works on this host, and if not why."""
    listed: list[dict[str, Any]] = []
    for name in names("predictors.devices"):
        reason = None
        try:
            build_device(name, {"backend": name, "batch": 1})
        except NASError as error:
            reason = f"{error.message} {error.hint}".strip()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        listed.append({"name": name, "available": reason is None, "reason": reason})
    return listed


def _tried(device: Device, *, extras: bool) -> tuple[Measurement, Measurement]:
    """A small network measured twice in one session: where a device takes no such one, its calibrator."""
    example = torch.randn(device.batch, WIDTH, generator=torch.Generator().manual_seed(0))
    twice = {"first": _network, "second": _network}
    if (block := own_calibrator(device, device.batch)) is not None:
        network, example = block
        twice = dict.fromkeys(twice, lambda: network)
    results = measure(
        device, twice, example, seed=0, rounds=ROUNDS, max_rounds=ROUNDS, extras=extras, within=within
    )
    for result in results.values():
        if isinstance(result, Failure):
            raise JobFailedError(f"Device '{device.name}' cannot time a network: {result.reason}.")
    first, second = (result for result in results.values() if isinstance(result, Measurement))
    return first, second


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)).eval()

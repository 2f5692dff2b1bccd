"""The file in a folder timed as it stands, as devices time the networks of a job."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import JobFailedError
from nas.exported.card import device_line
from nas.exported.forms import Exporter, check_timed, exporter
from nas.measuring.folders.described import Described, OnFront, described, of_format
from nas.measuring.requests import WorkingDevice, build_device
from nas.spaces.memory_limits import check_batch
from nas.store import changes, is_same
from nas.watchdog import within
from predictors.devices import Device
from predictors.measurement.rounds import Failure, Measurement
from predictors.measurement.rounds import measure as measure_latency
from search_spaces.errors import UsageError
from search_spaces.registry import constant
from search_spaces.workloads import tokens_of
from supernet.plain.decoder import some_tokens

USUAL: Mapping[str, Any] = {"threads": 1, "batch": 64}  # where neither the front nor who asks says it


def measure_file(
    folder: Path, format: str, asked: Mapping[str, Any], *, trust: bool = False
) -> dict[str, Any]:
    """The latency of an exported file on a device of this host, beside the front's of its subnet.

    folder: with the file, or with a folder of the format's name.  asked: options of the device, `backend`
    among them; what is left out is as of the front's device.  trust: a file is loaded although that may not
    be harmless.
    Raises NotFoundError for a format that is not there, UsageError for a damaged folder and for a device that
    does not take the file, JobFailedError where it cannot be timed.
    """
    form, place = exporter(format), of_format(folder, format)
    check_timed(format)
    section = described(place)
    if section.format != format:
        raise UsageError(
            f"'{place}' holds a network in the format '{section.format}', not '{format}'.",
            f"Try --format {section.format}.",
        )
    if form.RISK is not None and not trust:
        raise UsageError(
            f"A file in the format '{format}' is not loaded just so: {form.RISK}.",
            "With --trust it is: if you wrote it, or trust who did.",
        )
    on_front = _comparable(section, form, asked.get("backend"))
    device, result = _timed(place, section, form, asked, on_front)
    return {
        "folder": str(place),
        "format": format,
        "precision": section.precision,
        "device": device.fingerprint() | {"name": device.name},
        "measured_ms": result.latency_ms,
        "spread_ms": result.spread_ms,
        "rounds": result.rounds,
        "front": None if on_front is None else _compared(result, device, on_front),
    }


def card_figures(folder: Path) -> dict[str, Any]:
    """What the card of a folder that has just been written tells of its file's latency.

    On each of the front's devices that take the file and can be here, or on the usual one.
    """
    section = described(folder)
    form = exporter(section.format)
    taken = [one for one in section.measured if one.backend in form.DEVICES and _takes(form, one)]
    beside: list[OnFront | None] = [*taken] or [_comparable(section, form, None)]
    figures: dict[str, Any] = {}
    for on_front in beside:
        device, result = _timed(folder, section, form, {}, on_front)
        at = f"@{on_front.device}" if on_front is not None and len(taken) > 1 else ""
        figures[f"latency_of_the_file_ms{at}"] = f"{result.latency_ms:.4g}, spread {result.spread_ms:.2g}"
        figures[f"device_of_the_file{at}"] = f"{device_line(device.fingerprint())}, batch {device.batch}"
        if on_front is not None:
            compared = _compared(result, device, on_front)
            figures[f"file_against_front{at}"] = compared_line(compared)
    return figures


def compared_line(compared: Mapping[str, Any]) -> str:
    """The file's latency beside the front's, as a sentence without its end."""
    line = f"{compared['measured_ms']:.4g} ms on '{compared['device']}' of the front"
    if "predicted_ms" in compared:
        low, high = compared["interval_ms"]
        line += f" (predicted {compared['predicted_ms']:.4g}, 90 % from {low:.4g} to {high:.4g})"
    if compared["file_over_front"] is not None:
        line += f", the file takes {compared['file_over_front']:.3g} times that"
    return line + (f"; {compared['differs']}" if compared["differs"] else "; the same device")


def _comparable(section: Described, form: Exporter, backend: object) -> OnFront | None:
    """The front's latency that says most about the file: on that backend, or one that takes the file."""
    backends = form.DEVICES if backend is None else (backend,)

    def misfit(one: OnFront) -> tuple[bool, ...]:
        in_other = one.fingerprint.get("precision") != section.precision
        return not _takes(form, one), one.backend not in backends, in_other

    return min(section.measured, key=misfit, default=None)


def _takes(form: Exporter, on_front: OnFront) -> bool:
    """Whether the format's files can be run as that latency was measured: a step of decoding not by all."""
    return not on_front.is_step or getattr(form, "STEPS", False)


def _timed(
    folder: Path, section: Described, form: Exporter, asked: Mapping[str, Any], on_front: OnFront | None
) -> tuple[Device, Measurement]:
    device = _device(section, form, asked, on_front)
    network, example = _run_on(form.network(folder), section, device)
    reference_ms = None  # of the front, where this is its device: both compare under the same one
    if on_front is not None and is_same(on_front.fingerprint, device.fingerprint()):
        reference_ms = on_front.reference_ms
    result = measure_latency(
        device,
        {"it": lambda: network},
        example,
        seed=0,
        reference_ms=reference_ms,
        extras=False,
        within=within,
    )["it"]
    if isinstance(result, Failure):
        raise JobFailedError(f"The file in '{folder}' could not be timed: {result.reason}")
    return device, result


def _device(section: Described, form: Exporter, asked: Mapping[str, Any], on_front: OnFront | None) -> Device:
    """The device that was asked for, in all else as the front's. Raises UsageError for what takes no file."""
    usual = on_front.backend if on_front is not None and on_front.backend in form.DEVICES else form.DEVICES[0]
    backend = asked.get("backend") or usual
    if backend not in form.DEVICES:
        raise UsageError(
            f"A file in the format '{section.format}' is not timed on '{backend}'.",
            f"It is on {' and '.join(form.DEVICES)}.",
        )
    offered = constant("predictors.devices", backend, "PRECISIONS", ())
    precision = section.precision if section.precision in offered else "fp32"
    if asked.get("precision") not in (None, precision):
        raise UsageError(
            f"The file is in {section.precision}, and is timed as it is.", "Leave --precision out."
        )
    options = {} if on_front is None else dict(on_front.options)
    if on_front is not None and on_front.is_step and _takes(form, on_front):
        options["workload"] = on_front.workload
    return build_device(backend, {**USUAL, **options, **asked, "backend": backend, "precision": precision})


def _run_on(network: nn.Module, section: Described, device: Device) -> tuple[nn.Module, Tensor]:
    """What the device times of a file, and a batch as the front's are: images of zeros, random tokens.

    Raises UsageError for a workload that the file does not take.
    """
    shape = section.input_shape
    check_batch("--batch", device.batch, shape)
    workload = device.workload if isinstance(device, WorkingDevice) else None
    if section.arguments.vocabulary is None:
        if workload is not None:
            raise UsageError("A workload is for language models, and this network takes images.")
        return network, torch.zeros(device.batch, *shape)
    tokens, is_step = (math.prod(shape), False) if workload is None else tokens_of(workload)
    behind = getattr(network, "behind", None)
    if is_step and behind is None:
        raise UsageError(
            "The file has no step of decoding: it computes all tokens of a text.",
            "Ask for a whole text: --option 'workload={prefill: TOKENS}'.",
        )
    if tokens > shape[0]:
        raise UsageError(f"The text has {tokens:,} tokens, and the network takes {shape[0]:,}.")
    texts = some_tokens(section.arguments.vocabulary, device.batch, tokens)
    return (network, texts) if behind is None or not is_step else (behind(texts[:, :-1]), texts[:, -1:])


def _compared(result: Measurement, device: Device, on_front: OnFront) -> dict[str, Any]:
    """The front's latency, what is another device there, and how much longer the file takes than that.

    The last is told where both had the same input: `batch` and `workload`.
    """
    before, now = on_front.fingerprint, device.fingerprint()
    same_input = all(before.get(key) == now.get(key) for key in ("batch", "workload"))
    return {
        "device": on_front.device,
        "measured_ms": on_front.measured_ms,
        "spread_ms": on_front.spread_ms,
        **_predicted(on_front),
        "differs": changes(before, now),
        "file_over_front": result.latency_ms / on_front.measured_ms if same_input else None,
    }


def _predicted(on_front: OnFront) -> dict[str, Any]:
    """What the job's predictor said of the subnet there, if the folder tells it."""
    ends = on_front.predicted_low_ms, on_front.predicted_high_ms
    if on_front.predicted_ms is None or None in ends:
        return {}
    return {"predicted_ms": on_front.predicted_ms, "interval_ms": list(ends)}

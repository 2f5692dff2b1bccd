"""A device's predictor of any model: fitted on models that were measured there, and kept with the device.

What is measured is saved after each model, with its layers: the same command goes on, and later ones add to
it. Times are kept as multiples of the calibrator's clean time, so they stay true when that is measured anew.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from nas.errors import DamagedError, JobFailedError
from nas.measuring.models.named import Named, named
from nas.measuring.remote import RemoteDevice
from nas.measuring.targets import registered
from nas.progress import Progress
from nas.store import Device as DeviceRow
from nas.store import Store
from nas.watchdog import within
from predictors import layers_of
from predictors.any_model import OfLayers, fit_layers, from_json
from predictors.devices import Device
from predictors.measurement.rounds import Failure, measure
from predictors.regression.features import Workload
from predictors.regression.intervals import interval
from predictors.runtimes.host import last_cache_bytes
from search_spaces.errors import NotFoundError, UsageError
from search_spaces.layers import Layer, cost_of

VERSION = 1
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
# Twenty small ones of eight families, for who names none.
TWENTY = (
    *("vit_tiny_patch16_224", "vit_small_patch32_224", "deit3_small_patch16_224", "mixer_s32_224"),
    *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "hiera_tiny_224", "pvt_v2_b1"),
    *("tiny_vit_5m_224", "convnext_atto", "convnext_nano", "efficientnet_b0", "efficientnet_lite0"),
    *("mobilenetv2_100", "mobilenetv3_large_100", "mobilenetv4_conv_medium", "resnet18", "resnet50"),
    *("regnety_016", "levit_192"),
)


@dataclass(frozen=True)
class MeasuredModel:
    """One model on the device. calibrators: how many passes of the calibrator one of its passes takes."""

    name: str
    input_shape: tuple[int, ...]
    calibrators: float
    spread: float
    layers: tuple[Layer, ...]


def fit(
    store: Store,
    name: str,
    models: Sequence[str],
    *,
    progress: Progress,
    rounds: int = 3,
    max_rounds: int = 10,
    source: str | None = None,
) -> dict[str, Any]:
    """Measures the models on a registered device as far as they were not yet, and keeps a predictor of all.

    source: a device whose kept predictor is a beginning.
    Raises NotFoundError for an unknown device or model, UsageError for an agent's device, one that has
    changed, a source without a predictor and too few models; JobFailedError where too few could be measured.
    """
    device, row = _registered_here(store, name)
    beginning = None if source is None else _kept_predictor(store, store.device(source))
    wanted = [named(text) for text in models]
    kept = _kept_whole(store, row, progress)
    measured = {one.name: one for one in _kept_models(kept)}
    missing = [one for one in wanted if one.name not in measured]
    progress.stage("measure models")
    failures: list[dict[str, str]] = []
    for done, model in enumerate(missing):
        progress.update(done, len(missing), model=model.name)
        try:
            measured[model.name] = _measured(device, row, model, rounds, max_rounds)
        except (JobFailedError, UsageError) as error:
            progress.warn(f"'{model.name}' is left out: {error.message}")
            failures.append({"model": model.name, "reason": error.message})
            continue
        _keep(store, row, list(measured.values()), kept.get("predictor"))
    progress.update(len(missing), len(missing))
    every = list(measured.values())
    if len(every) < 3:
        raise JobFailedError(
            f"Only {len(every)} models are measured on '{name}', and a predictor needs 3.",
            "Name more models.",
        )
    predictor = _fitted(store, row, device, every, beginning)
    _keep(store, row, every, {"reference_ms": row.reference_ms, **predictor.to_json()})
    return _summary(row, device, every, predictor, failures)


@dataclass(frozen=True, eq=False)
class KeptPredictor:
    """What is kept with a device to predict any model.

    workload: of what is predicted.  scale: that of times since the calibrator was measured anew.
    """

    predictor: OfLayers
    workload: Workload
    scale: float

    def predict(self, layers: Sequence[Layer]) -> dict[str, float]:
        """The mean, its standard deviation, and the ends of the 90 % interval, in ms."""
        mean, std = (self.scale * one for one in self.predictor.predict([layers], self.workload))
        low, high = interval(mean, std)
        names = ("predicted_ms", "std_ms", "predicted_low_ms", "predicted_high_ms")
        return {name: float(one[0]) for name, one in zip(names, (mean, std, low, high), strict=True)}


def kept_predictor(store: Store, row: DeviceRow) -> KeptPredictor:
    """Raises NotFoundError for a device without one, DamagedError, and UsageError for one that is no more."""
    kept = _kept_predictor(store, row)
    predictor = from_json(kept)
    batch = int((row.options or {}).get("batch", 64))
    scale = (row.reference_ms or 1.0) / (kept.get("reference_ms") or row.reference_ms or 1.0)
    return KeptPredictor(predictor, predictor.workload or Workload(batch), scale)


def predict(store: Store, name: str, text: str) -> dict[str, Any]:
    """The latency of a model on a registered device, by the predictor that is kept with it.

    Raises NotFoundError for an unknown device or model, and for a device without such a predictor; UsageError
    for a model that cannot be traced, or one that this host cannot build.
    """
    row = store.device(name)
    kept = kept_predictor(store, row)
    model = named(text)
    layers = traced(model)
    cost, times = cost_of(layers), kept.predict(layers)
    return {
        "device": row.name,
        "model": model.name,
        "input_shape": list(model.input_shape),
        "batch": kept.workload.batch,
        "params": cost.params,
        "macs": cost.macs,
        "predicted_ms": times["predicted_ms"],
        "std_ms": times["std_ms"],
        "interval_ms": [times["predicted_low_ms"], times["predicted_high_ms"]],
        "models": kept.predictor.count,
        "left_out_error": kept.predictor.error,
    }


def traced(model: Named) -> list[Layer]:
    """The layers of a model; its weights are not made. Raises UsageError where it cannot be traced."""
    try:
        with torch.device("meta"):
            network = model.build()
    except (RuntimeError, NotImplementedError):  # what it computes when it is made needs numbers
        network = model.build()
    try:
        return layers_of(network, model.example(1))
    except UsageError as error:
        raise UsageError(f"'{model.name}': {error.message}", error.hint) from error


def _registered_here(store: Store, name: str) -> tuple[Device, DeviceRow]:
    device = registered(store, name)
    if isinstance(device, RemoteDevice):
        raise UsageError(
            f"'{name}' is the device of an agent elsewhere.",
            "Register it with `nas devices add` on its machine, and fit there.",
        )
    row = store.device(name)
    if (row.options or {}).get("workload") is not None:
        raise UsageError(
            f"'{name}' runs texts of its workload, and models are measured on inputs of their own.",
            "Register a device without a workload.",
        )
    if row.reference_ms is None:
        raise UsageError(f"'{name}' has no clean time of its calibrator.", "`nas devices add` measures it.")
    return device, row


def _measured(device: Device, row: DeviceRow, model: Named, rounds: int, max_rounds: int) -> MeasuredModel:
    layers = traced(model)
    reference_ms = row.reference_ms or 1.0
    result = measure(
        device,
        {model.name: model.build},
        model.example(device.batch),
        seed=0,
        rounds=rounds,
        max_rounds=max_rounds,
        reference_ms=reference_ms,
        extras=False,
        within=within,
    )[model.name]
    if isinstance(result, Failure):
        raise JobFailedError(f"it could not be measured: {result.reason}.")
    times = result.latency_ms / reference_ms, (result.spread_ms or 0.0) / reference_ms
    return MeasuredModel(model.name, model.input_shape, *times, tuple(layers))


def _fitted(
    store: Store,
    row: DeviceRow,
    device: Device,
    measured: Sequence[MeasuredModel],
    source: dict[str, Any] | None,
) -> OfLayers:
    precision = str((row.options or {}).get("precision", "fp32"))
    on_cpu = str((row.options or {}).get("backend", "")).endswith(("_cpu", "_compile"))
    return fit_layers(
        [one.layers for one in measured],
        [one.calibrators * (row.reference_ms or 1.0) for one in measured],
        workload=Workload(device.batch, BYTES.get(precision, 4)),
        source=source,
        cache_bytes=last_cache_bytes() if on_cpu else None,
    )


def _summary(
    row: DeviceRow,
    device: Device,
    measured: Sequence[MeasuredModel],
    predictor: OfLayers,
    failures: list[dict[str, str]],
) -> dict[str, Any]:
    reference_ms = row.reference_ms or 1.0
    return {
        "device": row.name,
        "batch": device.batch,
        "models": [
            {
                "model": one.name,
                "measured_ms": one.calibrators * reference_ms,
                "spread_ms": one.spread * reference_ms,
            }
            for one in measured
        ],
        "failures": failures,
        "left_out_error": predictor.error,
        "interval": predictor.intervals.half_width,
        "why": predictor.why,
    }


def _keep(
    store: Store, row: DeviceRow, measured: Sequence[MeasuredModel], predictor: dict[str, Any] | None
) -> None:
    models = [
        {
            "name": one.name,
            "input_shape": list(one.input_shape),
            "calibrators": one.calibrators,
            "spread": one.spread,
            "layers": [list(asdict(layer).values()) for layer in one.layers],
        }
        for one in measured
    ]
    data = {"version": VERSION, "layer": [f.name for f in fields(Layer)], "models": models}
    store.put_device_file(row, json.dumps(data | {"predictor": predictor}))


def _kept(store: Store, row: DeviceRow) -> dict[str, Any]:
    """What is kept of the device; nothing of another version. Raises DamagedError."""
    path = store.device_file(row)
    if path is None:
        return {}
    with suppress(ValueError, OSError):
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("version") == VERSION:
            return data
    return {}


def _kept_whole(store: Store, row: DeviceRow, progress: Progress) -> dict[str, Any]:
    """The same; nothing, with a warning, of a damaged file."""
    try:
        return _kept(store, row)
    except DamagedError as error:
        progress.warn(f"What was kept of '{row.name}' is measured anew: {error.message}")
        return {}


def _kept_models(data: dict[str, Any]) -> Iterator[MeasuredModel]:
    if data.get("layer") != [f.name for f in fields(Layer)]:
        return
    for one in data["models"]:
        layers = tuple(_layer(values) for values in one["layers"])
        times = float(one["calibrators"]), float(one["spread"])
        yield MeasuredModel(str(one["name"]), tuple(one["input_shape"]), *times, layers)


def _layer(values: list[Any]) -> Layer:
    by_name = dict(zip((f.name for f in fields(Layer)), values, strict=True))
    return Layer(**by_name | {"shape": tuple(by_name["shape"])})


def _kept_predictor(store: Store, row: DeviceRow) -> dict[str, Any]:
    data = _kept(store, row).get("predictor")
    if not isinstance(data, dict):
        raise NotFoundError(
            f"Device '{row.name}' has no predictor of models.", f"`nas devices fit {row.name}` makes one."
        )
    return data

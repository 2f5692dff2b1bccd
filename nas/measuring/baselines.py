"""Stage `baselines`: reference networks on the job's report split and on its devices, beside the front."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from nas.datasets import DataSet, task_of
from nas.errors import JobFailedError
from nas.evaluation.qualities import qualities_of
from nas.evaluation.tasks import batch_of
from nas.job_run import Run
from nas.measuring import remote
from nas.measuring.models.fitted import kept_predictor
from nas.measuring.remote import RemoteDevice
from nas.measuring.requests import NetworkPlan, request_for
from nas.measuring.subnets import build_device, progress
from nas.results.baselines import BASELINES
from nas.results.job_devices import PREDICTED
from nas.spaces.baselines import Baseline, costs, load_baselines
from nas.spaces.preprocessing import prepared
from nas.watchdog import within
from predictors import layers_of
from predictors.devices import Device
from predictors.measurement.plausibility import plausible
from predictors.measurement.rounds import Failure, Measurement, measure
from search_spaces.errors import NASError, NotFoundError, UsageError

UNTOLD = "it is no model by a name of timm's own and no network of ours, so another host cannot build it"


def baselines(run: Run, data: DataSet) -> None:
    """Evaluates and measures the reference networks of the job file, or finds it done.

    What cannot be evaluated or measured is told with its reason. Raises UsageError for one that is gone, or
    does not take the job's inputs.
    """
    if run.config.baselines:
        sections = [one.model_dump(mode="json") for one in run.config.baselines]
        run.once(BASELINES, {BASELINES: sections}, lambda: {BASELINES: _told(run, data)})


def _told(run: Run, data: DataSet) -> list[dict[str, Any]]:
    networks = load_baselines(prepared(run.config), data)
    rows: list[dict[str, Any]] = []
    for network in networks:
        run.check_stop()
        if network.unfit is not None:
            run.warn(f"Baseline '{network.name}' is measured, not evaluated: {network.unfit}.")
        rows.append(
            {"name": network.name, **costs(network.module, tuple(data.input_shape)), "unfit": network.unfit}
            | {"quality": None if network.unfit else _qualities(run, network, data), "latencies": []}
        )
    for name in run.config.devices:
        for row, latency in zip(rows, measured_on(run, name, networks, data), strict=True):
            row["latencies"].append(latency)
    return rows


def _qualities(run: Run, network: Baseline, data: DataSet) -> dict[str, dict[str, Any]]:
    """Each quality on the report split with its standard error, by its name."""
    scores, task = [], task_of(data)
    with torch.inference_mode():
        for x, targets in data.batches("report", batch_of(data)):
            run.check_stop()
            scores.append(task.scores(network.classifier(x), targets))
    qualities = qualities_of(torch.cat(scores), data, "report")
    return {
        name: {"value": one.value, "stderr": one.stderr, "count": one.count}
        for name, one in qualities.items()
    }


def measured_on(run: Run, name: str, networks: list[Baseline], data: DataSet) -> list[dict[str, Any]]:
    """What measuring each of them on the device of this name came to."""
    device = build_device(run, name)
    if isinstance(device, RemoteDevice):
        row_id, results = device.row.id, _timed_elsewhere(run, device, networks, data)
    else:
        row_id = run.store.register_device(device.name, device.fingerprint()).id
        results = _timed(run, device, row_id, networks, data)
    rows: list[dict[str, Any]] = []
    for place, (network, predicted) in enumerate(
        zip(networks, _predicted(run, row_id, networks, data), strict=True)
    ):
        result, row = results[str(place)], {"device": name, "device_id": row_id, **predicted}
        if isinstance(result, Failure):
            run.warn(f"Baseline '{network.name}' could not be measured on '{name}': {result.reason}")
            rows.append(row | {"reason": result.reason})
        else:
            times = {"measured_ms": result.latency_ms, "spread_ms": result.spread_ms}
            times |= {"peak_memory_bytes": result.peak_memory_bytes, "energy_mj": result.energy_mj}
            rows.append(row | times)
    return rows


def _predicted(run: Run, row_id: int, networks: list[Baseline], data: DataSet) -> list[dict[str, float]]:
    """What the device's predictor of any model says of each; nothing where there is none, or of no such one.

    The job's own predictor is not asked: its interval is that of its space, which these are not of.
    """
    row = next(one for one in run.store.devices() if one.id == row_id)
    predicted: list[dict[str, float]] = [{} for _ in networks]
    try:
        kept = kept_predictor(run.store, row)
    except NotFoundError:
        return predicted
    except NASError as error:
        run.warn(f"Baselines are not predicted on '{row.name}': {error.message}")
        return predicted
    for place, network in enumerate(networks):
        try:
            times = kept.predict(layers_of(network.module, torch.zeros(1, *data.input_shape)))
        except UsageError as error:
            run.warn(f"Baseline '{network.name}' is not predicted: {error.message}")
            continue
        predicted[place] = {key: times[key] for key in PREDICTED}
    return predicted


def _timed(
    run: Run, device: Device, row_id: int, networks: list[Baseline], data: DataSet
) -> Mapping[str, Measurement | Failure]:
    """Under the clean time of the device's calibrator that the sample has: both compare."""
    return measure(
        device,
        {str(place): partial(_module, network) for place, network in enumerate(networks)},
        torch.zeros(device.batch, *data.input_shape),
        seed=run.config.seed,
        rounds=run.config.predictor.rounds,
        max_rounds=run.config.predictor.max_rounds,
        reference_ms=run.store.reference(row_id),
        progress=partial(progress, run),
        within=partial(within, device_id=row_id),
    )


def _timed_elsewhere(
    run: Run, device: RemoteDevice, networks: list[Baseline], data: DataSet
) -> Mapping[str, Measurement | Failure]:
    """By the device's agent, which builds each from what it is, without its weights."""
    results: dict[str, Measurement | Failure] = {
        str(place): Failure(UNTOLD) for place, network in enumerate(networks) if network.described is None
    }
    plan = NetworkPlan(
        {str(place): one.described for place, one in enumerate(networks) if one.described is not None},
        tuple(data.input_shape),
        seed=run.config.seed,
        rounds=run.config.predictor.rounds,
        max_rounds=run.config.predictor.max_rounds,
        reference_ms=run.store.reference(device.row.id),
    )
    if not plan.networks:
        return results
    request = request_for(plan)
    try:
        answer = remote.measure(
            run.store, run.lease, device, request, warn=run.warn, check_stop=run.check_stop
        )
    except JobFailedError as error:  # a front is worth more than its reference networks
        return results | {key: Failure(error.message) for key in plan.networks}
    reference_ms = run.store.reference(device.row.id)
    return results | {
        key: plausible(one.under(reference_ms)) if isinstance(one, Measurement) and reference_ms else one
        for key, one in answer.items()
    }


def _module(network: Baseline) -> torch.nn.Module:
    return network.module

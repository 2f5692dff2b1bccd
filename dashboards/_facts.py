"""What is known of one subnet, as names and values for its panel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dash import dcc

from dashboards._look import amount, is_number, milliseconds, quality
from dashboards._pages import device_link, text_or_dash
from dashboards.figures import front_rows
from nas.store import Job, Store, frames, job_devices
from nas.store.frames import PREDICTED, RETRAINED

MIB = 2**20
UNKNOWN = "not available"
Figures = list[tuple[str, Any]]


@dataclass(frozen=True)
class Facts:
    """Where a subnet stands, names and values of what is known, its architecture."""

    place: str
    figures: Figures
    architecture: dict[str, Any]


def subnet_facts(store: Store, job: Job, key: str, device_id: int | None = None) -> Facts | None:
    """The facts of the job's subnet with this key on a device, by default its own; None without any."""
    finalists = frames.finalists(store, job, device_id)
    searched = frames.evaluations(store, job, device_id, key=key)
    final, tried = finalists[finalists["subnet"] == key], searched[searched["subnet"] == key]
    own = job_devices.own_device(store, job)
    shown = own if device_id is None else device_id
    if not final.empty:
        row = final.to_dict("records")[0]
        place = "On the front" if key in set(front_rows(finalists)["subnet"]) else _BEATEN
        return Facts(place, [*_finalist(row), *_sizes(row), _device(row, shown)], row["architecture"])
    if tried.empty:
        return None
    row = tried.to_dict("records")[0]
    timed = _measured(store, job, key, shown)
    place = (
        _SEARCHED if timed is None else "Seen by the search and measured, not evaluated on the report split"
    )
    told = [(f"{row['metric']}, search split", quality(row["value"], row["stderr"], row["metric"]))]
    searched_on = (own, *job_devices.searched_for(store, job).values())
    predicted = {name: row.get(name) for name in PREDICTED} if shown in searched_on else {}
    if shown in searched_on and not is_number(predicted.get("predicted_ms")):
        predicted["predicted_ms"] = row.get("latency_ms")
    told += _latency(timed, predicted)
    return Facts(
        place, [*told, *_sizes(row), *([_device(timed, shown)] if timed else [])], row["architecture"]
    )


_BEATEN = "A finalist that another one beats"
_SEARCHED = "Seen by the search only: neither measured nor evaluated on the report split"


def _finalist(row: Mapping[str, Any]) -> Figures:
    return [
        (f"{row['metric']}, report split", quality(row["quality"], row["stderr"], row["metric"])),
        *(
            (f"{row['metric']}, {words}", quality(row[weights], row[f"{weights}_stderr"], row["metric"]))
            for weights, words in RETRAINED.items()
            if is_number(row[weights])
        ),
        (f"{row['metric']}, search split", quality(row["search_quality"], None, row["metric"])),
        *_latency({**row, "memory_bytes": row["peak_memory_bytes"]}, row),
    ]


def _latency(measured: Mapping[str, Any] | None, predicted: Mapping[str, Any]) -> Figures:
    """Latency as measured and as predicted, with the interval of the prediction; memory, energy."""
    low, high = (predicted.get(name) for name in PREDICTED[1:])
    between, outside, value = UNKNOWN, "", (measured or {}).get("measured_ms")
    if is_number(low) and is_number(high):
        between = f"{low:.3g} to {milliseconds(high)}"
        outside = ", outside the interval" if is_number(value) and not low <= value <= high else ""
    told: Figures = [
        ("latency, predicted", milliseconds(predicted.get("predicted_ms"))),
        ("90 % interval of it", between),
    ]
    if measured is None:
        return told
    shown = milliseconds(value, measured["spread_ms"]) if is_number(value) else UNKNOWN
    memory, energy = measured["memory_bytes"], measured["energy_mj"]
    return [
        ("latency, measured", f"{shown}{outside}"),
        *told,
        ("peak memory, measured", f"{memory / MIB:,.1f} MiB" if is_number(memory) else UNKNOWN),
        ("energy, measured", f"{energy:.3g} mJ" if is_number(energy) else UNKNOWN),
    ]


def _measured(store: Store, job: Job, key: str, device_id: int | None) -> dict[str, Any] | None:
    """The subnet's latest measurement on the device that did not fail."""
    rows = frames.measured(store, job)
    rows = rows[(rows["subnet"] == key) & (rows["device_id"] == device_id) & (rows["state"] == "ok")]
    return None if rows.empty else dict(rows.to_dict("records")[-1])


def _sizes(row: Mapping[str, Any]) -> Figures:
    return [
        ("parameters", f"{amount(row['params'])} ({row['params']:,})"),
        ("MACs", f"{amount(row['macs'])} ({row['macs']:,})"),
    ]


def _device(row: Mapping[str, Any], device_id: int | None) -> tuple[str, Any]:
    name = text_or_dash(row["device"])
    return "device", name if device_id is None else dcc.Link(name, href=device_link(device_id))

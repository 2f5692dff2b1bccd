"""The finalists of several jobs in one frame, with every quantity that may be an axis or have a limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nas.limits import ACCURACY, is_share, kind_of
from nas.results import frames, job_devices, latency_frames
from nas.results.baselines import Baseline, baselines
from nas.results.comparing.box import BEYOND, Boxed
from nas.results.comparing.comparability import check_comparable
from nas.store import Job, Store
from search_spaces.errors import UsageError

QUALITY = "quality"
LATENCY, PEAK, ENERGY = "latency", "peak_memory", "energy"  # of devices: behind @ stands the device's id
OF_DEVICES = {LATENCY: "measured_ms", PEAK: "peak_memory_bytes", ENERGY: "energy_mj"}
POINTS = ["job_id", "job", "subnet", "family", "architecture", "metric", QUALITY, "stderr", "search_quality"]
POINTS += ["params", "macs", "memory_bytes"]


@dataclass(frozen=True)
class Quantity:
    """What subnets differ by, as a column of `points`.

    sign: what makes values ones of which the greater is better.  is_share: whether it is told in percent.
    error: the column of its error, if it has one.
    """

    key: str
    title: str
    unit: str
    sign: float = -1.0
    is_share: bool = False
    error: str | None = None

    @property
    def device_id(self) -> int | None:
        """Of which device it is; None for what needs none."""
        _, at, device = self.key.partition("@")
        return int(device) if at else None


@dataclass(frozen=True, eq=False)
class Comparable:
    """Finalists of jobs that compare.

    rows: one a subnet of a job; columns POINTS, and those of `quantities` by their keys.
    refused: by the name of a job why it is not here.  jobs: the others.
    """

    rows: pd.DataFrame
    quantities: tuple[Quantity, ...]
    metric: str
    refused: Mapping[str, str]
    jobs: tuple[Job, ...]

    def quantity(self, key: str, default: int = 0) -> Quantity:
        """That of the key, or else the one at a place."""
        last = len(self.quantities) - 1
        return next((one for one in self.quantities if one.key == key), self.quantities[min(default, last)])


def comparable(store: Store, jobs: Sequence[Job]) -> Comparable:
    """The finalists of the jobs, without those jobs that do not compare with the first one.

    Latencies of different devices are different quantities, so that jobs measured elsewhere only lack them.
    """
    refused: dict[str, str] = {}
    kept: list[Job] = []
    for job in jobs:
        try:
            check_comparable(store, [*kept[:1], job], ())
        except UsageError as error:
            refused[job.name] = error.message
            continue
        kept.append(job)
    parts = [points(store, job) for job in kept]
    for job, part in zip(kept, parts, strict=True):
        if part.empty:
            refused[job.name] = f"'{job.name}' has no finalist yet: nothing is known on the report split."
    rows = (
        pd.concat([part for part in parts if len(part)], ignore_index=True)
        if any(map(len, parts))
        else parts[0]
    )
    metric = str(kept[0].config.get("quality", ACCURACY))
    everything = quantities(store, kept, metric)
    shown = [one for one in everything if one.key in rows and rows[one.key].notna().any()]
    return Comparable(rows, tuple(shown), metric, refused, tuple(kept))


def networks(store: Store, jobs: Sequence[Job], axes: Sequence[Quantity]) -> pd.DataFrame:
    """The reference networks of jobs, with these quantities by their keys; what is not known is missing."""
    rows = []
    for job in jobs:
        on = {one.device_id: baselines(store, job, one.device_id) for one in axes}
        for place, network in enumerate(next(iter(on.values()))):
            row: dict[str, Any] = {"baseline": network.name, "job": job.name}
            row |= {"metric": network.metric, "stderr": network.stderr}
            rows.append(row | {one.key: _of_network(on[one.device_id][place], one) for one in axes})
    return pd.DataFrame(rows, columns=["baseline", "job", "metric", "stderr", *(one.key for one in axes)])


def _of_network(network: Baseline, quantity: Quantity) -> float | None:
    name = OF_DEVICES.get(quantity.key.partition("@")[0], quantity.key)
    value: float | None = getattr(network, name, None)
    return value


def points(store: Store, job: Job) -> pd.DataFrame:
    """The finalists of one job, one row each; of devices the columns that are known."""
    measured = latency_frames.measured_on(store, job)
    devices = [int(device_id) for device_id in measured["device_id"]]
    base = frames.finalists(store, job).drop_duplicates("subnet").set_index("subnet")
    memory = {
        e.subnet.key: e.objectives.get("memory_bytes")
        for e in store.evaluations(job, "search", reported=True)
    }
    rows = base[["architecture", "metric", QUALITY, "stderr", "search_quality", "params", "macs"]].copy()
    rows = rows.assign(
        job_id=job.id, job=job.name, family=_family(store, job), memory_bytes=rows.index.map(memory)
    )
    rows["family"] = base["family"].fillna(rows["family"])
    for device_id in devices:
        on = frames.finalists(store, job, device_id).drop_duplicates("subnet").set_index("subnet")
        rows[f"{LATENCY}@{device_id}"] = (
            on["measured_ms"].astype(float).fillna(on["predicted_ms"].astype(float))
        )
        rows[f"is_predicted@{device_id}"] = on["measured_ms"].isna()
        rows[f"spread@{device_id}"] = on["spread_ms"].astype(float)
        rows[f"{PEAK}@{device_id}"] = on["peak_memory_bytes"].astype(float)
        rows[f"{ENERGY}@{device_id}"] = on["energy_mj"].astype(float)
    numbers = [QUALITY, "stderr", "search_quality", "params", "macs", "memory_bytes"]
    rows[numbers] = rows[numbers].astype(float)
    others = [name for name in rows.columns if name not in POINTS]
    return rows.reset_index()[[*POINTS, *others]]


def quantities(store: Store, jobs: Sequence[Job], metric: str) -> list[Quantity]:
    """All that subnets of these jobs may differ by: quality, then latency on each device, then costs."""
    names = {device.id: device.name for device in store.devices()}
    for job in reversed(jobs):
        names |= job_devices.device_names(store, job)
    ids = dict.fromkeys(
        int(row) for job in jobs for row in latency_frames.measured_on(store, job)["device_id"]
    )
    called = {
        i: names[i] if [names[j] for j in ids].count(names[i]) == 1 else f"{names[i]} ({i})" for i in ids
    }
    kind, words = kind_of(metric), metric.replace("_", " ")
    listed = [Quantity(QUALITY, words, "", kind.sign, is_share(metric), "stderr")]
    listed += [
        Quantity(f"{LATENCY}@{i}", f"latency on {name}", "ms", error=f"spread@{i}")
        for i, name in called.items()
    ]
    listed += [Quantity("params", "parameters", ""), Quantity("macs", "MACs", "")]
    listed += [Quantity("memory_bytes", "memory of weights and activations", "B")]
    listed += [Quantity(f"{PEAK}@{i}", f"peak memory on {name}", "B") for i, name in called.items()]
    listed += [Quantity(f"{ENERGY}@{i}", f"energy on {name}", "mJ") for i, name in called.items()]
    return listed


def of_front(rows: pd.DataFrame, axes: Sequence[Quantity]) -> pd.Series:
    """Whether no other row is as good in all of these quantities and better in one; not with one missing."""
    losses = np.column_stack([-one.sign * rows[one.key].to_numpy(dtype=float) for one in axes])
    whole = ~np.isnan(losses).any(axis=1)
    kept = np.zeros(len(rows), dtype=np.bool_)
    for i in np.flatnonzero(whole):
        apart = losses[whole] - losses[i]
        kept[i] = not ((apart <= 0).all(axis=1) & (apart < 0).any(axis=1)).any()
    return pd.Series(kept, index=rows.index)


def boxed(rows: pd.DataFrame, axes: Sequence[Quantity], metric: str) -> Boxed:
    """Rows of fronts, none with a missing value, in the box that they share.

    Its best corner is the best quality at no cost, its worst one the worst quality that counts (of an
    accuracy 0) and 1.1 times the greatest cost.
    """
    columns = [_loss(rows[one.key].to_numpy(dtype=float), one, metric) for one in axes]
    place = next((i for i, one in enumerate(axes) if one.key == QUALITY), 0)
    errors = np.zeros(len(rows))
    if axes[place].key == QUALITY:
        kind = kind_of(metric)
        errors = rows["stderr"].fillna(0.0).to_numpy(dtype=float) / abs(kind.best - kind.worst)
    keys = list(zip(rows["subnet"], rows[QUALITY], rows["stderr"].fillna(0.0), strict=True))
    jobs = list(dict.fromkeys(rows["job_id"]))
    return Boxed(
        columns[place],
        errors,
        np.column_stack([column for i, column in enumerate(columns) if i != place]),
        np.array([keys.index(key) for key in keys]),
        np.array([jobs.index(job) for job in rows["job_id"]]),
    )


def _loss(values: Any, quantity: Quantity, metric: str) -> Any:
    if quantity.key == QUALITY:
        kind = kind_of(metric)
        return (kind.best - values) / (kind.best - kind.worst)
    return values / (BEYOND * (values.max() or 1.0))


def _family(store: Store, job: Job) -> str:
    stage = store.stage(job, "space")
    return str(((stage and stage.result) or {}).get("space", {}).get("family") or "")


def differences(configs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The fields in which job files differ, a row each: field, and a column for each job by its name.

    A field that one does not have is missing there.
    """
    flat = {job: dict(_fields(config)) for job, config in configs.items()}
    names = dict.fromkeys(name for fields in flat.values() for name in fields)
    rows = [{"field": name, **{job: fields.get(name) for job, fields in flat.items()}} for name in names]
    differing = [row for row in rows if any(row[job] != row[next(iter(flat))] for job in flat)]
    return pd.DataFrame(differing, columns=["field", *flat], dtype=object)


def _fields(value: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Dotted names and plain values; a list is one value."""
    return [
        field
        for name, inside in value.items()
        for field in (
            _fields(inside, f"{before}{name}.")
            if isinstance(inside, Mapping) and inside
            else [(f"{before}{name}", inside)]
        )
    ]

"""The reference networks of jobs, as fronts, tables and figures show them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from nas.results import job_devices
from nas.store import Job, Store

BASELINES = "baselines"  # the stage, and what its result has
COLUMNS = ["job", "baseline", "params", "macs", "metric", "quality", "stderr", "measured_ms", "spread_ms"]

TIMES = ("measured_ms", "spread_ms", "peak_memory_bytes", "energy_mj", *job_devices.PREDICTED)


@dataclass(frozen=True, slots=True)
class Baseline:
    """One network that is in no space: what is not known of it is None.

    quality, stderr: on the report split.  qualities: all that were told, by their names.
    unfit: why it has none.  device: whose latency it tells.  unmeasured: why it has none.
    predicted_ms, predicted_low_ms, predicted_high_ms: by the device's predictor of any model, if it had one.
    tokens_a_run: as of a member.
    """

    job: str
    name: str
    params: int
    macs: int
    metric: str
    quality: float | None
    stderr: float | None
    qualities: Mapping[str, float | None]
    unfit: str | None
    device: str | None
    measured_ms: float | None
    spread_ms: float | None
    peak_memory_bytes: float | None = None
    energy_mj: float | None = None
    unmeasured: str | None = None
    predicted_ms: float | None = None
    predicted_low_ms: float | None = None
    predicted_high_ms: float | None = None
    tokens_a_run: int | None = None

    @property
    def row(self) -> dict[str, Any]:
        """As the row of a member, of which columns are read."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "name"}
        return (
            fields
            | dict(self.qualities)
            | {"subnet": self.name, "on_devices": (), "search_quality": None, "architecture": None}
        )

    def told(self, name: str) -> float | None:
        """A quantity by its name in limits; latency as measured."""
        if name in self.qualities:
            return self.qualities[name]
        value: float | None = getattr(self, "measured_ms" if name == "latency_ms" else name, None)
        return value

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `nas front --json`."""
        quality = {"metric": self.metric, "value": self.quality, "stderr": self.stderr}
        latency: dict[str, Any] = {"device": self.device}
        latency |= {"measured_ms": self.measured_ms, "spread_ms": self.spread_ms}
        if self.predicted_ms is not None:
            interval = [self.predicted_low_ms, self.predicted_high_ms]
            latency |= {"predicted_ms": self.predicted_ms, "interval_ms": interval}
        return {
            "job": self.job,
            "baseline": self.name,
            "params": self.params,
            "macs": self.macs,
            "quality": quality | ({"reason": self.unfit} if self.unfit else {}),
            "latency": latency | ({"reason": self.unmeasured} if self.unmeasured else {}),
        }


def baselines(store: Store, job: Job, device_id: int | None = None) -> list[Baseline]:
    """Those of a job, with latencies on the device with this id, by default its own first one."""
    stage = store.stage(job, BASELINES)
    if stage is None or stage.state != "done":
        return []
    asked = job_devices.own_device(store, job) if device_id is None else device_id
    metric = str(job.config.get("quality", "accuracy"))
    tokens = job_devices.tokens_a_run(store, job, asked)
    return [replace(_baseline(job, row, metric, asked), tokens_a_run=tokens) for row in stage.told(BASELINES)]


def _baseline(job: Job, row: dict[str, Any], metric: str, device_id: int | None) -> Baseline:
    qualities = row["quality"] or {}
    values = {name: one["value"] for name, one in qualities.items()}
    latency: dict[str, Any] = next((one for one in row["latencies"] if one.get("device_id") == device_id), {})
    return Baseline(
        job=job.name,
        name=row["name"],
        params=row["params"],
        macs=row["macs"],
        metric=metric,
        quality=values.get(metric),
        stderr=qualities.get(metric, {}).get("stderr"),
        qualities=values,
        unfit=row["unfit"],
        device=latency.get("device"),
        **{name: latency.get(name) for name in TIMES},
        unmeasured=latency.get("reason", None if latency else "it was not measured on this device"),
    )


def frame(networks: Iterable[Baseline], cost: str = "latency_ms") -> pd.DataFrame:
    """One row a baseline, for figures; the cost under its name, too."""
    rows = [{**one.row, "baseline": one.name, cost: one.told(cost)} for one in networks]
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*COLUMNS, cost])))

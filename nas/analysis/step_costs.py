"""What a step of decoding costs networks of a job: as measured or predicted on a device, or in exact MACs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.analysis.explanation import predicted_device
from nas.measuring.latency import stored_predictor
from nas.results import job_devices
from nas.store import Device, Job, Store
from predictors.predictor import Predictor
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.workloads import as_run, tokens_of


@dataclass(frozen=True, eq=False)
class StepCosts:
    """Of the architectures of a space.

    device: the job's name for the one whose latencies count; None: it is MACs that count.
    context: tokens of the text whose last one is run.
    measured: milliseconds there, by the keys of the subnets that were measured.
    """

    space: SearchSpace
    device: str | None
    context: int
    predictor: Predictor | None = None
    measured: Mapping[str, float] | None = None

    @property
    def name(self) -> str:
        """What is counted."""
        return "macs" if self.device is None else "latency_ms"

    def share(self, arch: Architecture, of: Architecture) -> float:
        """What one costs in terms of another, as predicted, or exactly."""
        ours, theirs = (self._of(one) for one in (arch, of))
        return ours / theirs

    def measured_share(self, arch: Architecture, of: Architecture) -> float | None:
        """The same as measured; None unless both were."""
        times = self.measured or {}
        return times[arch.key] / times[of.key] if {arch.key, of.key} <= times.keys() else None

    def _of(self, arch: Architecture) -> float:
        if self.predictor is None:
            return float(self.space.cost(arch).macs)
        return float(self.predictor.predict(self.space.encode([arch]))[0][0])


def step_costs(store: Store, job: Job, space: SearchSpace, *, device: str | None, context: int) -> StepCosts:
    """Those on a device that runs steps of decoding, by default the first of the job's; without any, MACs.

    space: the job's.  context: of the step whose MACs are counted, where there is no device.
    Raises NotFoundError for a device for which the job has no latency predictor, UsageError for one that runs
    whole texts, and for networks that are run on images.
    """
    chosen = _device(store, job, device)
    if chosen is None:
        return StepCosts(as_run(space, {"decode": {"context": context}}), None, context)
    row, name = chosen
    predictor = stored_predictor(store, job, space, row)
    assert predictor is not None, "predicted_device has found it"
    on_device = [m for m in store.measurements(job, "finalist") if m.device_id == row.id]
    measured = {m.subnet.key: m.result.latency_ms for m in on_device}
    return StepCosts(space, name, tokens_of(row.fingerprint["workload"])[0], predictor, measured)


def _device(store: Store, job: Job, name: str | None) -> tuple[Device, str] | None:
    if name is not None:
        row, called = predicted_device(store, job, name)
        if not _runs_steps(row.fingerprint):
            raise UsageError(
                f"Device '{called}' runs whole texts, and a draft saves steps of decoding.",
                "Name one with `workload: {decode: ...}`; without --device and any such MACs are counted.",
            )
        return row, called
    rows = {row.id: row for row in store.devices()}
    for called, device_id in job_devices.searched_for(store, job).items():
        if _runs_steps(rows[device_id].fingerprint) and store.predictor(job, device_id) is not None:
            return rows[device_id], called
    return None


def _runs_steps(fingerprint: Mapping[str, Any]) -> bool:
    workload = fingerprint.get("workload")
    return workload is not None and tokens_of(workload)[1]

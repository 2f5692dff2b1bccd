"""The Pareto front of one job or of several, read from the store.

Its members are the finalists: chosen on the search split, reported with a quality on the report split and a
latency measured on the device. Choosing and reporting on different images keeps the reported qualities free
of the winner's luck.
"""

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from nas._members import Member, by_latency, by_quality, check_known, nondominated
from nas._members import members as members_of
from nas.agreement import FEWEST, Agreement, agreement
from nas.conditions import Condition, on_device, split
from nas.store import Job, Store, job_devices
from nas.store.frames import RETRAINED
from search_spaces._errors import NotFoundError, UsageError, did_you_mean

MAXIMISED = ("accuracy",)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class ParetoFront:
    """The members, the fastest first, and how they were found; `hypervolume` is that of one job's search.

    Of one objective, the quality, the best comes first. device: whose latencies the members tell.
    """

    jobs: tuple[str, ...]
    objectives: tuple[str, ...]
    device: str | None
    hypervolume: float | None
    evaluations: int
    members: tuple[Member, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `nas front --json`; with several jobs each member names its own."""
        several = len(self.jobs) > 1
        agreements = {name: found.to_dict() for name, found in self.agreements().items()}
        return {
            "job": ", ".join(self.jobs),
            "objectives": [self._objective(name) for name in self.objectives],
            "hypervolume": self.hypervolume,
            "evaluations": self.evaluations,
            **({"rank_correlation": agreements} if agreements else {}),
            "front": [({"job": member.job} if several else {}) | member.to_dict() for member in self.members],
        }

    def agreements(self) -> dict[str, Agreement]:
        """How far inherited qualities put the retrained members in their order, by what they began with.

        Only with three members that were retrained alike; of several jobs the mean over those.
        """
        found = {}
        for weights in RETRAINED:
            groups = [_pairs([m for m in self.members if m.job == job], weights) for job in self.jobs]
            told = agreement([group for group in groups if len(group[0]) >= FEWEST])
            if told is not None:
                found[weights] = told
        return found

    def _objective(self, name: str) -> dict[str, Any]:
        metric, device = split(name)
        objective = {"name": metric, "goal": "max" if metric in MAXIMISED else "min"}
        if device is None and metric == "latency_ms":
            device = self.device
        return objective | ({"device": device} if device or metric == "latency_ms" else {})

    def to_pandas(self) -> pd.DataFrame:
        """One row a member, in their order; columns are the fields of `Member`.

        With several devices `predicted_ms@NAME` and `measured_ms@NAME` of each stand for `on_devices`.
        """
        names = [field.name for field in fields(Member) if field.name != "on_devices"]
        rows = [
            {name: getattr(member, name) for name in names}
            | {
                on_device(name, str(one.device)): getattr(one, name)
                for one in member.on_devices
                for name in ("predicted_ms", "measured_ms")
            }
            for member in self.members
        ]
        others = dict.fromkeys(name for row in rows for name in row if name not in names)
        return pd.DataFrame(rows, columns=[*names, *others])

    def to_csv(self) -> str:
        """The frame as CSV: architectures as JSON, and no text that a spreadsheet would run as a formula."""
        frame = self.to_pandas()
        frame["architecture"] = [json.dumps(architecture) for architecture in frame["architecture"]]
        text = ["job", "subnet", "architecture", "metric", "device"]
        frame[text] = frame[text].map(_without_formula)
        csv: str = frame.to_csv(index=False, lineterminator="\n")
        return csv

    def knee(self) -> Member:
        """The member farthest above the line between the fastest and the best one; of one objective the best.

        Log-latency and quality are normalised to the unit box of the non-dominated members; of equals the
        fastest. Raises NotFoundError for an empty front.
        """
        best = nondominated([member for member in self.members if member.latency_ms is not None])
        if not best:
            raise NotFoundError(
                f"There is no front of {self._name} yet.", "`nas show JOB` tells how far it is."
            )
        if len(self.objectives) == 1:
            return self.select()
        points = np.array([(math.log(member.latency_ms or math.nan), member.quality) for member in best])
        span = np.ptp(points, axis=0)
        x, y = ((points - points.min(axis=0)) / np.where(span > 0, span, 1)).T
        return best[int(np.argmax(np.round(y - x, 12)))]

    def select(self, *conditions: Condition) -> Member:
        """The best in quality that meets all conditions; of equals the fastest. Raises NotFoundError."""
        check_known(self.members, conditions)
        fitting = [member for member in self.members if member.meets(conditions)]
        if not fitting:
            asked = " and ".join(map(str, conditions)) or "no condition"
            raise NotFoundError(f"No subnet of the front of {self._name} meets {asked}.", self._range())
        return max(fitting, key=lambda member: member.quality)

    @property
    def _name(self) -> str:
        return " and ".join(f"'{job}'" for job in self.jobs)

    def _range(self) -> str:
        times = [member.latency_ms for member in self.members if member.latency_ms is not None]
        if not times:
            return "The front is empty: `nas show JOB` tells how far the job is."
        qualities = [member.quality for member in self.members]
        return (
            f"It spans {min(times):.3g} to {max(times):.3g} ms and "
            f"{min(qualities):.3g} to {max(qualities):.3g} {self.members[0].metric}."
        )


def front(
    store: Store, jobs: Job | Sequence[Job], *, device: str | None = None, where: Iterable[Condition] = ()
) -> ParetoFront:
    """The finalists of a job that meet the conditions; of several jobs those that no other beats.

    device: the name of one that they were measured on; by default each job's own, the first of several.
    Several jobs are compared by their quality on the search split and by their latency.
    Raises NotFoundError for a device that the jobs were not measured on, UsageError for jobs that do not
    compare.
    """
    jobs = [jobs] if isinstance(jobs, Job) else list({job.id: job for job in jobs}.values())
    assert jobs, "a front has at least one job"
    on = _devices(store, jobs, device)
    members = [m for job in jobs if job.id in on for m in members_of(store, job, on[job.id])]
    if device is not None:
        members = [member for member in members if member.device == device]
    devices = sorted({member.device for member in members if member.device})
    if len(jobs) > 1:
        _check_comparable(store, jobs, {found for found in on.values() if found is not None})
        members = nondominated(members, by_search=True)
    conditions = tuple(where)
    check_known(members, conditions)
    members = [member for member in members if member.meets(conditions)]
    objectives = tuple(jobs[0].config.get("objectives", ("accuracy", "latency_ms")))
    curves = [store.events(job, "hypervolume") for job in jobs] if len(jobs) == 1 else []
    return ParetoFront(
        jobs=tuple(job.name for job in jobs),
        objectives=objectives,
        device=device or ", ".join(devices) or next(iter(jobs[0].config.get("devices", {})), None),
        hypervolume=curves[0][-1].data.get("hypervolume") if curves and curves[0] else None,
        evaluations=sum(len(store.evaluations(job, "search")) for job in jobs),
        members=tuple(sorted(members, key=by_quality if len(objectives) == 1 else by_latency)),
    )


def _pairs(members: Iterable[Member], weights: str) -> tuple[list[float], list[float]]:
    """Inherited and retrained qualities of the members that have both."""
    both = [(m.quality, m.retrained[weights]["value"]) for m in members if weights in m.retrained]
    return [quality for quality, _ in both], [float(value or 0.0) for _, value in both]


def _devices(store: Store, jobs: Sequence[Job], name: str | None) -> dict[int, int | None]:
    """Job -> the device whose latencies count: its own, or the latest of this name that it was measured on.

    Raises NotFoundError when no job was measured on one of this name.
    """
    if name is None:
        return {job.id: job_devices.own_device(store, job) for job in jobs}
    names = {job.id: job_devices.device_names(store, job) for job in jobs}
    used = {job.id: {m.device_id for m in store.measurements(job, "finalist")} for job in jobs}
    chosen = {job: [i for i in sorted(ids) if names[job][i] == name] for job, ids in used.items()}
    if not any(chosen.values()):
        known = {names[job][i] for job, ids in used.items() for i in ids}
        words = " and ".join(f"'{job.name}'" for job in jobs)
        raise NotFoundError(f"Nothing of {words} was measured on '{name}'.", did_you_mean(name, known))
    return {job: ids[-1] for job, ids in chosen.items() if ids}


def _check_comparable(store: Store, jobs: Sequence[Job], used: Collection[int]) -> None:
    if any(job.config.get("data") != jobs[0].config.get("data") for job in jobs):
        names = " and ".join(f"'{job.name}'" for job in jobs)
        raise UsageError(
            f"The qualities of {names} do not compare: their data differ.", "Ask for one job at a time."
        )
    if len(used) > 1:
        names_by_id = {found.id: found.name for found in store.devices()}
        names = ", ".join(f"'{names_by_id[device_id]}' ({device_id})" for device_id in sorted(used))
        raise UsageError(
            f"Latencies of different devices do not compare: {names}.",
            "Choose one with --device; equal names with different fingerprints are different devices.",
        )


def _without_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value

"""The Pareto front of one job or of several, read from the store.

Its members are the finalists: chosen on the search split, reported with a quality on the report split and a
latency measured on the device. Choosing and reporting on different images keeps the reported qualities free
of the winner's luck. That is why the front of one job is not pruned: a member that another one beats on the
report split is marked. The front of several jobs is pruned, by what it shows of their members.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from nas._comparable import check_comparable
from nas._members import LIMITED, Member, beats, by_latency, by_quality, check_known, nondominated
from nas._members import members as members_of
from nas.agreement import FEWEST, Agreement, agreement
from nas.conditions import QUALITIES, Condition, on_device, split
from nas.store import Job, Store, job_devices
from nas.store.cautions import cautions
from nas.store.frames import RETRAINED
from search_spaces._errors import NotFoundError, did_you_mean

OBJECTIVES = ("accuracy", "latency_ms")  # of a job that names none
HOW_FAR = "`nas show JOB` tells how far it is."
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class ParetoFront:
    """The members, the fastest first, and how they were found; `hypervolume` is that of one job's search.

    Of one objective, the quality, the best comes first. device: whose latencies the members tell.
    decided_by: what members of several jobs are pruned by, beside their quality on the report split.
    cautions: what speaks against believing it.  without: jobs that have no finalists.
    unmet: why there are no members, where some would be there without the conditions.
    """

    jobs: tuple[str, ...]
    objectives: tuple[str, ...]
    device: str | None
    hypervolume: float | None
    evaluations: int
    members: tuple[Member, ...]
    decided_by: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    unmet: str | None = None

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
            **({"decided_by": [self.metric, *self.decided_by]} if several else {}),
            **({"cautions": list(self.cautions)} if self.cautions else {}),
            "front": [({"job": member.job} if several else {}) | member.to_dict() for member in self.members],
        }

    @property
    def metric(self) -> str:
        """What the quality is."""
        named = (name for name in self.objectives if name in QUALITIES)
        return self.members[0].metric if self.members else next(named, QUALITIES[0])

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
        objective = {"name": metric, "goal": "max" if metric in QUALITIES else "min"}
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
            raise NotFoundError(f"There is no front of {_named(self.jobs)} yet.", HOW_FAR)
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
            raise NotFoundError(*nothing_meets(self.jobs, self.members, conditions))
        return max(fitting, key=lambda member: member.quality)


def nothing_meets(
    jobs: Sequence[str], members: Sequence[Member], conditions: Sequence[Condition]
) -> tuple[str, str]:
    """That none of a front's members meets the conditions, and between what they lie."""
    if not members:
        return f"The front of {_named(jobs)} is empty.", HOW_FAR
    asked = " and ".join(map(str, conditions)) or "no condition"
    columns: dict[str, list[float | None]] = {
        "ms": [m.latency_ms for m in members],
        members[0].metric: [m.quality for m in members],
    }
    columns |= {
        name: [member.told(name) for member in members]
        for name in (condition.name for condition in conditions)
        if name in (*LIMITED, *QUALITIES) and name not in ("latency_ms", members[0].metric)
    }
    known = {name: [value for value in column if value is not None] for name, column in columns.items()}
    spans = [f"{min(told):.3g} to {max(told):.3g} {name}" for name, told in known.items() if told]
    return f"No subnet of the front of {_named(jobs)} meets {asked}.", f"It spans {' and '.join(spans)}."


def front(
    store: Store, jobs: Job | Sequence[Job], *, device: str | None = None, where: Iterable[Condition] = ()
) -> ParetoFront:
    """The finalists of a job that meet the conditions; of several jobs those that no other beats.

    device: the name of one that they were measured on; by default each job's own, the first of several.
    Several jobs are compared by what is shown of them: the quality on the report split, and the costs that
    they optimise, latency as measured where two are, or else as predicted.
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
    costs, found_in = _costs(jobs), {member.job for member in members}
    objectives = tuple(jobs[0].config.get("objectives", OBJECTIVES))
    if len(jobs) > 1:
        check_comparable(store, jobs, {found for found in on.values() if found is not None})
        members = nondominated(members, costs)
    elif len(objectives) > 1:
        members = _marked(members, costs)
    conditions, names = tuple(where), tuple(job.name for job in jobs)
    check_known(members, conditions)
    kept = [member for member in members if member.meets(conditions)]
    unmet = " ".join(nothing_meets(names, members, conditions)) if members and not kept else None
    curves = [store.events(job, "hypervolume") for job in jobs] if len(jobs) == 1 else []
    return ParetoFront(
        jobs=names,
        objectives=objectives,
        device=device or ", ".join(devices) or next(iter(jobs[0].config.get("devices", {})), None),
        hypervolume=curves[0][-1].data.get("hypervolume") if curves and curves[0] else None,
        evaluations=sum(len(store.evaluations(job, "search")) for job in jobs),
        members=tuple(sorted(kept, key=by_quality if len(objectives) == 1 else by_latency)),
        decided_by=costs if len(jobs) > 1 else (),
        cautions=_cautions(store, jobs),
        without=tuple(name for name in names if name not in found_in),
        unmet=unmet,
    )


def _costs(jobs: Iterable[Job]) -> tuple[str, ...]:
    """The costs that any of the jobs optimises, latency on the device shown; latency if none does."""
    names = [split(name)[0] for job in jobs for name in job.config.get("objectives", OBJECTIVES)]
    return tuple(dict.fromkeys(name for name in names if name not in QUALITIES)) or ("latency_ms",)


def _marked(members: Sequence[Member], costs: Sequence[str]) -> list[Member]:
    """The members, with who beats them in what is shown of both."""
    best = sorted(members, key=lambda member: -member.quality)
    return [
        replace(member, beaten_by=next((o.subnet for o in best if beats(o, member, costs)), None))
        for member in members
    ]


def _cautions(store: Store, jobs: Sequence[Job]) -> tuple[str, ...]:
    """Those of all jobs, with their names where there are several."""
    return tuple(
        f"{job.name}: {caution}" if len(jobs) > 1 else caution
        for job in jobs
        for caution in cautions(store, job)
    )


def _named(jobs: Iterable[str]) -> str:
    return " and ".join(f"'{job}'" for job in jobs)


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


def _without_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value

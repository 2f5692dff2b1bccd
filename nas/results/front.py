"""The Pareto front of one job or of several, read from the store.

Its members are the finalists: chosen on the search split, reported with a quality on the report split and a
latency measured on the device. Choosing and reporting on different examples keeps the reported qualities free
of the winner's luck. That is why the front of one job is not pruned: a member that another one beats on the
report split is marked. The front of several jobs is pruned, by what it shows of their members.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from nas.limits import QUALITIES, Limit, kind_of, on_device, split
from nas.results import frames, job_devices
from nas.results.agreement import FEWEST, Agreement, agreement
from nas.results.baselines import Baseline, baselines
from nas.results.cautions import cautions
from nas.results.columns import Column, Kind, View, asked_of_csv, columns_of
from nas.results.comparing.comparability import check_comparable, check_costs_known
from nas.results.frames import INHERITED, TRAINED
from nas.results.members import (
    LIMITED,
    Member,
    beats,
    by_latency,
    by_quality,
    check_known,
    nondominated,
    with_families,
)
from nas.results.members import members as members_of
from nas.store import Job, Store
from search_spaces.errors import NotFoundError, did_you_mean

OBJECTIVES = ("accuracy", "latency_ms")  # of a job that names none
HOW_FAR = "`nas show JOB` tells how far it is."
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class ParetoFront:
    """The members, the fastest first, and how they were found; `hypervolume` is that of one job's search.

    Of one objective, the quality, the best comes first. device: whose latencies the members tell.
    decided_by: what members of several jobs are pruned by, beside their quality on the report split.
    cautions: what speaks against believing it.  without: jobs that have no finalists.
    unmet: why there are no members, where some would be there without the limits.
    baselines: the jobs' reference networks, whatever the limits are.
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
    baselines: tuple[Baseline, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `nas front --json`; with several jobs each member names its own."""
        several = len(self.jobs) > 1
        agreements = {name: tau.to_dict() for name, tau in self.agreements().items()}
        return {
            "job": ", ".join(self.jobs),
            "objectives": [self._objective(name) for name in self.objectives],
            "hypervolume": self.hypervolume,
            "evaluations": self.evaluations,
            **({"rank_correlation": agreements} if agreements else {}),
            **({"decided_by": [self.metric, *self.decided_by]} if several else {}),
            **({"cautions": list(self.cautions)} if self.cautions else {}),
            **({"baselines": [one.to_dict() for one in self.baselines]} if self.baselines else {}),
            "front": [member.to_dict(chosen=("job",) if several else ()) for member in self.members],
        }

    @property
    def metric(self) -> str:
        """What the quality is."""
        named = (metric for metric, _ in map(split, self.objectives) if metric in QUALITIES)
        return self.members[0].metric if self.members else next(named, QUALITIES[0])

    def agreements(self) -> dict[str, Agreement]:
        """How far inherited qualities put the trained members in their order, by what the training made.

        Only with three members that were trained alike; of several jobs the mean over those.
        """
        agreements = {}
        for weights in TRAINED:
            groups = [_pairs([m for m in self.members if m.job == job], weights) for job in self.jobs]
            mean = agreement([group for group in groups if len(group[0]) >= FEWEST])
            if mean is not None:
                agreements[weights] = mean
        return agreements

    def _objective(self, name: str) -> dict[str, Any]:
        metric, device = split(name)
        objective = {"name": metric, "goal": kind_of(metric).goal if metric in QUALITIES else "min"}
        if device is None and metric == "latency_ms":
            device = self.device
        return objective | ({"device": device} if device or metric == "latency_ms" else {})

    def to_pandas(self) -> pd.DataFrame:
        """One row a member, in their order; columns are those of `nas front --csv`, without baselines.

        With several devices `predicted_ms@NAME` and `measured_ms@NAME` of each stand at the end, and the
        quality that each computes, where it is told.
        """
        columns = self._csv_columns()
        asked = [name for name in ("device_quality", "device_difference") if name in {c.key for c in columns}]
        rows = [
            {column.key: column.value(member.row) for column in columns}
            | {
                on_device(name, str(one.device)): getattr(one, name)
                for one in member.on_devices
                for name in ("predicted_ms", "measured_ms", *asked)
            }
            for member in self.members
        ]
        names = [column.key for column in columns]
        others = dict.fromkeys(name for row in rows for name in row if name not in names)
        return pd.DataFrame(rows, columns=[*names, *others])

    @property
    def _all_rows(self) -> list[dict[str, Any]]:
        """Of the members, on each of several devices."""
        return [one.row for member in self.members for one in (member, *member.on_devices)]

    def _csv_columns(self) -> list[Column]:
        return columns_of(View.CSV, [], chosen=asked_of_csv(self._all_rows))

    def to_csv(self) -> str:
        """The frame as CSV: architectures as JSON, and no text that a spreadsheet would run as a formula.

        Baselines stand at the end, where there are any, with true in the column `baseline`.
        """
        frame = self.to_pandas()
        if self.baselines:
            rows = [{c.key: c.value(one.row) for c in self._csv_columns()} for one in self.baselines]
            frame = pd.concat([frame.astype(object), pd.DataFrame(rows, dtype=object)], ignore_index=True)
            frame["baseline"] = ["false"] * len(self.members) + ["true"] * len(rows)
        for column in self._csv_columns():
            if column.kind is Kind.ARCHITECTURE:
                frame[column.key] = frame[column.key].map(json.dumps, na_action="ignore")
            elif column.kind in (Kind.TEXT, Kind.SUBNET, Kind.DEVICE):
                frame[column.key] = frame[column.key].map(_without_formula)
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
        points = np.array([(math.log(member.latency_ms or math.nan), member.gain) for member in best])
        span = np.ptp(points, axis=0)
        x, y = ((points - points.min(axis=0)) / np.where(span > 0, span, 1)).T
        return best[int(np.argmax(np.round(y - x, 12)))]

    def select(self, *limits: Limit) -> Member:
        """The best in quality that meets all limits; of equals the fastest. Raises NotFoundError."""
        check_known(self.members, limits)
        fitting = [member for member in self.members if member.meets(limits)]
        if not fitting:
            raise NotFoundError(*nothing_meets(self.jobs, self.members, limits))
        return max(fitting, key=lambda member: member.gain)


def nothing_meets(jobs: Sequence[str], members: Sequence[Member], limits: Sequence[Limit]) -> tuple[str, str]:
    """That none of a front's members meets the limits, and between what they lie."""
    if not members:
        return f"The front of {_named(jobs)} is empty.", HOW_FAR
    asked = " and ".join(map(str, limits)) or "no condition"
    columns: dict[str, list[float | None]] = {
        "ms": [m.latency_ms for m in members],
        members[0].metric: [m.quality for m in members],
    }
    columns |= {
        name: [member.told(name) for member in members]
        for name in (limit.name for limit in limits)
        if name in (*LIMITED, *QUALITIES) and name not in ("latency_ms", members[0].metric)
    }
    values = {name: [value for value in column if value is not None] for name, column in columns.items()}
    spans = [
        f"{min(numbers):.3g} to {max(numbers):.3g} {name}" for name, numbers in values.items() if numbers
    ]
    return f"No subnet of the front of {_named(jobs)} meets {asked}.", f"It spans {' and '.join(spans)}."


def front(
    store: Store, jobs: Job | Sequence[Job], *, device: str | None = None, where: Iterable[Limit] = ()
) -> ParetoFront:
    """The finalists of a job that meet the limits; of several jobs those that no other beats.

    device: the name of one that they were measured on; by default each job's own, the first of several.
    Several jobs are compared by what is shown of them: the quality on the report split, and the costs that
    they optimise, latency as measured where two are, or else as predicted.
    Raises NotFoundError for a device that the jobs were not measured on, UsageError for jobs that do not
    compare: by their data, their quality, their devices, or a cost that only some of them know.
    """
    jobs = [jobs] if isinstance(jobs, Job) else list({job.id: job for job in jobs}.values())
    assert jobs, "a front has at least one job"
    on = shown_devices(store, jobs, device)
    points = _points(store, jobs[0], costs_of(jobs)) if len(jobs) == 1 and device is None else []
    members = points or [m for job in jobs if job.id in on for m in _judged(store, job, on[job.id])]
    if device is not None:
        members = [member for member in members if member.device == device]
    devices = sorted({member.device for member in members if member.device})
    costs, found_in = costs_of(jobs), {member.job for member in members}
    objectives = _objectives(jobs[0])
    if len(jobs) > 1:
        by_device = all(member.by_device for member in members)
        members = [replace(member, by_device=by_device) for member in members]
        check_comparable(store, jobs, {device_id for device_id in on.values() if device_id is not None})
        check_costs_known(members, costs)
        members = _once(nondominated(members, costs))
    elif len(objectives) > 1 and not points:
        members = _marked(members, costs)
    members = with_families(members)
    limits, names = tuple(where), tuple(job.name for job in jobs)
    check_known(members, limits)
    kept = [member for member in members if member.meets(limits)]
    unmet = " ".join(nothing_meets(names, members, limits)) if members and not kept else None
    last = store.last_event(jobs[0], "hypervolume") if len(jobs) == 1 else None
    return ParetoFront(
        jobs=names,
        objectives=objectives,
        device=device or ", ".join(devices) or next(iter(jobs[0].config.get("devices", {})), None),
        hypervolume=None if last is None else last.data.get("hypervolume"),
        evaluations=sum(store.evaluation_count(job) for job in jobs),
        members=tuple(sorted(kept, key=by_quality if len(objectives) == 1 else by_latency)),
        decided_by=costs if len(jobs) > 1 else (),
        cautions=_cautions(store, jobs),
        without=tuple(name for name in names if name not in found_in),
        unmet=unmet,
        baselines=tuple(one for job in jobs if job.id in on for one in baselines(store, job, on[job.id])),
    )


def _objectives(job: Job) -> tuple[str, ...]:
    """A quality that a device computes during the search with its name."""
    names, on = job.config.get("objectives", OBJECTIVES), job.config.get("quality_on")
    return tuple(on_device(name, on) if on is not None and name in QUALITIES else name for name in names)


def _judged(store: Store, job: Job, device_id: int | None) -> list[Member]:
    """The members on a device; judged by what it computes, where that is what the job has searched for."""
    on = job.config.get("quality_on")
    by_device = on is not None and job_devices.searched_for(store, job).get(on) == device_id
    members = members_of(store, job, device_id)
    return [replace(member, by_device=True) for member in members] if by_device else members


def each_once(store: Store, job: Job) -> ParetoFront:
    """The front of a job with every finalist once, whatever precisions there are to choose from."""
    choice = _precisions(job)
    return front(store, job, device=next(iter(choice), None))


def points_frame(store: Store, job: Job) -> pd.DataFrame | None:
    """The points of the front, (finalist, precision), as rows of `frames.finalists` for figures and tables.

    Their quality is what the device computes. None where the job's first device lists no precisions, and
    before it has computed anything.
    """
    points = {(m.subnet, m.device) for m in _points(store, job, costs_of([job]))}
    if not points:
        return None
    ids = job_devices.searched_for(store, job)
    rows = pd.concat(
        [frames.finalists(store, job, ids[name]) for name in _precisions(job) if name in ids],
        ignore_index=True,
    )
    kept = [(row.subnet, row.device) in points for row in rows.itertuples()]
    rows = rows[kept].reset_index(drop=True)
    return rows.assign(quality=rows["device_quality"], stderr=rows["device_stderr"])


def _points(store: Store, job: Job, costs: Sequence[str]) -> list[Member]:
    """Where the job's first device lists its precisions: finalists in each of these that no other one beats.

    They are judged by what the device computes; none before it has computed anything.
    """
    ids, choice = job_devices.searched_for(store, job), _precisions(job)
    members = [
        replace(member, by_device=True, precision=precision)
        for name, precision in choice.items()
        if name in ids
        for member in members_of(store, job, ids[name])
        if member.device_quality is not None
    ]
    return nondominated(members, costs)


def _precisions(job: Job) -> dict[str, str]:
    """The devices that are the precisions of the job's first one, by their names; empty where it has one."""
    devices = job_devices.sections(job.config)
    first = next((one.get("one_of") for one in devices.values()), None)
    if first is None:
        return {}
    return {name: str(one.get("precision")) for name, one in devices.items() if one.get("one_of") == first}


def costs_of(jobs: Iterable[Job]) -> tuple[str, ...]:
    """The costs that any of the jobs optimises, latency on the device shown; latency if none does."""
    names = [split(name)[0] for job in jobs for name in job.config.get("objectives", OBJECTIVES)]
    return tuple(dict.fromkeys(name for name in names if name not in QUALITIES)) or ("latency_ms",)


def _once(members: Sequence[Member]) -> list[Member]:
    """The members without those that an earlier one repeats: what a job has found of another one's."""
    kept: dict[tuple[object, ...], Member] = {}
    for member in members:
        kept.setdefault((member.subnet, member.quality, member.stderr, member.measured_ms), member)
    return list(kept.values())


def _marked(members: Sequence[Member], costs: Sequence[str]) -> list[Member]:
    """The members, with who beats them in what is shown of both."""
    best = sorted(members, key=lambda member: -member.gain)
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
    """Inherited and trained qualities of the members that have both."""
    both = [(m.quality_with(INHERITED), m.quality_with(weights)) for m in members]
    known_both = [(before, after) for before, after in both if before is not None and after is not None]
    return [before for before, _ in known_both], [after for _, after in known_both]


def shown_devices(store: Store, jobs: Sequence[Job], name: str | None) -> dict[int, int | None]:
    """Job -> the device whose latencies count: its own, or the latest of this name that it was measured on.

    Raises NotFoundError when no job was measured on one of this name.
    """
    if name is None:
        return {job.id: job_devices.own_device(store, job) for job in jobs}
    names = {job.id: job_devices.device_names(store, job) for job in jobs}
    used = {job.id: {m.device_id for m in store.measurements(job, "finalist")} for job in jobs}
    chosen = {job: [i for i in sorted(ids) if names[job][i] == name] for job, ids in used.items()}
    if not any(chosen.values()):
        measured_on = {names[job][i] for job, ids in used.items() for i in ids}
        words = " and ".join(f"'{job.name}'" for job in jobs)
        raise NotFoundError(f"Nothing of {words} was measured on '{name}'.", did_you_mean(name, measured_on))
    return {job: ids[-1] for job, ids in chosen.items() if ids}


def _without_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value

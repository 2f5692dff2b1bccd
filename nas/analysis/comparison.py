"""Two fronts against each other: hypervolume, and which share of one the other beats, with their errors.

A front here are the finalists of a job that none of its own beats, by what is shown of them: the quality on
the report split, and the costs that either job optimises. Errors are those of `nas.results.comparing.box`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from nas.limits import QUALITIES, kind_of
from nas.results.comparing.box import BEYOND, Boxed, Estimate, numbers
from nas.results.comparing.comparability import check_comparable, check_costs_known
from nas.results.front import costs_of, each_once, front, shown_devices
from nas.results.members import Member, nondominated
from nas.store import Job, Store
from search_spaces.errors import NotFoundError, UsageError, did_you_mean


@dataclass(frozen=True)
class JobFront:
    """One of the two fronts.

    hypervolume: as a share of the box.  beaten: the share of its members that one of the other front beats.
    """

    job: str
    members: tuple[Member, ...]
    hypervolume: Estimate
    beaten: Estimate


@dataclass(frozen=True)
class Comparison:
    """Two fronts over one box, between the best quality at no cost and the reference.

    costs: what is compared beside the quality.  device, latency: whose latencies, and whether they are
    `measured` or `predicted`; None where no latency is compared.
    reference: the worst corner of the box, by name.  difference: hypervolume of the first less the second's.
    """

    metric: str
    costs: tuple[str, ...]
    device: str | None
    latency: str | None
    reference: Mapping[str, float]
    fronts: tuple[JobFront, JobFront]
    together: Estimate
    difference: Estimate

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `nas compare --json`."""
        return {
            "metric": self.metric,
            "costs": list(self.costs),
            "device": self.device,
            "latency": self.latency,
            "reference": dict(self.reference),
            "fronts": [
                {
                    "job": one.job,
                    "subnets": [member.subnet for member in one.members],
                    "hypervolume": one.hypervolume.to_dict(),
                    "beaten": one.beaten.to_dict(),
                }
                for one in self.fronts
            ],
            "together": self.together.to_dict(),
            "difference": self.difference.to_dict(),
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row a member of either front: job, subnet, quality, stderr, and each cost by its name."""
        rows = [
            {"job": one.job, "subnet": m.subnet, "quality": m.quality, "stderr": m.stderr}
            | {name: m.told(name) for name in self.costs}
            for one in self.fronts
            for m in one.members
        ]
        return pd.DataFrame(rows, columns=["job", "subnet", "quality", "stderr", *self.costs])


def compare(
    store: Store,
    first: Job,
    second: Job,
    *,
    device: str | None = None,
    reference: Mapping[str, float] | None = None,
) -> Comparison:
    """The fronts of two jobs against each other, over the costs that either of them optimises.

    device: the name of one that both were measured on; by default each job's own.
    reference: values by name in place of the default ones: the worst quality that counts (of an
    accuracy 0) and 1.1 times the greatest cost.
    Raises UsageError for jobs that do not compare, for one job twice and for an impossible reference,
    NotFoundError for a job without finalists and for a device that a job was not measured on.
    """
    if first.id == second.id:
        raise UsageError(f"Job '{first.name}' cannot be compared with itself.", "Name two jobs.")
    costs = costs_of([first, second])
    finalists = [_finalists(store, job, device) for job in (first, second)]
    used = {i for job in (first, second) for i in shown_devices(store, [job], device).values()}
    check_comparable(store, (first, second), {i for i in used if i is not None})
    check_costs_known([member for members in finalists for member in members], costs)
    latency, finalists = _alike(finalists) if "latency_ms" in costs else (None, finalists)
    fronts = [nondominated(members, costs) for members in finalists]
    metric = fronts[0][0].metric
    corner = _reference([*fronts[0], *fronts[1]], metric, costs, reference or {})
    compared = numbers(_boxed(fronts, metric, corner))
    of_jobs = tuple(
        JobFront(job.name, tuple(members), compared.hypervolumes[i], compared.beaten[i])
        for i, (job, members) in enumerate(zip((first, second), fronts, strict=True))
    )
    shown = None if latency is None else next((m.device for m in fronts[0] if m.device), None)
    return Comparison(
        metric,
        costs,
        shown,
        latency,
        corner,
        (of_jobs[0], of_jobs[1]),
        compared.together,
        compared.differences[1],
    )


def _finalists(store: Store, job: Job, device: str | None) -> list[Member]:
    """With the quality that the supernet computes, whatever else the job goes by."""
    shown = each_once(store, job) if device is None else front(store, job, device=device)
    members = [replace(member, by_device=False) for member in shown.members]
    if not members:
        raise NotFoundError(
            f"There is no front of '{job.name}' yet.", f"`nas show {job.id}` tells how far it is."
        )
    return members


def _alike(finalists: Sequence[Sequence[Member]]) -> tuple[str, list[list[Member]]]:
    """Whether latencies are compared as measured, where all subnets were, or as predicted; the members with
    no other latency than that.
    """
    everyone = [member for members in finalists for member in members]
    if all(member.measured_ms is not None for member in everyone):
        return "measured", [list(members) for members in finalists]
    predicted = [[replace(m, measured_ms=None) for m in members] for members in finalists]
    check_costs_known([member for members in predicted for member in members], ["predicted_ms"])
    return "predicted", predicted


def _reference(
    members: Sequence[Member], metric: str, costs: Sequence[str], given: Mapping[str, float]
) -> dict[str, float]:
    costliest = {name: max(_cost(member, name) for member in members) for name in costs}
    kind = kind_of(metric)
    corner = {metric: kind.worst} | {name: BEYOND * (cost or 1.0) for name, cost in costliest.items()}
    for name, value in given.items():
        if name not in corner:
            raise UsageError(f"'{name}' is not compared here.", did_you_mean(name, corner))
        if not (value >= 0 and kind.sign * (kind.best - value) > 0 if name in QUALITIES else value > 0):
            raise UsageError(
                f"The reference {name}={value:g} leaves no box.",
                f"A reference is the worst that counts: a quality worse than {kind.best:g}, a cost above 0.",
            )
    return corner | dict(given)


def _cost(member: Member, name: str) -> float:
    value = member.told(name)
    assert value is not None, "members without it are not on a front"
    return float(value)


def _boxed(fronts: Sequence[Sequence[Member]], metric: str, corner: Mapping[str, float]) -> Boxed:
    """The members of the fronts in the box between the best quality at no cost and the corner."""
    members, best = [m for front in fronts for m in front], kind_of(metric).best
    height = best - corner[metric]
    costs = [[_cost(m, name) / worst for name, worst in corner.items() if name != metric] for m in members]
    keys = [(m.subnet, m.quality, m.stderr) for m in members]
    return Boxed(
        np.array([(best - m.quality) / height for m in members]),
        np.array([(m.stderr or 0.0) / abs(height) for m in members]),
        np.array(costs, dtype=np.float64),
        np.array([keys.index(key) for key in keys]),
        np.repeat(np.arange(len(fronts)), [len(members) for members in fronts]),
    )

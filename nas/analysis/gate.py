"""Whether a job has found a subnet that is good enough, for builds that shall fail when it has not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nas.job_run import check_finished
from nas.limits import QUALITIES, Limit, is_share, on_device, split
from nas.results.front import ParetoFront, front
from nas.results.members import Member, check_known
from nas.store import Job, Store
from search_spaces.errors import UsageError

PERCENT = 100


@dataclass(frozen=True)
class Gate:
    """Whether one of a job's measured subnets keeps all limits.

    front: of those that do the one of highest quality, of equals the fastest; without members where none
    does.
    closest: where none does, the one whose values are least off, each as a share of its limit.
    """

    job: str
    limits: tuple[Limit, ...]
    front: ParetoFront
    closest: Member | None

    @property
    def best(self) -> Member | None:
        """The subnet that keeps the limits best."""
        return next(iter(self.front.members), None)

    @property
    def passed(self) -> bool:
        """Whether there is one."""
        return self.best is not None

    @property
    def sentence(self) -> str:
        """What came of it, in one sentence."""
        asked = " and ".join(map(str, self.limits))
        if self.best is not None:
            return f"Subnet {self.best.subnet} of '{self.job}' keeps {asked}."
        if self.closest is None:
            return f"No subnet of '{self.job}' keeps {asked}: what is asked for was measured of none."
        off = [_off(limit, self.closest) for limit in self.limits if not _keeps(self.closest, limit)]
        return (
            f"No measured subnet of '{self.job}' keeps {asked}: the closest, {self.closest.subnet}, has "
            f"{' and '.join(off)}."
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `nas gate --json`."""
        return {
            "job": self.job,
            "passed": self.passed,
            "limits": list(map(str, self.limits)),
            "device": self.front.device,
            "sentence": self.sentence,
            "best": self.best and self.best.to_dict(),
            "closest": self.closest and self.closest.to_dict(),
        }


def gate(store: Store, job: Job, limits: Sequence[Limit], *, device: str | None = None) -> Gate:
    """Whether a subnet of the job's front keeps all limits, latencies being measured ones.

    A quality is that on the report split, `accuracy@NAME` the one that this device computes.
    device: the name of one that the front was measured on.
    Raises UsageError without a limit and for one on what is not known of any subnet, ConflictError for a job
    that has not finished, NotFoundError for a device that the job was not measured on.
    """
    if not limits:
        raise UsageError("A gate needs a limit.", "Example: --min accuracy=0.8 --max latency_ms=12")
    if job.state != "succeeded":
        check_finished(store, job)
    pareto = front(store, job, device=device)
    check_known(pareto.members, limits)
    fitting = [m for m in pareto.members if all(_keeps(m, limit) for limit in limits)]
    measured = [m for m in pareto.members if all(_value(m, limit) is not None for limit in limits)]
    best = max(fitting, key=lambda member: member.gain, default=None)
    closest = min(measured, key=lambda member: _distance(member, limits), default=None)
    shown = replace(pareto, members=() if best is None else (best,))
    return Gate(job.name, tuple(limits), shown, None if best else closest)


def _measured(limit: Limit) -> Limit:
    """The same limit, on what was measured where it is one on latency."""
    metric, device = split(limit.name)
    if metric != "latency_ms":
        return limit
    return replace(limit, name="measured_ms" if device is None else on_device("measured_ms", device))


def _value(member: Member, limit: Limit) -> float | None:
    """Of a member what a limit is on."""
    metric, device = split(_measured(limit).name)
    if device is None:
        return member.told(metric)
    shown = next((one for one in (member, *member.on_devices) if one.device == device), None)
    if shown is None:
        return None
    return shown.computed(metric) if metric in QUALITIES else shown.told(metric)


def _keeps(member: Member, limit: Limit) -> bool:
    return limit.holds({limit.name: _value(member, limit)})


def _distance(member: Member, limits: Sequence[Limit]) -> float:
    values = {limit.name: [_value(member, limit)] for limit in limits}
    return float(sum(limit.distance(values)[0] for limit in limits))


def _off(limit: Limit, member: Member) -> str:
    """A value that does not keep a limit, and by how much."""
    value = _value(member, limit)
    assert value is not None, "the closest one is known"
    missing = abs(value - limit.value)
    if is_share(split(limit.name)[0]):
        return f"{limit.name} {value:.4g} ({PERCENT * missing:.2g} points {_side(limit)})"
    if not limit.value:
        return f"{limit.name} {value:.4g}"
    share = PERCENT * missing / abs(limit.value)
    return f"{limit.name} {value:.4g} ({share:{'.2g' if share < PERCENT else ',.0f'}} % {_side(limit)})"


def _side(limit: Limit) -> str:
    return "too little" if limit.operator.startswith(">") else "too much"

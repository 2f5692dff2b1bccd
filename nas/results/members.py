"""One subnet of a front, and which of them no other beats."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from nas.limits import ACCURACY, BALANCED, PER_DEVICE, QUALITIES, Limit, kind_of, on_device, split
from nas.results import frames, job_devices
from nas.results.columns import document, interval
from nas.store import Job, Store
from search_spaces.errors import UsageError, did_you_mean
from search_spaces.union import MEMBER

COUNTED = ("params", "macs", "memory_bytes", "peak_memory_bytes")
LIMITED = (*COUNTED, "predicted_ms", "measured_ms", "latency_ms")


@dataclass(frozen=True, slots=True)
class Member:
    """One subnet of a front; latencies in milliseconds, None where they are not known.

    predicted_low_ms, predicted_high_ms: the ends of the 90 % interval.
    peak_memory_bytes, energy_mj: measured, of one batch; energy in millijoules.
    quality, stderr: on the report split, with `weights`: inherited, or specialised where the job trained its
    finalists further.  search_quality: the same on the search split.
    qualities: by their names those that were told on the report split, with these weights.
    inherited: the quality before that training; None where there was none.
    beaten_by: the key of another one shown that is worse in nothing that the job optimises, and better in
    something.
    family: of its supernet, or what a job with several calls that; None where it is the same for all shown.
    finetuned, scratch: on the report split, trained by itself; None where it was not.
    tokens_a_run: that a run on the device reads or makes; None where it is run on images.
    device_quality, device_stderr: as the device's backend computes it, on `device_examples` of the report
    split; None where it was not asked.  device_difference: less that of the supernet on the same examples,
    with the standard error of paired differences.
    draft: the key of the best draft that `nas drafts` has told for it, with `draft_ahead` tokens at a time;
    None where it was not asked.  draft_acceptance: the share of these tokens that it accepts.
    by_device: whether it is judged by that, and not by the quality with the supernet's arithmetic.
    precision: of the device, where a point of the front is a subnet and one of several precisions.
    on_devices: the same subnet on each of the devices that the job searched for, if there are several.
    """

    job: str
    subnet: str
    architecture: Mapping[str, Any]
    params: int
    macs: int
    metric: str
    quality: float
    stderr: float | None
    search_quality: float | None
    device: str | None
    predicted_ms: float | None
    measured_ms: float | None
    spread_ms: float | None
    memory_bytes: float | None = None
    predicted_low_ms: float | None = None
    predicted_high_ms: float | None = None
    peak_memory_bytes: float | None = None
    energy_mj: float | None = None
    finetuned: float | None = None
    finetuned_stderr: float | None = None
    scratch: float | None = None
    scratch_stderr: float | None = None
    qualities: Mapping[str, float | None] = field(default_factory=dict)
    beaten_by: str | None = None
    weights: str = frames.INHERITED
    inherited: float | None = None
    inherited_stderr: float | None = None
    family: str | None = None
    tokens_a_run: float | None = None
    device_quality: float | None = None
    device_stderr: float | None = None
    device_examples: float | None = None
    device_difference: float | None = None
    device_difference_stderr: float | None = None
    draft: str | None = None
    draft_acceptance: float | None = None
    draft_acceptance_stderr: float | None = None
    draft_ahead: int | None = None
    draft_tokens_a_call: float | None = None
    draft_speed_up: float | None = None
    by_device: bool = False
    precision: str | None = None
    on_devices: tuple["Member", ...] = ()

    @property
    def accuracy(self) -> float | None:
        """On the report split; None where it was not told."""
        return self.qualities.get(ACCURACY)

    @property
    def balanced_accuracy(self) -> float | None:
        """On the report split; None where it was not told."""
        return self.qualities.get(BALANCED)

    @property
    def gain(self) -> float:
        """The quality that it is judged by, negative where less of it is better."""
        computed = self.device_quality if self.by_device else None
        return kind_of(self.metric).sign * (self.quality if computed is None else computed)

    @property
    def latency_ms(self) -> float | None:
        """As measured, or else as predicted."""
        return self.predicted_ms if self.measured_ms is None else self.measured_ms

    def quality_with(self, weights: str) -> float | None:
        """On the report split, with weights of this name; None where that is not known."""
        if weights == self.weights:
            return self.quality
        return None if weights == frames.SPECIALISED else getattr(self, weights)

    @property
    def interval_ms(self) -> tuple[float, float] | None:
        """The ends of the prediction's 90 % interval."""
        return interval(self.row)

    @property
    def as_predicted(self) -> bool | None:
        """Whether the measured latency is inside the interval; None where one of them is not known."""
        ends, measured = self.interval_ms, self.measured_ms
        return None if ends is None or measured is None else ends[0] <= measured <= ends[1]

    def meets(self, limits: Iterable[Limit]) -> bool:
        """Whether all limits hold; what is not known meets nothing.

        `latency_ms` is that on the member's own device, `latency_ms@NAME` that on the one of this name; so is
        the quality behind which a name stands.
        """
        values = {name: self.told(name) for name in (*LIMITED, *QUALITIES)}
        values |= {
            on_device(name, one.device): getattr(one, name)
            for one in (self, *self.on_devices)
            for name in PER_DEVICE
            if one.device is not None
        }
        values |= {
            on_device(name, one.device): one.computed(name)
            for one in (self, *self.on_devices)
            for name in QUALITIES
            if one.device is not None
        }
        return all(limit.holds(values) for limit in limits)

    def computed(self, quality: str) -> float | None:
        """A quality as the device's backend computes it; None where it was not asked for that one."""
        return self.device_quality if quality == self.metric else None

    def told(self, name: str) -> float | None:
        """A quantity by its name in limits."""
        if name == self.metric:
            return self.quality
        value: float | None = self.qualities.get(name) if name in QUALITIES else getattr(self, name)
        return value

    @property
    def row(self) -> dict[str, Any]:
        """The fields and qualities by name, of which columns are read."""
        return {one.name: getattr(self, one.name) for one in fields(self)} | dict(self.qualities)

    @property
    def retrained(self) -> dict[str, dict[str, float | None]]:
        """Value and standard error of the quality by what `nas finetune` made of it; empty without any."""
        values = {weights: getattr(self, weights) for weights in frames.RETRAINED}
        return {
            weights: {"value": value, "stderr": getattr(self, f"{weights}_stderr")}
            for weights, value in values.items()
            if value is not None
        }

    def to_dict(self, *, chosen: Collection[str] = ()) -> dict[str, Any]:
        """The JSON of one member of `nas front --json`. chosen: as of `columns_of`."""
        return document(self.row, chosen=chosen)


def members(store: Store, job: Job, device_id: int | None = None) -> list[Member]:
    """The finalists of one job, the fastest first; latencies on its own (first) device or on the one with
    this id.
    """
    shown = _members_on(store, job, device_id)
    devices = job_devices.searched_for(store, job)
    if len(devices) < 2:
        return shown
    by_device = {name: {m.subnet: m for m in _members_on(store, job, i)} for name, i in devices.items()}
    return [
        replace(
            member,
            on_devices=tuple(replace(on[member.subnet], device=name) for name, on in by_device.items()),
        )
        for member in shown
    ]


def with_families(members: Sequence[Member]) -> list[Member]:
    """The members, each with its family where they differ in it, or where their job has several supernets."""
    families = {member.family for member in members}
    several = len(families) > 1 or any(MEMBER in member.architecture for member in members)
    return [member if several else replace(member, family=None) for member in members]


def _members_on(store: Store, job: Job, device_id: int | None) -> list[Member]:
    space = store.stage(job, "space")
    family = ((space and space.result) or {}).get("space", {}).get("family")
    memory = {
        e.subnet.key: e.objectives.get("memory_bytes")
        for e in store.evaluations(job, "search", reported=True)
    }
    reported = {e.subnet.key: e.objectives | {e.metric: e.value} for e in frames.reported(store, job)}
    numbers = ["stderr", "search_quality", *job_devices.PREDICTED, "measured_ms", "spread_ms"]
    numbers += ["peak_memory_bytes", "energy_mj", "tokens_a_run", *frames.ON_DEVICE]
    numbers += [name for name in frames.DRAFT if name not in ("draft", "draft_ahead")]
    with_weights = (frames.INHERITED, *frames.RETRAINED)
    numbers += [column for weights in with_weights for column in (weights, f"{weights}_stderr")]
    return [
        Member(
            job=job.name,
            subnet=row["subnet"],
            architecture=row["architecture"],
            params=int(row["params"]),
            macs=int(row["macs"]),
            metric=row["metric"],
            quality=float(row["quality"]),
            weights=row["weights"],
            family=row["family"] if isinstance(row["family"], str) else family,
            device=row["device"] if isinstance(row["device"], str) else None,
            memory_bytes=memory.get(row["subnet"]),
            draft=row["draft"] if isinstance(row["draft"], str) else None,
            draft_ahead=int(row["draft_ahead"]) if isinstance(row["draft"], str) else None,
            **{name: _number(row[name]) for name in numbers},
            qualities={name: value for name, value in reported[row["subnet"]].items() if name in QUALITIES},
            beaten_by=None,
            by_device=False,
            precision=None,
            on_devices=(),
        )
        for row in frames.finalists(store, job, device_id).drop_duplicates("subnet").to_dict("records")
    ]


def check_known(members: Collection[Member], limits: Iterable[Limit]) -> None:
    """Raises UsageError for a limit on a quantity or on a device that is known of no member."""
    for limit in limits:
        _check_device(members, limit)
        if limit.name not in ("memory_bytes", "peak_memory_bytes", *QUALITIES):
            continue
        if members and all(member.told(limit.name) is None for member in members):
            hint_of_quality = f"Its quality is {next(iter(members)).metric}."
            hint = hint_of_quality if limit.name in QUALITIES else "Use params: 4 bytes each."
            raise UsageError(f"'{limit.name}' is not known of any subnet of this front.", hint)


def _check_device(members: Collection[Member], limit: Limit) -> None:
    device = split(limit.name)[1]
    devices = {one.device for member in members for one in (member, *member.on_devices) if one.device}
    if device is not None and members and device not in devices:
        raise UsageError(
            f"'{limit.name}' is not known: nothing here was measured on '{device}'.",
            did_you_mean(device, devices),
        )
    metric = split(limit.name)[0]
    if device is None or metric not in QUALITIES or not members:
        return
    computed = [
        one
        for member in members
        for one in (member, *member.on_devices)
        if one.device == device and one.computed(metric) is not None
    ]
    if not computed:
        raise UsageError(
            f"'{limit.name}' is not known: '{device}' has computed no {metric} of this front.",
            "finalists.device_images in a job file says on how many images devices compute it.",
        )


def nondominated(members: Iterable[Member], costs: Sequence[str] = ("latency_ms",)) -> list[Member]:
    """Those that no other beats in quality and in these costs, the fastest first.

    Without those of which a cost is not known at all.
    """
    comparable = [m for m in members if all(m.told(name) is not None for name in costs)]
    return sorted((m for m in comparable if not any(beats(o, m, costs) for o in comparable)), key=by_latency)


def beats(one: Member, other: Member, costs: Sequence[str]) -> bool:
    """Whether one is worse than the other in nothing, quality or cost, and better in something.

    Latencies are compared as measured where both are, and else as predicted; what has nothing to be compared
    with beats nothing.
    """
    gains = [one.gain - other.gain]
    for name in costs:
        ours, theirs = _alike(one, other, name)
        if ours is None or theirs is None:
            return False
        gains.append(theirs - ours)
    return min(gains) >= 0 and max(gains) > 0


def _alike(one: Member, other: Member, name: str) -> tuple[float | None, float | None]:
    if name != "latency_ms":
        return one.told(name), other.told(name)
    if one.measured_ms is not None and other.measured_ms is not None:
        return one.measured_ms, other.measured_ms
    return one.predicted_ms, other.predicted_ms


def by_latency(member: Member) -> tuple[float, float]:
    """Orders the fastest first, of equals the best; those without a latency come last."""
    return (math.inf if member.latency_ms is None else member.latency_ms, -member.gain)


def by_quality(member: Member) -> tuple[float, float]:
    """Orders the best first, of equals the fastest."""
    latency, quality = by_latency(member)
    return quality, latency


def _number(value: float | None) -> float | None:
    """NaN is how a frame says that there is none."""
    return None if value is None or math.isnan(value) else float(value)

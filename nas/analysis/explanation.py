"""Why a subnet is as it is: what each of its choices is worth in quality and in latency.

Nothing is evaluated or measured: the quality is what a predictor says that is fitted to the job's evaluations
on the search split, the latency what the job's own predictor for the device says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.limits import kind_of
from nas.measuring.latency import stored_predictor
from nas.proposals.one_thread import one_thread
from nas.results import job_devices
from nas.search.belief import FEWEST, fitted
from nas.spaces.job_space import space_of
from nas.store import Device, Evaluation, Job, Store
from predictors.accuracy import AccuracyPredictor
from predictors.predictor import Predictor
from search_spaces import Architecture, SearchSpace
from search_spaces.architecture import Option, group_of
from search_spaces.errors import NotFoundError, UsageError, did_you_mean
from search_spaces.space import INACTIVE, Codes

if TYPE_CHECKING:
    import pandas as pd

NEAR = 1.05  # times the latency of a subnet: what is still as fast
TOGETHER = "all together"

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Subnet:
    """One of the subnets that are explained; quality as predicted, latency in ms as predicted.

    evaluated: its quality on the search split; None where the search did not look at it.
    """

    key: str
    architecture: Values
    quality: float
    quality_std: float
    latency_ms: float
    latency_std_ms: float
    evaluated: float | None


@dataclass(frozen=True)
class Change:
    """One choice with another option, the others as they are, but for those that this adds or takes away.

    choice: its name, or TOGETHER for all that differ.  before, after: None where there is no such choice.
    quality, quality_std: how much more it is, and how sure that is; None where the choice alone does
    nothing, because an earlier one that it depends on is the other way, too.
    latency_ms: how much slower, by the predictions.  to: what it becomes.
    """

    choice: str
    before: Option | None
    after: Option | None
    quality: float | None = None
    quality_std: float | None = None
    latency_ms: float | None = None
    to: Subnet | None = None

    @property
    def words(self) -> str:
        """depth 2 → 3."""
        if self.choice == TOGETHER:
            return TOGETHER
        ends = ("–" if end is None else str(end) for end in (self.before, self.after))
        return f"{self.choice} {' → '.join(ends)}"


@dataclass(frozen=True)
class Explanation:
    """A subnet and what becomes of it when one choice changes.

    changes: one step down and up of each choice, or with `other` the choices in which the two differ, and all
    of these together.
    evaluations: of how many subnets the quality was learned.  device: whose latencies.
    cheapest: of the steps that lose no more quality than one standard error of the difference the fastest one
    that is faster.  best: of those at most 5 % slower the one that gains most, if any gains.
    """

    job: str
    metric: str
    device: str
    evaluations: int
    subnet: Subnet
    changes: tuple[Change, ...]
    other: Subnet | None = None
    cheapest: Change | None = None
    best: Change | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `nas explain --json`."""
        fields = asdict(self)
        hidden = ("cheapest", "best") if self.other is not None else ("other",)
        return {name: value for name, value in fields.items() if name not in hidden}

    def to_pandas(self) -> "pd.DataFrame":
        """A row a change that does something: change (in words), choice, quality, quality_std, latency_ms."""
        import pandas as pd  # noqa: PLC0415 - takes long to import, and only the figure needs it

        names = ["choice", "quality", "quality_std", "latency_ms"]
        rows = [
            {"change": change.words} | {name: getattr(change, name) for name in names}
            for change in self.changes
            if change.to is not None
        ]
        return pd.DataFrame(rows, columns=["change", *names])


def explain(
    store: Store,
    job: Job,
    subnet: str | Values,
    other: str | Values | None = None,
    *,
    device: str | None = None,
) -> Explanation:
    """What each choice of a subnet is worth; with another one, what each choice makes of their difference.

    subnet, other: the beginning of the key of one that the job has looked at, or any architecture as plain
    data.  device: one that the job has a latency predictor for; by default its (first) own.
    Raises NotFoundError for an unknown subnet or device, for a job without a latency predictor, and for one
    with too few evaluations; UsageError for an architecture outside of the space, or the same one twice.
    """
    judge = _Judge.of(store, job, device)
    one = _architecture(store, job, judge.space, subnet)
    supernet, member_arch = judge.space.own(one)
    member = judge.space.members[supernet]
    if other is None:
        steps = judge.changes(one, _steps(member, member.encode([member_arch])[0]))
        sign = kind_of(judge.facts["metric"]).sign
        return Explanation(
            **judge.facts,
            subnet=judge.subnet(one),
            changes=steps,
            cheapest=_cheapest(steps, sign),
            best=_best(judge, one, steps, sign),
        )
    another = _architecture(store, job, judge.space, other)
    if one == another:
        raise UsageError(f"Both subnets are {one.key}.", "Name two, or one alone.")
    other_supernet, other_own = judge.space.own(another)
    if other_supernet != supernet:
        raise UsageError(
            f"Subnet {one.key} is of {supernet} and {another.key} of {other_supernet}: "
            "they have no choices in common.",
            "Name two of one supernet, or one alone.",
        )
    codes = member.encode([member_arch, other_own])
    apart = judge.changes(one, _differences(member, codes[0], codes[1]))
    return Explanation(**judge.facts, subnet=judge.subnet(one), changes=apart, other=judge.subnet(another))


@dataclass(frozen=True)
class _Judge:
    """What is predicted of the architectures of a job's space."""

    job: Job
    space: SearchSpace
    device: str
    evaluated: Mapping[str, Evaluation]
    quality: AccuracyPredictor
    latency: Predictor

    @classmethod
    def of(cls, store: Store, job: Job, device: str | None) -> "_Judge":
        space = space_of(store, job)
        row, name = predicted_device(store, job, device)
        latency = stored_predictor(store, job, space, row)
        assert latency is not None, "devices without one are refused"
        rows = [e for e in store.evaluations(job, "search") if e.state == "ok" and e.value is not None]
        if len(rows) < FEWEST:
            raise NotFoundError(
                f"Job '{job.name}' has evaluated {len(rows)} subnets; an accuracy predictor needs {FEWEST}.",
                f"`nas show {job.id}` tells how far it is.",
            )
        return cls(job, space, name, {e.subnet.key: e for e in rows}, _fitted(space, rows), latency)

    @property
    def facts(self) -> dict[str, Any]:
        """What is told beside the subnets."""
        metric = next(iter(self.evaluated.values())).metric
        return {
            "job": self.job.name,
            "metric": metric,
            "device": self.device,
            "evaluations": len(self.evaluated),
        }

    def subnet(self, arch: Architecture) -> Subnet:
        """What is known of an architecture."""
        return self._subnets(self.space.encode([arch]))[0]

    def changes(self, arch: Architecture, asked: Sequence[tuple[Change, Codes]]) -> tuple[Change, ...]:
        """The changes of `arch` with what they do; each with the codes that it leads to.

        Those are codes (choices,) of the space of its own supernet.
        """
        start, (supernet, _) = self.space.encode([arch]), self.space.own(arch)
        choices = len(self.space.members[supernet].choices)
        after = np.array([after for _, after in asked], dtype=np.int64).reshape(len(asked), choices)
        codes = self.space.joined_codes(supernet, after)
        does = (codes != start).any(axis=1)
        with one_thread():
            quality, std = self.quality.difference(codes, start)
        subnets, before = self._subnets(codes), self._subnets(start)[0]
        return tuple(
            Change(
                change.choice,
                change.before,
                change.after,
                float(quality[i]),
                float(std[i]),
                subnets[i].latency_ms - before.latency_ms,
                subnets[i],
            )
            if does[i]
            else change
            for i, (change, _) in enumerate(asked)
        )

    def _subnets(self, codes: Codes) -> list[Subnet]:
        with one_thread():
            quality, std = self.quality.predict(codes)
        ms, ms_std = self.latency.predict(codes)
        archs = self.space.decode(codes)
        evaluated = [self.evaluated.get(arch.key) for arch in archs]
        return [
            Subnet(
                arch.key,
                arch.to_dict(),
                float(quality[i]),
                float(std[i]),
                float(ms[i]),
                float(ms_std[i]),
                None if evaluation is None else evaluation.value,
            )
            for i, (arch, evaluation) in enumerate(zip(archs, evaluated, strict=True))
        ]


def predicted_device(store: Store, job: Job, name: str | None) -> tuple[Device, str]:
    """The device of this name, by default the job's (first) own, and the job's name for it.

    Raises NotFoundError where the job has no latency predictor for it.
    """
    names = job_devices.device_names(store, job)
    with_predictor = [row for row in store.devices() if store.predictor(job, row.id) is not None]
    if not with_predictor:
        raise NotFoundError(
            f"Job '{job.name}' has no latency predictor yet.", f"`nas show {job.id}` tells how far it is."
        )
    first = store.predictor(job)
    assert first is not None, "there is one for some device"
    chosen = [
        row
        for row in with_predictor
        if (row.id == first.device_id if name is None else names[row.id] == name)
    ]
    if not chosen:
        hint = did_you_mean(str(name), {names[row.id] for row in with_predictor})
        raise NotFoundError(f"Job '{job.name}' has no latency predictor for '{name}'.", hint)
    return chosen[-1], names[chosen[-1].id]


def _fitted(space: SearchSpace, rows: Sequence[Evaluation]) -> AccuracyPredictor:
    codes = space.encode([space.architecture(row.subnet.architecture) for row in rows])
    qualities = [row.value for row in rows if row.value is not None]
    return fitted(space, codes, qualities, [row.stderr for row in rows])


def _architecture(store: Store, job: Job, space: SearchSpace, subnet: str | Values) -> Architecture:
    return space.architecture(store.subnet(job, subnet).architecture if isinstance(subnet, str) else subnet)


# What can be changed, as codes.


def _steps(space: SearchSpace, code: NDArray[np.int64]) -> list[tuple[Change, Codes]]:
    """One option less and one more of each choice that there is."""
    full, steps = _filled(space, code), []
    for i, choice in enumerate(space.choices):
        for option in (code[i] - 1, code[i] + 1):
            if code[i] != INACTIVE and 0 <= option < len(choice.options):
                change = Change(choice.name, choice.options[code[i]], choice.options[option])
                steps.append((change, _changed(space, full, {i: int(option)})))
    return steps


def _differences(
    space: SearchSpace, code: NDArray[np.int64], other: NDArray[np.int64]
) -> list[tuple[Change, Codes]]:
    """Every choice that differs, by itself; then all of them. What a choice adds is as in the other one."""
    full = np.where(code == INACTIVE, _filled(space, other), code)
    apart = [
        (
            Change(choice.name, _option(choice.options, code[i]), _option(choice.options, other[i])),
            code if INACTIVE in (code[i], other[i]) else _changed(space, full, {i: int(other[i])}),
        )
        for i, choice in enumerate(space.choices)
        if code[i] != other[i]
    ]
    return [*apart, (Change(TOGETHER, None, None), other)]


def _option(options: Sequence[Option], code: int) -> Option | None:
    return None if code == INACTIVE else options[code]


def _changed(space: SearchSpace, full: NDArray[np.int64], options: Mapping[int, int]) -> Codes:
    code = full.copy()
    for i, option in options.items():
        code[i] = option
    changed: Codes = space.canonical(code[None])[0]
    return changed


def _filled(space: SearchSpace, code: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes (choices,) with an option for choices that do not exist, for when a change adds them.

    A layer that is added is like the last one before it; what has no such neighbour is as large as the rest.
    """
    last = np.array([len(choice.options) - 1 for choice in space.choices])
    active = code != INACTIVE
    level = float(np.mean(code[active] / np.maximum(last[active], 1)))
    full, before = code.copy(), dict[str, int]()
    for i, choice in enumerate(space.choices):
        group = group_of(choice.name)[0]
        if not active[i]:
            full[i] = min(before.get(group, round(level * last[i])), last[i])
        before[group] = int(full[i])
    return full


# Which neighbours are worth a look.


def _cheapest(steps: Sequence[Change], sign: float) -> Change | None:
    """Of those as good within one standard error the fastest, if it is faster."""
    as_good = [s for s in steps if s.to and sign * (s.quality or 0.0) + (s.quality_std or 0.0) >= 0]
    faster = [step for step in as_good if (step.latency_ms or 0.0) < 0]
    return min(faster, key=lambda step: step.latency_ms or 0.0, default=None)


def _best(judge: _Judge, arch: Architecture, steps: Sequence[Change], sign: float) -> Change | None:
    """Of those at most 5 % slower the one that gains most, if any gains."""
    most = NEAR * judge.subnet(arch).latency_ms
    near = [s for s in steps if s.to and s.to.latency_ms <= most and sign * (s.quality or 0.0) > 0]
    return max(near, key=lambda step: sign * (step.quality or 0.0), default=None)

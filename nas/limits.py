"""Limits on subnets such as `latency_ms<=5`: parsed by a pattern, never evaluated as code.

A quantity of one of several devices is named with it: `latency_ms@pi`. Whoever takes a limit takes it from
here: job files, verbs, the API, and of sizes in bytes the dashboard's fields.
"""

import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import UsageError, did_you_mean
from supernet import tasks
from supernet.tasks import QualityKind

ACCURACY, BALANCED = "accuracy", "balanced_accuracy"
QUALITIES = tuple(tasks.kinds())  # told after an evaluation; a job optimises one of them
SEARCHED = tuple(name for name, kind in tasks.kinds().items() if kind.searched)  # of them it can be one
# Known before any evaluation: exact, or predicted from the architecture.
KNOWN_BEFORE = ("latency_ms", "params", "macs", "memory_bytes", "peak_memory_bytes")
NAMES = (*QUALITIES, "predicted_ms", "measured_ms", *KNOWN_BEFORE)
PER_DEVICE = ("latency_ms", "peak_memory_bytes", "predicted_ms", "measured_ms")
NOT_IN_DEVICES = "<>="  # which would end the name of a device in a limit

_OPERATORS = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_PATTERN = re.compile(
    rf"\s*(?P<name>[^\W\d]\w*(@[^{NOT_IN_DEVICES}]+)?)\s*(?P<operator><=|>=|==|<|>)\s*(?P<value>[^\s%]+)\s*(?P<unit>%|[A-Za-z]*)\s*",
    re.ASCII,
)
_NUMBER = re.compile(r"[-+]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][-+]?\d{1,2})?", re.ASCII)
_SIZE = re.compile(rf"(?P<number>{_NUMBER.pattern})\s*(?P<unit>[A-Za-z]*)", re.ASCII)
_BYTES = {"": 1, "b": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for ending, base in (("b", 1000), ("ib", 1024))
}
_HINT = "Write a name, an operator and a number: 'latency_ms<=5', 'params<3e6', 'accuracy>=0.8' or '>=80%'."
_SIZE_HINT = "Write bytes, or a unit: 'memory_bytes<=200e6', '200MB' (of 1000), '1.5GiB' (of 1024)."


@dataclass(frozen=True, slots=True)
class Limit:
    """`name operator value`; latencies in milliseconds, memory in bytes, accuracy from 0 to 1, other
    qualities in the unit of their task.

    A text may state an accuracy in percent: `accuracy>=60%`, and since none is above 1 `accuracy>=60`, too;
    and memory in units: `memory_bytes<=1.5GiB`.
    """

    name: str
    operator: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """The limit that the text states. Raises UsageError for anything else."""
        match = _PATTERN.fullmatch(text)
        if not match:
            raise UsageError(f"{text[:80]!r} is not a condition.", _HINT)
        name, sign, value = match.group("name", "operator", "value")
        name = name.rstrip()
        metric, device = split(name)
        if metric not in NAMES or (device is not None and metric not in (*PER_DEVICE, *QUALITIES)):
            names = NAMES if device is None else PER_DEVICE
            raise UsageError(
                f"There is no quantity '{name[:40]}' in {text[:80]!r}.", did_you_mean(metric, names)
            )
        return cls(name, sign, _number(metric, value, match["unit"], text))

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether one subnet's values meet it; a missing value, None and NaN meet nothing."""
        value = values.get(self.name)
        return value is not None and bool(_OPERATORS[self.operator](float(value), self.value))

    def mask(self, columns: Mapping[str, Any]) -> NDArray[np.bool_]:
        """Which of many meet it, `(n,)`: `columns` maps names to arrays, as a data frame does.

        None and NaN meet nothing. Raises UsageError when there is no such column.
        """
        mask: NDArray[np.bool_] = _OPERATORS[self.operator](self._column(columns), self.value)
        return mask

    def distance(self, columns: Mapping[str, Any]) -> NDArray[np.float64]:
        """How far each of many is from meeting it, `(n,)`, as a share of the limit's value; 0: it does.

        Raises UsageError as `mask` does.
        """
        off = np.abs(self._column(columns) - self.value) / (abs(self.value) or 1.0)
        off = np.where(np.isnan(off), np.inf, np.maximum(off, np.finfo(np.float64).tiny))
        return np.where(self.mask(columns), 0.0, off)

    def _column(self, columns: Mapping[str, Any]) -> NDArray[np.float64]:
        if self.name not in columns:
            raise UsageError(f"'{self.name}' is not known here.", did_you_mean(self.name, map(str, columns)))
        return np.asarray(columns[self.name], dtype=np.float64)

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.value:.15g}"


def _number(metric: str, value: str, unit: str, text: str) -> float:
    """The number of a limit. Raises UsageError for what is none, and for a unit that the quantity has not."""
    if metric.endswith("_bytes") and unit != "%":
        size = bytes_of(value + unit)
        if size is None:
            raise UsageError(f"'{value[:40]}{unit}' in {text[:80]!r} is no number of bytes.", _SIZE_HINT)
        return size
    if not _NUMBER.fullmatch(value) or unit not in ("", "%"):
        raise UsageError(f"'{value[:40]}{unit[:40]}' in {text[:80]!r} is not a plain number.", _HINT)
    if is_share(metric):
        return _fraction(float(value), text, percent=unit == "%")
    if unit:
        raise UsageError(f"'{metric}' in {text[:80]!r} is not told in percent.", _HINT)
    return float(value)


def bytes_of(text: str) -> float | None:
    """A size such as 200MB, 1.5 GiB or 2e8 in bytes, whatever its case; None for what is none."""
    match = _SIZE.fullmatch(text.strip())
    unit = match and _BYTES.get(match["unit"].lower())
    return float(match["number"]) * unit if match and unit else None


def _fraction(number: float, text: str, *, percent: bool) -> float:
    """An accuracy from 0 to 1. Raises UsageError for a number that is neither a share nor a percentage."""
    if percent or number > 1:
        number /= 100
    if not 0 <= number <= 1:
        hint = "Write a share, 'accuracy>=0.6', or percent, 'accuracy>=60%'."
        raise UsageError(f"{text[:80]!r} is about no accuracy that there can be.", hint)
    return number


def kind_of(quality: str) -> QualityKind:
    """What a quality is; of one that no task here has, as of an accuracy."""
    return tasks.kinds().get(quality) or QualityKind(quality, "share of the examples", "max")


def beside(quality: str) -> tuple[str, ...]:
    """All qualities of the task that one is of; of one that no task here has, those of classification."""
    task = tasks.get(tasks.of_quality(quality)) if quality in QUALITIES else tasks.get()
    return tuple(kind.name for kind in task.qualities)


def is_share(metric: str) -> bool:
    """Whether a quantity is a quality from 0 to 1, which may be told in percent."""
    kind = tasks.kinds().get(metric)
    return kind is not None and kind.goal == "max" and kind.most == 1


def on_device(metric: str, device: str) -> str:
    """The name of a quantity of one of several devices."""
    return f"{metric}@{device}"


def split(name: str) -> tuple[str, str | None]:
    """The quantity, and the device of which it is one, if the name tells it."""
    metric, at, device = name.partition("@")
    return metric, device if at else None


def distance(limits: Iterable[Limit], columns: Mapping[str, Any], count: int) -> NDArray[np.float64]:
    """How far each of `count` is from meeting all limits, `(count,)`; 0: it meets them."""
    return sum((limit.distance(columns) for limit in limits), np.zeros(count))

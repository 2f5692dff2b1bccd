"""Points over two axes, drawn with characters: quality against a cost, a sign for each series.

Rich has no plots, and what a library of plots would save here is little: tick marks on a logarithmic axis are
the most of it, and those it would have to be given.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from string import ascii_lowercase
from typing import Any

from nas.cli.output import amount, clean, is_share
from nas.limits import QUALITIES, kind_of, split
from nas.results.baselines import Baseline
from nas.results.front import ParetoFront
from nas.results.members import Member
from nas.results.running.front_so_far import FACTS
from nas.store.values import shortened

SIGNS = "ox+#@%" + ascii_lowercase.replace("o", "").replace("x", "")
NETWORK, SEVERAL = "*", "&"  # of reference networks; where more than one series has a point
NARROWEST, WIDEST = 60, 100  # columns
LINES = 12  # of points
ROOM = 0.03  # of the span, beyond the outermost points
TITLES = {
    "latency_ms": "latency in ms",
    "params": "parameters",
    "macs": "MACs",
    "memory_bytes": "memory in bytes",
    "peak_memory_bytes": "peak memory in bytes",
}


@dataclass(frozen=True, slots=True)
class Series:
    """Points `(cost, quality)` that belong together. name: "" stays out of the legend."""

    name: str
    points: Sequence[tuple[float, float]]
    sign: str | None = None


@dataclass(frozen=True)
class _Axis:
    """From numbers to places on a line of `cells` characters, and which numbers are written beside it."""

    low: float
    high: float
    cells: int
    is_log: bool

    @classmethod
    def over(cls, values: Iterable[float], *, cells: int, is_log: bool = False) -> "_Axis":
        """One that holds these, with some room; logarithmic only over numbers above 0."""
        numbers = list(values)
        is_log = is_log and min(numbers) > 0
        low, high = (math.log(f(numbers)) if is_log else f(numbers) for f in (min, max))
        room = ROOM * (high - low) or (0.05 if is_log else 0.05 * abs(high) or 1.0)
        return cls(low - room, high + room, cells, is_log)

    def place(self, value: float) -> int:
        at = math.log(value) if self.is_log else value
        return round((at - self.low) / (self.high - self.low) * (self.cells - 1))

    def ticks(self, most: int) -> list[float]:
        """Round numbers inside, of a wide logarithmic axis 1, 2 and 5 of every decade."""
        low, high = (math.exp(end) if self.is_log else end for end in (self.low, self.high))
        if self.is_log and high / low >= 8:
            first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
            for digits, every in (((1, 2, 5), 1), *(((1,), every) for every in range(1, last - first + 1))):
                made = [digit * 10.0**power for power in range(first, last + 1, every) for digit in digits]
                inside = [value for value in made if low <= value <= high]
                if len(inside) <= most:
                    return inside
        step = _round_step((high - low) / most)
        return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def of_front(pareto: ParetoFront, *, width: int) -> tuple[list[str], int]:
    """Quality against the first cost, a sign for each job; how many members have no place in it."""
    costs = [metric for metric, _ in map(split, pareto.objectives) if metric not in QUALITIES]
    cost = next(iter((*pareto.decided_by, *costs)), "latency_ms")
    several = len(pareto.jobs) > 1
    series = [
        Series(job if several else "", _points([m for m in pareto.members if m.job == job], cost))
        for job in pareto.jobs
    ]
    lacking = len(pareto.members) - sum(len(one.points) for one in series)
    series.append(Series("reference networks", _points(pareto.baselines, cost), NETWORK))
    return picture(series, metric=pareto.metric, cost=cost, width=width), lacking


def _points(rows: Sequence[Member] | Sequence[Baseline], cost: str) -> list[tuple[float, float]]:
    pairs = [(one.told(cost), one.quality) for one in rows]
    return [(c, quality) for c, quality in pairs if c is not None and quality is not None]


def so_far(rows: Sequence[Mapping[str, Any]], *, width: int) -> list[str]:
    """The same of a job while it runs; nothing of less than two points, or in too few columns.

    rows: as `nas.results.running.front_so_far` has them.
    """
    cost = next((name for name in (rows[0] if rows else ()) if name not in FACTS), None)
    if cost is None:
        return []
    points = [(row[cost], row["value"]) for row in rows if None not in (row[cost], row["value"])]
    if len(points) < 2 or width < NARROWEST:
        return []
    return picture([Series("", points)], metric=rows[0]["metric"], cost=cost, width=width)


def picture(series: Sequence[Series], *, metric: str, cost: str, width: int) -> list[str]:
    """The lines of a picture in so many columns, at least NARROWEST; none where there is no point."""
    points = [point for one in series for point in one.points]
    if not points:
        return []
    signs = _signs(series)
    y = _Axis.over((quality for _, quality in points), cells=LINES)
    marks = {y.place(tick): text for tick, text in _said(y.ticks(5), _quality_words(metric))}
    margin = max(map(len, marks.values()))
    x = _Axis.over((c for c, _ in points), cells=min(width, WIDEST) - margin - 3, is_log=True)
    canvas = _canvas(series, signs, x, y)
    rows = [
        f"{marks.get(row, ''):>{margin}} {'┤' if row in marks else '│'}{''.join(canvas[row]).rstrip()}"
        for row in reversed(range(LINES))
    ]
    less = ", less is better" if kind_of(metric).goal == "min" else ""
    scale = " (log scale)" if x.is_log else ""
    axis = [*_below(x, cost), f" {TITLES.get(cost, cost)}{scale}"]
    return [
        f"{metric.replace('_', ' ')}{less}",
        *rows,
        *(" " * (margin + 1) + line for line in axis),
        *_legend(series, signs, canvas),
    ]


def _signs(series: Sequence[Series]) -> list[str]:
    free = cycle(SIGNS)
    return [one.sign or next(free) for one in series]


def _canvas(series: Sequence[Series], signs: Sequence[str], x: _Axis, y: _Axis) -> list[list[str]]:
    canvas = [[" "] * x.cells for _ in range(y.cells)]
    for sign, one in zip(signs, series, strict=True):
        for cost, quality in one.points:
            row, column = canvas[y.place(quality)], x.place(cost)
            row[column] = sign if row[column] in (" ", sign) else SEVERAL
    return canvas


def _below(axis: _Axis, cost: str) -> list[str]:
    """The line of the axis with its marks, and their numbers, but for those that would touch another."""
    line, numbers = ["─"] * axis.cells, ""
    for tick, text in _said(axis.ticks(max(2, axis.cells // 12)), _cost_words(cost)):
        begins = max(0, axis.place(tick) - len(text) // 2)
        if (not numbers or begins > len(numbers) + 1) and begins + len(text) <= axis.cells:
            numbers = f"{numbers:<{begins}}{text}"
            line[axis.place(tick)] = "┬"
    return [f"└{''.join(line)}", f" {numbers}"]


def _legend(series: Sequence[Series], signs: Sequence[str], canvas: Sequence[Sequence[str]]) -> list[str]:
    lines = [
        f"{sign} {shortened(clean(one.name, newlines=False))}"
        for sign, one in zip(signs, series, strict=True)
        if one.name and one.points
    ]
    return lines + ([f"{SEVERAL} several of them"] if any(SEVERAL in row for row in canvas) else [])


def _round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))


def _said(ticks: Sequence[float], words: Callable[[float], str]) -> list[tuple[float, str]]:
    return [(tick, words(tick)) for tick in ticks]


def _quality_words(metric: str) -> Callable[[float], str]:
    return (lambda value: f"{100 * value:.4g} %") if is_share(metric) else (lambda value: f"{value:.4g}")


def _cost_words(cost: str) -> Callable[[float], str]:
    return _milliseconds if cost == "latency_ms" else lambda value: amount(value) or ""


def _milliseconds(value: float) -> str:
    return f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"

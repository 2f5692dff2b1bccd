"""Limits on quantities in an address, the sliders that show them, and what they leave of a frame."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dashboards.addresses import Query
from dashboards.figures.look import is_number
from nas.limits import bytes_of
from nas.results.comparing.points import QUALITY, Quantity, of_front

PREFIX = "limit."
STEPS = 200  # of a slider, from the least to the greatest value
DIGITS = 3  # of a limit that a slider sets
MOST_SLIDERS = 12
WEIGHT = "weight"  # of the quality in the best compromise, in percent


@dataclass(frozen=True)
class Slider:
    """One quantity, what values there are of it, and its limit; None: there is none.

    A cost has a greatest value that is accepted, a quality a least one. Costs are spread out by their ratios.
    """

    quantity: Quantity
    least: float
    greatest: float
    limit: float | None

    @property
    def place(self) -> int:
        """Where the slider stands: at the end that accepts everything without a limit."""
        if self.limit is None:
            return STEPS if self.quantity.sign < 0 else 0
        part = self._part(min(max(self.limit, self.least), self.greatest))
        return round(STEPS * part)

    @property
    def shown(self) -> str:
        """The limit as it stands in the field for numbers; shares in percent."""
        if self.limit is None:
            return ""
        return f"{self.limit * (100 if self.quantity.is_share else 1):.6g}"

    def at(self, place: int) -> float | None:
        """The limit of a slider at this place, rounded to the side that accepts more."""
        is_cost = self.quantity.sign < 0
        if place >= STEPS if is_cost else place <= 0:
            return None
        part = min(max(place, 0), STEPS) / STEPS
        if self._is_spread:
            value = self.least * (self.greatest / self.least) ** part
        else:
            value = self.least + (self.greatest - self.least) * part
        return _rounded(value, up=is_cost)

    def typed(self, text: str) -> float | None:
        """The limit of a number that was typed, of a size perhaps as 200MB; None for what is no number."""
        if self.quantity.unit == "B":
            return bytes_of(text.replace(",", "."))
        try:
            value = float(text.replace(",", "."))
        except ValueError:
            return None
        return value / (100 if self.quantity.is_share else 1) if math.isfinite(value) else None

    def keeps(self, values: pd.Series) -> pd.Series:
        """Which values are within the limit; a missing one is within none."""
        if self.limit is None:
            return pd.Series(True, index=values.index)
        return values <= self.limit if self.quantity.sign < 0 else values >= self.limit

    @property
    def _is_spread(self) -> bool:
        return self.quantity.key != QUALITY and self.least > 0 and self.greatest > self.least

    def _part(self, value: float) -> float:
        if self.greatest <= self.least:
            return 1.0 if self.quantity.sign < 0 else 0.0
        if self._is_spread:
            return math.log(value / self.least) / math.log(self.greatest / self.least)
        return (value - self.least) / (self.greatest - self.least)


def _rounded(value: float, *, up: bool) -> float:
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1)
    steps = value / unit
    return float(f"{(math.ceil(steps - 1e-9) if up else math.floor(steps + 1e-9)) * unit:.{DIGITS}g}")


def sliders(rows: pd.DataFrame, quantities: Sequence[Quantity], query: Query) -> list[Slider]:
    """One for each quantity whose values differ, at most MOST_SLIDERS."""
    listed = []
    for one in quantities:
        values = rows[one.key].dropna().astype(float)
        if len(values) and (values.min() < values.max() or query.first(PREFIX + one.key)):
            limit = query.number(PREFIX + one.key)
            listed.append(Slider(one, float(values.min()), float(values.max()), limit))
    return listed[:MOST_SLIDERS]


def unknown_limits(limits: Sequence[Slider], query: Query) -> list[str]:
    """The limits of an address, in words, that are on nothing that is known here."""
    shown = {PREFIX + one.quantity.key for one in limits}
    return [
        f"The limit on '{name.removeprefix(PREFIX)}' is left out: nothing here differs in it."
        for name, _ in query.pairs
        if name.startswith(PREFIX) and name not in shown
    ]


def within(rows: pd.DataFrame, limits: Sequence[Slider]) -> pd.Series:
    """Which subnets are within all limits."""
    kept = pd.Series(True, index=rows.index)
    for slider in limits:
        kept &= slider.keeps(rows[slider.quantity.key])
    return kept


def left_by_each(rows: pd.DataFrame, limits: Sequence[Slider]) -> dict[str, int]:
    """By quantity how many subnets its limit alone leaves."""
    return {one.quantity.key: int(one.keeps(rows[one.quantity.key]).sum()) for one in limits}


def moved(limits: Sequence[Slider], places: Sequence[object], texts: Sequence[object], query: Query) -> Query:
    """The query with what a slider or a field now says and the address does not yet."""
    for slider, place, text in zip(limits, places, texts, strict=False):
        name = PREFIX + slider.quantity.key
        number = _whole(place)
        if number is not None and number != slider.place:
            return query.replaced(name, *_written(slider.at(number)))
        if text is not None and str(text).strip() != slider.shown:
            return query.replaced(name, *_written(slider.typed(str(text))))
    return query


def _whole(place: object) -> int | None:
    try:
        return int(float(str(place)))
    except (ValueError, OverflowError):
        return None


def _written(limit: float | None) -> tuple[str, ...]:
    return () if limit is None else (f"{limit:.6g}",)


def best(rows: pd.DataFrame, kept: pd.Series, metric_sign: float, x: Quantity) -> int | None:
    """The row of the best quality within the limits; of equals the one that is better on the x axis."""
    inside = rows[kept].dropna(subset=[QUALITY])
    if inside.empty:
        return None
    order = inside.assign(gain=metric_sign * inside[QUALITY], cost=-x.sign * inside[x.key])
    first = order.sort_values(["gain", "cost"], ascending=[False, True], kind="stable").index[0]
    return int(first)


def knee(rows: pd.DataFrame, kept: pd.Series, axes: tuple[Quantity, Quantity], weight: float) -> int | None:
    """The row of the best compromise within the limits: of those that no other beats the greatest weighted
    gain, each side from the worst to the best of them counted as 1.

    weight: from 0 to 1, of the second axis; the rest is that of the first.
    """
    x, y = axes
    inside = rows[kept].dropna(subset=[x.key, y.key])
    front = inside[of_front(inside, axes)] if len(inside) else inside
    if front.empty:
        return None
    gains = {one.key: _unit(one.sign * front[one.key].astype(float)) for one in axes}
    score = (1 - weight) * gains[x.key] + weight * gains[y.key]
    return int(score.round(12).idxmax())


def _unit(values: pd.Series) -> pd.Series:
    span = values.max() - values.min()
    return (values - values.min()) / (span if span > 0 else 1.0)


def weight_of(query: Query) -> float:
    """Of the y axis in the best compromise, from 0 to 1; by default a half."""
    number = query.number(WEIGHT)
    return 0.5 if number is None else min(max(number, 0.0), 100.0) / 100


def asked_limits(
    limits: Sequence[Slider], device: int | None, names: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Limits as `nas what-if` takes them, for one device; and in words those that it cannot.

    names: of job files by the keys of quantities that need no device.
    """
    asked, left = [], []
    for one in limits:
        if not is_number(one.limit) or one.quantity.key == QUALITY:
            continue
        if one.quantity.key == f"latency@{device}":
            asked.append(f"latency_ms<={one.limit:.15g}")
        elif one.quantity.key in names:
            asked.append(f"{names[one.quantity.key]}<={one.limit:.15g}")
        else:
            left.append(one.quantity.title)
    return asked, left

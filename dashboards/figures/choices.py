"""What choices count for, and which of them go with what qualities and latencies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from dashboards.figures.look import (
    BLUE,
    GREY,
    VERMILLION,
    empty,
    escaped,
    framed,
    is_share,
    many,
    numbers,
    wrapped,
)

MOST_CHOICES = 20
MOST_AXES = 14
MOST_LINES = 1_500
MOST_TICKS = 12
NUMBER_TICKS = 5
# From the least to the greatest quality; told apart by the colour-blind, and seen on white and on black.
SHADES = ("#3B4F9A", "#5B6FA8", "#7F8792", "#A69A63", "#CDB04A", "#F2C94C")

Brushes = Mapping[str, tuple[float, float]]


def importance_figure(
    quality: pd.DataFrame, latency: pd.DataFrame, *, metric: str, explained: tuple[float, float]
) -> go.Figure:
    """How much each choice moves quality and latency; columns choice and spread, of each or of none.

    explained: the shares of variance that the choices explain, of quality and of latency.
    """
    title = "What each choice moves"
    names = list(dict.fromkeys([*quality.get("choice", []), *latency.get("choice", [])]))[:MOST_CHOICES]
    if not names:
        return empty(title, "Too few subnets have been evaluated.")
    unit = 100 if is_share(metric) else 1
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    for column, (rows, scale, color) in enumerate(((quality, unit, BLUE), (latency, 1, VERMILLION)), start=1):
        spreads = dict(zip(rows.get("choice", []), rows.get("spread", []), strict=True))
        values = numbers([scale * spreads[name] if name in spreads else None for name in names])
        bar = go.Bar(
            x=values,
            y=[escaped(name) for name in names],
            orientation="h",
            marker={"color": color, "pattern": {"shape": "" if column == 1 else "/", "solidity": 0.3}},
            hovertemplate="%{y}: %{x:.3g}<extra></extra>",
        )
        figure.add_trace(bar, row=1, col=column)
    fits = f"additive fits explain {100 * explained[0]:.0f} % and {100 * explained[1]:.0f} % of the variance"
    framed(figure, title, f"standard deviation over the evaluated subnets; {fits}")
    figure.update_layout(bargap=0.3, height=190 + 22 * len(names), showlegend=False)
    words = escaped(metric.replace("_", " "))
    figure.update_xaxes(nticks=5, tickangle=0)
    figure.update_xaxes(title=f"{words}{' in points' if unit > 1 else ''}", row=1, col=1)
    figure.update_xaxes(title="latency in ms", row=1, col=2)
    return figure.update_yaxes(autorange="reversed", type="category")


@dataclass(frozen=True, eq=False)
class Axis:
    """An upright axis of coordinates. values: of every subnet.  low, high: what stands at its ends.

    ticks: values with their words.
    """

    label: str
    values: NDArray[np.float64]
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    @property
    def places(self) -> NDArray[np.float64]:
        """Where the values stand: 0 at its lower end, 1 at its upper."""
        return (self.values - self.low) / (self.high - self.low)

    def chosen(self, brush: tuple[float, float] | None) -> NDArray[np.bool_]:
        """Which subnets are in a part of it."""
        if brush is None:
            return np.ones(len(self.values), dtype=np.bool_)
        inside: NDArray[np.bool_] = (self.values >= brush[0]) & (self.values <= brush[1])
        return inside


def coordinate_axes(choices: pd.DataFrame, values: pd.DataFrame, *, metric: str) -> list[Axis]:
    """An axis for each of the first choices, for latency and for quality, as far as they are known.

    choices: texts, as `choice_columns` gives them.  values: columns latency_ms and quality, of the same rows.
    """
    axes = [_choice_axis(choices[name]) for name in choices.columns[:MOST_AXES]]
    for name, words in (("latency_ms", "latency in ms"), ("quality", metric.replace("_", " "))):
        if values[name].notna().all() and values[name].nunique() > 1:
            axes.append(_number_axis(values[name], words, is_share=name == "quality" and is_share(metric)))
    return axes


def coordinates_figure(
    choices: pd.DataFrame, values: pd.DataFrame, *, metric: str, brushes: Brushes | None = None
) -> go.Figure:
    """A line a subnet through its choices, its latency and its quality, which colours it.

    choices, values: as `coordinate_axes` takes them.  brushes: by the name of an axis the part of it that is
    chosen. Lines of an SVG, because Plotly's own parallel coordinates compile scripts, which no page of ours
    may (`dashboards.requests`).
    """
    title = "Choices of the evaluated subnets"
    if choices.empty or values["quality"].notna().sum() < 2:
        return empty(title, "Too few subnets have been evaluated.")
    every = max(1, -(-len(choices) // MOST_LINES))
    axes, chosen = coordinate_axes(choices, values, metric=metric), brushes or {}
    places = np.stack([axis.places for axis in axes], axis=1)[::every]
    inside = np.all([axis.chosen(chosen.get(axis.label)) for axis in axes], axis=0)[::every]
    figure = go.Figure()
    if not inside.all():
        figure.add_trace(_lines(places[~inside], GREY, opacity=0.15))
    shades = _shades(values["quality"].to_numpy(dtype=np.float64)[::every])
    for shade, colour in enumerate(SHADES):
        of_shade = places[inside & (shades == shade)]
        if len(of_shade):
            figure.add_trace(_lines(of_shade, colour, opacity=0.6))
    figure.add_trace(_colour_bar(values["quality"], metric))
    more = len(choices.columns) - MOST_AXES
    words = f"; the first {MOST_AXES} of {len(choices.columns)} choices" if more > 0 else ""
    count = f"{len(places):,} of {len(choices):,} subnets"
    framed(figure, title, f"{count}, predicted latency, search split{words}; drag a box over axes to choose")
    _draw_axes(figure, axes, chosen)
    return figure.update_layout(dragmode="select", showlegend=False)


def _lines(places: NDArray[np.float64], colour: str, *, opacity: float) -> go.Scatter:
    """One trace for many subnets, with gaps between them. places: (subnets, axes)."""
    gap = np.full((len(places), 1), np.nan)
    y = np.round(np.concatenate([places, gap], axis=1), 4)
    x = np.tile([*range(places.shape[1]), np.nan], len(places))
    line = {"color": colour, "width": 1}
    return go.Scatter(
        x=many(numbers(x)),
        y=many(numbers(y.ravel())),
        mode="lines",
        line=line,
        opacity=opacity,
        hoverinfo="skip",
    )


def _shades(qualities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which of SHADES each has, from the least to the greatest; the first where none is known."""
    low, high = np.nanmin(qualities), np.nanmax(qualities)
    parts = np.nan_to_num((qualities - low) / ((high - low) or 1.0))
    shades: NDArray[np.int64] = np.minimum((parts * len(SHADES)).astype(np.int64), len(SHADES) - 1)
    return shades


def _colour_bar(qualities: pd.Series, metric: str) -> go.Scatter:
    """What the colours mean, of a point that is nowhere."""
    steps = [(end / len(SHADES), colour) for place, colour in enumerate(SHADES) for end in (place, place + 1)]
    bar = {
        "title": {"text": escaped(metric.replace("_", " "))},
        "thickness": 12,
        "tickformat": ".0%" if is_share(metric) else None,
    }
    marker = {
        "color": [float(qualities.min())],
        "cmin": float(qualities.min()),
        "cmax": float(qualities.max()),
        "colorscale": steps,
        "showscale": True,
        "colorbar": bar,
    }
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, hoverinfo="skip")


def _draw_axes(figure: go.Figure, axes: Sequence[Axis], brushes: Brushes) -> None:
    """The axes with their ticks, their names below, and what is chosen of them."""
    for i, axis in enumerate(axes):
        for value, words in axis.ticks:
            figure.add_annotation(
                x=i,
                y=(value - axis.low) / (axis.high - axis.low),
                text=words,
                showarrow=False,
                xanchor="right",
                xshift=-3,
                font={"size": 11},
                bgcolor="rgba(255, 255, 255, 0.75)",
            )
        if axis.label in brushes:
            ends = [(end - axis.low) / (axis.high - axis.low) for end in brushes[axis.label]]
            figure.add_shape(
                type="rect",
                x0=i - 0.06,
                x1=i + 0.06,
                y0=max(ends[0], 0.0),
                y1=min(ends[1], 1.0),
                line={"color": VERMILLION, "width": 1.5},
                fillcolor="rgba(213, 94, 0, 0.15)",
            )
    names = [wrapped(escaped(axis.label), 12) for axis in axes]
    figure.update_xaxes(
        tickvals=list(range(len(axes))),
        ticktext=names,
        tickangle=0,
        tickfont={"size": 11},
        ticks="",
        showgrid=True,
        gridcolor=GREY,
        showline=False,
        range=[-0.6, len(axes) - 0.6],
        fixedrange=True,
    )
    figure.update_yaxes(visible=False, range=[-0.03, 1.03], fixedrange=True)


def options_of(column: pd.Series) -> list[str]:
    """The options of a choice in the order in which an axis has them: numbers by size, then words."""

    def place(text: str) -> tuple[int, float, str]:
        try:
            return 0, float(text), text
        except ValueError:
            return 1, 0.0, text

    return sorted(set(column), key=place)


def _choice_axis(column: pd.Series) -> Axis:
    listed = options_of(column)
    places = {text: i for i, text in enumerate(listed)}
    ticks = range(0, len(listed), max(1, -(-len(listed) // MOST_TICKS)))
    return Axis(
        str(column.name),
        np.array([places[text] for text in column], dtype=np.float64),
        -0.2,
        max(1, len(listed) - 1) + 0.2,
        tuple((float(i), escaped(listed[i])) for i in ticks),
    )


def _number_axis(values: pd.Series, label: str, *, is_share: bool) -> Axis:
    low, high = float(values.min()), float(values.max())
    ends = np.linspace(low, high, NUMBER_TICKS)
    words = [f"{100 * end:.1f} %" if is_share else f"{end:.3g}" for end in ends]
    ticks = tuple(zip(ends.tolist(), words, strict=True))
    return Axis(label, values.to_numpy(dtype=np.float64), low, high, ticks)

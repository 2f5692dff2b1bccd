"""Figures of latency on a device: predictions against measurements, how these repeat, where the time goes."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards.figures.look import (
    BLACK,
    BLUE,
    GREY,
    KINDS,
    SERIES,
    VERMILLION,
    empty,
    escaped,
    framed,
    is_number,
    milliseconds,
    numbers,
    percent,
)

LOG_FROM = 4  # largest over smallest latency, from which on an axis is logarithmic
FEW_TICKS: Any = {"tickformat": "~g", "nticks": 5, "tickangle": 0}
BANDS = ((0.10, "rgba(86, 180, 233, 0.18)"), (0.05, "rgba(86, 180, 233, 0.35)"))  # of sky blue
PATTERNS = ("", "/", ".", "x", "\\", "-")


def held_out_figure(held_out: pd.DataFrame) -> go.Figure:
    """Latencies predicted without the subnet against measured ones; `latency_frames.held_out`.

    Bands of 5 and 10 % around equality, and the predictor's 90 % intervals where they are known.
    """
    title = "Predicted against measured"
    both = ["predicted_ms", "measured_ms"]
    timed = held_out.dropna(subset=both).astype(dict.fromkeys(both, float))
    if timed.empty:
        return empty(title, "No subnet was held out: too few have been measured.")
    low, high = float(timed[both].min(axis=None)), float(timed[both].max(axis=None))
    line = {"color": BLACK, "dash": "dash", "width": 1}
    figure = go.Figure([_band(share, color, 0.97 * low, 1.03 * high) for share, color in BANDS])
    figure.add_trace(_segments(timed))
    ends = [0.97 * low, 1.03 * high]
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", name="equal"))
    figure.add_trace(
        go.Scatter(
            x=numbers(timed["measured_ms"]),
            y=numbers(timed["predicted_ms"]),
            hovertext=[_point_text(row) for row in timed.to_dict("records")],
            hoverinfo="text",
            mode="markers",
            marker={"size": 7, "color": VERMILLION, "symbol": "diamond"},
            name="subnets held out",
        )
    )
    framed(figure, title, f"{len(timed)} subnets, each predicted by a fit without it")
    scale = "log" if high >= LOG_FROM * low else "linear"
    figure.update_xaxes(type=scale, title=f"measured in ms{_in_words(scale)}", **FEW_TICKS)
    return figure.update_yaxes(type=scale, title=f"predicted in ms{_in_words(scale)}", **FEW_TICKS)


def halves_figure(halves: pd.DataFrame, *, mape: float | None = None) -> go.Figure:
    """How far the latencies of odd and even rounds are apart over the latency; `latency_frames.halves`.

    mape: their mean distance as a fraction, as the job stored it; the noise that no predictor gets below.
    """
    title = "Repeatability of the measurements"
    timed = halves.dropna().astype(dict.fromkeys(("measured_ms", "odd_ms", "even_ms"), float))
    if timed.empty:
        return empty(title, "The timings of the rounds were not stored.")
    apart = 2 * (timed["odd_ms"] - timed["even_ms"]) / (timed["odd_ms"] + timed["even_ms"])
    figure = go.Figure(
        go.Scatter(
            x=numbers(timed["measured_ms"]),
            y=numbers(apart),
            hovertext=[
                f"<b>{escaped(row['subnet'])}</b><br>{milliseconds(row['odd_ms'])} in odd rounds"
                f"<br>{milliseconds(row['even_ms'])} in even rounds"
                for row in timed.to_dict("records")
            ],
            hoverinfo="text",
            mode="markers",
            marker={"size": 7, "color": BLUE},
            name="subnets",
        )
    )
    subtitle, widest = f"{len(timed)} subnets", float(apart.abs().max())
    if is_number(mape):
        figure.add_hrect(-mape, mape, fillcolor="rgba(138, 148, 160, 0.2)", line_width=0, layer="below")
        subtitle, widest = f"{subtitle}; grey: {percent(mape)} apart, the mean", max(widest, mape)
    framed(figure, title, subtitle)
    low, high = timed["measured_ms"].min(), timed["measured_ms"].max()
    scale = "log" if high >= LOG_FROM * low else "linear"
    figure.update_xaxes(type=scale, title=f"measured in ms{_in_words(scale)}", **FEW_TICKS)
    reach = 1.15 * widest or 0.01
    figure.update_yaxes(range=[-reach, reach])
    figure.update_yaxes(title="odd minus even rounds", tickformat="+~p", zeroline=True, zerolinecolor=GREY)
    return figure.update_layout(showlegend=False)


def kinds_figure(kinds: pd.DataFrame) -> go.Figure:
    """Where the predicted time goes in the smallest and the largest subnet; `latency_frames.by_kind`."""
    title = "Latency by kind of layer"
    parts = kinds.dropna(subset=["latency_ms"]).astype({"latency_ms": float})
    subnets = [name for name in ("smallest", "largest") if name in set(parts["subnet"])]
    if not subnets:
        return empty(title, "This predictor does not tell the kinds of layers apart.")
    whole = parts.groupby("subnet")["latency_ms"].sum()
    figure = make_subplots(rows=len(subnets), cols=1, vertical_spacing=0.3)
    for number, (kind, rows) in enumerate(parts.groupby("kind", sort=False)):
        times = rows.groupby("subnet")["latency_ms"].sum()
        for row, subnet in enumerate(subnets, start=1):
            text = (
                f"{milliseconds(times.get(subnet, 0.0))}, {percent(times.get(subnet, 0.0) / whole[subnet])}"
            )
            bar = go.Bar(
                x=[float(times.get(subnet, 0.0))],
                y=[f"{subnet}<br>{milliseconds(whole[subnet])}"],
                orientation="h",
                name=escaped(kind),
                legendgroup=escaped(kind),
                showlegend=row == 1,
                marker=_fill(str(kind), number),
                hovertext=[f"{escaped(kind)} in the {subnet} subnet: {text}"],
                hoverinfo="text",
            )
            figure.add_trace(bar, row=row, col=1)
    framed(figure, title, "as predicted; each bar has its own scale")
    figure.update_layout(barmode="stack", bargap=0.3)
    figure.update_xaxes(nticks=6, tickformat="~g")
    return figure.update_xaxes(title="ms", row=len(subnets), col=1)


def _band(share: float, color: str, low: float, high: float) -> go.Scatter:
    above, below = 1 + share, 1 - share
    return go.Scatter(
        x=[low, high, high, low],
        y=[low * above, high * above, high * below, low * below],
        fill="toself",
        fillcolor=color,
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        name=f"within {100 * share:.0f} %",
    )


def _segments(timed: pd.DataFrame) -> go.Scatter:
    """One upright line a subnet. Not error bars: the interval need not hold what a fit without it says."""
    x: list[float | None] = []
    y: list[float | None] = []
    for measured, low, high in timed[["measured_ms", "low_ms", "high_ms"]].itertuples(index=False):
        if is_number(low) and is_number(high):
            # Zero has no place on a log axis.
            x += [measured, measured, None]
            y += [max(float(low), 0.1 * measured), float(high), None]
    line = {"color": VERMILLION, "width": 1.2}
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line=line,
        opacity=0.6,
        hoverinfo="skip",
        name="90 % interval",
        visible=bool(x),
    )


def _point_text(row: Mapping[str, Any]) -> str:
    error = row["predicted_ms"] / row["measured_ms"] - 1
    interval = ""
    if is_number(row["low_ms"]) and is_number(row["high_ms"]):
        interval = f"<br>90 % interval {row['low_ms']:.3g} to {milliseconds(row['high_ms'])}"
    return (
        f"<b>{escaped(row['subnet'])}</b><br>{milliseconds(row['measured_ms'])} measured"
        f"<br>{milliseconds(row['predicted_ms'])} predicted ({100 * error:+.1f} %){interval}"
    )


def _fill(kind: str, number: int) -> dict[str, Any]:
    """Colour and pattern of a kind; those that have none of their own take turns."""
    turn = (SERIES[number % len(SERIES)], _turns(PATTERNS, number))
    color, pattern = KINDS.get(kind, turn)
    return {"color": color, "pattern": {"shape": pattern, "size": 5, "solidity": 0.35}}


def _turns(patterns: Sequence[str], number: int) -> str:
    return patterns[(number + 1) % len(patterns)]


def _in_words(scale: str) -> str:
    return " (log scale)" if scale == "log" else ""

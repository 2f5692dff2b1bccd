"""The main figure: the front of a job over everything that its search looked at."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from dashboards._look import (
    BLACK,
    GREEN,
    GREY,
    ORANGE,
    SERIES,
    SYMBOLS,
    amount,
    empty,
    escaped,
    framed,
    is_number,
    is_share,
    milliseconds,
    numbers,
    quality,
    words,
)
from nas.store.frames import PREDICTED, RETRAINED
from search_spaces._errors import shortened

MOST_DOTS = 5_000


def front_rows(finalists: pd.DataFrame) -> pd.DataFrame:
    """The finalists that no other of the same device beats in measured latency and quality both.

    Ordered by latency; finalists that lack one of the two are left out.
    """
    known = _known(finalists)
    ordered = known.sort_values(["measured_ms", "quality"], ascending=[True, False], kind="stable")
    best = ordered.groupby("device")["quality"].cummax()
    earlier = best.groupby(ordered["device"]).shift(fill_value=float("-inf"))
    return ordered[ordered["quality"] > earlier]


def front_figure(
    finalists: pd.DataFrame,
    evaluations: pd.DataFrame | None = None,
    *,
    job: str = "",
    selected: str | None = None,
    searched: int | None = None,
) -> go.Figure:
    """Quality on the report split against measured latency, over the subnets that the search looked at.

    finalists, evaluations: as `nas.store.frames` gives them. selected: the key of the subnet to be ringed.
    searched: how many subnets the search looked at, where `evaluations` are some of them to be drawn.
    Every point carries its subnet's key as `customdata`.
    """
    title = "Quality against latency" + (f" of {escaped(shortened(job))}" if job else "")
    known = _known(finalists)
    tried = _searched(evaluations)
    if known.empty and tried.empty:
        return empty(title, "No subnet has been evaluated yet.")
    figure = go.Figure()
    metric = str(known["metric"].iloc[0]) if len(known) else "quality"
    if len(tried):
        figure.add_trace(_dots(tried, metric, searched))
    best = front_rows(known)
    for i, (device, rows) in enumerate(known.groupby("device")):
        on_front = rows["subnet"].isin(best.loc[best["device"] == device, "subnet"])
        if rows["predicted_high_ms"].notna().any():
            figure.add_trace(_intervals(rows, color=SERIES[i % len(SERIES)]))
        for trace in _device_traces(
            rows[on_front], rows[~on_front], device=escaped(shortened(device)), index=i
        ):
            figure.add_trace(trace)
    for i, weights in enumerate(RETRAINED):
        again = known.dropna(subset=[weights])
        if len(again):
            figure.add_trace(_retrained(again, weights, index=i))
    ring = _ring(known, tried, selected)
    if ring is not None:
        figure.add_trace(ring)
    dots = "; dots: search split, predicted" if len(tried) else ""
    framed(figure, title, f"quality on the report split, latency measured{dots}")
    figure.update_xaxes(type="log", title="latency in ms (log scale)", tickformat="~g")
    figure.update_yaxes(title=escaped(metric), tickformat=".0%" if is_share(metric) else None)
    return figure.update_layout(clickmode="event", uirevision="front")


def _known(finalists: pd.DataFrame) -> pd.DataFrame:
    # A column in which every number is missing comes as objects.
    return finalists.dropna(subset=["measured_ms", "quality"]).astype(
        {"measured_ms": float, "quality": float}
    )


def _searched(evaluations: pd.DataFrame | None) -> pd.DataFrame:
    if evaluations is None or "latency_ms" not in evaluations or "value" not in evaluations:
        return pd.DataFrame(columns=["subnet", "latency_ms", "value", "architecture"])
    return evaluations.dropna(subset=["latency_ms", "value"])


def _dots(searched: pd.DataFrame, metric: str, total: int | None) -> go.Scatter:
    """The subnets of the search, thinned out evenly beyond MOST_DOTS (SVG draws no more at ease).

    total: how many there are, where `searched` has been thinned out already.
    """
    shown = searched if total is not None else searched.iloc[:: -(-len(searched) // MOST_DOTS)]
    total = len(searched) if total is None else total
    count = f"{len(shown):,} of {total:,}" if len(shown) < total else f"{total:,}"
    texts = [
        f"<b>{escaped(row['subnet'])}</b>"
        f"<br>{escaped(metric)} {quality(row['value'], row['stderr'], metric)} on the search split"
        f"<br>{milliseconds(row['latency_ms'])} predicted{_architecture_text(row['architecture'])}"
        for row in shown.to_dict("records")
    ]
    return go.Scatter(
        x=numbers(shown["latency_ms"]),
        y=numbers(shown["value"]),
        customdata=[str(key) for key in shown["subnet"]],
        hovertext=texts,
        hoverinfo="text",
        mode="markers",
        marker={"size": 5, "color": GREY, "opacity": 0.4},
        name=f"searched: predicted latency, search split ({count} subnets)",
    )


def _architecture_text(architecture: Mapping[str, Any] | None) -> str:
    """A line of its own; nothing where it was not read."""
    return f"<br>{escaped(words(architecture))}" if architecture is not None else ""


def _device_traces(
    front: pd.DataFrame, beaten: pd.DataFrame, *, device: str, index: int
) -> Sequence[go.Scatter]:
    """The front of one device, with its steps, and its finalists off the front; `device` is escaped."""
    color, symbol = SERIES[index % len(SERIES)], SYMBOLS[index % len(SYMBOLS)]
    front = front.sort_values("measured_ms", kind="stable")
    steps = go.Scatter(
        x=numbers(front["measured_ms"]),
        y=numbers(front["quality"]),
        mode="lines",
        line={"shape": "hv", "color": color, "width": 1.5},
        hoverinfo="skip",
        showlegend=False,
    )
    shown = _points(front, f"front: measured on {device}, report split (±1 standard error)")
    shown.marker = {"size": 10, "color": color, "symbol": symbol, "line": {"width": 1, "color": "white"}}
    traces = [steps, shown]
    if len(beaten):
        hidden = _points(beaten, f"finalists off the front on {device}")
        hidden.marker = {"size": 9, "color": color, "symbol": f"{symbol}-open"}
        traces.append(hidden)
    for trace in traces[1:]:
        trace.error_x.color = trace.error_y.color = color
    return traces


def _intervals(rows: pd.DataFrame, *, color: str) -> go.Scatter:
    """What was predicted for finalists, behind what was measured: a tick in a broad pale bar."""
    rows = rows.dropna(subset=list(PREDICTED)).astype(dict.fromkeys(PREDICTED, float))
    predicted, low, high = (rows[name].tolist() for name in PREDICTED)
    # A bar that reaches zero has no place on a log axis.
    below = [min(middle - end, 0.9 * middle) for middle, end in zip(predicted, low, strict=True)]
    above = [end - middle for middle, end in zip(predicted, high, strict=True)]
    pale = f"rgba{(*hex_to_rgb(color), 0.25)}"
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    return go.Scatter(
        x=predicted,
        y=numbers(rows["quality"]),
        error_x={**bars, "color": pale, "thickness": 7, "width": 0},
        mode="markers",
        marker={"symbol": "line-ns", "size": 9, "line": {"width": 1.5, "color": color}},
        hoverinfo="skip",
        name="predicted, with its 90 % interval",
    )


def _points(rows: pd.DataFrame, name: str) -> go.Scatter:
    x = numbers(rows["measured_ms"])
    spread = [value or 0.0 for value in numbers(rows["spread_ms"])]
    # A bar that reaches zero has no place on a log axis.
    below = [min(error, 0.9 * (value or 0.0)) for error, value in zip(spread, x, strict=True)]
    bars = {"thickness": 1, "width": 3}
    return go.Scatter(
        x=x,
        y=numbers(rows["quality"]),
        error_x={"type": "data", "array": spread, "arrayminus": below, "symmetric": False, **bars},
        error_y={"type": "data", "array": [value or 0.0 for value in numbers(rows["stderr"])], **bars},
        customdata=[str(key) for key in rows["subnet"]],
        hovertext=[_finalist_text(row) for row in rows.to_dict("records")],
        hoverinfo="text",
        mode="markers",
        name=name,
    )


def _retrained(rows: pd.DataFrame, weights: str, *, index: int) -> go.Scatter:
    """What the finalists are when they are trained by themselves: as fast as before."""
    rows = rows.astype({weights: float})
    named = RETRAINED[weights]
    return go.Scatter(
        x=numbers(rows["measured_ms"]),
        y=numbers(rows[weights]),
        error_y={
            "type": "data",
            "array": [value or 0.0 for value in numbers(rows[f"{weights}_stderr"])],
            "thickness": 1,
            "width": 3,
        },
        customdata=[str(key) for key in rows["subnet"]],
        hovertext=[
            f"<b>{escaped(row['subnet'])}</b><br>{escaped(row['metric'])} "
            f"{quality(row[weights], row[f'{weights}_stderr'], row['metric'])} {named}, report split"
            f"<br>{quality(row['quality'], row['stderr'], row['metric'])} with inherited weights"
            for row in rows.to_dict("records")
        ],
        hoverinfo="text",
        mode="markers",
        marker={"size": 10, "symbol": ("star", "cross")[index], "color": (ORANGE, GREEN)[index]},
        name=f"{named}: report split (±1 standard error)",
    )


def _finalist_text(row: Mapping[str, Any]) -> str:
    return (
        f"<b>{escaped(row['subnet'])}</b><br>{escaped(row['metric'])} "
        f"{quality(row['quality'], row['stderr'], row['metric'])} on the report split"
        f"<br>{milliseconds(row['measured_ms'], row['spread_ms'])} measured, "
        f"{milliseconds(row['predicted_ms'])} predicted{_interval_text(row)}"
        f"<br>{amount(row['params'])} parameters, {amount(row['macs'])} MACs"
        f"<br>{escaped(words(row['architecture']))}"
    )


def _interval_text(row: Mapping[str, Any]) -> str:
    low, high = (row[name] for name in PREDICTED[1:])
    return f" ({low:.3g} to {milliseconds(high)})" if is_number(low) and is_number(high) else ""


def _ring(known: pd.DataFrame, searched: pd.DataFrame, selected: str | None) -> go.Scatter | None:
    places = [
        *known.loc[known["subnet"] == selected, ["measured_ms", "quality"]].itertuples(index=False),
        *searched.loc[searched["subnet"] == selected, ["latency_ms", "value"]].itertuples(index=False),
    ]
    if not places:
        return None
    x, y = places[0]
    marker = {"size": 18, "symbol": "circle-open", "color": BLACK, "line": {"width": 2}}
    place = {"x": [float(x)], "y": [float(y)]}
    return go.Scatter(place, mode="markers", marker=marker, hoverinfo="skip", name="selected")

"""The main figure: the front of a job over everything that its search looked at."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from dashboards.figures.baselines import stars
from dashboards.figures.look import (
    BLACK,
    GREEN,
    GREY,
    ORANGE,
    SERIES,
    SYMBOLS,
    cell,
    empty,
    escaped,
    framed,
    is_share,
    many,
    milliseconds,
    numbers,
    quality,
    words,
)
from dashboards.search_points import Grid
from nas.results.columns import Kind, Row, View, columns_of, interval, sign_of, unit
from nas.results.frames import INHERITED, RETRAINED
from nas.results.job_devices import PREDICTED
from nas.store.values import shortened

MOST_DOTS = 5_000
SHADES = 8  # of a density
FEW_TICKS: Any = {"tickformat": "~g", "nticks": 6}  # a phone has no room for more
NAMES = {INHERITED: INHERITED, **RETRAINED}  # of weights with which the front does not report
MARKERS = {  # symbol and colour
    INHERITED: ("diamond-open", GREY),
    "finetuned": ("star", ORANGE),
    "scratch": ("cross", GREEN),
}


def front_rows(finalists: pd.DataFrame) -> pd.DataFrame:
    """The finalists that no other of the same device beats in measured latency and quality both.

    Ordered by latency; finalists that lack one of the two are left out.
    """
    timed = _timed(finalists)
    sign = sign_of(str(timed["metric"].iloc[0])) if len(timed) else 1.0
    timed = timed.assign(gain=sign * timed["quality"])
    ordered = timed.sort_values(["measured_ms", "gain"], ascending=[True, False], kind="stable")
    best = ordered.groupby("device")["gain"].cummax()
    earlier = best.groupby(ordered["device"]).shift(fill_value=float("-inf"))
    return ordered[ordered["gain"] > earlier].drop(columns="gain")


def front_figure(
    finalists: pd.DataFrame,
    evaluations: pd.DataFrame | None = None,
    *,
    job: str = "",
    selected: str | None = None,
    searched: int | None = None,
    baselines: pd.DataFrame | None = None,
    metric: str = "quality",
    grid: Grid | None = None,
) -> go.Figure:
    """Quality on the report split against measured latency, over the subnets that the search looked at.

    finalists, evaluations: as `nas.results.frames` gives them. selected: the key of the subnet to be ringed.
    searched: how many subnets the search looked at, where `evaluations` are some of them to be drawn.
    baselines: reference networks, as `nas.results.baselines` gives them, drawn as stars.
    metric: what the job's quality is, as long as no finalist tells it.
    grid: where the subnets are that are too many to be drawn; `evaluations` are then those no other beats.
    Every point carries its subnet's key as `customdata`.
    """
    title = "Quality against latency" + (f" of {escaped(shortened(job))}" if job else "")
    timed = _timed(finalists)
    tried = _searched(evaluations)
    if timed.empty and tried.empty:
        return empty(title, "No subnet has been evaluated yet.")
    figure = go.Figure()
    metric = str(timed["metric"].iloc[0]) if len(timed) else metric
    if grid is not None:
        figure.add_trace(_density(grid))
    if len(tried):
        figure.add_trace(_dots(tried, metric, searched, is_best=grid is not None))
    for trace in (*_finalists(timed), *_of_the_same_subnets(timed)):
        figure.add_trace(trace)
    for trace in (stars(baselines, metric=metric, cost="measured_ms"), _ring(timed, tried, selected)):
        if trace is not None:
            figure.add_trace(trace)
    dots = "; dots: search split, predicted" if len(tried) else ""
    framed(figure, title, f"quality on the report split, latency measured{dots}")
    figure.update_xaxes(type="log", title=f"latency in {unit('measured_ms')} (log scale)", **FEW_TICKS)
    figure.update_yaxes(title=escaped(metric), tickformat=".0%" if is_share(metric) else None)
    return figure.update_layout(clickmode="event", uirevision="front")


def _finalists(timed: pd.DataFrame) -> Iterator[go.Scatter]:
    """Those of each device, with what was predicted for them behind."""
    best = front_rows(timed)
    for i, (device, rows) in enumerate(timed.groupby("device")):
        on_front = rows["subnet"].isin(best.loc[best["device"] == device, "subnet"])
        if rows["predicted_high_ms"].notna().any():
            yield _intervals(rows, color=SERIES[i % len(SERIES)])
        yield from _device_traces(rows[on_front], rows[~on_front], device=escaped(shortened(device)), index=i)


def _timed(finalists: pd.DataFrame) -> pd.DataFrame:
    # A column in which every number is missing comes as objects.
    return finalists.dropna(subset=["measured_ms", "quality"]).astype(
        {"measured_ms": float, "quality": float}
    )


def _searched(evaluations: pd.DataFrame | None) -> pd.DataFrame:
    if evaluations is None or "latency_ms" not in evaluations or "value" not in evaluations:
        return pd.DataFrame(columns=["subnet", "latency_ms", "value", "architecture"])
    return evaluations.dropna(subset=["latency_ms", "value"])


def _density(grid: Grid) -> go.Heatmap:
    """How many subnets there are where, denser where more are; empty cells let the ground through."""
    counts, most = grid.counts, int(grid.counts.max())
    steps = [k / SHADES for k in range(SHADES + 1)]
    # A colour scale is linear: its steps stand where the logarithm has its own.
    scale = [
        [(most**step - 1) / max(1, most - 1), f"rgba{(*hex_to_rgb(GREY), 0.2 + 0.8 * step)}"]
        for step in steps
    ]
    scale[-1][0] = 1.0
    return go.Heatmap(
        # Arrays, which plotly sends as bytes: nobody is told of a click on a cell.
        x=grid.latencies,
        y=grid.qualities,
        z=np.where(counts > 0, counts, np.nan).astype(np.float32),
        zmin=1,
        zmax=max(2, most),
        colorscale=scale if most > 1 else [[0, GREY], [1, GREY]],
        showscale=False,
        hovertemplate="%{z:,} subnets about here<extra></extra>",
        name=f"searched: predicted latency, search split ({counts.sum():,} subnets, denser where more are)",
        showlegend=True,
    )


def _dots(searched: pd.DataFrame, metric: str, total: int | None, *, is_best: bool = False) -> go.Scatter:
    """The subnets of the search, thinned out evenly beyond MOST_DOTS (SVG draws no more at ease).

    total: how many there are, where `searched` are a part of them.  is_best: it is what no other beats.
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
        x=many(numbers(shown["latency_ms"])),
        y=many(numbers(shown["value"])),
        customdata=many(map(str, shown["subnet"])),
        hovertext=many(texts),
        hoverinfo="text",
        mode="markers",
        marker={"size": 5, "color": GREY, "opacity": 0.9 if is_best else 0.4},
        name=f"searched{' and beaten by none' if is_best else ''}: predicted latency, search split "
        f"({count} subnets)",
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
    traces = [steps]
    for i, (family, rows) in enumerate(_by_family(front)):
        of_family = f" of {escaped(shortened(family))}" if family else ""
        shown = _points(rows, f"front{of_family}: measured on {device}, report split (±1 standard error)")
        mark = SYMBOLS[(index + i) % len(SYMBOLS)]
        shown.marker = {"size": 10, "color": color, "symbol": mark, "line": {"width": 1, "color": "white"}}
        traces.append(shown)
    if len(beaten):
        hidden = _points(beaten, f"finalists off the front on {device}")
        hidden.marker = {"size": 9, "color": color, "symbol": f"{symbol}-open"}
        traces.append(hidden)
    for trace in traces[1:]:
        trace.error_x.color = trace.error_y.color = color
    return traces


def _by_family(front: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each family by its name; all of them without one where the job has one supernet."""
    if "family" not in front or front["family"].isna().all():
        return [("", front)]
    return [(str(family), rows) for family, rows in front.groupby("family")]


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


def _of_the_same_subnets(timed: pd.DataFrame) -> Iterator[go.Scatter]:
    """What finalists are with other weights, and as the device computes them."""
    for weights in MARKERS:
        others = timed.dropna(subset=[weights])
        if len(others):
            yield _with_other_weights(others, weights)
    computed = timed.dropna(subset=["device_quality"]) if "device_quality" in timed else timed.iloc[:0]
    if len(computed):
        yield _computed(computed)


def _with_other_weights(rows: pd.DataFrame, weights: str) -> go.Scatter:
    """What the finalists are with other weights than those that the front reports: as fast."""
    rows, named, (symbol, color) = rows.astype({weights: float}), NAMES[weights], MARKERS[weights]
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
            f"<br>{quality(row['quality'], row['stderr'], row['metric'])} with {row['weights']} weights"
            for row in rows.to_dict("records")
        ],
        hoverinfo="text",
        mode="markers",
        marker={"size": 10, "symbol": symbol, "color": color},
        name=f"{named}: report split (±1 standard error)",
    )


def _computed(rows: pd.DataFrame) -> go.Scatter:
    """What the backend of the device computes of the same weights: as fast, since that is what is timed."""
    rows = rows.astype({"device_quality": float})
    errors = [value or 0.0 for value in numbers(rows["device_stderr"])]
    return go.Scatter(
        x=numbers(rows["measured_ms"]),
        y=numbers(rows["device_quality"]),
        error_y={"type": "data", "array": errors, "thickness": 1, "width": 3},
        customdata=[str(key) for key in rows["subnet"]],
        hovertext=[_finalist_text(row) for row in rows.to_dict("records")],
        hoverinfo="text",
        mode="markers",
        marker={"size": 10, "symbol": "x-thin", "color": BLACK, "line": {"width": 2, "color": BLACK}},
        name="as the device computes it: report split (±1 standard error)",
    )


def _finalist_text(row: Row) -> str:
    lines: dict[int, list[str]] = {}
    for column in columns_of(View.HOVER, [row]):
        value, metric = escaped(cell(column, row)), escaped(row["metric"])
        phrase = column.called(View.HOVER, metric=metric, value=value)
        if column.kind is Kind.PREDICTION:
            phrase += _interval_text(row)
        lines.setdefault(column.views[View.HOVER].place // 10, []).append(phrase)
    return "<br>".join(", ".join(phrases) for phrases in lines.values())


def _interval_text(row: Row) -> str:
    ends = interval(row)
    return "" if ends is None else f" ({ends[0]:.3g} to {milliseconds(ends[1])})"


def _ring(timed: pd.DataFrame, searched: pd.DataFrame, selected: str | None) -> go.Scatter | None:
    places = [
        *timed.loc[timed["subnet"] == selected, ["measured_ms", "quality"]].itertuples(index=False),
        *searched.loc[searched["subnet"] == selected, ["latency_ms", "value"]].itertuples(index=False),
    ]
    if not places:
        return None
    x, y = places[0]
    marker = {"size": 18, "symbol": "circle-open", "color": BLACK, "line": {"width": 2}}
    place = {"x": [float(x)], "y": [float(y)]}
    return go.Scatter(place, mode="markers", marker=marker, hoverinfo="skip", name="selected")

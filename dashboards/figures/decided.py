"""Finalists and what is foretold, with those outside of limits faint, and those marked that one may take."""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.compared import Axes, against, points_trace, steps_trace, with_axes
from dashboards.figures.look import (
    BLACK,
    SERIES,
    SYMBOLS,
    empty,
    escaped,
    framed,
    numbers,
)
from nas.results.comparing.points import of_front
from nas.store.values import shortened

BOUND = {"dash": "dash", "width": 1.5, "color": "#D55E00"}
MARKS = {"best": ("circle-open", 20), "compromise": ("diamond-open", 22)}  # symbol and size


def decided_figure(
    rows: pd.DataFrame,
    kept: pd.Series,
    axes: Axes,
    *,
    marked: Mapping[str, int | None],
    pins: Sequence[int] = (),
    foretold: pd.DataFrame | None = None,
    bounds: Mapping[str, float] | None = None,
) -> go.Figure:
    """Subnets over two quantities, a colour and a symbol a job.

    rows, kept: finalists, and whether each is within the limits.  marked: rows by MARKS; None: there is none.
    pins: rows of the short list, which are numbered.  foretold: as of `dashboards.deciding.foretelling`.
    bounds: limits on the quantities of the axes by their keys, drawn as lines.
    A point's `customdata` is the job's id and the subnet's key, with a colon between them.
    """
    x, y = axes.both
    title = against(axes)
    shown = rows.dropna(subset=[x.key, y.key])
    if shown.empty:
        return empty(title, "No subnet has both of these quantities.")
    figure = go.Figure()
    jobs = list(dict.fromkeys(rows["job_id"]))
    for place, job_id in enumerate(jobs):
        look = (SERIES[place % len(SERIES)], SYMBOLS[(place + place // len(SERIES)) % len(SYMBOLS)])
        of_job = shown[shown["job_id"] == job_id]
        _add_finalists(figure, of_job, kept.reindex(of_job.index), axes, look)
        if foretold is not None and len(foretold):
            _add_foretold(figure, foretold[foretold["job_id"] == job_id], axes, look)
    _add_marks(figure, shown, axes, marked, pins)
    numbered = "; numbers: the short list" if pins else ""
    framed(figure, title, f"finalists: quality on the report split; faint: outside of the limits{numbered}")
    for quantity, line in ((x, figure.add_vline), (y, figure.add_hline)):
        if bounds and quantity.key in bounds:
            line(bounds[quantity.key], line=BOUND)
    return with_axes(figure, axes)


def _add_finalists(
    figure: go.Figure, rows: pd.DataFrame, kept: pd.Series, axes: Axes, look: tuple[str, str]
) -> None:
    color, symbol = look
    job = escaped(shortened(str(rows["job"].iloc[0]))) if len(rows) else ""
    inside, outside = rows[kept.astype(bool)], rows[~kept.astype(bool)]
    if len(outside):
        faint = {"size": 7, "color": color, "symbol": symbol, "opacity": 0.25}
        figure.add_trace(points_trace(outside, axes, bars=False, marker=faint, name=job, showlegend=False))
    if len(inside):
        front = inside[of_front(inside, axes.both)].sort_values(axes.x.key, kind="stable")
        figure.add_trace(steps_trace(front, axes, color=color, width=1.5, name="", opacity=1.0))
        full = {"size": 10, "color": color, "symbol": symbol, "line": {"width": 1, "color": "white"}}
        figure.add_trace(points_trace(inside, axes, bars=True, marker=full, name=job, showlegend=True))


def _add_foretold(figure: go.Figure, rows: pd.DataFrame, axes: Axes, look: tuple[str, str]) -> None:
    """Hollow what was never evaluated; small and full what was, on the search split only."""
    color, symbol = look
    x, y = axes.both
    if x.key not in rows or y.key not in rows:
        return
    for is_predicted, of_kind in rows.dropna(subset=[x.key, y.key]).groupby("is_predicted"):
        hollow = {"size": 11, "symbol": f"{symbol}-open", "color": color, "line": {"width": 2}}
        small = {"size": 6, "symbol": symbol, "color": color}
        name = "foretold: only predicted" if is_predicted else "foretold: evaluated by the search"
        marker = hollow if is_predicted else small
        figure.add_trace(points_trace(of_kind, axes, bars=True, marker=marker, name=name, showlegend=True))


def _add_marks(
    figure: go.Figure,
    rows: pd.DataFrame,
    axes: Axes,
    marked: Mapping[str, int | None],
    pins: Sequence[int],
) -> None:
    for name, place in marked.items():
        if place is not None and place in rows.index:
            symbol, size = MARKS[name]
            ring = {"size": size, "symbol": symbol, "color": BLACK, "line": {"width": 2.5}}
            row = rows.loc[[place]]
            point = {"x": numbers(row[axes.x.key]), "y": numbers(row[axes.y.key])}
            words = {"best": "best within the limits", "compromise": "best compromise"}[name]
            figure.add_trace(go.Scatter(point, mode="markers", marker=ring, hoverinfo="skip", name=words))
    numbered = [(number, place) for number, place in enumerate(pins, 1) if place in rows.index]
    if numbered:
        of_pins = rows.loc[[place for _, place in numbered]]
        point = {"x": numbers(of_pins[axes.x.key]), "y": numbers(of_pins[axes.y.key])}
        figure.add_trace(
            go.Scatter(
                point,
                mode="text",
                text=[f"<b>{number}</b>" for number, _ in numbered],
                textposition="top left",
                textfont={"size": 15},
                hoverinfo="skip",
                showlegend=False,
                name="short list",
            )
        )

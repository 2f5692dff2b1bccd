"""Subnets of several jobs over any two quantities, with the front of each group and that of all."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.look import (
    BLACK,
    GREY,
    SERIES,
    SYMBOLS,
    amount_of,
    axis_title,
    empty,
    escaped,
    framed,
    numbers,
    tick_format,
)
from nas.results.comparing.points import Quantity, of_front
from nas.store.values import shortened


@dataclass(frozen=True)
class Axes:
    """What two axes show. logs: of "x" and "y" those with a log scale."""

    x: Quantity
    y: Quantity
    logs: frozenset[str] = frozenset()

    @property
    def both(self) -> tuple[Quantity, Quantity]:
        """x, y."""
        return self.x, self.y


def against(axes: Axes) -> str:
    """What a figure with these axes is called."""
    return f"{escaped(axes.y.title[:1].upper() + axes.y.title[1:])} against {escaped(axes.x.title)}"


def compared_figure(
    rows: pd.DataFrame, axes: Axes, *, colour: str = "job", networks: pd.DataFrame | None = None
) -> go.Figure:
    """A colour and a symbol a group; filled what no other of the group beats, steps through them.

    rows: columns job_id, job, family, subnet, stderr, and the quantities.  colour: job or family.
    networks: reference networks with the same quantities, drawn as stars.
    A point's `customdata` is the job's id and the subnet's key, with a colon between them.
    """
    x, y = axes.both
    title = against(axes)
    shown = rows.dropna(subset=[x.key, y.key])
    if shown.empty:
        return empty(title, "No subnet has both of these quantities.")
    figure = go.Figure()
    best = shown[of_front(shown, axes.both)].sort_values(x.key, kind="stable")
    if shown[colour].nunique() > 1:
        figure.add_trace(steps_trace(best, axes, color=GREY, width=6, name="joint front", opacity=0.35))
    for place, (name, of_group) in enumerate(shown.groupby(colour, sort=False)):
        for trace in _group(of_group, axes, str(name), place):
            figure.add_trace(trace)
    stars = None if networks is None else networks.dropna(subset=[x.key, y.key])
    if stars is not None and len(stars):
        figure.add_trace(_stars(stars, axes))
    framed(figure, title, "finalists: quality on the report split; filled: on the front of its colour")
    return with_axes(figure, axes)


def with_axes(figure: go.Figure, axes: Axes) -> go.Figure:
    """The figure with its quantities' titles, scales and numbers; it keeps its place while they are shown."""
    x, y = axes.both
    for name, quantity, update in (("x", x, figure.update_xaxes), ("y", y, figure.update_yaxes)):
        is_log = name in axes.logs
        update(type="log" if is_log else "linear", title=axis_title(quantity, is_log=is_log))
        update(tickformat=tick_format(quantity), nticks=6)
    return figure.update_layout(clickmode="event", uirevision=f"{x.key} {y.key} {sorted(axes.logs)}")


def steps_trace(rows: pd.DataFrame, axes: Axes, **look: Any) -> go.Scatter:
    """The bound of what is reached: with more of a cost no less, up to more of a quality no more."""
    line = {"shape": "hv" if axes.x.sign < 0 else "vh", "color": look["color"], "width": look["width"]}
    return go.Scatter(
        x=numbers(rows[axes.x.key]),
        y=numbers(rows[axes.y.key]),
        mode="lines",
        line=line,
        opacity=look["opacity"],
        hoverinfo="skip",
        name=look["name"],
        showlegend=bool(look["name"]),
    )


def _group(rows: pd.DataFrame, axes: Axes, name: str, place: int) -> Iterator[go.Scatter]:
    color = SERIES[place % len(SERIES)]
    symbol = SYMBOLS[(place + place // len(SERIES)) % len(SYMBOLS)]
    on_front = of_front(rows, axes.both)
    best = rows[on_front].sort_values(axes.x.key, kind="stable")
    yield steps_trace(best, axes, color=color, width=1.5, name="", opacity=1.0)
    named = escaped(shortened(name or "unknown"))
    front = {"size": 10, "color": color, "symbol": symbol, "line": {"width": 1, "color": "white"}}
    yield points_trace(best, axes, marker=front, name=named, bars=True, showlegend=True)
    beaten = {"size": 8, "color": color, "symbol": f"{symbol}-open"}
    if not on_front.all():
        yield points_trace(rows[~on_front], axes, marker=beaten, name=named, bars=False, showlegend=False)


def points_trace(rows: pd.DataFrame, axes: Axes, *, bars: bool, **look: Any) -> go.Scatter:
    """Marks of subnets. bars: whether errors are drawn, where they are in the rows."""
    errors = {}
    for name, one in (("error_x", axes.x), ("error_y", axes.y)):
        if bars and one.error in rows:
            array = [value or 0.0 for value in numbers(rows[one.error])]
            errors[name] = {"type": "data", "array": array, "thickness": 1, "width": 3}
            errors[name]["color"] = look["marker"]["color"]
    return go.Scatter(
        x=numbers(rows[axes.x.key]),
        y=numbers(rows[axes.y.key]),
        **errors,
        customdata=[f"{row.job_id}:{row.subnet}" for row in rows.itertuples()],
        hovertext=[_hover(row, axes) for row in rows.to_dict("records")],
        hoverinfo="text",
        mode="markers",
        **look,
    )


def _hover(row: dict[str, Any], axes: Axes) -> str:
    lines = [
        f"{escaped(one.title)}: {amount_of(one, row[one.key], row.get(one.error or ''))}" for one in axes.both
    ]
    whose = f"<b>{escaped(row['subnet'])}</b> of {escaped(shortened(row['job']))}"
    return "<br>".join([whose, *([escaped(row["family"])] if row.get("family") else []), *lines])


def _stars(rows: pd.DataFrame, axes: Axes) -> go.Scatter:
    texts = [
        "<br>".join(
            [
                f"<b>{escaped(row['baseline'])}</b>, reference network",
                *(f"{escaped(one.title)}: {amount_of(one, row[one.key])}" for one in axes.both),
            ]
        )
        for row in rows.to_dict("records")
    ]
    return go.Scatter(
        x=numbers(rows[axes.x.key]),
        y=numbers(rows[axes.y.key]),
        text=[escaped(shortened(str(name))) for name in rows["baseline"]],
        textposition="top center",
        hovertext=texts,
        hoverinfo="text",
        mode="markers+text",
        marker={"size": 15, "symbol": "star", "color": BLACK, "line": {"width": 1, "color": "white"}},
        name="reference networks",
    )

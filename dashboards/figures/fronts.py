"""The fronts of several jobs over one axis of cost."""

import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.baselines import stars
from dashboards.figures.look import (
    SERIES,
    SYMBOLS,
    amount,
    empty,
    escaped,
    framed,
    is_share,
    milliseconds,
    numbers,
    quality,
)
from nas.store.values import shortened


def fronts_figure(
    members: pd.DataFrame, *, metric: str, cost: str, baselines: pd.DataFrame | None = None
) -> go.Figure:
    """Quality on the report split, with its standard error, against a cost; a colour and a symbol a job.

    members: one row a subnet of a front; columns job, subnet, quality, stderr, and the cost by its name.
    baselines: reference networks with the same columns, drawn as stars.
    Subnets of which the cost is not known are left out.
    """
    title = "Fronts compared"
    rows = members.dropna(subset=[cost, "quality"])
    if rows.empty:
        return empty(title, "There is no subnet to show.")
    figure = go.Figure()
    for place, (job, front) in enumerate(rows.groupby("job", sort=False)):
        for trace in _traces(
            front.sort_values(cost, kind="stable"), str(job), place, metric=metric, cost=cost
        ):
            figure.add_trace(trace)
    if trace := stars(baselines, metric=metric, cost=cost):
        figure.add_trace(trace)
    framed(figure, title, "quality on the report split (±1 standard error)")
    named = "latency in ms" if cost == "latency_ms" else escaped(cost)
    figure.update_xaxes(
        type="log", title=f"{named} (log scale)", tickformat="~s" if cost != "latency_ms" else "~g"
    )
    return figure.update_yaxes(title=escaped(metric), tickformat=".0%" if is_share(metric) else None)


def _traces(
    front: pd.DataFrame, job: str, place: int, *, metric: str, cost: str
) -> tuple[go.Scatter, go.Scatter]:
    """The steps of one front, and its subnets."""
    color, symbol = SERIES[place % len(SERIES)], SYMBOLS[place % len(SYMBOLS)]
    x, y = numbers(front[cost]), numbers(front["quality"])
    line = {"shape": "hv", "color": color, "width": 1.5}
    steps = go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    errors = [value or 0.0 for value in numbers(front["stderr"])]
    said = milliseconds if cost == "latency_ms" else amount
    texts = [
        f"<b>{escaped(row['subnet'])}</b> of {escaped(shortened(job))}"
        f"<br>{escaped(metric)} {quality(row['quality'], row['stderr'], metric)}"
        f"<br>{'' if cost == 'latency_ms' else f'{escaped(cost)} '}{said(row[cost])}"
        for row in front.to_dict("records")
    ]
    points = go.Scatter(
        x=x,
        y=y,
        error_y={"type": "data", "array": errors, "thickness": 1, "width": 3, "color": color},
        customdata=[str(key) for key in front["subnet"]],
        hovertext=texts,
        hoverinfo="text",
        mode="markers",
        marker={"size": 10, "color": color, "symbol": symbol, "line": {"width": 1, "color": "white"}},
        name=escaped(shortened(job)),
    )
    return steps, points

"""The page that says why, as functions of evaluated subnets, of a front and of an address."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from dashboards.addresses import Query
from dashboards.comparing.page import chip
from dashboards.figures import changes_figure
from dashboards.figures.blocks import COSTS
from dashboards.figures.choices import Axis, Brushes, options_of
from dashboards.figures.look import CONFIG, amount_of, option
from dashboards.pages import REFRESH_MS, chart, job_link, rooms, table, unseen
from nas.results.comparing.points import QUALITY, Comparable
from nas.store import Job

BRUSH = "brush."
MOST_ROWS = 20


def why_page() -> list[Component]:
    """The frame of the page; callbacks fill it, and its clock fills it anew while the job runs."""
    return [
        dcc.Interval(id="why-clock", interval=REFRESH_MS),
        dcc.Store(id="why-version"),
        html.Div(id="why-head"),
        html.H2("What the choices count for"),
        html.Div(id="importance"),
        chart("coordinates"),
        html.Div(id="why-brushed"),
        chart("brushed"),
        html.H2("What subnets are made of"),
        html.Div(id="drawn"),
        html.H2("Where the time goes"),
        html.Div(id="why-time"),
        html.H2("What the next smaller one would lose"),
        html.Div(id="why-changes"),
    ]


def brushes(query: Query) -> Brushes:
    """By the name of an axis the part of it that is chosen."""
    ranges = {}
    for name, text in query.pairs:
        low, comma, high = text.partition(",")
        if name.startswith(BRUSH) and comma:
            ends = Query((("low", low), ("high", high)))
            both = ends.number("low"), ends.number("high")
            if both[0] is not None and both[1] is not None:
                ranges[name.removeprefix(BRUSH)] = (both[0], both[1])
    return ranges


def brushed(query: Query, axes: Sequence[Axis], box: Mapping[str, Any] | None) -> Query:
    """The query after a box was dragged over axes, as plotly tells it: its part of each of them is chosen.

    A box from one end of an axis to the other chooses all of that axis again.
    """
    try:
        (left, right), (low, high) = ((float(end) for end in sorted(box["range"][of])) for of in "xy")  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return query
    for place, axis in enumerate(axes):
        if left <= place <= right:
            ends = [axis.low + part * (axis.high - axis.low) for part in (low, high)]
            is_whole = low <= 0 and high >= 1
            query = query.replaced(
                BRUSH + axis.label, "" if is_whole else ",".join(f"{end:.6g}" for end in ends)
            )
    return query


def in_brushes(
    choices: pd.DataFrame, values: pd.DataFrame, searched: pd.DataFrame, ranges: Brushes
) -> pd.Series:
    """Which subnets are in all chosen parts.

    choices, values: of these subnets, as `coordinates_figure` takes them.  searched: the choices of those
    that the axes were made of, which number their options.
    """
    kept = pd.Series(True, index=values.index)
    for name, (low, high) in ranges.items():
        if name in searched:
            places = {text: i for i, text in enumerate(options_of(searched[name]))}
            numbers = (
                choices[name].map(places) if name in choices else pd.Series(float("nan"), index=kept.index)
            )
            kept &= (numbers >= low) & (numbers <= high)
        elif name in values:
            kept &= (values[name] >= low) & (values[name] <= high)
    return kept


def why_head(job: Job, comparable: Comparable) -> list[Component]:
    """Whose choices they are."""
    return [
        rooms(job.id, job.name, "Why"),
        html.H1(["Why, of ", dcc.Link(job.name, href=job_link(job.id, job.name))]),
        *(html.P(reason, className="caution") for reason in comparable.refused.values()),
    ]


def tall(name: str, figure: go.Figure) -> Component:
    """A figure that knows its height."""
    graph = dcc.Graph(
        id=name,
        figure=figure,
        config=CONFIG | {"displayModeBar": False},
        responsive=True,
        style={"height": f"{figure.layout.height or 360}px"},
    )
    return html.Div(graph, className="graph whole")


def chooser(comparable: Comparable, query: Query, subnet: str | None, other: str | None) -> Component:
    """The finalists, each with a link that draws it, and one that draws it below."""
    shown = [one for one in comparable.quantities if one.key == QUALITY or one.unit == "ms"][:4]
    cells = [
        [
            _drawn(
                "drawn above" if row["subnet"] == subnet else "above",
                query.replaced("subnet", row["subnet"]),
                row,
            ),
            _drawn(
                "drawn below" if row["subnet"] == other else "below",
                query.toggled_alone("other", row["subnet"]),
                row,
            ),
            html.Code(row["subnet"]),
            *(amount_of(one, row[one.key], row.get(one.error or "")) for one in shown),
        ]
        for row in comparable.rows.head(MOST_ROWS).to_dict("records")
    ]
    heads = [f"#{one.title[:1].upper()}{one.title[1:]}" for one in shown]
    return table(["Draw", "Second", "Subnet", *heads], cells)


def _drawn(words: str, query: Query, row: Mapping[Any, Any]) -> Component:
    return dcc.Link([words, unseen(f" {row['subnet']}")], href=query.text)


def costs_chips(query: Query) -> Component:
    """What the widths are."""
    current = query.first("width") or "macs"
    links = [
        chip(words, query.replaced("width", name), is_chosen=name == current) for name, words in COSTS.items()
    ]
    return html.Div([html.Span("width", className="facet"), *links], className="chips")


def changes_parts(document: Mapping[str, Any]) -> list[Component]:
    """What single steps of each choice do to a subnet, of a document of `nas explain`."""
    rows = [change for change in document["changes"] if change["quality"] is not None]
    frame = pd.DataFrame(
        [
            {"change": f"{row['choice']} {option(row['before'])} → {option(row['after'])}"}
            | {name: row[name] for name in ("quality", "quality_std", "latency_ms")}
            for row in rows
        ],
        columns=["change", "quality", "quality_std", "latency_ms"],
    )
    subnet = document["subnet"]["key"]
    figure = changes_figure(frame, metric=document["metric"], device=document["device"], subnet=subnet)
    cheapest = document.get("cheapest")
    words = "No smaller neighbour is as good within one standard error of the difference."
    if cheapest:
        words = (
            f"The cheapest neighbour as good within one standard error: {cheapest['choice']} "
            f"{option(cheapest['before'])} → {option(cheapest['after'])}, {cheapest['latency_ms']:+.3g} ms."
        )
    return [html.P(words), tall("changes", figure)]

"""The page on which one decides, as functions of finalists that compare and of an address."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from dash import dcc, html
from dash.development.base_component import Component

from dashboards.addresses import Query
from dashboards.comparing.page import chip, chips, subnet_link
from dashboards.deciding.limits import PREFIX, STEPS, WEIGHT, Slider, left_by_each
from dashboards.deciding.short_list import pin_key, with_pin
from dashboards.figures.compared import Axes
from dashboards.figures.look import amount_of, is_number
from dashboards.pages import REFRESH_MS, called, chart, job_link, named, rooms, table, unseen
from nas.results.comparing.points import QUALITY, Comparable
from nas.store import Job

MOST_ROWS = 15
ANNOUNCED: Any = {"aria-live": "polite"}
FORETELL, EXPLAIN = "foretell", "explain"


def decide_page(query: Query) -> list[Component]:
    """The frame of the page; callbacks fill it, and its clock fills it anew while a job runs."""
    weight = dcc.Input(id="weight", type="range", min=0, max=100, step=5, value=query.first(WEIGHT) or "50")
    return [
        dcc.Interval(id="decide-clock", interval=REFRESH_MS),
        dcc.Store(id="decide-version"),
        dcc.Store(id="decide-foretold"),
        html.Div(id="decide-head"),
        html.Div(
            [
                chart("decided", tools=True),
                html.Section(
                    [
                        html.H2("Limits"),
                        html.Div(id="limits"),
                        html.Label(
                            ["Weight of the y axis in the best compromise", weight], className="weight"
                        ),
                        html.Div(id="decide-answer", **ANNOUNCED),
                    ],
                    className="limits",
                ),
            ],
            className="explorer decide",
        ),
        html.H2("Short list"),
        html.Div(id="short-list"),
        html.H2("Within the limits"),
        html.Div(id="decide-table"),
    ]


def decide_head(comparable: Comparable, axes: Axes, query: Query, *, can_ask: bool) -> list[Component]:
    """What is decided on, and what can be chosen."""
    whose: list[Any] = []
    for job in comparable.jobs:
        whose += [", " if whose else "", named(job.name, job_link(job.id, job.name))]
    foretells = query.first(FORETELL) == "1"
    asking = chip(
        "foretell what was never measured",
        query.replaced(FORETELL, "" if foretells else "1"),
        is_chosen=foretells,
    )
    costs = [one for one in comparable.quantities if one.key != QUALITY]
    alone = comparable.jobs[0] if len(comparable.jobs) == 1 else None
    return [
        *([rooms(alone.id, alone.name, "Decide")] if alone is not None else []),
        html.H1(_title(comparable.jobs)),
        html.P(["Subnets of ", *whose, "."], className="facts"),
        *(html.P(reason, className="caution") for reason in comparable.refused.values()),
        html.Nav(
            [
                chips("x axis", costs or comparable.quantities, axes.x, query, "x"),
                chips("y axis", comparable.quantities, axes.y, query, "y"),
                *(
                    [html.Div([html.Span("more", className="facet"), asking], className="chips")]
                    if can_ask
                    else []
                ),
            ],
            className="controls",
            **called("Axes"),
        ),
    ]


def _title(jobs: Sequence[Job]) -> str:
    return f"Decide about {jobs[0].name}" if len(jobs) == 1 else f"Decide between {len(jobs)} jobs"


def limit_rows(rows: pd.DataFrame, sliders: Sequence[Slider], query: Query) -> list[Component]:
    """A slider and a field for numbers for each quantity, and how many subnets its limit alone leaves."""
    left = left_by_each(rows, sliders)
    listed: list[Component] = [
        _limit_row(i, one, left[one.quantity.key], len(rows)) for i, one in enumerate(sliders)
    ]
    names = [PREFIX + one.quantity.key for one in sliders]
    if query.only(names).pairs:
        without = query
        for name in names:
            without = without.replaced(name)
        listed.append(html.P(dcc.Link("No limits", href=without.text)))
    return listed


def _limit_row(i: int, slider: Slider, left: int, count: int) -> Component:
    one = slider.quantity
    word = "at most" if one.sign < 0 else "at least"
    unit = "%" if one.is_share else one.unit
    name = f"{one.title}, {word}"
    # Dash moves the cursor of a field whose changes it holds back, and a slider has none.
    bar = dcc.Input(id=f"limit-{i}", type="range", min=0, max=STEPS, step=1, value=f"{slider.place}")
    exact = dcc.Input(
        id=f"exact-{i}",
        type="text",
        value=slider.shown,
        debounce=True,
        placeholder="any",
        size="7",
        autoComplete="off",
    )
    return html.Div(
        [
            html.Label([name, unseen(f": {slider.shown or 'any'} {unit}"), bar]),
            html.Label([unseen(f"{name}, as a number"), exact, html.Span(unit)], className="exact"),
            html.Span(f"{left} of {count}", className="left"),
        ],
        className="limit",
    )


def answer(
    rows: pd.DataFrame,
    kept: pd.Series,
    marked: Mapping[str, int | None],
    comparable: Comparable,
    query: Query,
    remarks: Sequence[str] = (),
) -> list[Component]:
    """How many subnets are left, and which of them one would take."""
    count = int(kept.sum())
    parts: list[Component] = [html.P([html.Strong(f"{count} of {len(rows)}"), " measured subnets are left."])]
    words = {"best": "Best within the limits: ", "compromise": "Best compromise of the two axes: "}
    for name, place in marked.items():
        if place is not None:
            parts.append(html.P([words[name], *_named_subnet(rows.loc[place].to_dict(), comparable, query)]))
    if not count:
        parts.append(
            html.P("No measured subnet keeps all limits: move one, or foretell what was never measured.")
        )
    return [*parts, *(html.P(remark, className="facts") for remark in remarks)]


def _named_subnet(row: Mapping[Any, Any], comparable: Comparable, query: Query) -> list[Any]:
    shown = [one for one in comparable.quantities if one.key == QUALITY or one.unit == "ms"]
    numbers = ", ".join(
        amount_of(one, row[one.key], row.get(one.error or ""))
        + (one.title.removeprefix("latency") if one.unit == "ms" else "")
        for one in shown[:4]
        if is_number(row[one.key])
    )
    whose = f" of {row['job']}" if len(comparable.jobs) > 1 else ""
    return [subnet_link(row), f"{whose}: {numbers} – ", _pin_link(row, query)]


def _pin_link(row: Mapping[Any, Any], query: Query) -> Component:
    key = pin_key(row)
    words = "unpin" if key in query.all("pin") else "pin"
    return dcc.Link([words, unseen(f" {row['subnet']}")], href=with_pin(query, key).text)


def decide_table(rows: pd.DataFrame, kept: pd.Series, comparable: Comparable, query: Query) -> Component:
    """The best subnets within the limits, each with a link that pins it."""
    sign = next((one.sign for one in comparable.quantities if one.key == QUALITY), 1.0)
    inside = rows[kept]
    order = (sign * inside[QUALITY].astype(float)).sort_values(ascending=False, kind="stable").index
    shown = [one for one in comparable.quantities if inside[one.key].notna().any()]
    cells = [
        [
            _pin_link(row, query),
            subnet_link(row),
            str(row["job"]),
            *(amount_of(one, row[one.key], row.get(one.error or "")) for one in shown),
        ]
        for row in inside.loc[order].head(MOST_ROWS).to_dict("records")
    ]
    heads = [f"#{one.title[:1].upper()}{one.title[1:]}" for one in shown]
    more = (
        []
        if len(inside) <= MOST_ROWS
        else [html.P(f"The {MOST_ROWS} best of {len(inside)}.", className="facts")]
    )
    return html.Div([table(["Short list", "Subnet", "Job", *heads], cells), *more])

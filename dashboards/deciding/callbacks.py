"""The page on which one decides follows its address, its sliders, and the jobs while they run."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards.addresses import Query
from dashboards.asks import Answers, Asks
from dashboards.comparing.page import axes_of
from dashboards.controls import Rights, RightsOf
from dashboards.deciding.foretelling import Foretold, foretold
from dashboards.deciding.limits import (
    MOST_SLIDERS,
    WEIGHT,
    Slider,
    best,
    knee,
    moved,
    sliders,
    unknown_limits,
    weight_of,
    within,
)
from dashboards.deciding.page import EXPLAIN, FORETELL, answer, decide_head, decide_table, limit_rows
from dashboards.deciding.short_list import Pinned, differences_words, pin_key, pinned, short_list, with_pin
from dashboards.figures.compared import Axes
from dashboards.figures.decided import decided_figure
from dashboards.figures.look import empty
from dashboards.job_views import CurrentViews, JobViews
from dashboards.named_jobs import NO_JOB, asked_jobs, follow, without_jobs
from dashboards.pages import LIVE_STATES
from nas.results.columns import sign_of
from nas.results.comparing.points import Comparable
from search_spaces.errors import NASError


def decide(app: Dash, views: CurrentViews, rights: RightsOf, asks: Asks) -> None:
    """The decision between subnets of the jobs that the address names."""
    answers = Answers()
    _show(app, views, rights, asks, answers)
    _move(app, views)
    _choose(app)

    follow(app, views, "decide")


def _show(app: Dash, views: CurrentViews, rights: RightsOf, asks: Asks, answers: Answers) -> None:
    @app.callback(
        Output("decided", "figure"),
        Output("decide-head", "children"),
        Output("limits", "children"),
        Output("decide-answer", "children"),
        Output("short-list", "children"),
        Output("decide-table", "children"),
        Output("decide-clock", "disabled"),
        Input("decide-version", "data"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def show(_version: str | None, search: str | None) -> tuple[Any, ...]:
        return decision(views.get(), Query.read(search), rights(), asks, answers)


def _move(app: Dash, views: CurrentViews) -> None:
    """Limits that are typed or moved go into the address, from where everything else is drawn."""
    places = [Input(f"limit-{i}", "value", allow_optional=True) for i in range(MOST_SLIDERS)]
    texts = [Input(f"exact-{i}", "value", allow_optional=True) for i in range(MOST_SLIDERS)]

    @app.callback(
        Output("url", "search", allow_duplicate=True),
        *places,
        *texts,
        State("url", "search"),
        State("decide-version", "data"),
        prevent_initial_call=True,
    )
    def move(*given: Any) -> str:
        query, now = Query.read(given[-2]), views.get()
        jobs, _ = asked_jobs(now.store, query)
        if not jobs:
            raise PreventUpdate
        comparable = now.comparable([job.id for job in jobs])
        limits = sliders(comparable.rows, comparable.quantities, query)
        after = moved(limits, given[:MOST_SLIDERS], given[MOST_SLIDERS : 2 * MOST_SLIDERS], query)
        if after == query:
            raise PreventUpdate
        return after.text


def _choose(app: Dash) -> None:
    """So do weights, and subnets that are clicked."""

    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Input("weight", "value"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def weigh(value: Any, search: str | None) -> str:
        query = Query.read(search)
        text = "" if value is None or str(value) == "50" else str(value)
        if text == query.first(WEIGHT):
            raise PreventUpdate
        return query.replaced(WEIGHT, text).text

    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Input("decided", "clickData"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def pin(click: dict[str, Any] | None, search: str | None) -> str:
        point = click["points"][0] if click and click.get("points") else {}
        key = point.get("customdata")
        if not isinstance(key, str):
            raise PreventUpdate
        return with_pin(Query.read(search), key).text


@dataclass(frozen=True)
class _Chosen:
    """What an address chooses: axes, limits, which finalists are within them, and what is foretold."""

    axes: Axes
    limits: list[Slider]
    kept: pd.Series
    foretold: Foretold


def decision(
    views: JobViews, query: Query, rights: Rights, asks: Asks, answers: Answers
) -> tuple[Any, Any, Any, Any, Any, Any, bool]:
    """Figure, head, limits, answer, short list, table, and whether all jobs have ended."""
    jobs, missing = asked_jobs(views.store, query)
    nothing = empty("Subnets", "No job with finalists is chosen.")
    if not jobs:
        return nothing, without_jobs("Decide", missing or NO_JOB), [], [], [], [], True
    has_ended = not any(job.state in LIVE_STATES for job in jobs)
    comparable = views.comparable([job.id for job in jobs])
    if comparable.rows.empty or len(comparable.quantities) < 2:
        refusals = without_jobs("Decide", " ".join(comparable.refused.values()))
        return nothing, refusals, [], [], [], [], has_ended
    chosen = _chosen(views, comparable, query, asks, answers)
    rows, kept, axes = comparable.rows, chosen.kept, chosen.axes
    marked = {
        "best": best(rows, kept, sign_of(comparable.metric), axes.x),
        "compromise": knee(rows, kept, axes.both, weight_of(query)),
    }
    pins, unknown = pinned(comparable, chosen.foretold.rows, query)
    remarks = _remarks(chosen, unknown, query)
    places = {pin_key(row): place for place, row in zip(rows.index, rows.to_dict("records"), strict=True)}
    figure = decided_figure(
        rows,
        kept,
        axes,
        marked=marked,
        pins=[places.get(pin.key, -1) for pin in pins],
        foretold=chosen.foretold.rows,
        bounds={one.quantity.key: one.limit for one in chosen.limits if one.limit is not None},
    )
    return (
        figure,
        decide_head(comparable, axes, query, can_ask=asks.what_if is not None),
        limit_rows(rows, chosen.limits, query),
        answer(rows, kept, marked, comparable, query, remarks),
        [*short_list(views.store, comparable, pins, query, rights), *_explained(pins, query, asks, answers)],
        decide_table(rows, kept, comparable, query),
        has_ended,
    )


def _chosen(views: JobViews, comparable: Comparable, query: Query, asks: Asks, answers: Answers) -> _Chosen:
    axes = axes_of(comparable, query)
    limits = sliders(comparable.rows, comparable.quantities, query)
    device = axes.x.device_id if axes.x.device_id is not None else axes.y.device_id
    more = Foretold()
    if query.first(FORETELL) == "1" and asks.what_if is not None:
        mark = views.mark([job.id for job in comparable.jobs])
        more = foretold(comparable, limits, device, answers, (views.store, asks, mark))
    return _Chosen(axes, limits, within(comparable.rows, limits), more)


def _remarks(chosen: _Chosen, unknown: list[str], query: Query) -> list[str]:
    """What of an address is not shown, and what was foretold. unknown: pins of which nothing is known."""
    gone = [f"{key} of the short list is not shown here." for key in unknown]
    return [*unknown_limits(chosen.limits, query), *chosen.foretold.remarks, *gone]


def _explained(pins: list[Pinned], query: Query, asks: Asks, answers: Answers) -> list[Component]:
    """What makes each pinned subnet differ from the first one of the same job, where that is asked for."""
    explain = asks.explain
    pairs = [(pins[0], pin) for pin in pins[1:] if pin.job.id == pins[0].job.id] if pins else []
    if explain is None or not pairs:
        return []
    if query.first(EXPLAIN) != "1":
        link = query.replaced(EXPLAIN, "1").text
        return [html.P(dcc.Link("Explain in what they differ from the first one", href=link))]
    parts: list[Component] = []
    for first, other in pairs:
        key = ("explain", first.key, other.key, first.job.finished_at)
        ask = partial(explain, first.job.id, _end(first), other=_end(other), device=None)
        try:
            words = differences_words(answers.get(key, ask))
        except NASError as error:
            words = [error.message]
        parts += [
            html.H3(f"From {first.number} to {other.number}"),
            html.Ul([html.Li(line) for line in words]),
        ]
    return parts


def _end(pin: Pinned) -> Any:
    """As `nas explain` takes it: a key, or the architecture of one that nobody has evaluated."""
    return pin.row["subnet"] if pin.is_finalist else dict(pin.row["architecture"])

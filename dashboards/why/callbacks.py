"""The page that says why follows its address, what is brushed, and the job while it runs."""

from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards.addresses import Query
from dashboards.asks import Answers, Asks
from dashboards.comparing.page import axes_of
from dashboards.figures import layers_frame
from dashboards.figures.blocks import COSTS, blocks_figure
from dashboards.figures.choices import coordinate_axes, coordinates_figure, importance_figure
from dashboards.figures.decided import decided_figure
from dashboards.figures.look import empty
from dashboards.job.panel import space_of
from dashboards.job_views import CurrentViews, JobViews
from dashboards.named_jobs import NO_JOB, asked_jobs, follow, without_jobs
from dashboards.pages import LIVE_STATES
from dashboards.why.importance import Importance, choice_columns, choice_texts, importance
from dashboards.why.page import (
    BRUSH,
    brushed,
    brushes,
    changes_parts,
    chooser,
    costs_chips,
    in_brushes,
    tall,
    why_head,
)
from dashboards.why.times import time_parts, timed_device
from nas.results.comparing.points import LATENCY, QUALITY, Comparable
from nas.store import Job, Store
from search_spaces.errors import NASError

MOST_SAMPLED = 5_000
NO_ROWS = pd.DataFrame(columns=["choice", "spread"])


def tell_why(app: Dash, views: CurrentViews, asks: Asks) -> None:
    """What the choices of the first job that the address names are worth."""
    answers = Answers()
    _brush(app, views)

    follow(app, views, "why", lambda now, ids: now.mark(ids[:1]))

    @app.callback(
        Output("why-head", "children"),
        Output("importance", "children"),
        Output("coordinates", "figure"),
        Output("why-brushed", "children"),
        Output("brushed", "figure"),
        Output("drawn", "children"),
        Output("why-time", "children"),
        Output("why-changes", "children"),
        Output("why-clock", "disabled"),
        Input("why-version", "data"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def show(_version: str | None, search: str | None) -> tuple[Any, ...]:
        return reasons(views.get(), Query.read(search), asks, answers)


def _brush(app: Dash, views: CurrentViews) -> None:
    """What a box is dragged over goes into the address."""

    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Input("coordinates", "selectedData"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def brush(box: dict[str, Any] | None, search: str | None) -> str:
        query, now = Query.read(search), views.get()
        jobs, _ = asked_jobs(now.store, query)
        if not box or not jobs:
            raise PreventUpdate
        searched = now.sampled(jobs[0].id, MOST_SAMPLED)
        choices = choice_columns(list(searched["architecture"]))
        after = brushed(query, coordinate_axes(choices, _values(searched), metric=_metric(jobs[0])), box)
        if after == query:
            raise PreventUpdate
        return after.text


def _metric(job: Job) -> str:
    return str(job.config.get("quality", "accuracy"))


def _values(searched: pd.DataFrame) -> pd.DataFrame:
    """As `coordinate_axes` takes them."""
    return searched.rename(columns={"value": QUALITY}).astype({QUALITY: float, "latency_ms": float})


def reasons(views: JobViews, query: Query, asks: Asks, answers: Answers) -> tuple[Any, ...]:
    """Everything on the page, and whether the job has ended."""
    store = views.store
    jobs, missing = asked_jobs(store, query)
    nothing = empty("Choices", NO_JOB)
    if not jobs:
        return (without_jobs("Why", missing or NO_JOB), [], nothing, [], nothing, [], [], [], True)
    job = jobs[0]
    comparable, searched = views.comparable([job.id]), views.sampled(job.id, MOST_SAMPLED)
    choices = choice_columns(list(searched["architecture"]))
    importances, coordinates = _choices(searched, choices, query, job)
    words, front = _brushed(comparable, choices, query)
    subnet = _subnet(comparable, query)
    drawn = _drawn_rows(comparable, query, subnet)
    device = timed_device(store, job, query)
    return (
        why_head(job, comparable),
        tall("importance-figure", importances),
        coordinates,
        words,
        front,
        _drawn(store, job, comparable, query, drawn),
        time_parts(store, job, drawn, query),
        _changes(job, subnet, device and device[1], query, asks, answers),
        job.state not in LIVE_STATES,
    )


def _choices(
    searched: pd.DataFrame, choices: pd.DataFrame, query: Query, job: Job
) -> tuple[go.Figure, go.Figure]:
    metric, values = _metric(job), _values(searched)
    of_quality, of_latency = (importance(choices, values[name]) for name in (QUALITY, "latency_ms"))
    figure = importance_figure(
        _rows(of_quality),
        _rows(of_latency),
        metric=metric,
        explained=(_share(of_quality), _share(of_latency)),
    )
    return figure, coordinates_figure(choices, values, metric=metric, brushes=brushes(query))


def _rows(moves: Importance | None) -> pd.DataFrame:
    return NO_ROWS if moves is None else moves.rows


def _share(moves: Importance | None) -> float:
    return 0.0 if moves is None else moves.explained


def _brushed(
    comparable: Comparable, choices: pd.DataFrame, query: Query
) -> tuple[list[Component], go.Figure]:
    """How many finalists are in what was brushed, and the front with the others faint."""
    rows, ranges = comparable.rows, brushes(query)
    if rows.empty or len(comparable.quantities) < 2:
        return [], empty("Front", "No finalist yet.")
    axes = axes_of(comparable, query)
    latency = next((name for name in rows if name.startswith(f"{LATENCY}@")), None)
    values = pd.DataFrame(
        {
            "latency in ms": rows[latency] if latency else float("nan"),
            comparable.metric.replace("_", " "): rows[QUALITY],
        },
        index=rows.index,
    )
    texts = choice_texts(list(rows["architecture"])).set_axis(rows.index, axis=0)
    kept = in_brushes(texts, values, choices, ranges)
    figure = decided_figure(rows, kept, axes, marked={})
    words = f"{int(kept.sum())} of {len(rows)} finalists are in what is chosen along the axes. "
    clear = Query(tuple(pair for pair in query.pairs if not pair[0].startswith(BRUSH)))
    link = [dcc.Link("Choose all again", href=clear.text)] if ranges else []
    return [html.P([words, *link], className="facts")], figure


def _subnet(comparable: Comparable, query: Query) -> str | None:
    keys = list(comparable.rows["subnet"])
    asked = query.first("subnet")
    return asked if asked in keys else keys[len(keys) // 2] if keys else None


def _drawn_rows(comparable: Comparable, query: Query, subnet: str | None) -> pd.DataFrame:
    """The rows by their keys of the subnet, if there is one, and of the other one that the address names."""
    rows = comparable.rows.set_index("subnet")
    other = query.first("other")
    keys = [subnet, other] if other != subnet else [subnet]
    return rows.loc[[key for key in keys if key in rows.index]]


def _drawn(
    store: Store, job: Job, comparable: Comparable, query: Query, drawn: pd.DataFrame
) -> list[Component]:
    if drawn.empty:
        return [html.P("No finalist yet.")]
    cost = query.first("width") if query.first("width") in COSTS else "macs"
    try:
        space = space_of(store, job)
        layers = {
            str(key): layers_frame(space, space.architecture(architecture))
            for key, architecture in drawn["architecture"].items()
        }
    except NASError as error:
        return [html.P(f"The layers cannot be shown. {error.message}")]
    return [
        costs_chips(query),
        tall("blocks", blocks_figure(layers, cost=cost)),
        chooser(comparable, query, str(drawn.index[0]), query.first("other")),
    ]


def _changes(
    job: Job, subnet: str | None, device: str | None, query: Query, asks: Asks, answers: Answers
) -> list[Component]:
    """What smaller and larger neighbours do, where somebody can tell and it was asked for."""
    explain = asks.explain
    if explain is None or subnet is None:
        return [html.P(["Ask ", html.Code(f"nas explain {job.id} {subnet or 'SUBNET'}"), "."])]
    if query.first("explain") != "1":
        words = f"Ask what each choice of {subnet} is worth"
        return [html.P(dcc.Link(words, href=query.replaced("explain", "1").text))]
    ask = partial(explain, job.id, subnet, other=None, device=device)
    try:
        return changes_parts(answers.get(("explain", job.id, subnet, device, job.finished_at), ask))
    except NASError as error:
        return [html.P(f"{error.message} {error.hint}", className="caution")]

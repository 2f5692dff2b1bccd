"""The page of a comparison follows its address, and the jobs while they run."""

from typing import Any

import plotly.graph_objects as go
from dash import Dash, Input, Output, State

from dashboards.addresses import Query
from dashboards.comparing.page import axes_of, colour_of, compare_head, compare_tables
from dashboards.figures.compared import compared_figure
from dashboards.figures.look import empty
from dashboards.job_views import CurrentViews, JobViews
from dashboards.named_jobs import NO_JOB, asked_jobs, follow, without_jobs
from dashboards.pages import LIVE_STATES
from nas.results.comparing.points import networks


def compare_jobs(app: Dash, views: CurrentViews) -> None:
    """The comparison of the jobs that the address names."""

    follow(app, views, "compare")

    @app.callback(
        Output("compared", "figure"),
        Output("compare-head", "children"),
        Output("compare-tables", "children"),
        Output("compare-clock", "disabled"),
        Input("compare-version", "data"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def show(_version: str | None, search: str | None) -> tuple[Any, ...]:
        return comparison(views.get(), Query.read(search))


def comparison(views: JobViews, query: Query) -> tuple[go.Figure, Any, Any, bool]:
    """Figure, head, tables, and whether all jobs have ended."""
    jobs, missing = asked_jobs(views.store, query)
    if not jobs:
        return (
            empty("Fronts compared", NO_JOB),
            without_jobs("Compare jobs", missing or NO_JOB),
            [],
            True,
        )
    comparable = views.comparable([job.id for job in jobs])
    has_ended = not any(job.state in LIVE_STATES for job in jobs)
    head = compare_head(comparable, jobs, query)
    if comparable.rows.empty or len(comparable.quantities) < 2:
        return empty("Fronts compared", "No job has a finalist yet."), head, [], has_ended
    axes = axes_of(comparable, query)
    stars = networks(views.store, comparable.jobs, axes.both)
    figure = compared_figure(comparable.rows, axes, colour=colour_of(comparable, query), networks=stars)
    return figure, head, compare_tables(comparable, query), has_ended

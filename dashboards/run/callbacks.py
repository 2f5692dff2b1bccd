"""The page about how a job runs follows the job."""

from typing import Any

from dash import Dash, Input, Output, State
from dash.exceptions import PreventUpdate

from dashboards.addresses import Query
from dashboards.comparing.callbacks import asked_jobs
from dashboards.comparing.page import without_jobs
from dashboards.controls import RightsOf
from dashboards.figures.look import empty
from dashboards.job_views import CurrentViews
from dashboards.pages import LIVE_STATES
from dashboards.run.page import run_figures, run_head, run_parts


def follow_run(app: Dash, views: CurrentViews, rights: RightsOf) -> None:
    """The run of the first job that the address names."""

    @app.callback(
        Output("run-version", "data"),
        Input("run-clock", "n_intervals"),
        Input("url", "search"),
        State("run-version", "data"),
    )
    def watch(_ticks: int | None, search: str | None, seen: str | None) -> str:
        now = views.get()
        jobs, _ = asked_jobs(now.store, Query.read(search))
        version = " ".join(["run", *(now.version(job.id, None) for job in jobs[:1])])
        if version == seen:
            raise PreventUpdate
        return version

    @app.callback(
        Output("run-training", "figure"),
        Output("run-pace", "figure"),
        Output("run-head", "children"),
        Output("run-parts", "children"),
        Output("run-clock", "disabled"),
        Input("run-version", "data"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def show(_version: str | None, search: str | None) -> tuple[Any, ...]:
        store = views.get().store
        jobs, missing = asked_jobs(store, Query.read(search))
        if not jobs:
            nothing = empty("Run", "No job is chosen.")
            return nothing, nothing, without_jobs(missing or "No job is chosen."), [], True
        job = jobs[0]
        head, parts = run_head(store, job, rights()), run_parts(store, job)
        return *run_figures(store, job), head, parts, job.state not in LIVE_STATES

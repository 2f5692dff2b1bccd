"""The page about how a job runs follows the job."""

from typing import Any

from dash import Dash, Input, Output, State

from dashboards.addresses import Query
from dashboards.controls import RightsOf
from dashboards.figures.look import empty
from dashboards.job_views import CurrentViews
from dashboards.named_jobs import NO_JOB, asked_jobs, follow, without_jobs
from dashboards.pages import LIVE_STATES
from dashboards.run.page import run_figures, run_head, run_parts


def follow_run(app: Dash, views: CurrentViews, rights: RightsOf) -> None:
    """The run of the first job that the address names."""

    follow(app, views, "run", lambda now, ids: [now.version(job_id, None) for job_id in ids[:1]])

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
            nothing = empty("Run", NO_JOB)
            return nothing, nothing, without_jobs("Run", missing or NO_JOB), [], True
        job = jobs[0]
        head, parts = run_head(store, job, rights()), run_parts(store, job)
        return *run_figures(store, job), head, parts, job.state not in LIVE_STATES

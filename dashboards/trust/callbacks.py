"""The page about trust follows the job."""

from typing import Any

from dash import Dash, Input, Output, State
from dash.exceptions import PreventUpdate

from dashboards.addresses import Query
from dashboards.comparing.callbacks import asked_jobs
from dashboards.comparing.page import without_jobs
from dashboards.job_views import CurrentViews
from dashboards.pages import LIVE_STATES
from dashboards.trust.page import trust_parts


def weigh_evidence(app: Dash, views: CurrentViews) -> None:
    """What speaks for and against the first job that the address names."""

    @app.callback(
        Output("trust-version", "data"),
        Input("trust-clock", "n_intervals"),
        Input("url", "search"),
        State("trust-version", "data"),
    )
    def watch(_ticks: int | None, search: str | None, seen: str | None) -> str:
        now = views.get()
        jobs, _ = asked_jobs(now.store, Query.read(search))
        version = " ".join(["trust", *(now.mark([job.id]) for job in jobs[:1])])
        if version == seen:
            raise PreventUpdate
        return version

    @app.callback(
        Output("trust-parts", "children"),
        Output("trust-clock", "disabled"),
        Input("trust-version", "data"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def show(_version: str | None, search: str | None) -> tuple[Any, bool]:
        store = views.get().store
        jobs, missing = asked_jobs(store, Query.read(search))
        if not jobs:
            return without_jobs(missing or "No job is chosen."), True
        return trust_parts(store, jobs[0]), jobs[0].state not in LIVE_STATES

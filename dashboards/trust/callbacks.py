"""The page about trust follows the job."""

from typing import Any

from dash import Dash, Input, Output, State

from dashboards.addresses import Query
from dashboards.job_views import CurrentViews
from dashboards.named_jobs import NO_JOB, asked_jobs, follow, without_jobs
from dashboards.pages import LIVE_STATES
from dashboards.trust.page import trust_parts


def weigh_evidence(app: Dash, views: CurrentViews) -> None:
    """What speaks for and against the first job that the address names."""

    follow(app, views, "trust", lambda now, ids: now.mark(ids[:1]))

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
            return without_jobs("Trust", missing or NO_JOB), True
        return trust_parts(store, jobs[0]), jobs[0].state not in LIVE_STATES

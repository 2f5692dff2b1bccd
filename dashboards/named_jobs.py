"""Pages about jobs that their address names: which they are, when to draw anew, what is shown without one."""

from collections.abc import Callable
from typing import Any

from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards.addresses import Query
from dashboards.job_views import CurrentViews, JobViews
from dashboards.pages import at
from nas.store import Job, Store, digest
from search_spaces.errors import NASError

MOST_JOBS = 8
NO_JOB = "No job is chosen."

Mark = Callable[[JobViews, list[int]], Any]  # of jobs by their ids: another one whenever the page is another


def asked_jobs(store: Store, query: Query) -> tuple[list[Job], str]:
    """The jobs that an address names by id or name, and why others are not among them."""
    jobs: dict[int, Job] = {}
    reasons = []
    for word in query.all("job")[:MOST_JOBS]:
        try:
            job = store.job(word)
        except NASError as error:
            reasons.append(error.message)
            continue
        jobs.setdefault(job.id, job)
    return list(jobs.values()), " ".join(reasons)


def follow(app: Dash, views: CurrentViews, page: str, mark: Mark = JobViews.mark) -> None:
    """Changes what is in `PAGE-version` whenever the address or its jobs are others, by the page's clock."""

    @app.callback(
        Output(f"{page}-version", "data"),
        Input(f"{page}-clock", "n_intervals"),
        Input("url", "search"),
        State(f"{page}-version", "data"),
    )
    def watch(_ticks: int | None, search: str | None, seen: str | None) -> str:
        now = views.get()
        jobs, _ = asked_jobs(now.store, Query.read(search))
        version = digest([mark(now, [job.id for job in jobs]), search])
        if version == seen:
            raise PreventUpdate
        return version


def without_jobs(title: str, reason: str) -> list[Component]:
    """The page where the address names no job that it could be about."""
    return [
        html.H1(title),
        html.P(reason),
        html.P(dcc.Link("Select some in the list of jobs", href=at("/"))),
    ]

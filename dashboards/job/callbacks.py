"""What the page of a job asks the server for."""

from typing import Any
from urllib.parse import parse_qs

import plotly.graph_objects as go
from dash import Dash, Input, Output, State, ctx, no_update
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards import controls, pages
from dashboards.controls import RightsOf
from dashboards.job import panel
from dashboards.job_views import CurrentViews, JobViews
from dashboards.search_points import View
from nas.store import Store


def explore_job(app: Dash, views: CurrentViews, rights: RightsOf) -> None:
    """The page of a job, and of a subnet in it. rights: of whoever asks."""
    _explore_subnets(app, views, rights)
    _follow_job(app, views)
    _look_closer(app, views)
    _control_job(app, views, rights)


def _control_job(app: Dash, views: CurrentViews, rights: RightsOf) -> None:
    """The buttons are drawn anew when others make sense, and not under the hand of whoever types."""

    @app.callback(
        Output("job-controls", "children"),
        Output("job-controlled", "data"),
        Input("job-version", "data"),
        State("job-controlled", "data"),
        State("job", "data"),
        prevent_initial_call=True,
    )
    def show_controls(_version: str | None, seen: str | None, job_id: int) -> tuple[list[Component], str]:
        job = views.get().store.job(job_id)
        mark = controls.mark(job)
        if mark == seen:
            raise PreventUpdate
        return controls.controls(job, rights()), mark


def _explore_subnets(app: Dash, views: CurrentViews, rights: RightsOf) -> None:
    """A click on the front chooses a subnet, and the panel shows it."""

    @app.callback(
        Output("url", "search"),
        Input("front", "clickData"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def choose(click: dict[str, Any] | None, search: str | None) -> str:
        point = click["points"][0] if click and click.get("points") else {}
        if not isinstance(point.get("customdata"), str):
            raise PreventUpdate
        return pages.query(subnet=point["customdata"], device=chosen_device(search))

    # The job is an Input so that Dash calls this also when the page has just been opened.
    @app.callback(Output("panel", "children"), Input("url", "search"), Input("job", "data"))
    def show_subnet(search: str | None, job_id: int) -> list[Component]:
        store = views.get().store
        key, job = chosen(search), store.job(job_id)
        if not key:
            return panel.hint(store, job)
        may = rights()
        download = None if may.csrf is None else controls.extraction(job, may, subnet=key)
        return panel.subnet_panel(store, job, key, device_id=chosen_device(search), download=download)


def _look_closer(app: Dash, views: CurrentViews) -> None:
    """A zoom into a density shows the subnets one by one where they are few."""

    @app.callback(
        Output("front-view", "data"),
        Input("front", "relayoutData"),
        State("front-view", "data"),
        State("url", "search"),
        State("job", "data"),
        prevent_initial_call=True,
    )
    def look_closer(change: dict[str, Any] | None, seen: str | None, search: str | None, job_id: int) -> str:
        before = View.read(seen)
        view = views.get().view(job_id, chosen_device(search), before, change or {})
        if view is None or view == before:
            raise PreventUpdate
        return view.text


def _follow_job(app: Dash, views: CurrentViews) -> None:
    """The page is drawn anew when the job has got further."""

    # A page that shows all there is gets no answer: it is asked every few seconds, and draws nothing anew.
    @app.callback(
        Output("job-version", "data"),
        Input("job-clock", "n_intervals"),
        Input("url", "search"),
        State("job-version", "data"),
        State("job", "data"),
    )
    def watch(_ticks: int | None, search: str | None, seen: str | None, job_id: int) -> str:
        version = views.get().version(job_id, chosen_device(search))
        if version == seen:
            raise PreventUpdate
        return version

    @app.callback(
        Output("front", "figure"),
        Output("job-head", "children"),
        Output("front-table", "children"),
        Output("hypervolume", "figure"),
        Output("predicted", "figure"),
        Output("training", "figure"),
        Output("generator", "children"),
        Output("job-clock", "disabled"),
        Input("job-version", "data"),
        Input("url", "search"),
        Input("front-view", "data"),
        State("job", "data"),
        prevent_initial_call=True,
    )
    def show_job(_version: str | None, search: str | None, view: str | None, job_id: int) -> tuple[Any, ...]:
        device_id, now = chosen_device(search), views.get()
        front = now.front(job_id, selected=chosen(search), device_id=device_id, view=View.read(view))
        # Choosing a subnet draws a ring and nothing else; a page that has just been opened is drawn in full.
        if ctx.triggered_id in ("url", "front-view"):
            return (front, *[no_update] * 7)
        return (front, *now.parts(job_id, device_id=device_id))


def chosen(search: str | None) -> str | None:
    """The subnet's key in the query of an address such as ?subnet=k3f9."""
    return parse_qs((search or "").removeprefix("?")).get("subnet", [None])[0]


def chosen_device(search: str | None) -> int | None:
    """The device in the query of an address such as ?device=2&subnet=k3f9."""
    asked = parse_qs((search or "").removeprefix("?")).get("device", [""])[0]
    return int(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 10 else None


def job_front(store: Store, job_id: int, *, selected: str | None, device_id: int | None = None) -> go.Figure:
    """As `JobViews.front`, of a store that is looked at once."""
    return JobViews(store).front(job_id, selected=selected, device_id=device_id)


def job_parts(store: Store, job_id: int, *, device_id: int | None = None) -> tuple[Any, ...]:
    """As `JobViews.parts`, of a store that is looked at once."""
    return JobViews(store).parts(job_id, device_id=device_id)

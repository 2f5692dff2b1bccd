"""The start page follows the store, the address, and what is typed into its search field."""

from typing import Any

from dash import Dash, Input, Output, State
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from dashboards.addresses import Query
from dashboards.controls import RightsOf
from dashboards.home.page import board_view, search_field
from dashboards.job_views import CurrentViews


def list_jobs(app: Dash, views: CurrentViews, rights: RightsOf) -> None:
    """The list of all jobs, drawn anew every few seconds."""

    @app.callback(Output("jobs", "children"), Input("jobs-clock", "n_intervals"), Input("url", "search"))
    def show_jobs(_ticks: int | None, search: str | None) -> list[Component]:
        may_write = rights().csrf is not None
        return board_view(views.get().board(), Query.read(search), may_write=may_write)

    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Input("jobs-search", "value"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def search_jobs(words: Any, search: str | None) -> str:
        query = Query.read(search)
        if str(words or "") == query.first("q"):
            raise PreventUpdate
        return query.replaced("q", words or "").text

    # The field is made anew only when another address than the typed one is shown: the back button.
    @app.callback(Output("jobs-searched", "children"), Input("url", "search"), State("jobs-search", "value"))
    def show_search(search: str | None, words: Any) -> Component:
        query = Query.read(search)
        if str(words or "") == query.first("q"):
            raise PreventUpdate
        return search_field(query)

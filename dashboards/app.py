"""The dashboard: a Dash app over a read-only store, for this machine's own browser."""

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from dash import Dash, Input, Output, State
from dash.development.base_component import Component
from dash.exceptions import DependencyException
from flask import Flask, request
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from dashboards import controls, devices, pages
from dashboards.addresses import Query
from dashboards.asks import NOBODY, Asks
from dashboards.comparing.callbacks import compare_jobs
from dashboards.comparing.page import compare_page
from dashboards.controls import NO_RIGHTS, Rights, RightsOf
from dashboards.deciding.callbacks import decide
from dashboards.deciding.page import decide_page
from dashboards.home.callbacks import list_jobs
from dashboards.home.page import jobs_page
from dashboards.job.callbacks import chosen, chosen_device, explore_job, job_front, job_parts
from dashboards.job_views import CurrentViews
from dashboards.opened import OpenedStore
from dashboards.pages import LIVE_STATES
from dashboards.requests import LOOPBACK, check_requests, guard, is_own_host
from dashboards.run.callbacks import follow_run
from dashboards.run.page import run_page
from dashboards.trust.callbacks import weigh_evidence
from dashboards.trust.page import trust_page
from dashboards.why.callbacks import tell_why
from dashboards.why.page import why_page
from nas.errors import ConflictError
from nas.results import frames, latency_frames
from nas.store import Store
from search_spaces.errors import NASError, NotFoundError, UsageError

__all__ = [
    "chosen",
    "chosen_device",
    "create_app",
    "device_parts",
    "job_front",
    "job_parts",
    "listen",
    "page",
    "serve",
]


FRAMES = {  # pages that no name belongs to
    "/compare": compare_page,
    "/why": why_page,
    "/run": run_page,
    "/trust": trust_page,
    "/devices": devices.devices_page,
}

# Dash's own page does not say what language it is in.
INDEX = """<!doctype html>
<html lang="en">
  <head>
    {%metas%}
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>{%title%}</title>
    {%favicon%}
    {%css%}
  </head>
  <body>
    {%app_entry%}
    <footer>{%config%}{%scripts%}{%renderer%}</footer>
  </body>
</html>
"""


def create_app(
    url: str,
    *,
    prefix: str = "",
    is_allowed: Callable[[str], bool] = is_own_host,
    links: Sequence[tuple[str, str]] = (),
    rights: RightsOf = Rights,
    asks: Asks = NOBODY,
) -> Dash:
    """The app over the store at `url`, opened for reading only. Raises StoreError when there is none.

    prefix: what stands before its paths in the browser, and is the server's SCRIPT_NAME.
    is_allowed: whether it answers to this Host header.  links: as of `pages.shell`.
    rights: of whoever asks; the server answers the forms that they give him.
    asks: who answers what takes predictors.
    """
    opened = OpenedStore(url)
    server: Any = Flask(__name__, static_folder=None)
    app = _begun(server, prefix)
    app.layout = partial(pages.shell, links)
    views = CurrentViews(opened)
    _watch_store(app, opened)
    _show_pages(app, opened, rights)
    list_jobs(app, views, rights)
    compare_jobs(app, views)
    decide(app, views, rights, asks)
    tell_why(app, views, asks)
    follow_run(app, views, rights)
    weigh_evidence(app, views)
    explore_job(app, views, rights)
    _explore_devices(app, opened)
    server.register_error_handler(DependencyException, _no_file)
    guard(app, server, is_allowed, has_forms=rights is not Rights)
    check_requests(app, server)
    return app


def _begun(server: Any, prefix: str) -> Dash:
    """An app without pages."""
    # A path of the environment would stand beside the prefix, which Dash does not take.
    os.environ.pop("DASH_URL_BASE_PATHNAME", None)
    return Dash(
        __name__,
        server=server,
        assets_folder=str(Path(__file__).parent / "assets"),
        title="Elastiform",
        update_title="",
        serve_locally=True,
        routes_pathname_prefix="/",
        requests_pathname_prefix=f"{prefix}/",
        suppress_callback_exceptions=True,
        index_string=INDEX,
        enable_mcp=False,
        add_log_handler=False,
        on_error=_pass_over,
    )


def _no_file(error: Exception) -> tuple[str, int]:
    """Of a script that no page of ours names."""
    return "There is no such file.", 404


def _pass_over(error: Exception) -> None:
    """Leaves a page as it is when the store is busy or the job is gone; the next tick asks again."""
    if not isinstance(error, NASError):
        raise error


def _watch_store(app: Dash, opened: OpenedStore) -> None:
    @app.callback(
        Output("store-alert", "children"),
        Output("store-identity", "data"),
        Input("store-clock", "n_intervals"),
        State("store-identity", "data"),
    )
    def show_alert(_ticks: int | None, seen: str | None) -> tuple[list[Component], str | None]:
        try:
            identity = opened.identity()
        except NASError as error:
            return pages.store_alert(error.message, error.hint), seen
        if seen in (None, identity):
            return [], identity
        return pages.store_alert(
            "Another store has taken the place of this one.", "Load the page again."
        ), seen


def _show_pages(app: Dash, opened: OpenedStore, rights: RightsOf) -> None:
    @app.callback(Output("page", "children"), Input("url", "pathname"), State("url", "search"))
    def show_page(pathname: str | None, search: str | None) -> list[Component]:
        path = (pathname or "/").removeprefix(request.script_root)
        try:
            return page(opened.get(), path, rights(), search=search)
        except NASError as error:
            return pages.message_page("The store cannot be read", error.message, error.hint)


def _explore_devices(app: Dash, opened: OpenedStore) -> None:
    """The list of devices and the page of one."""

    @app.callback(Output("devices", "children"), Input("devices-clock", "n_intervals"))
    def show_devices(_ticks: int | None) -> Component:
        store = opened.get()
        return devices.devices_table(frames.devices(store), latency_frames.agents(store))

    @app.callback(
        Output("device-head", "children"),
        Output("device-jobs", "children"),
        Output("device-job", "children"),
        Output("device-clock", "disabled"),
        Input("device-clock", "n_intervals"),
        Input("url", "search"),
        State("device", "data"),
    )
    def show_device(_ticks: int | None, search: str | None, device_id: int) -> tuple[Any, ...]:
        return device_parts(opened.get(), device_id, search)


def page(
    store: Store, pathname: str, rights: Rights = NO_RIGHTS, *, search: str | None = None
) -> list[Component]:
    """The page at this path. rights: of whoever looks at it. search: the query of the address."""
    query = Query.read(search)
    if pathname in ("", "/"):
        return jobs_page(query)
    if pathname == "/decide":
        return decide_page(query)
    if pathname in FRAMES:
        return FRAMES[pathname]()
    head, _, name = pathname.removeprefix("/").partition("/")
    if head not in ("job", "device") or not name:
        return pages.message_page("No such page")
    try:
        if head == "job":
            job = store.job(unquote(name))
            is_open = query.first("edit") == "remarks"
            return pages.job_page(job, controls.remarks(job, rights, is_open=is_open))
        chosen = [device for device in store.devices() if str(device.id) == name]
        if chosen:
            return devices.device_page(chosen[0])
        return pages.message_page("No such device", "The list of devices names those that there are.")
    except NotFoundError as error:
        return pages.message_page("No such job", error.message, error.hint)
    except NASError as error:
        return pages.message_page("The store cannot be read", error.message, error.hint)


def device_parts(store: Store, device_id: int, search: str | None = None) -> tuple[Any, ...]:
    """The parts of a device's page: head, jobs, the job that `?job=` asks for, whether its clock may stop.

    Without a job in the query, and with one that has not measured here, the newest that has is shown.
    """
    all_devices, agents = frames.devices(store), latency_frames.agents(store)
    row = all_devices[all_devices["id"] == device_id].to_dict("records")[0]
    measured = latency_frames.measured_on(store, device_id=device_id)
    predictors = latency_frames.predictors(store)
    here = predictors[predictors["device_id"] == device_id]
    asked = parse_qs((search or "").removeprefix("?")).get("job", [""])[0]
    ids = measured["job_id"].tolist()
    chosen = next((job_id for job_id in ids if str(job_id) == asked), ids[0] if ids else None)
    return (
        devices.device_head(row, agents[agents["device_id"] == device_id]),
        devices.jobs_here(measured, here, shown=chosen),
        [] if chosen is None else devices.job_here(store, chosen, device_id),
        not measured["state"].isin(LIVE_STATES).any(),
    )


class _QuietHandler(WSGIRequestHandler):
    """Requests are not logged: the terminal belongs to the one who started the dashboard."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Says nothing."""


def listen(url: str, *, host: str = "127.0.0.1", port: int = 8050, asks: Asks = NOBODY) -> BaseWSGIServer:
    """A server that has its port but does not answer yet; port 0 takes any free one (`server.port` tells).

    Raises UsageError for a host that others could reach, ConflictError for a port that is taken.
    """
    if host not in LOOPBACK:
        raise UsageError(
            f"The dashboard has no login, so it cannot listen on '{host}'.",
            "Leave --host away; from another machine, forward the port through ssh.",
        )
    app = create_app(url, asks=asks)
    with closing(bound_socket(host, port)) as bound:
        return make_server(
            host,
            bound.getsockname()[1],
            app.server,
            threaded=True,
            request_handler=_QuietHandler,
            fd=bound.fileno(),
        )


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any free one. Raises ConflictError for a port that is taken."""
    # Werkzeug prints and exits when it cannot bind, so that it gets a socket that is bound already.
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen()
    except OSError as error:
        bound.close()
        raise ConflictError(
            f"Port {port} of {host} cannot be used: {error.strerror}.", "Choose another one with --port."
        ) from None
    except OverflowError:
        bound.close()
        raise UsageError(f"{port} is not a port.", "Ports go from 1 to 65535.") from None
    return bound


def serve(
    url: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8050,
    ready: Callable[[str], None] | None = None,
    asks: Asks = NOBODY,
) -> None:
    """Serves the dashboard until Ctrl-C and prints nothing; `ready` is told the address once it answers.

    Raises UsageError for a host that others could reach, ConflictError for a taken port, StoreError.
    """
    server = listen(url, host=host, port=port, asks=asks)
    if ready:
        ready(f"http://{f'[{host}]' if ':' in host else host}:{server.port}/")
    server.serve_forever()

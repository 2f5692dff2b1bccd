"""The dashboard: a Dash app over a read-only store, for this machine's own browser."""

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pandas as pd
import plotly.graph_objects as go
from dash import Dash, Input, Output, State, ctx, no_update
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate
from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from dashboards import _devices as devices
from dashboards import _pages as pages
from dashboards import _panel as panel
from dashboards._device_callbacks import explore_devices
from dashboards._guard import LOOPBACK, guard
from dashboards.figures import (
    front_figure,
    generator_figure,
    hypervolume_figure,
    predicted_measured_figure,
    training_figure,
)
from nas.store import Store, frames, job_devices, latency_frames
from nas.store.cautions import cautions
from nas.store.stage_progress import stage_progress
from search_spaces._errors import ConflictError, NASError, NotFoundError, UsageError


def create_app(url: str) -> Dash:
    """The app over the store at `url`, opened for reading only. Raises StoreError when there is none."""
    store = Store.open(url, read_only=True)
    server: Any = Flask(__name__, static_folder=None)
    app = Dash(
        __name__,
        server=server,
        assets_folder=str(Path(__file__).parent / "assets"),
        title="Elastiform",
        update_title="",
        serve_locally=True,
        url_base_pathname="/",
        suppress_callback_exceptions=True,
        enable_mcp=False,
        add_log_handler=False,
        on_error=_pass_over,
    )
    app.layout = pages.shell()
    _list_jobs(app, store)
    _explore_job(app, store)
    explore_devices(app, store)
    guard(app, server)
    return app


def _pass_over(error: Exception) -> None:
    """Leaves a page as it is when the store is busy or the job is gone; the next tick asks again."""
    if not isinstance(error, NASError):
        raise error


def _list_jobs(app: Dash, store: Store) -> None:
    @app.callback(Output("page", "children"), Input("url", "pathname"))
    def show_page(pathname: str | None) -> list[Component]:
        return page(store, pathname or "/")

    @app.callback(Output("jobs", "children"), Input("jobs-clock", "n_intervals"))
    def show_jobs(_ticks: int | None) -> Component:
        return pages.jobs_table(frames.jobs(store))


def page(store: Store, pathname: str) -> list[Component]:
    """The page at this path."""
    if pathname == "/":
        return pages.jobs_page()
    if pathname == "/devices":
        return devices.devices_page()
    head, _, name = pathname.removeprefix("/").partition("/")
    if head not in ("job", "device") or not name:
        return pages.message_page("No such page")
    try:
        if head == "job":
            return pages.job_page(store.job(unquote(name)))
        found = [device for device in store.devices() if str(device.id) == name]
        if found:
            return devices.device_page(found[0])
        return pages.message_page("No such device", "The list of devices names those that there are.")
    except NotFoundError as error:
        return pages.message_page("No such job", error.message, error.hint)
    except NASError as error:
        return pages.message_page("The store cannot be read", error.message, error.hint)


def _explore_job(app: Dash, store: Store) -> None:
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
        key, job = chosen(search), store.job(job_id)
        if not key:
            return panel.hint(store, job)
        return panel.subnet_panel(store, job, key, device_id=chosen_device(search))

    @app.callback(
        Output("front", "figure"),
        Output("job-head", "children"),
        Output("front-table", "children"),
        Output("hypervolume", "figure"),
        Output("predicted", "figure"),
        Output("training", "figure"),
        Output("generator", "children"),
        Output("job-clock", "disabled"),
        Input("job-clock", "n_intervals"),
        Input("url", "search"),
        State("job", "data"),
    )
    def show_job(_ticks: int | None, search: str | None, job_id: int) -> tuple[Any, ...]:
        device_id = chosen_device(search)
        front = job_front(store, job_id, selected=chosen(search), device_id=device_id)
        # Choosing a subnet draws a ring and nothing else; a page that has just been opened is drawn in full.
        if ctx.triggered_id == "url":
            return (front, *[no_update] * 7)
        return (front, *job_parts(store, job_id, device_id=device_id))


def chosen(search: str | None) -> str | None:
    """The subnet's key in the query of an address such as ?subnet=k3f9."""
    return parse_qs((search or "").removeprefix("?")).get("subnet", [None])[0]


def chosen_device(search: str | None) -> int | None:
    """The device in the query of an address such as ?device=2&subnet=k3f9."""
    asked = parse_qs((search or "").removeprefix("?")).get("device", [""])[0]
    return int(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 10 else None


def job_front(store: Store, job_id: int, *, selected: str | None, device_id: int | None = None) -> go.Figure:
    """The front figure of a job, with a ring around the chosen subnet.

    device_id: whose latency is shown; the search's dots only on a device that it was for.
    """
    job = store.job(job_id)
    finalists = frames.finalists(store, job, device_id)
    own = (None, job_devices.own_device(store, job), *job_devices.searched_for(store, job).values())
    searched = frames.evaluations(store, job, device_id) if device_id in own else None
    return front_figure(finalists, searched, job=job.name, selected=selected)


def job_parts(store: Store, job_id: int, *, device_id: int | None = None) -> tuple[Any, ...]:
    """The other parts of a job's page: head, front table, three charts, a fourth of a job with a generator,
    and whether its clock may stop. device_id: whose latency is shown, by default the job's own device's.
    """
    job = store.job(job_id)
    jobs = frames.jobs(store)
    row = jobs[jobs["id"] == job_id].to_dict("records")[0]
    finalists = frames.finalists(store, job, device_id)
    shown = job_devices.own_device(store, job) if device_id is None else device_id
    return (
        pages.job_head(
            row,
            latency_frames.measured_on(store, job),
            device=shown,
            progress=stage_progress(store, job),
            cautions=cautions(store, job),
        ),
        pages.front_table(finalists, device=device_id),
        hypervolume_figure(frames.events(store, job, "hypervolume")),
        predicted_measured_figure(finalists),
        training_figure(frames.events(store, job, "train")),
        _generator(frames.events(store, job, "generator")),
        job.state not in pages.LIVE_STATES,
    )


def _generator(events: pd.DataFrame) -> list[Component]:
    return [] if events.empty else [pages.chart("generator-curve", generator_figure(events))]


class _QuietHandler(WSGIRequestHandler):
    """Requests are not logged: the terminal belongs to the one who started the dashboard."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Says nothing."""


def listen(url: str, *, host: str = "127.0.0.1", port: int = 8050) -> BaseWSGIServer:
    """A server that has its port but does not answer yet; port 0 takes any free one (`server.port` tells).

    Raises UsageError for a host that others could reach, ConflictError for a port that is taken.
    """
    if host not in LOOPBACK:
        raise UsageError(
            f"The dashboard has no login, so it cannot listen on '{host}'.",
            "Leave --host away; from another machine, forward the port through ssh.",
        )
    app = create_app(url)
    with closing(_bound(host, port)) as bound:
        return make_server(
            host,
            bound.getsockname()[1],
            app.server,
            threaded=True,
            request_handler=_QuietHandler,
            fd=bound.fileno(),
        )


def _bound(host: str, port: int) -> socket.socket:
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
) -> None:
    """Serves the dashboard until Ctrl-C and prints nothing; `ready` is told the address once it answers.

    Raises UsageError for a host that others could reach, ConflictError for a taken port, StoreError.
    """
    server = listen(url, host=host, port=port)
    if ready:
        ready(f"http://{f'[{host}]' if ':' in host else host}:{server.port}/")
    server.serve_forever()

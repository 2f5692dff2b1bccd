"""What the pages of devices ask the server for."""

from typing import Any
from urllib.parse import parse_qs

from dash import Dash, Input, Output, State
from dash.development.base_component import Component

from dashboards import _devices as devices
from dashboards._opened import OpenedStore
from dashboards._pages import LIVE_STATES
from nas.store import Store, frames, latency_frames


def explore_devices(app: Dash, opened: OpenedStore) -> None:
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


def device_parts(store: Store, device_id: int, search: str | None = None) -> tuple[Any, ...]:
    """The parts of a device's page: head, jobs, the job that `?job=` asks for, whether its clock may stop.

    Without a job in the query, and with one that has not measured here, the newest that has is shown.
    """
    known, agents = frames.devices(store), latency_frames.agents(store)
    row = known[known["id"] == device_id].to_dict("records")[0]
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

"""The panel beside the front: everything that is known about one subnet, and the command that extracts it."""

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component
from sqlalchemy.engine import make_url

import search_spaces
from dashboards.figures import front_rows, layers_figure, layers_frame, reactions_figure
from dashboards.figures.look import CONFIG, cell, is_number, option
from dashboards.figures.route import block_names, route_figure
from dashboards.pages import device_link, table
from nas.results import frames, job_devices
from nas.results.columns import Column, Kind, Row, View, columns_of, interval
from nas.results.job_devices import PREDICTED
from nas.store import Job, Store, default_url
from nas.store.values import job_word
from search_spaces import SearchSpace
from search_spaces.errors import NASError
from search_spaces.shapes.stitches import Stitch

UNKNOWN = "not available"
BEATEN = "A finalist that another one beats"
SEARCHED = "Seen by the search only: neither measured nor evaluated on the report split"
MEASURED = "Seen by the search and measured, not evaluated on the report split"
TIMED = ("measured_ms", "spread_ms", "peak_memory_bytes", "energy_mj", "device")
MAY_BE_UNKNOWN = (Kind.LATENCY, Kind.INTERVAL, Kind.BYTES, Kind.NUMBER)
Figures = list[tuple[str, Any]]


def hint(store: Store, job: Job) -> list[Component]:
    """The panel before anything is chosen."""
    if not frames.has_evaluations(store, job):
        return [html.H2("No subnet yet"), html.P("The search of this job has not evaluated any.")]
    return [
        html.H2("Choose a subnet"),
        html.P(
            "Click a point of the figure, or a key in the table below, to see a subnet and how to extract it."
        ),
    ]


def subnet_panel(
    store: Store,
    job: Job,
    key: str,
    *,
    device_id: int | None = None,
    download: Component | None = None,
) -> list[Component]:
    """The panel of the subnet with this key, or a sentence that the job has none such.

    device_id: whose latency is told, by default the job's own device's.
    download: what gives the subnet as a file, where there is such a thing.
    """
    facts = subnet_facts(store, job, key, device_id)
    if facts is None:
        return [html.H2("No such subnet"), html.P(["This job has no subnet ", html.Code(key), "."])]
    command = extract_command(job_word(job.id, job.name), key, url=store.url)
    return [
        html.H2(html.Code(key, id="subnet-key")),
        html.P(facts.place, className="facts"),
        html.Dl([part for name, value in facts.figures for part in (html.Dt(name), html.Dd(value))]),
        html.H3("Extract it"),
        html.Div(
            [html.Code(command, id="extract"), dcc.Clipboard(target_id="extract", title="Copy")],
            className="command",
        ),
        *([] if download is None else [download]),
        html.H3("Architecture"),
        table(["Choice", "Value"], [[name, option(value)] for name, value in facts.architecture.items()]),
        *_pictures(store, job, key, facts.architecture),
    ]


def extract_command(job: str, key: str, *, url: str, architecture: Mapping[str, Any] | None = None) -> str:
    """What to type to get the subnet as a checkpoint; passwords in the store's URL are not shown.

    architecture: of one that the job has not looked at, which is named by it.
    """
    which = ["--subnet", key] if architecture is None else ["--arch", json.dumps(architecture)]
    words = ["nas", "extract", job, *which, "-o", key]
    if url != default_url():
        words += ["--store", make_url(url).render_as_string(hide_password=True)]
    return shlex.join(words)


@dataclass(frozen=True)
class Facts:
    """Where a subnet stands, names and values of what is known, its architecture."""

    place: str
    figures: Figures
    architecture: dict[str, Any]


def subnet_facts(store: Store, job: Job, key: str, device_id: int | None = None) -> Facts | None:
    """The facts of the job's subnet with this key on a device, by default its own; None without any."""
    finalists = frames.finalists(store, job, device_id)
    final = finalists[finalists["subnet"] == key]
    default = job_devices.own_device(store, job)
    shown = default if device_id is None else device_id
    if not final.empty:
        row = final.to_dict("records")[0]
        place = "On the front" if key in set(front_rows(finalists)["subnet"]) else BEATEN
        return Facts(place, finalist_figures(row, shown), row["architecture"])
    searched = frames.evaluations(store, job, device_id, key=key)
    tried = searched[searched["subnet"] == key]
    if tried.empty:
        return None
    row = tried.to_dict("records")[0]
    timed = _measured(store, job, key, shown)
    is_searched_for = shown in (default, *job_devices.searched_for(store, job).values())
    place = SEARCHED if timed is None else MEASURED
    return Facts(place, _searched_figures(row, timed, shown, predicted=is_searched_for), row["architecture"])


def finalist_figures(row: Row, device_id: int | None) -> Figures:
    """What is known of a finalist, a row of `frames.finalists`."""
    return _figures(row, device_id, columns_of(View.PANEL, [row]))


def space_of(store: Store, job: Job) -> SearchSpace:
    """The job's search space. Raises NASError when the job has none yet or it cannot be built here."""
    stage = store.stage(job, "space")
    if stage is None or not stage.result or "space" not in stage.result:
        raise NASError("The job has not stored its search space.")
    return search_spaces.described(stage.result.get("space"))


def _pictures(store: Store, job: Job, key: str, architecture: dict[str, Any]) -> list[Component]:
    """The route of a stitch, the layers of any subnet, and the reactions of one that was probed."""
    try:
        space = space_of(store, job)
        arch = space.architecture(architecture)
        figures = {
            "route": route_figure(space, arch),
            "layers": layers_figure(layers_frame(space, arch)),
            "reactions": _reactions(store, job, key, stitch=search_spaces.route_of(space, arch)),
        }
    except NASError as error:
        return [html.P(f"The layers cannot be shown. {error.message}")]
    return [
        dcc.Graph(
            id=name,
            figure=figure,
            config=CONFIG | {"displayModeBar": False},
            style={"height": f"{figure.layout.height}px"},
        )
        for name, figure in figures.items()
        if figure is not None
    ]


def _reactions(store: Store, job: Job, key: str, *, stitch: Stitch | None) -> go.Figure | None:
    """What a generative search saw when it left out one block of the subnet after the other."""
    probed = frames.events(store, job, "probe")
    events = [] if probed.empty else probed[probed["subnet"] == key].to_dict("records")
    if not events:
        return None
    rises = {name: reaction["bypass"] for name, reaction in events[0]["reactions"].items()}
    if stitch is not None:
        names = block_names(stitch, rises)
        rises = {names[name]: rise for name, rise in rises.items()}
    return reactions_figure(rises, loss=events[0]["loss"])


def _searched_figures(
    row: Row, timed: Mapping[str, Any] | None, device_id: int | None, *, predicted: bool
) -> Figures:
    """What is known of a subnet that is no finalist: a row of `frames.evaluations`, one of `frames.measured`.

    predicted: whether the search predicted the latency on this device.
    """
    facts = {"search_quality": row["value"], "search_stderr": row["stderr"]}
    facts |= {name: row[name] for name in ("metric", "params", "macs")}
    if predicted:
        facts |= {name: row.get(name) for name in PREDICTED}
        if not is_number(facts["predicted_ms"]):
            facts["predicted_ms"] = row.get("latency_ms")
    if timed is not None:
        facts |= {**timed, "peak_memory_bytes": timed["memory_bytes"]}
    unknown = ("quality", *(TIMED if timed is None else ()))
    columns = [column for column in columns_of(View.PANEL, [facts]) if column.key not in unknown]
    return _figures(facts, device_id, columns)


def _figures(row: Row, device_id: int | None, columns: Iterable[Column]) -> Figures:
    return [
        (column.called(View.PANEL, metric=row["metric"]), _shown(column, row, device_id))
        for column in columns
    ]


def _shown(column: Column, row: Row, device_id: int | None) -> Any:
    value, text = column.value(row), cell(column, row)
    if value is None and column.kind in MAY_BE_UNKNOWN:
        return UNKNOWN
    if column.kind is Kind.COUNT and value is not None:
        return f"{text} ({value:,})"
    if column.kind is Kind.DEVICE and device_id is not None:
        return dcc.Link(text, href=device_link(device_id))
    ends = interval(row) if column.kind is Kind.LATENCY else None
    return text if ends is None or ends[0] <= value <= ends[1] else f"{text}, outside the interval"


def _measured(store: Store, job: Job, key: str, device_id: int | None) -> dict[str, Any] | None:
    """The subnet's latest measurement on the device that did not fail."""
    rows = frames.measured(store, job)
    rows = rows[(rows["subnet"] == key) & (rows["device_id"] == device_id) & (rows["state"] == "ok")]
    return None if rows.empty else dict(rows.to_dict("records")[-1])

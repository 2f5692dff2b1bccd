"""The panel beside the front: everything that is known about one subnet, and the command that extracts it."""

import shlex
from typing import Any

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component
from sqlalchemy.engine import make_url

import search_spaces
from dashboards._facts import subnet_facts
from dashboards._look import CONFIG, option
from dashboards._pages import table
from dashboards._route import block_names, route_figure
from dashboards.figures import layers_figure, layers_frame, reactions_figure
from nas.store import Job, Store, default_url, frames
from nas.store._values import job_word
from search_spaces import SearchSpace
from search_spaces._errors import NASError
from search_spaces._stitches import Stitch
from search_spaces.stitching import FAMILY, stitch_of


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


def subnet_panel(store: Store, job: Job, key: str, *, device_id: int | None = None) -> list[Component]:
    """The panel of the subnet with this key, or a sentence that the job has none such.

    device_id: whose latency is told, by default the job's own device's.
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
        html.H3("Architecture"),
        table(["Choice", "Value"], [[name, option(value)] for name, value in facts.architecture.items()]),
        *_pictures(store, job, key, facts.architecture),
    ]


def extract_command(job: str, key: str, *, url: str) -> str:
    """What to type to get the subnet as a checkpoint; passwords in the store's URL are not shown."""
    words = ["nas", "extract", job, "--subnet", key, "-o", key]
    if url != default_url():
        words += ["--store", make_url(url).render_as_string(hide_password=True)]
    return shlex.join(words)


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
        stitch = stitch_of(arch) if space.family == FAMILY else None
        figures = {
            "route": route_figure(space, arch),
            "layers": layers_figure(layers_frame(space, arch)),
            "reactions": _reactions(store, job, key, stitch=stitch),
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
    found = [] if probed.empty else probed[probed["subnet"] == key].to_dict("records")
    if not found:
        return None
    rises = {name: reaction["bypass"] for name, reaction in found[0]["reactions"].items()}
    if stitch is not None:
        names = block_names(stitch, rises)
        rises = {names[name]: rise for name, rise in rises.items()}
    return reactions_figure(rises, loss=found[0]["loss"])

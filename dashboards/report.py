"""One file with the main figures and tables of jobs, which opens without a network.

The tables are those of the dashboard's pages, written as plain HTML; plotly.js stands inside once.
"""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from dash import dcc, html
from dash.development.base_component import Component
from plotly.offline import get_plotlyjs

from dashboards.addresses import Query
from dashboards.comparing.page import axes_of, compare_tables
from dashboards.figures import (
    front_figure,
    hypervolume_figure,
    predicted_measured_figure,
    training_figure,
)
from dashboards.figures.choices import importance_figure
from dashboards.figures.compared import compared_figure
from dashboards.figures.look import CONFIG, option
from dashboards.job_views import JobViews
from dashboards.named_jobs import MOST_JOBS
from dashboards.pages import duration, front_table, table
from dashboards.why.importance import choice_columns, importance
from nas.results import baselines, frames
from nas.results.cautions import cautions
from nas.results.comparing.points import networks
from nas.results.running.board import shown_state
from nas.store import Job, Store
from search_spaces.errors import UsageError

MOST_BYTES = 5_000_000
MOST_DOTS = 300  # subnets of a search in a figure
MOST_POINTS = 200  # of a curve
CSS = Path(__file__).parent / "assets" / "elastiform.css"
ATTRIBUTES = {"className": "class"}  # of components that are written, and what HTML calls them
LINES = """
.graph { margin: 0 0 16px; }
main { max-width: 1200px; }
"""
# Draws what stands in the file when plotly.js is unpacked; a browser that cannot says so.
DRAW = """
const content = id => document.getElementById(id).textContent;
const shared = JSON.parse(content("shared"));
async function draw() {
  const bytes = Uint8Array.from(atob(content("plotly")), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  for (const written of document.querySelectorAll("script.figure")) {
    const figure = JSON.parse(written.textContent);
    figure.layout.template = shared.template;
    Plotly.newPlot(written.previousElementSibling, figure.data, figure.layout, shared.config);
  }
}
draw().catch(error => {
  for (const place of document.querySelectorAll(".graph")) place.textContent = `No figure: ${error}`;
});
"""

Section = tuple[str, Sequence[Component | go.Figure]]


def report(store: Store, jobs: Sequence[Job], *, now: datetime) -> str:
    """The whole file. Raises UsageError for too many jobs, and where it would be larger than MOST_BYTES."""
    if len(jobs) > MOST_JOBS:
        raise UsageError(f"A report has at most {MOST_JOBS} jobs, not {len(jobs)}.", "Write several.")
    views = JobViews(store)
    sections = [*_together(views, jobs), *(section for job in jobs for section in _of_job(views, job))]
    names = ", ".join(job.name for job in jobs)
    page = _page(f"Report on {names}", f"Written on {now:%Y-%m-%d %H:%M} UTC.", sections)
    if len(page.encode()) > MOST_BYTES:
        raise UsageError(
            f"The report would have {len(page.encode()) / 1e6:.1f} MB; it may have {MOST_BYTES / 1e6:g}.",
            "Name fewer jobs.",
        )
    return page


def _together(views: JobViews, jobs: Sequence[Job]) -> list[Section]:
    """What is told of several jobs together."""
    if len(jobs) < 2:
        return []
    comparable = views.comparable([job.id for job in jobs])
    refused = [_paragraph(reason, "caution") for reason in comparable.refused.values()]
    if comparable.rows.empty or len(comparable.quantities) < 2:
        return [("The jobs together", refused)]
    axes = axes_of(comparable, Query())
    stars = networks(views.store, comparable.jobs, axes.both)
    figure = compared_figure(comparable.rows, axes, networks=stars)
    return [("The jobs together", [*refused, figure, *compare_tables(comparable, Query())])]


def _of_job(views: JobViews, job: Job) -> list[Section]:
    store = views.store
    finalists = frames.finalists(store, job)
    searched = views.sampled(job.id, MOST_DOTS).assign(architecture=None)
    stars = baselines.frame(baselines.baselines(store, job))
    count = frames.evaluation_counts(store, job).get(job.id, 0)
    figures = [
        hypervolume_figure(_some(frames.events(store, job, "hypervolume"))),
        predicted_measured_figure(finalists),
        training_figure(_some(frames.training(store, job))),
    ]
    facts = [_paragraph(_facts(store, job, count), "facts")]
    warnings = [_paragraph(words, "caution") for words in cautions(store, job)]
    remark = [_paragraph(job.note, "remark")] if job.note else []
    front = front_figure(finalists, searched, job=job.name, searched=count, baselines=stars)
    return [
        (job.name, [*facts, *remark, *warnings, front, front_table(finalists)]),
        (f"How {job.name} came about", figures),
        (f"What the choices of {job.name} count for", [_importance(views, job)]),
        (f"What {job.name} was asked", [table(["Field", "Value"], _fields(job.config))]),
    ]


def _facts(store: Store, job: Job, count: int) -> str:
    seconds = None
    if job.started_at is not None and job.finished_at is not None:
        seconds = (job.finished_at - job.started_at).total_seconds()
    parts = [
        f"Job {job.id}, {shown_state(job, live=store.is_live(job))}",
        f"{count:,} subnets evaluated",
        f"time {duration(seconds)}",
        f"created {job.created_at:%Y-%m-%d %H:%M} UTC",
        *([f"tags {', '.join(job.tags)}"] if job.tags else []),
    ]
    return " · ".join(parts)


def _importance(views: JobViews, job: Job) -> go.Figure:
    searched = views.sampled(job.id, 5_000)
    choices = choice_columns(list(searched["architecture"]))
    moves = [importance(choices, searched[name].astype(float)) for name in ("value", "latency_ms")]
    rows = [pd.DataFrame(columns=["choice", "spread"]) if one is None else one.rows for one in moves]
    explained = [0.0 if one is None else one.explained for one in moves]
    metric = str(job.config.get("quality", "accuracy"))
    return importance_figure(*rows, metric=metric, explained=(explained[0], explained[1]))


def _some(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a curve, evenly thinned, with the last one."""
    every = max(1, -(-len(rows) // MOST_POINTS))
    return rows.iloc[::-1].iloc[::every].iloc[::-1]


def _fields(config: Mapping[str, Any], before: str = "") -> list[list[str]]:
    rows = []
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            rows += _fields(value, f"{before}{name}.")
        else:
            rows.append([f"{before}{name}", str(value) if isinstance(value, list | dict) else option(value)])
    return rows


# -- components as HTML --


def _paragraph(words: str, kind: str) -> Component:
    return html.P(words, className=kind)


def _page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    bodies = [f"<h2>{escape(name)}</h2>{''.join(map(_part, parts))}" for name, parts in sections if parts]
    shared = {"template": pio.templates["plotly_white"].to_plotly_json(), "config": CONFIG}
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS.read_text(encoding='utf-8')}{LINES}</style></head>"
        f'<body><main><h1>{escape(title)}</h1><p class="facts">{escape(subtitle)}</p>{"".join(bodies)}</main>'
        f'<script type="application/json" id="shared">{_json(shared)}</script>'
        f'<script type="text/plain" id="plotly">{_packed(get_plotlyjs())}</script>'
        f"<script>{DRAW}</script></body></html>\n"
    )


def _packed(code: str) -> str:
    """A script as base64 of gzip: a third of its size."""
    return base64.b64encode(gzip.compress(code.encode(), mtime=0)).decode()


def _json(document: Any) -> str:
    """As it may stand inside of a script element."""
    return json.dumps(document).replace("<", "\\u003c")


def _part(part: Component | go.Figure) -> str:
    if not isinstance(part, go.Figure):
        return markup(part)
    document = json.loads(part.to_json())
    document["layout"].pop("template", None)  # stands in the file once
    place = f'<div class="graph" style="height: {part.layout.height or 480}px"></div>'
    return f'{place}<script type="application/json" class="figure">{_json(document)}</script>'


def markup(part: Any) -> str:
    """A component of a page as plain HTML; links of the dashboard lead nowhere from a file, and are words."""
    if part is None:
        return ""
    if isinstance(part, list | tuple):
        return "".join(map(markup, part))
    if not isinstance(part, Component):
        return escape(str(part))
    inside = markup(getattr(part, "children", None))
    if isinstance(part, dcc.Link):
        return inside
    tag = type(part).__name__.lower()
    names = [(name, ATTRIBUTES[name]) for name in ATTRIBUTES if getattr(part, name, None)]
    attributes = "".join(f' {called}="{escape(getattr(part, name))}"' for name, called in names)
    return f"<{tag}{attributes}>{inside}</{tag}>" if tag != "br" else "<br>"

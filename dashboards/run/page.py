"""The page about how a job runs, as functions of the store."""

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
import yaml
from dash import dcc, html
from dash.development.base_component import Component

from dashboards import controls
from dashboards.controls import Rights
from dashboards.figures import training_figure
from dashboards.pages import REFRESH_MS, badge, chart, duration, job_link, rooms, table, text_or_dash
from dashboards.run.pace import pace, pace_figure
from nas.results import frames
from nas.results.running.board import shown_state
from nas.results.running.stage_progress import stage_progress
from nas.results.running.time_left import time_left
from nas.store import Job, Store
from nas.store import tables as t
from nas.store.connection.patience import again

MOST_LINES = 200
MOST_EVENTS = 60
LONGEST_DATA = 160
CURVES = ("train", "hypervolume", "log")  # kinds of events that are shown otherwise


def run_page() -> list[Component]:
    """The frame of the page; callbacks fill it, and its clock fills it anew while the job runs."""
    charts = [chart("run-training"), chart("run-pace")]
    return [
        dcc.Interval(id="run-clock", interval=REFRESH_MS),
        dcc.Store(id="run-version"),
        html.Div(id="run-head"),
        html.Div(charts, className="charts"),
        html.Div(id="run-parts"),
    ]


def run_head(store: Store, job: Job, rights: Rights) -> list[Component]:
    """Name, state, stage, time left, and what changes the job for whoever may."""
    live = store.is_live(job)
    now, left = stage_progress(store, job), time_left(store, job)
    facts = [
        "" if now is None else f"stage {now.words}",
        "" if left is None else f"about {duration(left)} left in all",
        f"attempt {job.attempt}",
        f"seed {job.seed}",
    ]
    link = dcc.Link(job.name, href=job_link(job.id, job.name))
    return [
        rooms(job.id, job.name, "Run"),
        html.H1(["Run of ", link, badge(shown_state(job, live=live), live=live)]),
        html.P(" · ".join(fact for fact in facts if fact), className="facts"),
        html.Div(controls.controls(job, rights), id="run-controls", className="changes"),
    ]


def run_parts(store: Store, job: Job) -> list[Component]:
    """Stages, log, events, config, provenance."""
    return [
        html.H2("Stages"),
        _stages(store, job),
        html.H2("Log"),
        html.Pre("\n".join(log_tail(store, job)) or "Nothing has been said.", className="log", tabIndex="0"),
        html.H2("Events"),
        _events(store, job),
        html.H2("What it was asked"),
        html.Pre(
            yaml.safe_dump(job.config, sort_keys=False, allow_unicode=True), className="log", tabIndex="0"
        ),
        html.H2("Where it ran"),
        _provenance(job.provenance),
    ]


def run_figures(store: Store, job: Job) -> tuple[Any, Any]:
    """The curves of the training, and its pace."""
    return training_figure(frames.training(store, job)), pace_figure(pace(store, job))


def _stages(store: Store, job: Job) -> Component:
    rows = [
        [
            stage.name,
            stage.state,
            duration((stage.finished_at - stage.started_at).total_seconds() if stage.finished_at else None),
            f"{stage.started_at:%Y-%m-%d %H:%M:%S}",
        ]
        for stage in store.stages(job)
    ]
    return table(["Stage", "State", "#Time", "#Began (UTC)"], rows)


@again
def log_tail(store: Store, job: Job, most: int = MOST_LINES) -> list[str]:
    """The last lines that the job's processes have said, the oldest first.

    Those of a job that nobody submitted are events.
    """
    lines, events = t.log_lines.c, t.events.c
    asked = sa.select(lines.text).where(lines.job_id == job.id).order_by(lines.id.desc()).limit(most)
    messages = sa.select(events.data).where((events.job_id == job.id) & (events.kind == "log"))
    with store.read() as connection:
        texts = list(connection.scalars(asked))
        if not texts:
            data = connection.scalars(messages.order_by(events.id.desc()).limit(most))
            texts = [str(one.get("message", "")) for one in data]
    return texts[::-1]


@again
def _events(store: Store, job: Job) -> Component:
    c = t.events.c
    query = sa.select(c.created_at, c.stage, c.kind, c.step, c.data)
    query = query.where((c.job_id == job.id) & c.kind.not_in(CURVES)).order_by(c.id.desc()).limit(MOST_EVENTS)
    with store.read() as connection:
        rows = [
            [
                f"{moment:%Y-%m-%d %H:%M:%S}",
                text_or_dash(stage),
                kind,
                "–" if step is None else f"{step}",
                _short(data),
            ]
            for moment, stage, kind, step, data in connection.execute(query)
        ]
    if not rows:
        return html.P("None but the curves.")
    return table(["When (UTC)", "Stage", "Kind", "#Step", "What"], rows)


def _short(data: Any) -> str:
    text = data.get("message") if isinstance(data, Mapping) and "message" in data else None
    text = json.dumps(data, ensure_ascii=False) if text is None else str(text)
    return text if len(text) <= LONGEST_DATA else f"{text[: LONGEST_DATA - 1]}…"


def _provenance(provenance: Mapping[str, Any]) -> Component:
    if not provenance:
        return html.P("Nothing was noted.")
    rows = [[name, value if isinstance(value, str) else _short(value)] for name, value in provenance.items()]
    return table(["What", "Value"], rows)

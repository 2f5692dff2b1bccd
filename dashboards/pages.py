"""The pages as functions of the store: lists of Dash components, no callbacks."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import pandas as pd
import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component
from flask import has_request_context, request

from dashboards.figures import front_rows
from dashboards.figures.look import CONFIG, cell, decimals
from nas.results.agreement import agreement
from nas.results.columns import Column, Kind, Row, View, columns_of
from nas.results.frames import INHERITED, SPECIALISED, TRAINED
from nas.results.running.stage_progress import StageProgress
from nas.store import Job
from nas.store.values import job_word, shortened

REFRESH_MS = 4_000
PAGES = (("Jobs", "/"), ("Devices", "/devices"))
LIVE_STATES = ("queued", "running")
CURRENT: Any = {"aria-current": "true"}
UNHEARD: Any = {"aria-hidden": "true"}


def at(path: str) -> str:
    """The path behind the prefix below which the server that is being asked answers."""
    return f"{request.script_root if has_request_context() else ''}{path}"


def called(words: str) -> Any:
    """What a part is called for those who do not see it; arguments of a component."""
    return {"aria-label": words}


def unseen(words: str) -> Component:
    """Words for those who hear a page."""
    return html.Span(words, className="unseen")


def shell(links: Sequence[tuple[str, str]] = ()) -> Component:
    """What every page has around it. links: names and paths of pages beside the dashboard's own."""
    ours = [dcc.Link(name, href=at(path)) for name, path in PAGES]
    more = [html.A(name, href=at(path)) for name, path in links]
    return html.Div(
        [
            dcc.Location(id="url", refresh=False),
            html.A("Skip to the content", href="#page", className="skip"),
            html.Header(
                [
                    dcc.Link("Elastiform", href=at("/"), className="brand"),
                    html.Nav([*ours, *more], **called("Pages")),
                ]
            ),
            dcc.Store(id="store-identity"),
            dcc.Interval(id="store-clock", interval=REFRESH_MS),
            html.Div(id="store-alert", role="alert"),
            html.Main(html.P("Loading …", className="facts"), id="page", tabIndex="-1"),
        ]
    )


def store_alert(message: str, hint: str) -> list[Component]:
    """What is wrong with the store that all pages show."""
    return [html.P([html.Strong(message), f" {hint}"], className="error")]


def job_link(job_id: int, name: str) -> str:
    """The address of a job's page; a name that browsers would resolve away, or that is another job's id, is
    replaced by the id.
    """
    return at(f"/job/{job_id if name in ('.', '..') else quote(job_word(job_id, name), safe='')}")


def named(name: str, href: str | None = None) -> Component:
    """A name in a table, cut to what that can hold and told in full to the pointer; a link where it leads."""
    short = shortened(name)
    more: dict[str, Any] = {"title": name} if short != name else {}
    return html.Span(short, **more) if href is None else dcc.Link(short, href=href, **more)


def device_link(device_id: int) -> str:
    """The address of a device's page; devices may share a name."""
    return at(f"/device/{device_id}")


def query(*, subnet: str | None = None, device: int | None = None) -> str:
    """The query of a job's page: the subnet chosen, the device whose latency is shown."""
    asked = {"device": device, "subnet": subnet}
    return "?" + urlencode(
        {name: value for name, value in asked.items() if value is not None}, quote_via=quote
    )


def message_page(title: str, *sentences: str) -> list[Component]:
    """A page that only says something, with the way back."""
    back = html.P(dcc.Link("All jobs", href=at("/")))
    return [html.H1(title), *(html.P(sentence) for sentence in sentences if sentence), back]


# -- words and tables --


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 42 s, 3 min 05 s, 2 h 10 min."""
    if seconds is None or pd.isna(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def text_or_dash(text: object) -> str:
    """The text; a dash where a frame has none."""
    return text if isinstance(text, str) and text else "–"


def badge(state: str, *, live: bool) -> Component:
    """The state of a job; one that runs without a process was interrupted."""
    shown = "interrupted" if state == "running" and not live else state
    return html.Span(shown, className=f"badge {shown}")


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> Component:
    """A plain table; the columns whose head begins with # hold numbers."""
    kinds = ["number" if head.startswith("#") else "" for head in heads]
    top = [html.Th(head.removeprefix("#"), className=kind) for head, kind in zip(heads, kinds, strict=True)]
    body = [
        html.Tr([html.Td(cell, className=kind) for cell, kind in zip(row, kinds, strict=True)])
        for row in rows
    ]
    return html.Div(html.Table([html.Thead(html.Tr(top)), html.Tbody(body)]), className="scroll")


# -- one job --


def job_page(job: Job, remarks: Sequence[Component] = ()) -> list[Component]:
    """The frame of a job's page; callbacks fill it, and its clock fills it anew while the job runs.

    remarks: what is typed there, which is not drawn anew.
    """
    return [
        dcc.Store(id="job", data=job.id),
        dcc.Store(id="job-version"),
        dcc.Store(id="job-controlled"),
        dcc.Store(id="front-view"),
        dcc.Interval(id="job-clock", interval=REFRESH_MS),
        html.Div(id="job-head"),
        html.Div(id="job-controls"),
        *remarks,
        html.Div([chart("front", tools=True), html.Aside(id="panel")], className="explorer"),
        html.H2("Front"),
        html.Div(id="front-table"),
        html.H2("How it came about"),
        html.Div(
            [chart("hypervolume"), html.Div(id="generator"), chart("predicted"), chart("training")],
            className="charts",
        ),
    ]


def chart(name: str, figure: go.Figure | None = None, *, tools: bool = False) -> Component:
    """A figure in its frame, by default one that a callback fills."""
    # Dash shows axes without data until the first figure comes; an invisible layout is quieter.
    blank = {"layout": {"xaxis": {"visible": False}, "yaxis": {"visible": False}}}
    config = CONFIG | {"displayModeBar": tools}
    graph = dcc.Graph(id=name, figure=blank if figure is None else figure, config=config, responsive=True)
    return html.Div(graph, className=f"graph {name}")


def rooms(job_id: int, name: str, current: str) -> Component:
    """The ways to the other pages about a job. current: which of them this is."""
    paths = {
        "Overview": job_link(job_id, name),
        "Decide": at(f"/decide?job={job_id}"),
        "Why": at(f"/why?job={job_id}"),
        "Trust": at(f"/trust?job={job_id}"),
        "Run": at(f"/run?job={job_id}"),
    }
    links = [
        html.Strong(words, **CURRENT) if words == current else dcc.Link(words, href=path)
        for words, path in paths.items()
    ]
    return html.Nav(links, className="rooms", **called(f"Pages about {name}"))


def job_head(
    row: Mapping[str, Any],
    measured_on: pd.DataFrame,
    *,
    device: int | None = None,
    progress: StageProgress | None = None,
    cautions: Sequence[str] = (),
    note: str | None = None,
    tags: Sequence[str] = (),
) -> list[Component]:
    """Name, state, progress and devices of a job; `row` is its row of `frames.jobs`.

    measured_on: the job's rows of `latency_frames.measured_on`.  device: whose latency the page shows.
    progress: of the stage that runs.  cautions: what speaks against believing the job's front.
    """
    stage = text_or_dash(row["stage"]) if progress is None else progress.words
    if progress is not None and progress.seconds_left is not None:
        stage += f", about {duration(progress.seconds_left)} left"
    facts = [
        f"stage {stage}",
        f"{row['evaluations']:,} subnets evaluated",
        f"time {duration(row['seconds'])}",
        f"created {row['created_at']:%Y-%m-%d %H:%M} UTC",
    ]
    facts += [f"tags {', '.join(tags)}"] if tags else []
    head: list[Component] = [
        rooms(row["id"], row["name"], "Overview"),
        html.H1([row["name"], badge(row["state"], live=row["live"])]),
        html.P(" · ".join(facts), className="facts"),
        *([html.P(note, className="remark")] if note else []),
        *_devices_of(measured_on, device),
        *(html.P(caution, className="caution") for caution in cautions),
    ]
    if isinstance(row["error"], str) and row["error"]:
        head.append(html.Pre(row["error"], className="error"))
    elif row["state"] == "running" and not row["live"]:
        command = f"nas resume {shlex.quote(job_word(row['id'], row['name']))}"
        head.append(html.P(["No process works on this job. Go on with ", html.Code(command), "."]))
    return head


def _devices_of(measured_on: pd.DataFrame, shown: int | None) -> list[Component]:
    """Where the job was measured, and a choice of the latency that is shown, if there are several."""
    rows = measured_on.to_dict("records")
    where: list[Any] = []
    for row in rows:
        where += [
            ", " if where else "measured on ",
            named(row["device"], device_link(row["device_id"])),
        ]
        where += [" (searched for)"] if row["searched_for"] and len(rows) > 1 else []
    if len(rows) < 2:
        return [html.P(where, className="facts")] if where else []
    choice: list[Any] = ["Latency on "]
    for row in rows:
        current = row["device_id"] == shown
        # A plain link loads the page anew: all of it changes, which a choice of a subnet must not cause.
        link = html.A(row["device"], href=query(device=row["device_id"]))
        choice += [html.Strong(row["device"], **CURRENT) if current else link, " · "]
    return [html.P(where, className="facts"), html.P(choice[:-1], id="latency-of")]


def front_table(finalists: pd.DataFrame, *, device: int | None = None) -> Component:
    """The front's subnets, the fastest first; a key opens the subnet and keeps `device` in the query."""
    front = front_rows(finalists)
    if front.empty:
        return html.P(
            "This job has no front yet: no subnet has been measured and evaluated on the report split."
        )
    rows, metric = front.to_dict("records"), front["metric"].iloc[0].replace("_", " ")
    columns = columns_of(View.PAGE, rows, chosen=("device",) if front["device"].nunique() > 1 else ())
    digits = decimals(front[["measured_ms", "predicted_ms"]].astype(float).min(axis=None))
    heads = [_head(column, metric) for column in columns]
    cells = [[_cell(column, row, device, digits) for column in columns] for row in rows]
    return html.Div([table(heads, cells), *_agreements(front)])


def _head(column: Column, metric: str) -> str:
    """As `table` takes it."""
    name = column.called(View.PAGE, metric=metric)
    return f"{'#' if column.kind.is_number else ''}{name[:1].upper()}{name[1:]}"


def _cell(column: Column, row: Row, device: int | None, digits: int) -> Any:
    text = cell(column, row, digits=digits)
    if column.kind is Kind.SUBNET and column.value(row) is not None:
        return dcc.Link(html.Code(text), href=query(subnet=text, device=device))
    if column.kind is Kind.ARCHITECTURE:
        return html.Span(text, className="architecture")
    return named(text) if column.kind is Kind.DEVICE else text


def _agreements(front: pd.DataFrame) -> list[Component]:
    """How well inherited qualities tell the order of those after a training."""
    sentences: list[Component] = []
    front = front.drop_duplicates("subnet")
    before = front[INHERITED].fillna(front["quality"]).astype(float)
    for weights, shown in TRAINED.items():
        after = (
            front["quality"].where(front["weights"] == weights) if weights == SPECIALISED else front[weights]
        )
        both = front.assign(before=before, after=after).dropna(subset=["before", "after"])
        tau = agreement([(both["before"].tolist(), both["after"].tolist())])
        if tau is not None:
            metric = both["metric"].iloc[0]
            sentence = f"Kendall's tau of the {metric}, inherited and {shown}: {tau}"
            sentences.append(html.P(sentence, className="facts"))
    return sentences

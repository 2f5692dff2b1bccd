"""The pages of devices: what is measured on, and what each job found out about latency there."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pandas as pd
from dash import dcc, html
from dash.development.base_component import Component

from dashboards.figures import halves_figure, held_out_figure, kinds_figure, residuals_figure, residuals_frame
from dashboards.figures.look import CONFIG, is_number, milliseconds, option, percent
from dashboards.pages import (
    CURRENT,
    REFRESH_MS,
    badge,
    chart,
    device_link,
    job_link,
    named,
    table,
    text_or_dash,
)
from nas.results import frames, latency_frames
from nas.store import Device, Store

SHARED_FROM = 1.05  # wall over CPU time, from which on the machine was shared with other work


def devices_page() -> list[Component]:
    """The frame of the list of devices; `devices_table` fills it."""
    return [html.H1("Devices"), dcc.Interval(id="devices-clock", interval=REFRESH_MS), html.Div(id="devices")]


def devices_table(devices: pd.DataFrame, agents: pd.DataFrame) -> Component:
    """All devices, the oldest first; `frames.devices` and `latency_frames.agents`."""
    if devices.empty:
        return html.P(["No device yet. Register one with ", html.Code("nas devices add NAME"), "."])
    rows = [
        [
            named(row["device"], device_link(row["id"])),
            text_or_dash(row["backend"]),
            option(row["threads"]),
            option(row["batch"]),
            text_or_dash(row["precision"]),
            option(row["registered"]),
            agent_words(agents[agents["device_id"] == row["id"]]) or "–",
            f"{row['measurements']:,}",
            f"{row['failed']:,}",
            percent(row["repeatability"]),
            milliseconds(row["reference_ms"]),
        ]
        for row in devices.to_dict("records")
    ]
    heads = ["Device", "Backend", "#Threads", "#Batch", "Precision", "Registered", "Agent"]
    heads += ["#Measurements", "#Failed", "#Repeatability", "#Calibrator"]
    legend = (
        "Repeatability: how far odd and even rounds of a subnet's timings are apart on average, in the "
        "latest job with a predictor. Calibrator: the clean time of one pass of the block that is timed "
        "around every run."
    )
    return html.Div([table(heads, rows), html.P(legend, className="facts note")])


def agent_words(agents: pd.DataFrame) -> str:
    """Whether the agents of a device run: lab live; attic last seen 2026-11-02 09:30 UTC."""
    return "; ".join(
        f"{row['agent']} live" if row["live"] else f"{row['agent']} last seen {_moment(row['last_seen'])}"
        for row in agents.to_dict("records")
    )


def device_page(device: Device) -> list[Component]:
    """The frame of a device's page; a callback fills it, anew while the job that it shows runs."""
    return [
        dcc.Store(id="device", data=device.id),
        dcc.Interval(id="device-clock", interval=REFRESH_MS),
        html.Div(id="device-head"),
        html.H2("Jobs measured here"),
        html.Div(id="device-jobs"),
        html.Div(id="device-job"),
    ]


def device_head(row: Mapping[str, Any], agents: pd.DataFrame) -> list[Component]:
    """Name and fingerprint of a device; `row` is its row of `frames.devices`."""
    registered = "registered by name" if row["registered"] else "not registered: a job described it"
    facts = [
        registered,
        agent_words(agents),
        f"{row['measurements']:,} measurements, {row['failed']:,} failed",
    ]
    if is_number(row["reference_ms"]):
        facts.append(f"calibrator {milliseconds(row['reference_ms'])}")
    facts.append(f"known since {_moment(row['created_at'])}")
    lines = [(key, _property(value)) for key, value in row["fingerprint"].items()]
    return [
        html.H1(row["device"]),
        html.P(" · ".join(fact for fact in facts if fact), className="facts"),
        html.H2("Fingerprint"),
        html.P("Measurements compare only under the same one.", className="facts"),
        table(["Property", "Value"], lines),
    ]


def jobs_here(measured: pd.DataFrame, predictors: pd.DataFrame, *, shown: int | None) -> Component:
    """The jobs of a device, the newest first, each with a link that shows what it found out here.

    `latency_frames.measured_on` and `latency_frames.predictors`, of one device both. shown: the job's id.
    """
    if measured.empty:
        return html.P("No job has measured on this device yet.")
    scored = {row["job_id"]: row for row in predictors.to_dict("records")}
    rows = []
    for row in measured.to_dict("records"):
        job_id, score = row["job_id"], scored.get(row["job_id"])
        here = (
            html.Strong("shown below", **CURRENT)
            if job_id == shown
            else dcc.Link("show", href=f"?job={job_id}")
        )
        rows.append(
            [
                named(row["job"], job_link(job_id, row["job"])),
                badge(row["state"], live=row["live"]),
                "this one" if row["searched_for"] else "another",
                f"{row['measured']:,}",
                f"{row['failed']:,}",
                predictor_words(score) if score else "none",
                short_score(score) if score else "–",
                here,
            ]
        )
    heads = ["Job", "State", "Searched for", "#Measured", "#Failed", "Predictor", "Error", "Details"]
    return table(heads, rows)


def job_here(store: Store, job_id: int, device_id: int) -> list[Component]:
    """What one job found out on the device: its predictor beside the noise, figures, failures."""
    job = store.job(job_id)
    predictors = latency_frames.predictors(store)
    here = (predictors["job_id"] == job_id) & (predictors["device_id"] == device_id)
    measured = frames.measured(store, job)
    measured = measured[measured["device_id"] == device_id]
    head: list[Component] = [html.H2(["Latency in job ", html.Em(job.name)])]
    noise = [html.P(sentence) for sentence in _conditions(measured)]
    failed = [html.H3("Failed measurements"), _failed(measured)]
    if not here.any():
        return [*head, html.P("This job has no latency predictor for this device yet."), *noise, *failed]
    row = predictors[here].to_dict("records")[0]
    why = [html.P(f"How it was chosen: {row['why']}.")] if isinstance(row["why"], str) else []
    card = latency_frames.card(store, job, device_id)
    return [
        *head,
        html.P(["Predictor: ", html.Strong(predictor_words(row)), "."]),
        *why,
        *(html.P(sentence, id="score" if i == 0 else "") for i, sentence in enumerate(score_words(row))),
        *noise,
        *_figures(store, job_id, device_id, row),
        html.H3("Roofline card"),
        card_table(card),
        *failed,
    ]


def card_table(card: pd.DataFrame) -> Component:
    """What the device takes for each kind of work; `latency_frames.card`."""
    if card.empty:
        return html.P("This predictor does not tell what the device takes for each kind of work.")
    rows = [
        [text_or_dash(row["term"]), _digits(row["value"]), text_or_dash(row["unit"]), percent(row["share"])]
        for row in card.to_dict("records")
    ]
    return table(["Work", "#Takes", "Unit", "#Share of the latency"], rows)


def score_words(row: Mapping[str, Any]) -> list[str]:
    """Sentences about a row of `latency_frames.predictors`: error, order, interval.

    A predictor is scored on noisy measurements, so that even one without any error would show some. An error
    below that is luck, and no sentence tells it as anything else.
    """
    sentences = [_error_words(row)]
    if is_number(row["within_5"]) and is_number(row["within_10"]):
        within = f"{percent(row['within_5'])} of the subnets held out are within 5 %"
        sentences.append(f"{within}, {percent(row['within_10'])} within 10 %.")
    if is_number(row["tau"]):
        halves = row["repeat_tau"]
        noise = f"; odd and even rounds of the measurements: {halves:.2f}" if is_number(halves) else ""
        sentences.append(f"Kendall's tau of prediction and measurement: {row['tau']:.2f}{noise}.")
    if is_number(row["half_width"]):
        sentences.append(
            f"The 90 % interval of a typical prediction is ± {percent(row['half_width'])} of it."
        )
    return sentences


def short_score(row: Mapping[str, Any]) -> str:
    """The error for a table, never without what a perfect predictor would show, if that is known."""
    if not is_number(row["mape"]):
        return "not scored"
    if not is_number(row["perfect_mape"]):
        return f"{percent(row['mape'])} (noise unknown)"
    if row["mape"] <= row["perfect_mape"]:
        return f"{percent(row['mape'])}, within the noise ({percent(row['perfect_mape'])})"
    return f"{percent(row['mape'])} (perfect: {percent(row['perfect_mape'])})"


def predictor_words(row: Mapping[str, Any]) -> str:
    """What the predictor is: roofline (work), fitted to 40 subnets."""
    rung = f" ({row['rung']})" if isinstance(row["rung"], str) else ""
    count = f", fitted to {option(row['count'])} subnets" if is_number(row["count"]) else ""
    return f"{row['kind']}{rung}{count}"


def _figures(store: Store, job_id: int, device_id: int, row: Mapping[str, Any]) -> list[Component]:
    job = store.job(job_id)
    held_out = latency_frames.held_out(store, job, device_id)
    halves = latency_frames.halves(store, job, device_id)
    errors = residuals_figure(residuals_frame(held_out))
    tall = dcc.Graph(
        id="residuals",
        figure=errors,
        config=CONFIG | {"displayModeBar": False},
        responsive=True,
        style={"height": f"{errors.layout.height or 360}px"},
    )
    small = [
        chart("held-out", held_out_figure(held_out)),
        chart("halves", halves_figure(halves, mape=row["repeat_mape"])),
        chart("kinds", kinds_figure(latency_frames.by_kind(store, job, device_id))),
    ]
    return [html.Div(small, className="charts"), html.Div(tall, className="graph below")]


def _conditions(measured: pd.DataFrame) -> list[str]:
    """Whether the machine was shared while the subnets were timed."""
    contention = measured["contention"].dropna().astype(float)
    shared = int((contention > SHARED_FROM).sum())
    if not shared:
        return []
    return [
        f"{shared} of {len(contention)} measurements were made while the machine did other work as well "
        f"(wall clock over CPU time above {SHARED_FROM:g})."
    ]


def _failed(measured: pd.DataFrame) -> Component:
    rows = measured[measured["state"] == "failed"]
    if rows.empty:
        return html.P("None.")
    return table(
        ["Subnet", "Measured as", "Reason"],
        [
            [html.Code(row["subnet"]), row["purpose"], text_or_dash(row["reason"])]
            for row in rows.to_dict("records")
        ],
    )


def _digits(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) and is_number(value) else "–"


def _property(value: Any) -> str:
    """A property of a fingerprint; nested ones as JSON."""
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False, sort_keys=True) if value else "none"
    return option(value)


def _moment(moment: datetime | None) -> str:
    return "never" if moment is None or pd.isna(moment) else f"{moment:%Y-%m-%d %H:%M} UTC"


def _error_words(row: Mapping[str, Any]) -> str:
    mape, perfect = row["mape"], row["perfect_mape"]
    if not is_number(mape):
        return "The predictor was not scored: too few subnets were measured to hold some out."
    error = f"Mean error {percent(mape)} on subnets held out"
    if not is_number(perfect):
        return f"{error}; how much of it is noise of the measurements is not known."
    noise = f"a perfect predictor would show {percent(perfect)}"
    if mape <= perfect:
        return f"{error}; {noise}, so that no error can be told from the noise of the measurements."
    return f"{error}; {noise}."

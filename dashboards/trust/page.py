"""The page that says how far a job's numbers can be trusted, as a function of the store."""

from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from dashboards.devices import score_words
from dashboards.figures import halves_figure, held_out_figure, residuals_figure, residuals_frame
from dashboards.figures.look import CONFIG
from dashboards.pages import REFRESH_MS, chart, device_link, job_link, rooms
from dashboards.trust.evidence import (
    contention_figure,
    images,
    images_figure,
    images_words,
    weights_figure,
)
from nas.results import frames, job_devices, latency_frames
from nas.results.cautions import cautions, ranking
from nas.store import Job, Store


def trust_page() -> list[Component]:
    """The frame of the page; callbacks fill it, and its clock fills it anew while the job runs."""
    return [
        dcc.Interval(id="trust-clock", interval=REFRESH_MS),
        dcc.Store(id="trust-version"),
        html.Div(id="trust-parts"),
    ]


def trust_parts(store: Store, job: Job) -> list[Component]:
    """The order of the subnets, their qualities, the predictors, the measurements."""
    return [
        rooms(job.id, job.name, "Trust"),
        html.H1(["How far to trust ", dcc.Link(job.name, href=job_link(job.id, job.name))]),
        *(html.P(sentence, className="caution") for sentence in cautions(store, job)),
        html.H2("Is the order of the subnets more than noise"),
        html.P(order_words(store, job), id="order"),
        html.H2("What qualities were made of"),
        *_qualities(store, job),
        html.H2("Are predicted latencies right"),
        *_latency(store, job),
        html.H2("Was the machine busy"),
        html.Div(chart("contention", contention_figure(frames.measured(store, job))), className="charts"),
    ]


def order_words(store: Store, job: Job) -> str:
    """What the halves of the search split say of the order, in a sentence."""
    order = ranking(store, job)
    if order is None:
        return "Nothing is known of the order: the job has not compared halves of its search split."
    words = f"Halves of the search split put the subnets in orders that agree with Kendall's tau {order}."
    if order.is_noise:
        return f"This ranking is noise. {words} Evaluate on more examples, or train longer."
    return f"This ranking is more than noise. {words}"


def _qualities(store: Store, job: Job) -> list[Component]:
    rows, trained = images(store, job), weights_figure(frames.finalists(store, job))
    figures = [chart("images", images_figure(rows)), *([chart("weights", trained)] if trained.data else [])]
    missing = "No finalist was trained further, so that nothing tells how far inherited weights go."
    words = [] if trained.data else [html.P(missing, className="facts")]
    return [html.P(images_words(rows)), *words, html.Div(figures, className="charts")]


def _latency(store: Store, job: Job) -> list[Component]:
    """Of each device with a predictor its score, predictions against measurements, and how these repeat."""
    predictors = latency_frames.predictors(store)
    here = predictors[predictors["job_id"] == job.id]
    if here.empty:
        return [html.P("No latency predictor has been fitted yet.")]
    names = job_devices.device_names(store, job)
    return [part for row in here.to_dict("records") for part in _of_device(store, job, row, names)]


def _of_device(store: Store, job: Job, row: dict[Any, Any], names: dict[int, str]) -> list[Component]:
    device = int(row["device_id"])
    held_out = latency_frames.held_out(store, job, device)
    halves = latency_frames.halves(store, job, device)
    residuals = residuals_figure(residuals_frame(held_out))
    figures = {
        f"held-out-{device}": held_out_figure(held_out),
        f"halves-{device}": halves_figure(halves, mape=row["repeat_mape"]),
    }
    # A figure without data would be a large empty box.
    charts = [chart(name, figure) for name, figure in figures.items() if figure.data]
    missing = "Neither predictions of subnets held out nor the timings of rounds are stored."
    tall = dcc.Graph(
        figure=residuals,
        config=CONFIG | {"displayModeBar": False},
        responsive=True,
        style={"height": f"{residuals.layout.height or 360}px"},
    )
    return [
        html.H3(dcc.Link(names.get(device, row["device"]), href=device_link(device))),
        *(html.P(sentence) for sentence in score_words(row)),
        html.Div(charts, className="charts") if charts else html.P(missing, className="facts"),
        *([html.Div(tall, className="graph below")] if residuals.data else []),
    ]

"""Where the time of the drawn subnets goes: by layer, by kind, and what a device takes for each kind."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from dash import html
from dash.development.base_component import Component

from dashboards.addresses import Query
from dashboards.comparing.page import chip
from dashboards.devices import card_table
from dashboards.figures import kinds_figure, layers_frame
from dashboards.figures.blocks import TIME, times_figure
from dashboards.figures.look import milliseconds, percent
from dashboards.job.panel import space_of
from dashboards.pages import chart, table
from dashboards.why.page import tall
from nas.results import job_devices, latency_frames
from nas.results.comparing.points import LATENCY
from nas.store import Device, Job, Store
from search_spaces import SearchSpace
from search_spaces.errors import NASError
from search_spaces.workloads import as_run

CONSTANT = "constant"  # what is no layer's: as the kinds call it


def timed_device(store: Store, job: Job, query: Query) -> tuple[Device, str] | None:
    """The device that the address names, by default the job's own, and the job's name for it.

    None where the job has no latency predictor.
    """
    devices = _with_predictor(store, job)
    asked, default = query.first("device"), job_devices.own_device(store, job)
    named = [one for one in devices if one[1] == asked]
    return next(iter([*named, *(one for one in devices if one[0].id == default), *devices]), None)


def _with_predictor(store: Store, job: Job) -> list[tuple[Device, str]]:
    names = job_devices.device_names(store, job)
    return [(one, names[one.id]) for one in store.devices() if store.predictor(job, one.id) is not None]


def time_parts(store: Store, job: Job, subnets: pd.DataFrame, query: Query) -> list[Component]:
    """The drawn subnets by layer, beside the device's roofline card and the two ends of the space by kind.

    subnets: rows of finalists by their keys, as of `points`.
    """
    chosen = timed_device(store, job, query)
    if chosen is None:
        return [html.P("No latency predictor has been fitted yet.")]
    device, name = chosen
    links = [
        chip(other, query.replaced("device", other), is_chosen=other == name)
        for _, other in _with_predictor(store, job)
    ]
    chips = html.Div([html.Span("device", className="facet"), *links], className="chips")
    words = f"The roofline card of {name}: what it takes for each kind of work, and its share of the latency."
    kinds = latency_frames.by_kind(store, job, device.id)
    return [
        *([chips] if len(links) > 1 else []),
        *_by_layer(store, job, device, name, subnets),
        html.P(words, className="facts"),
        card_table(latency_frames.card(store, job, device.id)),
        html.Div(chart("why-kinds", kinds_figure(kinds)), className="charts whole"),
    ]


def _by_layer(store: Store, job: Job, device: Device, name: str, subnets: pd.DataFrame) -> list[Component]:
    if subnets.empty:
        return [html.P("No finalist yet.")]
    try:
        space = as_run(space_of(store, job), device.fingerprint.get("workload"))
        timed = {
            key: _timed(store, job, device, space, architecture)
            for key, architecture in subnets["architecture"].items()
        }
    except NASError as error:
        return [html.P(f"The times of the layers cannot be told. {error.message}")]
    layers = {str(key): frame for key, frame in timed.items() if frame is not None}
    if not layers:
        return [html.P(f"The predictor for {name} does not tell layers apart: it is no roofline.")]
    sums = [_sum_words(key, frame, device, subnets.loc[key]) for key, frame in layers.items()]
    return [
        html.P(" ".join(sums), className="facts"),
        tall("why-layers", times_figure(layers, device=name, batch=int(device.fingerprint.get("batch", 1)))),
        _blocks_table(layers),
    ]


def _timed(
    store: Store, job: Job, device: Device, space: SearchSpace, architecture: Mapping[str, Any]
) -> pd.DataFrame | None:
    """Its layers with their times, and a last row for what is no layer's; None where nobody can tell."""
    arch = space.architecture(architecture)
    predicted = latency_frames.by_layer(store, job, device.id, space.layers(arch))
    if predicted is None:
        return None
    times, constant = predicted
    layers = layers_frame(space, arch).assign(**{TIME: times})
    if constant == 0:
        return layers
    rest = {"name": CONSTANT, "block": CONSTANT, "kind": CONSTANT, TIME: constant}
    return pd.concat([layers, pd.DataFrame([rest])], ignore_index=True)


def _sum_words(key: str, layers: pd.DataFrame, device: Device, row: Mapping[str, Any]) -> str:
    """What the parts add up to, beside the whole: a predictor may correct their sum, but no part of it."""
    whole, sort = row.get(f"{LATENCY}@{device.id}"), "measured"
    if row.get(f"is_predicted@{device.id}"):
        sort = "predicted as a whole"
    beside = "" if whole is None or pd.isna(whole) else f"; {milliseconds(whole)} {sort}"
    return f"The parts of {key} add up to {milliseconds(layers[TIME].sum())}{beside}."


def _blocks_table(layers: Mapping[str, pd.DataFrame]) -> Component:
    """Every block that one of the subnets has: its time, and the layer that takes most of it."""
    sums = {key: frame.groupby("block", sort=False)[TIME].sum() for key, frame in layers.items()}
    heads = [head for key in layers for head in (f"#{key}", "#Share", "Most of it")]
    rows = [
        [block, *(cell for key in layers for cell in _cells(block, layers[key], sums[key]))]
        for block in _in_order([list(one.index) for one in sums.values()])
    ]
    return table(["Block", *heads], rows)


def _cells(block: str, layers: pd.DataFrame, sums: pd.Series) -> list[str]:
    if block not in sums.index:
        return ["–", "–", "–"]
    of_block = layers[layers["block"] == block]
    most = of_block.loc[of_block[TIME].idxmax()]
    words = f"{most['name'].removeprefix(f'{block}.')}, {milliseconds(most[TIME])}"
    return [milliseconds(sums[block]), percent(sums[block] / sums.sum()), words if len(of_block) > 1 else "–"]


def _in_order(blocks: Sequence[Sequence[str]]) -> list[str]:
    """All of them; what the first list lacks comes behind what is before it in another one."""
    order = list(blocks[0])
    for others in blocks[1:]:
        place = 0
        for block in others:
            if block in order:
                place = order.index(block) + 1
            else:
                order.insert(place, block)
                place += 1
    return order

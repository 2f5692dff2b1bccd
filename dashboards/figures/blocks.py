"""An architecture drawn as its blocks, one after the other, as wide as what they cost."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.look import GREY, KINDS, amount, empty, escaped, framed, milliseconds, numbers

NARROWEST_LABEL = 0.045  # of the whole width, for the name of a block
COSTS = {"macs": "MACs", "params": "parameters"}
TIME = "latency_ms"


def blocks_figure(subnets: Mapping[str, pd.DataFrame], *, cost: str = "macs") -> go.Figure:
    """Subnets above each other, each from its input at the left to its output, over one scale.

    subnets: layers as of `layers_frame`, by what they are called.  cost: macs or params.
    """
    title = "Blocks to scale"
    if not subnets or all(layers.empty for layers in subnets.values()):
        return empty(title, "Choose a subnet to see what it is made of.")
    figure = _beside(subnets, cost, lambda value: f"{amount(value)} {COSTS[cost]}")
    framed(
        figure, title, f"from input to output; the width is what each costs in {COSTS[cost]} of one sample"
    )
    return figure.update_xaxes(title=COSTS[cost], tickformat="~s")


def times_figure(subnets: Mapping[str, pd.DataFrame], *, device: str, batch: int = 1) -> go.Figure:
    """Subnets drawn as `blocks_figure` draws them, each layer as wide as the ms that a device takes for it.

    subnets: by what they are called, layers as of `layers_frame` with a column TIME.
    batch: with which the device runs.
    Kinds without a colour of their own are one here: each takes some time, though it has no MACs.
    """
    shown = {
        name: layers.assign(kind=layers["kind"].where(layers["kind"].isin(KINDS), "others"))
        for name, layers in subnets.items()
    }
    figure = _beside(shown, TIME, milliseconds)
    framed(
        figure,
        f"Time by layer on {escaped(device)}",
        f"from input to output, as predicted for runs with batch {batch}",
    )
    return figure.update_xaxes(title="ms", nticks=6, tickformat="~g")


def _beside(subnets: Mapping[str, pd.DataFrame], cost: str, worded: Callable[[float], str]) -> go.Figure:
    """Subnets above each other over one scale, which begins at nothing."""
    figure = go.Figure()
    widest = max(float(layers[cost].sum()) for layers in subnets.values())
    kinds = dict.fromkeys(kind for layers in subnets.values() for kind in layers["kind"])
    for kind in kinds:
        _add_kind(figure, subnets, str(kind), cost, worded)
    for name, layers in subnets.items():
        _add_blocks(figure, name, layers, cost, widest)
    figure.update_layout(barmode="overlay", bargap=0.45, height=170 + 110 * len(subnets))
    figure.update_xaxes(range=[0, widest * 1.01])
    return figure.update_yaxes(type="category", autorange="reversed")


def _add_kind(
    figure: go.Figure,
    subnets: Mapping[str, pd.DataFrame],
    kind: str,
    cost: str,
    worded: Callable[[float], str],
) -> None:
    """The layers of one kind of all subnets, each where it stands."""
    color, pattern = KINDS.get(kind, (GREY, "-"))
    rows = []
    for name, layers in subnets.items():
        ends = layers[cost].astype(float).cumsum()
        of_kind = layers.assign(start=ends - layers[cost], subnet=name)[layers["kind"] == kind]
        rows.append(of_kind[of_kind[cost] > 0])
    shown = pd.concat(rows, ignore_index=True)
    if shown.empty:
        return
    texts = [
        f"{escaped(row['block'])}<br>{escaped(row['name'])}, {escaped(kind)}: {worded(row[cost])}"
        for row in shown.to_dict("records")
    ]
    figure.add_trace(
        go.Bar(
            x=numbers(shown[cost]),
            base=numbers(shown["start"]),
            y=[escaped(name) for name in shown["subnet"]],
            orientation="h",
            name=escaped(kind),
            marker={"color": color, "pattern": {"shape": pattern, "size": 5, "solidity": 0.35}},
            hovertext=texts,
            hoverinfo="text",
        )
    )


def _add_blocks(figure: go.Figure, name: str, layers: pd.DataFrame, cost: str, widest: float) -> None:
    """Lines between the blocks of one subnet, and the names of those that are wide enough."""
    sums = layers.groupby("block", sort=False)[cost].sum().astype(float)
    ends = [0.0, *sums.cumsum()]
    edge = {"size": 46, "symbol": "line-ns", "line": {"width": 2, "color": "white"}}
    places = [end for end in ends[1:-1] if end > 0]
    figure.add_trace(
        go.Scatter(
            x=places,
            y=[escaped(name)] * len(places),
            mode="markers",
            marker=edge,
            hoverinfo="skip",
            showlegend=False,
        )
    )
    for block, (start, end) in zip(sums.index, pairwise(ends), strict=True):
        if end - start >= NARROWEST_LABEL * widest:
            figure.add_annotation(
                x=(start + end) / 2,
                y=escaped(name),
                text=escaped(block),
                showarrow=False,
                yshift=44,
                font={"size": 11},
            )

"""The figures of a job as pure functions of its data frames (`nas.store.frames`).

The dashboard shows them and `nas run` writes them, so both tell the same.
"""

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards._front import front_figure, front_rows
from dashboards._generator import generator_figure, reactions_figure
from dashboards._latency import halves_figure, held_out_figure, kinds_figure
from dashboards._look import (
    BLACK,
    BLUE,
    CONFIG,
    GREY,
    KINDS,
    VERMILLION,
    amount,
    empty,
    escaped,
    framed,
    milliseconds,
    numbers,
)
from dashboards._residuals import residuals_figure, residuals_frame
from dashboards._route import block_names
from search_spaces import Architecture, SearchSpace
from search_spaces.stitching import FAMILY, stitch_of

__all__ = [
    "front_figure",
    "front_rows",
    "generator_figure",
    "halves_figure",
    "held_out_figure",
    "hypervolume_figure",
    "kinds_figure",
    "layers_figure",
    "layers_frame",
    "predicted_measured_figure",
    "reactions_figure",
    "residuals_figure",
    "residuals_frame",
    "training_figure",
    "write_html",
]
MEDIAN_OVER = 25  # rows of a training curve


def hypervolume_figure(events: pd.DataFrame) -> go.Figure:
    """The hypervolume of the search over its evaluations; columns evaluations and hypervolume."""
    title = "Hypervolume of the search"
    if events.empty:
        return empty(title, "The search has not started yet.")
    rows = events.sort_values("evaluations", kind="stable")
    figure = go.Figure(
        go.Scatter(
            x=numbers(rows["evaluations"]),
            y=numbers(rows["hypervolume"]),
            mode="lines+markers",
            line={"shape": "hv", "color": BLUE},
            marker={"size": 5},
            hovertemplate="%{x:,} evaluations: %{y:.4f}<extra></extra>",
        )
    )
    framed(figure, title, "search split, predicted latency")
    figure.update_xaxes(title="subnets evaluated", rangemode="tozero")
    return figure.update_yaxes(title="hypervolume")


def predicted_measured_figure(subnets: pd.DataFrame) -> go.Figure:
    """Predicted against measured latency on log axes; columns subnet, predicted_ms and measured_ms."""
    title = "Predicted against measured latency"
    both = ["predicted_ms", "measured_ms"]
    known = subnets.dropna(subset=both).astype(dict.fromkeys(both, float))
    if known.empty:
        return empty(title, "No subnet has both a predicted and a measured latency yet.")
    error = ((known["predicted_ms"] - known["measured_ms"]).abs() / known["measured_ms"]).median()
    ends = [float(known[both].min(axis=None)), float(known[both].max(axis=None))]
    line = {"color": GREY, "dash": "dash", "width": 1}
    figure = go.Figure(
        [
            go.Scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", name="equal"),
            go.Scatter(
                x=numbers(known["measured_ms"]),
                y=numbers(known["predicted_ms"]),
                customdata=[str(key) for key in known["subnet"]],
                hovertext=[
                    f"<b>{escaped(row['subnet'])}</b><br>{milliseconds(row['measured_ms'])} measured"
                    f"<br>{milliseconds(row['predicted_ms'])} predicted"
                    for row in known.to_dict("records")
                ],
                hoverinfo="text",
                mode="markers",
                marker={"size": 8, "color": VERMILLION, "symbol": "diamond"},
                name="subnets",
            ),
        ]
    )
    framed(figure, title, f"median error {100 * error:.1f} % over {len(known)} subnets")
    figure.update_xaxes(type="log", title="measured latency in ms", tickformat="~g")
    return figure.update_yaxes(type="log", title="predicted latency in ms", tickformat="~g")


def training_figure(events: pd.DataFrame) -> go.Figure:
    """The supernet's loss with a running median, and its learning rate; columns step, loss and perhaps lr."""
    title = "Training of the supernet"
    if events.empty:
        return empty(title, "The training has not started yet.")
    rows = events.dropna(subset=["step"]).sort_values("step", kind="stable")
    steps = numbers(rows["step"])
    median = rows["loss"].astype(float).rolling(MEDIAN_OVER, center=True, min_periods=1).median()
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.75, 0.25], vertical_spacing=0.06)
    loss = {"mode": "lines", "line": {"color": GREY, "width": 1}, "opacity": 0.5, "name": "loss"}
    figure.add_trace(go.Scatter(x=steps, y=numbers(rows["loss"]), **loss), row=1, col=1)
    smooth = {"mode": "lines", "line": {"color": BLUE}, "name": "running median"}
    figure.add_trace(go.Scatter(x=steps, y=numbers(median), **smooth), row=1, col=1)
    if "lr" in rows:
        rate = {
            "mode": "lines",
            "line": {"color": BLACK, "dash": "dot"},
            "name": "learning rate",
            "showlegend": False,
        }
        figure.add_trace(go.Scatter(x=steps, y=numbers(rows["lr"]), **rate), row=2, col=1)
    framed(figure, title)
    figure.update_yaxes(title="loss", row=1, col=1)
    figure.update_yaxes(title="learning<br>rate", rangemode="tozero", nticks=3, row=2, col=1)
    return figure.update_xaxes(title="optimiser step", row=2, col=1)


def layers_frame(space: SearchSpace, architecture: Architecture) -> pd.DataFrame:
    """The layers in the order of the forward pass: name, block, kind, params and macs (of one sample).

    The block is the name up to the number behind `blocks`; what comes before the first block is the `stem`,
    what stands outside of them later the `head`, but for the layers that lead from one block to the next
    (stitches, downsamplings, reductions).
    Blocks of a stitch are called by anchor and number, as in its text: `0: block 8`.
    """
    rows = []
    outside = "stem"
    for layer in space.layers(architecture):
        parts = layer.name.split(".")
        block = outside
        if "blocks" in parts:
            outside = "head"
            block = ".".join(parts[: parts.index("blocks") + 2])
        elif "downsample" in parts:
            block = ".".join(parts[: parts.index("downsample") + 1])
        elif parts[0] == "reductions":
            block = ".".join(parts[:2])
        elif parts[0] == "stitches":
            block = layer.name
        rows.append((layer.name, block, layer.kind, layer.params, layer.macs))
    layers = pd.DataFrame(rows, columns=["name", "block", "kind", "params", "macs"])
    if space.family == FAMILY:
        layers["block"] = layers["block"].map(block_names(stitch_of(architecture), layers["block"]))
    return layers


def layers_figure(layers: pd.DataFrame) -> go.Figure:
    """MACs and parameters of each block, stacked by kind of layer; `layers` as from `layers_frame`."""
    if layers.empty:
        return empty("Layers", "This architecture has no layers.")
    blocks = list(dict.fromkeys(layers["block"]))
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.12)
    for kind, rows in layers.groupby("kind", sort=False):
        if not rows[["params", "macs"]].to_numpy().any():
            continue
        color, pattern = KINDS.get(str(kind), (GREY, "-"))
        for column, cost in enumerate(("macs", "params"), start=1):
            sums = rows.groupby("block")[cost].sum().reindex(blocks, fill_value=0)
            bar = go.Bar(
                x=numbers(sums),
                y=[escaped(block) for block in blocks],
                orientation="h",
                name=escaped(kind),
                legendgroup=escaped(kind),
                showlegend=column == 1,
                marker={"color": color, "pattern": {"shape": pattern, "size": 5, "solidity": 0.35}},
                hovertext=[f"{escaped(block)}, {escaped(kind)}: {amount(sums[block])}" for block in blocks],
                hoverinfo="text",
            )
            figure.add_trace(bar, row=1, col=column)
    framed(figure, "Layers by block", "one sample's forward pass")
    figure.update_layout(barmode="stack", bargap=0.25, height=230 + 24 * len(blocks))
    figure.update_xaxes(nticks=4, tickangle=0, title="MACs", row=1, col=1)
    figure.update_xaxes(nticks=4, tickangle=0, title="parameters", row=1, col=2)
    return figure.update_yaxes(autorange="reversed", type="category")


def write_html(figure: go.Figure, path: str | Path) -> None:
    """Writes the figure as one page with plotly.js inside, which opens without a network."""
    figure.write_html(Path(path), include_plotlyjs=True, config=CONFIG)

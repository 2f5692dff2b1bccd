"""The figures of a job as pure functions of its data frames (`nas.results.frames`).

The dashboard shows them and `nas run` writes them, so both tell the same.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards.figures.changes import changes_figure
from dashboards.figures.front import front_figure, front_rows
from dashboards.figures.fronts import fronts_figure
from dashboards.figures.latency import halves_figure, held_out_figure, kinds_figure
from dashboards.figures.look import (
    BLACK,
    BLUE,
    CONFIG,
    GREY,
    KINDS,
    SERIES,
    VERMILLION,
    amount,
    empty,
    escaped,
    framed,
    is_number,
    is_share,
    many,
    milliseconds,
    numbers,
    quality,
)
from dashboards.figures.residuals import residuals_figure, residuals_frame
from dashboards.figures.route import block_names
from search_spaces import Architecture, SearchSpace, route_of

__all__ = [
    "changes_figure",
    "front_figure",
    "front_rows",
    "fronts_figure",
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
            x=many(numbers(rows["evaluations"])),
            y=many(numbers(rows["hypervolume"])),
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
    timed = subnets.dropna(subset=both).astype(dict.fromkeys(both, float))
    if timed.empty:
        return empty(title, "No subnet has both a predicted and a measured latency yet.")
    error = ((timed["predicted_ms"] - timed["measured_ms"]).abs() / timed["measured_ms"]).median()
    ends = [float(timed[both].min(axis=None)), float(timed[both].max(axis=None))]
    line = {"color": GREY, "dash": "dash", "width": 1}
    figure = go.Figure(
        [
            go.Scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", name="equal"),
            go.Scatter(
                x=numbers(timed["measured_ms"]),
                y=numbers(timed["predicted_ms"]),
                customdata=[str(key) for key in timed["subnet"]],
                hovertext=[
                    f"<b>{escaped(row['subnet'])}</b><br>{milliseconds(row['measured_ms'])} measured"
                    f"<br>{milliseconds(row['predicted_ms'])} predicted"
                    for row in timed.to_dict("records")
                ],
                hoverinfo="text",
                mode="markers",
                marker={"size": 8, "color": VERMILLION, "symbol": "diamond"},
                name="subnets",
            ),
        ]
    )
    framed(figure, title, f"median error {100 * error:.1f} % over {len(timed)} subnets")
    figure.update_xaxes(type="log", title="measured latency in ms", nticks=5, tickangle=0, tickformat="~g")
    return figure.update_yaxes(type="log", title="predicted latency in ms", nticks=5, tickformat="~g")


def training_figure(events: pd.DataFrame) -> go.Figure:
    """The supernet's loss with a running median, and its learning rate; columns step, loss and perhaps lr.

    With a column supernet those of several supernets.
    """
    title = "Training of the supernet" + ("s" if "supernet" in events else "")
    if events.empty:
        return empty(title, "There has been no training step.")
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.75, 0.25], vertical_spacing=0.06)
    if "supernet" in events:
        for i, (name, of_one) in enumerate(events.groupby("supernet", sort=False)):
            _add_training(figure, of_one, SERIES[i % len(SERIES)], f", {escaped(name)}")
    else:
        _add_training(figure, events, BLUE, "")
    framed(figure, title)
    figure.update_yaxes(title="loss", row=1, col=1)
    figure.update_yaxes(title="learning<br>rate", rangemode="tozero", nticks=3, row=2, col=1)
    return figure.update_xaxes(title="optimiser step", row=2, col=1)


def _add_training(figure: go.Figure, events: pd.DataFrame, color: str, whose: str) -> None:
    rows = events.dropna(subset=["step"]).sort_values("step", kind="stable")
    steps = numbers(rows["step"])
    median = rows["loss"].astype(float).rolling(MEDIAN_OVER, center=True, min_periods=1).median()
    loss = {"mode": "lines", "line": {"color": GREY, "width": 1}, "opacity": 0.5, "name": f"loss{whose}"}
    figure.add_trace(go.Scatter(x=steps, y=numbers(rows["loss"]), **loss), row=1, col=1)
    smooth = {"mode": "lines", "line": {"color": color}, "name": f"running median{whose}"}
    figure.add_trace(go.Scatter(x=steps, y=numbers(median), **smooth), row=1, col=1)
    if "lr" in rows:
        rate = {
            "mode": "lines",
            "line": {"color": BLACK, "dash": "dot"},
            "name": "learning rate",
            "showlegend": False,
        }
        figure.add_trace(go.Scatter(x=steps, y=numbers(rows["lr"]), **rate), row=2, col=1)


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
    if (stitch := route_of(space, architecture)) is not None:
        layers["block"] = layers["block"].map(block_names(stitch, layers["block"]))
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
    figure.update_xaxes(nticks=4, tickangle=0, tickformat="~s", title="MACs", row=1, col=1)
    figure.update_xaxes(nticks=4, tickangle=0, tickformat="~s", title="parameters", row=1, col=2)
    return figure.update_yaxes(autorange="reversed", type="category")


def generator_figure(events: pd.DataFrame, metric: str = "accuracy") -> go.Figure:
    """The best quality over the evaluations, and the share of the generator's samples that are feasible.

    metric: what the quality is.

    Columns round, evaluations, best (missing while nothing is evaluated) and feasible_rate, a row a round.
    """
    title = "Generator of the search"
    if events.empty:
        return empty(title, "The search has not started yet.")
    rows = events.sort_values("round", kind="stable")
    x = numbers(rows["evaluations"])
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.6, 0.4], vertical_spacing=0.1)
    best = go.Scatter(
        x=x,
        y=numbers(rows["best"]),
        mode="lines+markers",
        line={"shape": "hv", "color": BLUE},
        marker={"size": 5},
        hovertext=_round_texts(rows, lambda row: f"best {quality(row['best'], None, metric)}"),
        hoverinfo="text",
    )
    rate = go.Scatter(
        x=x,
        y=numbers(rows["feasible_rate"]),
        mode="lines+markers",
        line={"color": BLACK, "dash": "dot"},
        marker={"size": 6, "symbol": "square"},
        hovertext=_round_texts(
            rows, lambda row: f"{100 * row['feasible_rate']:.0f} % of the samples are feasible"
        ),
        hoverinfo="text",
    )
    figure.add_trace(best, row=1, col=1).add_trace(rate, row=2, col=1)
    framed(figure, title, "feasible: samples that keep what was asked for")
    figure.update_yaxes(
        title="best<br>quality", tickformat=".0%" if is_share(metric) else None, nticks=5, row=1, col=1
    )
    figure.update_yaxes(title="feasible", tickformat=".0%", range=[-0.04, 1.04], row=2, col=1)
    figure.update_yaxes(tickvals=[0, 0.5, 1], row=2, col=1)
    figure.update_xaxes(rangemode="tozero").update_xaxes(title="subnets evaluated", row=2, col=1)
    return figure.update_layout(showlegend=False)


def reactions_figure(reactions: Mapping[str, float | None], *, loss: float | None = None) -> go.Figure:
    """How much the loss rises when a block is left out; None for blocks that cannot be.

    reactions: by block, in the order of the forward pass.  loss: with all blocks.
    """
    title = "Rise of the loss without each block"
    rises = {block: rise for block, rise in reactions.items() if is_number(rise)}
    if not rises:
        return empty(title, "No block of this subnet can be left out.")
    blocks = [escaped(block) for block in rises]
    bars = go.Bar(
        x=numbers(rises.values()),
        y=blocks,
        orientation="h",
        marker={"color": BLUE},
        hovertext=[f"{block}: {rise:+.4f}" for block, rise in zip(blocks, rises.values(), strict=True)],
        hoverinfo="text",
    )
    whole = f"; {loss:.3g} with all blocks" if is_number(loss) else ""
    figure = framed(go.Figure(bars), title, f"a few examples{whole}")
    figure.update_layout(bargap=0.25, height=150 + 24 * len(blocks), showlegend=False)
    figure.update_xaxes(nticks=5, tickangle=0, title="cross-entropy", zeroline=True, zerolinecolor=GREY)
    return figure.update_yaxes(autorange="reversed", type="category")


def write_html(figure: go.Figure, path: str | Path) -> None:
    """Writes the figure as one page with plotly.js inside, which opens without a network."""
    figure.write_html(Path(path), include_plotlyjs=True, config=CONFIG)


def _round_texts(rows: pd.DataFrame, what: Callable[[Mapping[Any, Any]], str]) -> list[str]:
    return [
        f"round {row['round']:.0f}, {row['evaluations']:,.0f} evaluations: {what(row)}"
        for row in rows.to_dict("records")
    ]

"""Figures of a generative search: how its generator learns, and how networks react without their blocks."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards._look import BLACK, BLUE, GREY, empty, escaped, framed, is_number, numbers, quality


def generator_figure(events: pd.DataFrame) -> go.Figure:
    """The best quality over the evaluations, and the share of the generator's samples that are feasible.

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
        hovertext=[_told(row, f"best {quality(row['best'], None, 'accuracy')}") for row in _records(rows)],
        hoverinfo="text",
    )
    rate = go.Scatter(
        x=x,
        y=numbers(rows["feasible_rate"]),
        mode="lines+markers",
        line={"color": BLACK, "dash": "dot"},
        marker={"size": 6, "symbol": "square"},
        hovertext=[
            _told(row, f"{100 * row['feasible_rate']:.0f} % of the samples are feasible")
            for row in _records(rows)
        ],
        hoverinfo="text",
    )
    figure.add_trace(best, row=1, col=1).add_trace(rate, row=2, col=1)
    framed(figure, title, "feasible: samples that keep what was asked for")
    figure.update_yaxes(title="best<br>quality", tickformat=".0%", nticks=5, row=1, col=1)
    figure.update_yaxes(title="feasible", tickformat=".0%", range=[-0.04, 1.04], row=2, col=1)
    figure.update_yaxes(tickvals=[0, 0.5, 1], row=2, col=1)
    figure.update_xaxes(rangemode="tozero").update_xaxes(title="subnets evaluated", row=2, col=1)
    return figure.update_layout(showlegend=False)


def reactions_figure(reactions: Mapping[str, float | None], *, loss: float | None = None) -> go.Figure:
    """How much the loss rises when a block is left out; None for blocks that cannot be.

    reactions: by block, in the order of the forward pass.  loss: with all blocks.
    """
    title = "Rise of the loss without each block"
    known = {block: rise for block, rise in reactions.items() if is_number(rise)}
    if not known:
        return empty(title, "No block of this subnet can be left out.")
    blocks = [escaped(block) for block in known]
    bars = go.Bar(
        x=numbers(known.values()),
        y=blocks,
        orientation="h",
        marker={"color": BLUE},
        hovertext=[f"{block}: {rise:+.4f}" for block, rise in zip(blocks, known.values(), strict=True)],
        hoverinfo="text",
    )
    whole = f"; {loss:.3g} with all blocks" if is_number(loss) else ""
    figure = framed(go.Figure(bars), title, f"a few examples{whole}")
    figure.update_layout(bargap=0.25, height=150 + 24 * len(blocks), showlegend=False)
    figure.update_xaxes(nticks=5, tickangle=0, title="cross-entropy", zeroline=True, zerolinecolor=GREY)
    return figure.update_yaxes(autorange="reversed", type="category")


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = rows.to_dict("records")
    return records


def _told(row: Mapping[str, Any], what: str) -> str:
    return f"round {row['round']:.0f}, {row['evaluations']:,.0f} evaluations: {what}"

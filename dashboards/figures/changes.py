"""What changes of single choices do to a subnet."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards.figures.look import BLUE, GREY, VERMILLION, empty, escaped, framed, is_share, numbers


def changes_figure(changes: pd.DataFrame, *, metric: str, device: str, subnet: str) -> go.Figure:
    """How much better (with its standard error) and how much slower a subnet becomes, a row a change.

    changes: columns change (in words), quality, quality_std, latency_ms.
    """
    title = f"What the choices of {escaped(subnet)} are worth"
    if changes.empty:
        return empty(title, "There is nothing to change.")
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    names = [escaped(words) for words in changes["change"]]
    unit = 100 if is_share(metric) else 1
    columns = (
        (changes["quality"] * unit, changes["quality_std"] * unit, BLUE),
        (changes["latency_ms"], None, VERMILLION),
    )
    for column, (values, errors, color) in enumerate(columns, start=1):
        bars = go.Bar(
            x=numbers(values),
            y=names,
            orientation="h",
            marker={"color": color},
            error_x=None
            if errors is None
            else {"type": "data", "array": numbers(errors), "thickness": 1, "width": 3},
            hovertemplate="%{y}: %{x:+.3g}<extra></extra>",
        )
        figure.add_trace(bars, row=1, col=column)
    framed(figure, title, f"as predicted; latency on {escaped(device)}")
    figure.update_layout(bargap=0.3, height=190 + 22 * len(names), showlegend=False)
    figure.update_xaxes(zeroline=True, zerolinecolor=GREY)
    points = " in points (±1 standard error)" if unit > 1 else " (±1 standard error)"
    figure.update_xaxes(title=f"{escaped(metric)}{points}", row=1, col=1)
    figure.update_xaxes(title="latency in ms", row=1, col=2)
    return figure.update_yaxes(autorange="reversed", type="category")

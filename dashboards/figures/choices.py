"""What choices count for, and which of them go with what qualities and latencies."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards.figures.look import BLUE, VERMILLION, empty, escaped, framed, is_share, numbers

MOST_CHOICES = 20
MOST_AXES = 14
MOST_LINES = 1_500
MOST_TICKS = 12

Brushes = Mapping[str, tuple[float, float]]


def importance_figure(
    quality: pd.DataFrame, latency: pd.DataFrame, *, metric: str, explained: tuple[float, float]
) -> go.Figure:
    """How much each choice moves quality and latency; columns choice and spread, of each or of none.

    explained: the shares of variance that the choices explain, of quality and of latency.
    """
    title = "What each choice moves"
    names = list(dict.fromkeys([*quality.get("choice", []), *latency.get("choice", [])]))[:MOST_CHOICES]
    if not names:
        return empty(title, "Too few subnets have been evaluated.")
    unit = 100 if is_share(metric) else 1
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    for column, (rows, scale, color) in enumerate(((quality, unit, BLUE), (latency, 1, VERMILLION)), start=1):
        spreads = dict(zip(rows.get("choice", []), rows.get("spread", []), strict=True))
        values = numbers([scale * spreads[name] if name in spreads else None for name in names])
        bar = go.Bar(
            x=values,
            y=[escaped(name) for name in names],
            orientation="h",
            marker={"color": color, "pattern": {"shape": "" if column == 1 else "/", "solidity": 0.3}},
            hovertemplate="%{y}: %{x:.3g}<extra></extra>",
        )
        figure.add_trace(bar, row=1, col=column)
    fits = f"additive fits explain {100 * explained[0]:.0f} % and {100 * explained[1]:.0f} % of the variance"
    framed(figure, title, f"standard deviation over the evaluated subnets; {fits}")
    figure.update_layout(bargap=0.3, height=190 + 22 * len(names), showlegend=False)
    words = escaped(metric.replace("_", " "))
    figure.update_xaxes(title=f"{words}{' in points' if unit > 1 else ''}", row=1, col=1)
    figure.update_xaxes(title="latency in ms", row=1, col=2)
    return figure.update_yaxes(autorange="reversed", type="category")


def coordinates_figure(
    choices: pd.DataFrame, values: pd.DataFrame, *, metric: str, brushes: Brushes | None = None
) -> go.Figure:
    """A line a subnet through its choices, its latency and its quality, which colours it.

    choices: texts, as `choice_columns` gives them.  values: columns latency_ms and quality, of the same rows.
    brushes: by the name of an axis the part of it that is chosen.
    """
    title = "Choices of the evaluated subnets"
    if choices.empty or values["quality"].notna().sum() < 2:
        return empty(title, "Too few subnets have been evaluated.")
    every = max(1, -(-len(choices) // MOST_LINES))
    lines, values = choices.iloc[::every], values.iloc[::every]
    dimensions = [_choice_axis(lines[name]) for name in lines.columns[:MOST_AXES]]
    dimensions += [
        {"label": words, "values": numbers(values[name])}
        for name, words in (("latency_ms", "latency in ms"), ("quality", metric.replace("_", " ")))
        if values[name].notna().all()
    ]
    for one in dimensions:
        if brushes and one["label"] in brushes:
            one["constraintrange"] = list(brushes[one["label"]])
    colour = {"color": numbers(values["quality"]), "colorscale": "Cividis", "showscale": True}
    colour["colorbar"] = {"title": {"text": escaped(metric.replace("_", " "))}, "thickness": 12}
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=colour))
    framed(figure, title)
    more = len(choices.columns) - MOST_AXES
    words = f"; the first {MOST_AXES} of {len(choices.columns)} choices" if more > 0 else ""
    count = f"{len(lines):,} of {len(choices):,} subnets"
    subtitle = f"{count}, predicted latency, search split{words}; drag along an axis to choose"
    figure.update_layout(title={"subtitle": {"text": subtitle}}, margin={"t": 96, "b": 24, "l": 72, "r": 24})
    return figure


def options_of(column: pd.Series) -> list[str]:
    """The options of a choice in the order in which an axis has them: numbers by size, then words."""

    def place(text: str) -> tuple[int, float, str]:
        try:
            return 0, float(text), text
        except ValueError:
            return 1, 0.0, text

    return sorted(set(column), key=place)


def _choice_axis(column: pd.Series) -> dict[str, Any]:
    listed = options_of(column)
    places = {text: i for i, text in enumerate(listed)}
    ticks = list(range(0, len(listed), max(1, -(-len(listed) // MOST_TICKS))))
    return {
        "label": str(column.name),
        "values": [places[text] for text in column],
        "tickvals": ticks,
        "ticktext": [escaped(listed[i]) for i in ticks],
        "range": [-0.2, max(1, len(listed) - 1) + 0.2],
    }

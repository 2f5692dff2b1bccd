"""Reference networks over a front: stars, with their names."""

import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.look import BLACK, amount, escaped, milliseconds, numbers, quality
from nas.store.values import shortened


def stars(baselines: pd.DataFrame | None, *, metric: str, cost: str) -> go.Scatter | None:
    """Those with a quality and a cost, as `nas.results.baselines.frame` gives them; None without any."""
    if baselines is None:
        return None
    rows = baselines.dropna(subset=["quality", cost])
    rows = rows[rows["metric"] == metric]
    if rows.empty:
        return None
    is_latency = cost in ("latency_ms", "measured_ms")
    texts = [
        f"<b>{escaped(row['baseline'])}</b>, reference network"
        f"<br>{escaped(metric)} {quality(row['quality'], row['stderr'], metric)} on the report split"
        f"<br>{milliseconds(row[cost]) if is_latency else f'{escaped(cost)} {amount(row[cost])}'}"
        f"<br>{amount(row['params'])} parameters, {amount(row['macs'])} MACs"
        for row in rows.to_dict("records")
    ]
    errors = [value or 0.0 for value in numbers(rows["stderr"])]
    return go.Scatter(
        x=numbers(rows[cost]),
        y=numbers(rows["quality"]),
        error_y={"type": "data", "array": errors, "thickness": 1, "width": 3, "color": BLACK},
        text=[escaped(shortened(str(name))) for name in rows["baseline"]],
        textposition="top center",
        hovertext=texts,
        hoverinfo="text",
        mode="markers+text",
        marker={"size": 15, "symbol": "star", "color": BLACK, "line": {"width": 1, "color": "white"}},
        name="reference networks (±1 standard error)",
    )

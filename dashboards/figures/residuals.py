"""Which choices of an architecture the predictor gets wrong: relative errors by the options of each."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.look import GREY, SERIES, empty, escaped, framed, numbers, option, percent

MOST_CHOICES, MOST_OPTIONS = 4, 8
FEWEST_AN_OPTION = 2  # subnets, on average


def residuals_frame(held_out: pd.DataFrame) -> pd.DataFrame:
    """One row a subnet and choice: subnet, choice, option (as text), error (signed, a fraction), effect.

    held_out: `latency_frames.held_out`. A choice made for each layer counts once for each.
    effect: the share of the errors' variance that the options tell, less what chance would (epsilon squared),
    the largest first. Choices with one option, or with too many for the subnets, are left out.
    """
    timed = held_out.dropna(subset=["architecture", "predicted_ms", "measured_ms"])
    rows = [
        (row["subnet"], choice, value, row["predicted_ms"] / row["measured_ms"] - 1)
        for row in timed.to_dict("records")
        for choice, value in _choices(row["architecture"])
    ]
    flat = pd.DataFrame(rows, columns=["subnet", "choice", "option", "error"])
    kept = []
    for _, group in flat.groupby("choice", sort=False):
        options = group["option"].nunique()
        if 2 <= options <= min(MOST_OPTIONS, len(group) // FEWEST_AN_OPTION):
            kept.append(group.assign(effect=_effect(group)))
    if not kept:
        return flat.assign(effect=pd.Series(dtype=float)).iloc[:0]
    return pd.concat(kept).sort_values("effect", ascending=False, kind="stable", ignore_index=True)


def residuals_figure(residuals: pd.DataFrame) -> go.Figure:
    """A box of relative errors for each option of the choices with the largest effect; `residuals_frame`."""
    title = "Errors by choice"
    if residuals.empty:
        return empty(title, "Too few subnets were held out to compare the options of a choice.")
    choices = list(dict.fromkeys(residuals["choice"]))
    figure = go.Figure()
    labels: list[str] = []
    for number, choice in enumerate(choices[:MOST_CHOICES]):
        rows = residuals[residuals["choice"] == choice]
        options = sorted(rows["option"].unique(), key=_by_number)
        labels += [_label(choice, value) for value in options]
        figure.add_trace(
            go.Box(
                x=numbers(rows["error"]),
                y=[_label(choice, value) for value in rows["option"]],
                orientation="h",
                boxpoints="all",
                jitter=0.4,
                pointpos=0,
                hoveron="points",
                hovertext=[
                    f"<b>{escaped(key)}</b><br>{_label(choice, value)}: {100 * error:+.1f} %"
                    for key, value, error in rows[["subnet", "option", "error"]].itertuples(index=False)
                ],
                hoverinfo="text",
                marker={"size": 4, "color": SERIES[number % len(SERIES)], "opacity": 0.7},
                line={"width": 1.2},
                name=f"{escaped(choice)}: {percent(max(0.0, float(rows['effect'].iloc[0])))}",
            )
        )
    few = "" if len(choices) <= MOST_CHOICES else f" ({MOST_CHOICES} of {len(choices)} choices)"
    framed(figure, title, f"legend: variance explained{few}")
    figure.update_xaxes(title="error of the prediction", tickformat="+~p", zeroline=True, zerolinecolor=GREY)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=labels[::-1])
    return figure.update_layout(height=190 + 30 * len(labels))


def _choices(architecture: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and options as text; those of a choice for each layer one by one, from layer 1."""
    for name, value in architecture.items():
        if isinstance(value, list | tuple):
            for layer, item in enumerate(value, start=1):
                yield f"{name}, layer {layer}", option(item)
        else:
            yield name, option(value)


def _effect(group: pd.DataFrame) -> float:
    """Epsilon squared of a one-way analysis of variance (Kelley, 1935); negative below chance."""
    errors = group["error"].astype(float)
    within = errors - errors.groupby(group["option"]).transform("mean")
    count, options = len(errors), group["option"].nunique()
    variance = float(errors.var(ddof=1))
    if count <= options or variance == 0:
        return 0.0
    return float(1 - (within**2).sum() / (count - options) / variance)


def _by_number(value: str) -> tuple[float, str]:
    """Options in the order of their numbers, words behind them."""
    try:
        return float(value), value
    except ValueError:
        return np.inf, value


def _label(choice: str, value: str) -> str:
    return f"{escaped(choice)} {escaped(value)}"

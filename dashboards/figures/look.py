"""How figures and pages look: colours, numbers in words, and text that is safe to show."""

import html
import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from nas.results.columns import Column, Kind, Row, difference_words
from nas.results.comparing.points import QUALITY, Quantity

MIB = 2**20
# Okabe and Ito's colours, which colour-blind readers tell apart; symbols and patterns serve greyscale.
BLUE, VERMILLION, ORANGE, GREEN = "#0072B2", "#D55E00", "#E69F00", "#009E73"
PURPLE, SKY, YELLOW, BLACK = "#CC79A7", "#56B4E9", "#F0E442", "#1D2733"
GREY = "#8A94A0"
# Plotly's tool bar offers to upload the data of a figure unless it is told not to.
CONFIG: Any = {
    "displaylogo": False,
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    "responsive": True,
}
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, BLACK)
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "star")
# Layer kind -> colour and pattern.
KINDS = {
    "linear": (BLUE, ""),
    "attention": (ORANGE, "/"),
    "causal_attention": (ORANGE, "/"),
    "embedding": (PURPLE, ""),
    "conv2d": (BLACK, ""),
    "norm": (GREEN, "."),
    "rms_norm": (GREEN, "."),
    "token": (PURPLE, "x"),
    "scale": (YELLOW, "\\"),
    "constant": (GREY, ""),
}
TITLE_WIDTH, SUBTITLE_WIDTH, NAME_WIDTH = 44, 58, 44  # characters of a line
LEGEND: Any = {
    "orientation": "h",
    **{"x": 0.02, "xref": "container", "y": 0.01, "yref": "container", "yanchor": "bottom"},
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def escaped(text: object) -> str:
    """Text of a user for a title, a legend or a hover label, where Plotly reads a part of HTML."""
    return html.escape(str(text), quote=True)


def is_number(value: float | None) -> TypeGuard[float]:
    """Whether there is one: not None, NaN or pandas' NA."""
    return value is not None and value is not pd.NA and not math.isnan(value)


def numbers(column: Iterable[float | None]) -> list[float | None]:
    """A column as a plain list with None where a number is missing (Dash loses NumPy arrays in events)."""
    return [float(value) if is_number(value) else None for value in column]


def many(column: Iterable[object]) -> NDArray[np.object_]:
    """A long column of numbers or texts that Plotly takes without copying each; it is JSON's list as well."""
    return np.array(list(column), dtype=object)


def amount(count: float | None) -> str:
    """A count in three digits: 86.6 M."""
    if not is_number(count):
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= 0.9995 * size:
            return f"{count / size:.3g} {unit}" if count < 999.5 * size else f"{count / size:,.0f} {unit}"
    return f"{count:,.0f}"


def decimals(value: float | None) -> int:
    """How many digits behind the point show three of the number, four at most."""
    return max(0, min(4, 2 - math.floor(math.log10(value)))) if is_number(value) and value > 0 else 2


def milliseconds(value: float | None, spread: float | None = None, *, digits: int | None = None) -> str:
    """A latency with its spread: 1.87 ± 0.04 ms. Without `digits` it has three."""
    if not is_number(value):
        return "–"
    digits = decimals(value) if digits is None else digits
    error = f" ± {spread:.{digits}f}" if is_number(spread) else ""
    return f"{value:.{digits}f}{error} ms"


def percent(fraction: float | None) -> str:
    """A fraction in percent, with a digit behind the point below ten: 1.9 %, 34 %."""
    if not is_number(fraction):
        return "–"
    return f"{100 * fraction:.1f} %" if abs(fraction) < 0.0995 else f"{100 * fraction:.0f} %"


def is_share(metric: str) -> bool:
    """Whether a metric is shown in percent."""
    return metric.endswith("accuracy")


def quality(value: float | None, stderr: float | None, metric: str) -> str:
    """A quality with its standard error: 91.2 ± 0.4 % for an accuracy, else three decimals."""
    if not is_number(value):
        return "–"
    if is_share(metric):
        return share(value, stderr)
    error = f" ± {stderr:.3f}" if is_number(stderr) else ""
    return f"{value:.3f}{error}"


def share(value: float, stderr: float | None) -> str:
    """A share in percent with its standard error."""
    error = f" ± {100 * stderr:.1f}" if is_number(stderr) else ""
    return f"{100 * value:.1f}{error} %"


def option(value: object) -> str:
    """The value of a choice; per-layer choices one after the other, a dash for a layer without the choice."""
    if isinstance(value, list | tuple):
        return ", ".join(option(item) for item in value)
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def words(architecture: Mapping[str, Any]) -> str:
    """An architecture in one line: embed_dim 64 · depth 2 · mlp_ratio 4, 2."""
    return " · ".join(f"{name} {option(value)}" for name, value in architecture.items())


def cell(column: Column, row: Row, *, digits: int | None = None) -> str:
    """A value of the front in words, a dash for none. digits: behind the point of latencies."""
    value, error = column.value(row), column.uncertainty(row)
    if value is None:
        return "–"
    match column.kind:
        case Kind.TEXT | Kind.SUBNET | Kind.DEVICE:
            return str(value)
        case Kind.ARCHITECTURE:
            return words(value)
        case Kind.COUNT:
            return amount(value)
        case Kind.BYTES:
            return f"{value / MIB:,.1f} MiB"
        case Kind.NUMBER:
            return f"{value:.3g} {column.unit}".rstrip()
        case Kind.QUALITY:
            return quality(value, error, row["metric"])
        case Kind.SHARE:
            return share(value, error)
        case Kind.DIFFERENCE:
            return difference_words(row["metric"], value, error)
        case Kind.LATENCY:
            return milliseconds(value, error, digits=digits)
        case Kind.PREDICTION:
            return milliseconds(value, digits=digits)
        case Kind.INTERVAL:
            return f"{value[0]:.3g} to {milliseconds(value[1])}"


def amount_of(quantity: Quantity, value: float | None, error: float | None = None) -> str:
    """A value of a quantity in words."""
    if quantity.key == QUALITY:
        return quality(value, error, quantity.title.replace(" ", "_"))
    if quantity.unit == "ms":
        return milliseconds(value, error)
    if quantity.unit == "B":
        return f"{value / MIB:,.1f} MiB" if is_number(value) else "–"
    return f"{value:.3g} {quantity.unit}" if quantity.unit and is_number(value) else amount(value)


def axis_title(quantity: Quantity, *, is_log: bool) -> str:
    """What stands beside an axis: what it is, in what unit, on what scale."""
    unit = {"B": " in bytes", "": ""}.get(quantity.unit, f" in {quantity.unit}")
    return f"{escaped(quantity.title)}{unit}{' (log scale)' if is_log else ''}"


def tick_format(quantity: Quantity) -> str | None:
    """Of the numbers of an axis."""
    if quantity.is_share:
        return ".0%"
    return "~g" if quantity.unit in ("ms", "mJ") else None if quantity.key == QUALITY else "~s"


def wrapped(text: str, width: int) -> str:
    """Words in lines that a screen of 390 pixels holds; the text is already escaped."""
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return "<br>".join(lines)


def framed(figure: go.Figure, title: str, subtitle: str = "") -> go.Figure:
    """The figure with the layout that all of ours share; the texts are already escaped.

    Titles and the names of traces are wrapped, so that nothing of them is cut on a small screen.
    """
    heading, below = wrapped(title, TITLE_WIDTH), wrapped(subtitle, SUBTITLE_WIDTH)
    small = {"text": below, "font": {"size": 12, "color": "#5D6975"}}
    above = 44 + 20 * (heading.count("<br>") + 1) + 15 * (below.count("<br>") if below else -1)
    for trace in figure.data:
        if trace.name:
            trace.name = wrapped(trace.name, NAME_WIDTH)
    figure.update_layout(
        title={
            "text": heading,
            "subtitle": small,
            "x": 0,
            "xref": "container",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 16, "t": 14},
            "font": {"size": 15},
        },
        template="plotly_white",
        font={"family": FONT, "size": 13, "color": BLACK},
        margin={"l": 64, "r": 24, "t": above, "b": 56},
        legend=LEGEND,
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"size": 12}},
        hovermode="closest",
    )
    line, font = "#C5CCD3", {"size": 13}
    figure.update_xaxes(
        showline=True,
        linecolor=line,
        zeroline=False,
        ticks="outside",
        tickcolor=line,
        title_font=font,
    )
    return figure.update_yaxes(zeroline=False, automargin=True, title_font=font)


def empty(title: str, message: str) -> go.Figure:
    """A figure that says why there is nothing to see; both texts are already escaped."""
    figure = framed(go.Figure(), title)
    figure.add_annotation(
        text=wrapped(message, NAME_WIDTH),
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        showarrow=False,
        font={"color": GREY},
    )
    return figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})

"""How fast a training goes and how long its steps wait for batches, off its events."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import sqlalchemy as sa
from plotly.subplots import make_subplots

from dashboards.figures.look import BLUE, SERIES, VERMILLION, empty, escaped, framed, numbers
from nas.results.running.stage_progress import WAITED
from nas.store import Job, Store
from nas.store import tables as t
from nas.store.connection.patience import again

PACE = ["stage", "step", "examples_per_s", "waited"]


@again
def pace(store: Store, job: Job) -> pd.DataFrame:
    """One row an event of a training, by stage and step: examples a second since the one before, and the
    share of that time in which a step waited for its batch; what is not known is missing.
    """
    c = t.events.c
    query = sa.select(c.stage, c.step, c.created_at, c.data).where((c.job_id == job.id) & (c.kind == "train"))
    with store.read() as connection:
        rows = [tuple(row) for row in connection.execute(query.order_by(c.id))]
    train = job.config.get("train")
    batch = train.get("batch_size") if isinstance(train, dict) else None
    return paced(rows, batch if type(batch) is int else None)


def paced(events: Sequence[tuple[Any, ...]], batch: int | None) -> pd.DataFrame:
    """events: stage, step, moment, data, in their order.  batch: examples of a step; None: nobody knows.

    After an interruption a training begins again at an earlier step; what lies between is not told.
    """
    before: dict[str, tuple[int, Any]] = {}
    rows = []
    for stage, step, moment, data in events:
        if step is None:
            continue
        last, speed = before.get(stage), None
        if last is not None and step > last[0] and batch is not None:
            seconds = (moment - last[1]).total_seconds()
            speed = batch * (step - last[0]) / seconds if seconds > 0 else None
        before[stage] = (step, moment)
        rows.append((stage, step, speed, data.get(WAITED)))
    return pd.DataFrame(rows, columns=PACE).astype({"examples_per_s": float, "waited": float})


def pace_figure(rows: pd.DataFrame) -> go.Figure:
    """Examples a second above, the share of the time that steps wait for batches below."""
    title = "Pace of the training"
    if rows.empty or not rows[["examples_per_s", "waited"]].notna().to_numpy().any():
        return empty(title, "No pace is known of this training.")
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.6, 0.4], vertical_spacing=0.08)
    for i, (stage, of_stage) in enumerate(rows.groupby("stage", sort=False)):
        steps, name = numbers(of_stage["step"]), escaped(stage)
        color = BLUE if rows["stage"].nunique() == 1 else SERIES[i % len(SERIES)]
        line = {"mode": "lines", "name": name, "line": {"color": color}}
        shown = {"showlegend": rows["stage"].nunique() > 1}
        figure.add_trace(
            go.Scatter(x=steps, y=numbers(of_stage["examples_per_s"]), **line, **shown), row=1, col=1
        )
        waits = {"mode": "lines", "line": {"color": VERMILLION, "dash": "dot"}, "showlegend": False}
        figure.add_trace(go.Scatter(x=steps, y=numbers(of_stage["waited"]), **waits), row=2, col=1)
    framed(figure, title, "between two points of the curve")
    figure.update_yaxes(title="examples<br>a second", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(
        title="waiting<br>for data", tickformat=".0%", range=[0, 1.02], nticks=3, row=2, col=1
    )
    return figure.update_xaxes(title="optimiser step", row=2, col=1)

"""What speaks for and against a job's numbers, as frames and figures of them."""

import pandas as pd
import plotly.graph_objects as go
import sqlalchemy as sa

from dashboards.figures.look import (
    BLUE,
    GREY,
    SERIES,
    SYMBOLS,
    VERMILLION,
    empty,
    escaped,
    framed,
    is_share,
    numbers,
    quality,
)
from nas.results.frames import INHERITED, SPECIALISED, TRAINED
from nas.store import Job, Store
from nas.store import tables as t
from nas.store.connection.patience import again

SHARED_FROM = 1.05  # wall over CPU time, from which on the machine was shared with other work


@again
def images(store: Store, job: Job) -> pd.DataFrame:
    """How many evaluations of the search looked at how many examples; columns examples, reused, subnets.

    reused: whether another job had paid for them.
    """
    c = t.evaluations.c
    asked = (c.job_id == job.id) & (c.split == "search") & (c.weights == INHERITED) & (c.state == "ok")
    query = sa.select(c.count, c.reused, sa.func.count()).where(asked).group_by(c.count, c.reused)
    with store.read() as connection:
        rows = [(count, bool(reused), number) for count, reused, number in connection.execute(query)]
    return pd.DataFrame(rows, columns=["examples", "reused", "subnets"]).sort_values(
        "examples", ignore_index=True
    )


def images_figure(rows: pd.DataFrame) -> go.Figure:
    """How many subnets were let go after how many examples of a race, and who had paid for them."""
    title = "Examples that subnets were evaluated on"
    rows = rows.dropna(subset=["examples"])
    if rows.empty:
        return empty(title, "Nothing has been evaluated yet.")
    figure = go.Figure()
    for reused, name, color, pattern in (
        (False, "paid here", BLUE, ""),
        (True, "found in the store", VERMILLION, "/"),
    ):
        part = rows[rows["reused"] == reused]
        if len(part):
            figure.add_trace(
                go.Bar(
                    x=[f"{int(one):,}" for one in part["examples"]],
                    y=numbers(part["subnets"]),
                    name=name,
                    marker={"color": color, "pattern": {"shape": pattern, "solidity": 0.3}},
                    hovertemplate="%{x} examples: %{y:,} subnets<extra></extra>",
                )
            )
    total = int((rows["examples"] * rows["subnets"]).sum())
    most = int(rows["examples"].max()) * int(rows["subnets"].sum())
    share = f"; {100 * total / most:.0f} % of what full evaluations would have looked at" if most else ""
    framed(figure, title, f"search split, {int(rows['subnets'].sum()):,} subnets{share}")
    order = [f"{int(one):,}" for one in sorted(set(rows["examples"]))]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=order, title="examples")
    return figure.update_layout(barmode="stack").update_yaxes(title="subnets")


def images_words(rows: pd.DataFrame) -> str:
    """How much was found instead of paid for."""
    count, reused = int(rows["subnets"].sum()), int(rows.loc[rows["reused"], "subnets"].sum())
    return (
        f"{reused:,} of {count:,} evaluations were found in the store, the others were paid for by this job."
    )


def weights_figure(finalists: pd.DataFrame) -> go.Figure:
    """Inherited qualities against those after a training, of the finalists that have both."""
    title = "Inherited against trained"
    figure, metric, ends = go.Figure(), "quality", list[float]()
    for i, (weights, words) in enumerate(TRAINED.items()):
        both = _both(finalists, weights)
        if both.empty:
            continue
        metric = str(both["metric"].iloc[0])
        ends += [
            float(both[["before", "after"]].min(axis=None)),
            float(both[["before", "after"]].max(axis=None)),
        ]
        figure.add_trace(
            go.Scatter(
                x=numbers(both["before"]),
                y=numbers(both["after"]),
                mode="markers",
                name=words,
                marker={"size": 9, "color": SERIES[i], "symbol": SYMBOLS[i]},
                hovertext=[
                    f"<b>{escaped(row['subnet'])}</b><br>{quality(row['before'], None, metric)} inherited"
                    f"<br>{quality(row['after'], None, metric)} {words}"
                    for row in both.to_dict("records")
                ],
                hoverinfo="text",
            )
        )
    if not ends:
        return empty(
            title, "No finalist was trained further, so that nothing tells how far inherited weights go."
        )
    line = {"color": GREY, "dash": "dash", "width": 1}
    span = [min(ends), max(ends)]
    figure.add_trace(go.Scatter(x=span, y=span, mode="lines", line=line, hoverinfo="skip", name="equal"))
    framed(figure, title, "report split")
    ticks = ".0%" if is_share(metric) else None
    figure.update_xaxes(title=f"{escaped(metric)}, inherited", tickformat=ticks)
    return figure.update_yaxes(title=f"{escaped(metric)}, trained", tickformat=ticks)


def _both(finalists: pd.DataFrame, weights: str) -> pd.DataFrame:
    rows = finalists.drop_duplicates("subnet")
    if weights == SPECIALISED:
        rows = rows[rows["weights"] == SPECIALISED]
        rows = rows.assign(before=rows[INHERITED], after=rows["quality"])
    else:
        rows = rows.assign(before=rows[INHERITED].fillna(rows["quality"]), after=rows[weights])
    return rows.dropna(subset=["before", "after"]).astype({"before": float, "after": float})


def contention_figure(measured: pd.DataFrame) -> go.Figure:
    """Wall clock over CPU time of each measurement, in the order in which they came; `frames.measured`."""
    title = "Other work on the machine while it measured"
    rows = measured.dropna(subset=["contention"]).astype({"contention": float})
    if rows.empty:
        return empty(title, "No measurement tells how busy its machine was.")
    figure = go.Figure()
    for i, (device, of_device) in enumerate(rows.groupby("device", sort=False)):
        figure.add_trace(
            go.Scatter(
                x=list(range(1, len(of_device) + 1)),
                y=numbers(of_device["contention"]),
                mode="markers",
                name=escaped(device),
                marker={"size": 6, "color": SERIES[i % len(SERIES)], "symbol": SYMBOLS[i % len(SYMBOLS)]},
                hovertext=[escaped(key) for key in of_device["subnet"]],
                hoverinfo="text+y",
            )
        )
    shared = int((rows["contention"] > SHARED_FROM).sum())
    framed(figure, title, f"{shared} of {len(rows)} measurements above {SHARED_FROM:g}")
    figure.add_hline(SHARED_FROM, line={"color": GREY, "dash": "dash", "width": 1})
    figure.update_xaxes(title="measurement, in their order")
    return figure.update_yaxes(title="wall clock over CPU time")

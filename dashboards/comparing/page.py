"""The page of a comparison as functions of finalists that compare and an address that says what is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from dash import dcc, html
from dash.development.base_component import Component

from dashboards.addresses import Query
from dashboards.figures.compared import Axes
from dashboards.figures.look import amount_of, option, percent
from dashboards.pages import CURRENT, REFRESH_MS, at, called, chart, job_link, named, table
from dashboards.pages import query as query_of
from nas.results.comparing.box import Estimate, numbers
from nas.results.comparing.points import QUALITY, Comparable, Quantity, boxed, differences, of_front
from nas.store import Job

DRAWS = 200
MOST_ON_FRONT = 100  # rows of a table
COLOURS = {"job": "job", "family": "family"}


def compare_page() -> list[Component]:
    """The frame of the page; callbacks fill it, and its clock fills it anew while a job runs."""
    return [
        dcc.Interval(id="compare-clock", interval=REFRESH_MS),
        dcc.Store(id="compare-version"),
        html.Div(id="compare-head"),
        chart("compared", tools=True),
        html.Div(id="compare-tables"),
    ]


def axes_of(comparable: Comparable, query: Query) -> Axes:
    """Those that the address names; by default latency, or else the first cost, and the quality."""
    x = comparable.quantity(query.first("x"), 1)
    y = comparable.quantity(query.first("y"), 0)
    usual = {name for name, one in (("x", x), ("y", y)) if one.key != QUALITY}
    logs = {name for name in ("x", "y") if query.first(f"{name}scale") == "log"}
    linear = {name for name in ("x", "y") if query.first(f"{name}scale") == "linear"}
    return Axes(x, y, frozenset((usual | logs) - linear))


def colour_of(comparable: Comparable, query: Query) -> str:
    """What has a colour of its own: a job, or a family."""
    return "family" if query.first("colour") == "family" else "job"


def compare_head(comparable: Comparable, jobs: Sequence[Job], query: Query) -> list[Component]:
    """What is compared, what is not and why, and what can be chosen."""
    named_jobs: list[Any] = []
    for job in jobs:
        without = query.toggled("job", job.id).text
        named_jobs += [", " if named_jobs else "", named(job.name, job_link(job.id, job.name)), " "]
        named_jobs += [dcc.Link("×", href=without, title=f"Without {job.name}", className="without")]
    has_axes = len(comparable.quantities) > 1
    return [
        html.H1(f"Compare {len(jobs)} jobs" if len(jobs) > 1 else "Compare jobs"),
        html.P([*named_jobs, ". ", dcc.Link("Choose others", href=at("/"))], className="facts"),
        *(html.P(reason, className="caution") for reason in comparable.refused.values()),
        *(_controls(comparable, query) if has_axes else ()),
    ]


def _controls(comparable: Comparable, query: Query) -> list[Component]:
    """What an address chooses of a comparison."""
    axes, colour = axes_of(comparable, query), colour_of(comparable, query)
    ids = Query(tuple(("job", str(job.id)) for job in comparable.jobs)).text
    lines = [
        chips("x axis", comparable.quantities, axes.x, query, "x"),
        chips("y axis", comparable.quantities, axes.y, query, "y"),
        _scales(axes, query),
        _choices("colour", COLOURS, colour, query),
    ]
    return [
        html.Nav(lines, className="controls", **called("Axes")),
        html.P(dcc.Link("Decide between their subnets", href=at(f"/decide{ids}"))),
    ]


def chips(name: str, quantities: Sequence[Quantity], chosen: Quantity, query: Query, key: str) -> Component:
    """The quantities that an axis may show, as links."""
    return _choices(name, {one.key: one.title for one in quantities}, chosen.key, query, key)


def _choices(
    name: str, options: Mapping[str, str], chosen: str, query: Query, key: str | None = None
) -> Component:
    links = [chip(words, query.replaced(key or name, value), is_chosen=value == chosen)
             for value, words in options.items()]  # fmt: skip
    return html.Div([html.Span(name, className="facet"), *links], className="chips")


def chip(words: str, query: Query, *, is_chosen: bool) -> Component:
    """A link to another state of the page, marked where it is the one that is shown."""
    link = dcc.Link(f"✓ {words}" if is_chosen else words, href=query.text, className="chip")
    return html.Span(link, **CURRENT) if is_chosen else html.Span(link)


def _scales(axes: Axes, query: Query) -> Component:
    links = [
        chip(
            f"{name} logarithmic",
            query.replaced(f"{name}scale", "linear" if is_log else "log"),
            is_chosen=is_log,
        )
        for name in ("x", "y")
        for is_log in [name in axes.logs]
    ]
    return html.Div([html.Span("scales", className="facet"), *links], className="chips")


def compare_tables(comparable: Comparable, query: Query) -> list[Component]:
    """Numbers of the fronts, the joint front, and in what the job files differ."""
    axes = axes_of(comparable, query)
    rows = comparable.rows.dropna(subset=[axes.x.key, axes.y.key])
    if rows.empty or axes.x.key == axes.y.key:
        return [html.P("Choose two different quantities that subnets of these jobs have.")]
    configs = {job.name: job.config for job in comparable.jobs}
    return [
        html.H2("Which front is better"),
        *_numbers(rows, axes, comparable.metric),
        html.H2("One joint front"),
        joint_table(rows, axes, comparable.quantities),
        html.H2("In what the job files differ"),
        differences_table(differences(configs)),
    ]


def _numbers(rows: pd.DataFrame, axes: Axes, metric: str) -> list[Component]:
    cells = [
        [
            named(str(row["job"]), job_link(row["job_id"], row["job"])),
            f"{row['subnets']}",
            f"{row['joint']}",
            estimate(row["hypervolume"]),
            estimate(row["difference"]) if place else "–",
            share(row["beaten"]),
        ]
        for place, row in enumerate(front_numbers(rows, axes, metric))
    ]
    heads = [
        "Job",
        "#On its front",
        "#On the joint front",
        "#Hypervolume",
        "#First less this",
        "#Beaten by others",
    ]
    words = (
        f"Over {axes.x.title} and {axes.y.title}, linear, as a share of the box between the best corner "
        "and the worst one: the worst quality that counts, 1.1 times the greatest cost here. Errors are what "
        "the standard errors of the qualities leave open. A difference within two of its errors is none."
    )
    return [table(heads, cells), html.P(words, className="facts note")]


def front_numbers(rows: pd.DataFrame, axes: Axes, metric: str) -> list[dict[str, Any]]:
    """A row a job: its front's hypervolume, that of the first less its own, the share that others beat."""
    fronts = [of_job[of_front(of_job, axes.both)] for _, of_job in rows.groupby("job_id", sort=False)]
    together = pd.concat(fronts)
    joint = of_front(together, axes.both)
    of_fronts = numbers(boxed(together, axes.both, metric), draws=DRAWS)
    return [
        {
            "job_id": int(front["job_id"].iloc[0]),
            "job": str(front["job"].iloc[0]),
            "subnets": len(front),
            "joint": int(joint[together["job_id"] == front["job_id"].iloc[0]].sum()),
            "hypervolume": of_fronts.hypervolumes[i],
            "difference": of_fronts.differences[i],
            "beaten": of_fronts.beaten[i],
        }
        for i, front in enumerate(fronts)
    ]


def estimate(number: Estimate) -> str:
    """With its error, if it has one."""
    return f"{number.value:.4f}" + (f" ± {number.stderr:.4f}" if number.stderr else "")


def share(number: Estimate) -> str:
    """In percent."""
    return percent(number.value) + (f" ± {percent(number.stderr)}" if number.stderr else "")


def joint_table(rows: pd.DataFrame, axes: Axes, quantities: Sequence[Quantity]) -> Component:
    """The subnets that no other one of any job beats, with all that is known of them."""
    best = rows[of_front(rows, axes.both)].sort_values(axes.x.key, kind="stable").head(MOST_ON_FRONT)
    shown = [one for one in quantities if best[one.key].notna().any()]
    cells = [
        [
            subnet_link(row),
            str(row["job"]),
            row["family"] or "–",
            *(amount_of(one, row[one.key], row.get(one.error or "")) for one in shown),
        ]
        for row in best.to_dict("records")
    ]
    heads = [f"#{one.title[:1].upper()}{one.title[1:]}" for one in shown]
    return table(["Subnet", "Job", "Family", *heads], cells)


def subnet_link(row: Mapping[str, Any]) -> Component:
    """To the subnet on its job's page."""
    address = f"{job_link(row['job_id'], row['job'])}{query_of(subnet=row['subnet'])}"
    return dcc.Link(html.Code(row["subnet"]), href=address)


def differences_table(rows: pd.DataFrame) -> Component:
    """Fields that differ, a column a job; of `nas.results.comparing.points.differences`."""
    if rows.empty:
        return html.P("In nothing.")
    jobs = list(rows.columns[1:])
    cells = [
        [html.Code(row["field"]), *(_value(row[job]) for job in jobs)] for row in rows.to_dict("records")
    ]
    return table(["Field", *jobs], cells)


def _value(value: Any) -> str:
    if value is None:
        return "–"
    text = option(value) if not isinstance(value, list | dict) else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"

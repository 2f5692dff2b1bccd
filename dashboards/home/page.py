"""The start page as functions of the board's frame and of the address that says what is shown."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from dash import dcc, html
from dash.development.base_component import Component

from dashboards.addresses import Query
from dashboards.figures.look import is_number, quality
from dashboards.home.choice import FACETS, ORDERS, Facet, chosen_jobs, facets, groups
from dashboards.named_jobs import MOST_JOBS
from dashboards.pages import (
    CURRENT,
    REFRESH_MS,
    UNHEARD,
    at,
    badge,
    called,
    duration,
    job_link,
    named,
    table,
    text_or_dash,
    unseen,
)
from nas.results.columns import sign_of
from nas.results.running.board import INTERRUPTED

MOST_ROWS = 200
MOST_FACETS = 12
FIRST_COMMANDS = (
    ("nas init ./images", "looks at your data or a model, writes job.yaml (alone: for handwritten digits)"),
    ("nas run job.yaml", "trains, measures and searches; this page shows how far it is"),
    ("nas front job", "prints what it has found; the job's page here shows the same"),
)
WIDTH, HEIGHT = 140, 32  # of a sparkline


def jobs_page(query: Query) -> list[Component]:
    """The frame of the start page; `board_view` fills it."""
    return [
        html.H1("Jobs"),
        dcc.Interval(id="jobs-clock", interval=REFRESH_MS),
        html.Div(search_field(query), id="jobs-searched"),
        html.Div(id="jobs"),
    ]


def search_field(query: Query) -> Component:
    """What is searched for."""
    search = dcc.Input(
        id="jobs-search",
        type="search",
        value=query.first("q"),
        debounce=0.3,
        placeholder="name, note, tag, family, data, sweep",
        autoComplete="off",
    )
    return html.Label(["Search ", search], className="search")


def board_view(board: pd.DataFrame, query: Query, *, may_write: bool = False) -> list[Component]:
    """What runs, what waits, what has ended; `board` as of `nas.results.running.board`.

    may_write: whether notes and tags have links to where they are written.
    """
    if board.empty:
        return [_beginning()]
    rows = chosen_jobs(board, query)
    running = rows[rows["shown"].isin(("running", INTERRUPTED))]
    waiting = rows[rows["shown"] == "queued"].sort_values("position", na_position="last", kind="stable")
    ended = rows.drop([*running.index, *waiting.index])
    parts = [_facets(board, query), _selection(board, query)]
    if rows.empty:
        parts.append(html.P(["No job is like that. ", dcc.Link("Show all", href="?")]))
    if len(running):
        cards = [_card(row, query, may_write) for row in running.to_dict("records")]
        parts += [html.H2(f"Running ({len(running)})"), html.Div(cards, className="cards")]
    if len(waiting):
        parts += [html.H2(f"Waiting ({len(waiting)})"), _waiting(waiting, query)]
    if len(ended):
        parts += [html.H2(f"Ended ({len(ended)})"), *_ended(ended, query, may_write)]
    return parts


def sparkline(values: Sequence[float]) -> str:
    """A line of numbers as a picture in an address: its least at the bottom, its greatest at the top."""
    low, high = min(values), max(values)
    span, step = high - low or 1.0, WIDTH / max(1, len(values) - 1)
    points = " ".join(
        f"{i * step:.1f},{HEIGHT - 3 - (HEIGHT - 6) * (value - low) / span:.1f}"
        for i, value in enumerate(values)
    )
    # A picture knows the system's theme, but none of the page's variables.
    style = "polyline{stroke:#0072b2}@media(prefers-color-scheme:dark){polyline{stroke:#56b4e9}}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}"><style>{style}</style>'
        f'<polyline points="{points}" fill="none" stroke-width="1.5"/></svg>'
    )
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _beginning() -> Component:
    lines = [html.Li([html.Code(command), html.Br(), words]) for command, words in FIRST_COMMANDS]
    return html.Div([html.P("No job yet. Begin with"), html.Ol(lines, id="first-commands")])


# -- what may be chosen --


def _facets(board: pd.DataFrame, query: Query) -> Component:
    rows = [_facet(name, listed, query) for name, listed in facets(board, query).items() if listed]
    orders = [_chip(words, query.replaced("sort", "" if key == "newest" else key), is_chosen=key == current)
              for current in [query.first("sort") or "newest"] for key, words in ORDERS.items()]  # fmt: skip
    by_sweep = query.first("group") == "sweep"
    grouped = _chip("by sweep", query.replaced("group", "" if by_sweep else "sweep"), is_chosen=by_sweep)
    if board["sweep"].notna().any():
        rows.append(html.Div([html.Span("group", className="facet"), grouped], className="chips"))
    rows.append(html.Div([html.Span("order", className="facet"), *orders], className="chips"))
    clear = [dcc.Link("Show all", href="?", className="chip")] if query.only([*FACETS, "q"]).pairs else []
    return html.Nav([*rows, *clear], id="facets", **called("Filters"))


def _facet(name: str, listed: Sequence[Facet], query: Query) -> Component:
    shown = [one for i, one in enumerate(listed) if i < MOST_FACETS or one.is_chosen]
    more = (
        [html.Span(f"and {len(listed) - len(shown)} more: search for them")]
        if len(shown) < len(listed)
        else []
    )
    chips = [
        _chip(f"{one.value} {one.count}", query.toggled(name, one.value), is_chosen=one.is_chosen)
        for one in shown
    ]
    return html.Div([html.Span(name, className="facet"), *chips, *more], className="chips")


def _chip(words: str, query: Query, *, is_chosen: bool) -> Component:
    link = dcc.Link(f"✓ {words}" if is_chosen else words, href=query.text, className="chip")
    return html.Span(link, **CURRENT) if is_chosen else html.Span(link)


def _selection(board: pd.DataFrame, query: Query) -> Component:
    """Which jobs are chosen to be compared, and the way there; it says so where one is not enough."""
    names = {str(row["id"]): row["name"] for row in board.to_dict("records")}
    picked = [job for job in query.all("pick") if job in names]
    if not picked:
        words = "Select jobs (☐) to see their fronts on the same axes, or to decide between them."
        return html.P(words, id="selection", className="facts")
    address = Query(tuple(("job", job) for job in picked)).text
    which = ", ".join(str(names[job]) for job in picked)
    links: list[Any] = [f"{len(picked)} selected: {which}. "]
    if 1 < len(picked) <= MOST_JOBS:
        links += [dcc.Link("Compare them", href=at(f"/compare{address}"), className="act"), " "]
    elif len(picked) > MOST_JOBS:
        links += [f"At most {MOST_JOBS} can be compared. "]
    else:
        links += ["Select another one to compare it with. "]
    links += [dcc.Link("Select none", href=query.replaced("pick").text)]
    return html.P(links, id="selection")


def _pick(row: Mapping[str, Any], query: Query) -> Component:
    is_picked = str(row["id"]) in query.all("pick")
    words = f"{'Do not compare' if is_picked else 'Select'} {row['name']}"
    mark = [
        html.Span("☑" if is_picked else "☐", **UNHEARD),
        unseen(words),
    ]
    return dcc.Link(mark, href=query.toggled("pick", row["id"]).text, title=words, className="pick")


# -- what is shown of them --


def _card(row: Mapping[str, Any], query: Query, may_write: bool) -> Component:
    """A job that runs, or was interrupted."""
    left = f", about {duration(row['seconds_left'])} left" if is_number(row["seconds_left"]) else ""
    words = text_or_dash(row["words"]) + left
    bar = [] if row["share"] is None else [_progress(row)]
    curve = row["curve"]
    facts = [
        row["family"],
        row["data"],
        f"{row['evaluations']:,} subnets evaluated",
        duration(row["seconds"]),
    ]
    return html.Article(
        [
            html.H3([_pick(row, query), " ", _name(row), badge("running", live=row["live"])]),
            html.P(words, className="stage"),
            *bar,
            *([_curve(curve)] if len(curve) > 1 else []),
            html.P(" · ".join(fact for fact in facts if fact), className="facts"),
            *([html.P(row["reason"], className="caution")] if row["reason"] else []),
            *_remarks(row, may_write),
        ],
        className="card",
    )


def _progress(row: Mapping[str, Any]) -> Component:
    words = f"{row['name']}: {100 * row['share']:.0f} % of this stage"
    return html.Progress(value=f"{row['share']:.3f}", max="1", title=words, **called(words))


def _curve(values: Sequence[float]) -> Component:
    words = f"hypervolume {values[0]:.3f} to {values[-1]:.3f}"
    picture = html.Img(src=sparkline(values), alt=f"Curve of the {words}", width=WIDTH, height=HEIGHT)
    return html.P([picture, html.Span(words)], className="spark")


def _waiting(rows: pd.DataFrame, query: Query) -> Component:
    cells = [
        [
            _pick(row, query),
            _name(row),
            "–" if row["position"] is None else f"{row['position']}",
            f"{row['priority']}",
            text_or_dash(row["reason"]) if row["reason"] else "its turn",
            text_or_dash(row["family"]),
            text_or_dash(row["data"]),
            _tags(row),
            _moment(row),
        ]
        for row in rows.head(MOST_ROWS).to_dict("records")
    ]
    heads = [
        "Select",
        "Job",
        "#Position",
        "#Priority",
        "Waits for",
        "Family",
        "Data",
        "Tags",
        "#Created (UTC)",
    ]
    return html.Div([table(heads, cells), *_more(rows)])


def _ended(rows: pd.DataFrame, query: Query, may_write: bool) -> list[Component]:
    """A table, or one for each sweep with what it came to."""
    parts: list[Component] = []
    shown = rows.head(MOST_ROWS)
    for sweep, of_sweep in groups(shown, by_sweep=query.first("group") == "sweep"):
        if query.first("group") == "sweep":
            parts.append(_sweep_head(sweep, of_sweep))
        parts.append(_ended_table(of_sweep, query, may_write))
    return [*parts, *_more(rows)]


def _sweep_head(sweep: str, rows: pd.DataFrame) -> Component:
    best = rows.dropna(subset=["best"])
    words: list[Any] = [f"Sweep {sweep}: " if sweep else "In no sweep: ", f"{len(rows)} jobs"]
    if sweep and best["metric"].nunique() == 1:
        metric = str(best["metric"].iloc[0])
        gains = best["best"].astype(float) * sign_of(metric)
        words.append(
            f", best {metric.replace('_', ' ')} {quality(best['best'][gains.idxmax()], None, metric)}"
        )
    ids = [("job", str(row)) for row in rows["id"]]
    if sweep and 1 < len(ids) <= MOST_JOBS:
        words += [". ", dcc.Link("Compare them", href=at(f"/compare{Query(tuple(ids)).text}"))]
    return html.H3(words)


def _ended_table(rows: pd.DataFrame, query: Query, may_write: bool) -> Component:
    cells = [
        [
            _pick(row, query),
            html.Div([_name(row), *_remarks(row, may_write)]),
            badge(row["shown"], live=True),
            text_or_dash(row["family"]),
            text_or_dash(row["data"]),
            _best(row),
            f"{row['evaluations']:,}",
            duration(row["seconds"]),
            _moment(row),
        ]
        for row in rows.to_dict("records")
    ]
    heads = ["Select", "Job", "State", "Family", "Data", "#Best on the report split", "#Evaluated", "#Time"]
    return table([*heads, "#Created (UTC)"], cells)


def _name(row: Mapping[str, Any]) -> Component:
    return named(row["name"], job_link(row["id"], row["name"]))


def _best(row: Mapping[str, Any]) -> str:
    if not is_number(row["best"]):
        return "–"
    return f"{row['metric'].replace('_', ' ')} {quality(row['best'], None, row['metric'])}"


def _moment(row: Mapping[str, Any]) -> str:
    return f"{row['created_at']:%Y-%m-%d %H:%M}"


def _tags(row: Mapping[str, Any]) -> Component:
    return html.Span([html.Span(tag, className="tag") for tag in row["tags"]])


def _remarks(row: Mapping[str, Any], may_write: bool) -> list[Component]:
    """Tags, note, why it failed; with a write token the way to where both are written."""
    parts: list[Component] = [html.Div(_tags(row))] if row["tags"] else []
    if row["note"]:
        parts.append(html.P(row["note"], className="remark"))
    if isinstance(row["error"], str) and row["error"]:
        parts.append(html.P(row["error"].splitlines()[0], className="fault"))
    if may_write:
        address = f"{job_link(row['id'], row['name'])}?edit=remarks"
        words: list[Any] = ["note, tags", unseen(f" of {row['name']}")]
        parts.append(dcc.Link(words, href=address, className="edit"))
    return parts


def _more(rows: pd.DataFrame) -> list[Component]:
    if len(rows) <= MOST_ROWS:
        return []
    return [
        html.P(f"{MOST_ROWS} of {len(rows):,} are shown: search or filter for others.", className="facts")
    ]

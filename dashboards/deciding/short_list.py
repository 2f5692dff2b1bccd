"""The subnets that were pinned, side by side: what is known of each, how to get it, in what they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pandas as pd
from dash import dcc, html
from dash.development.base_component import Component

from dashboards import controls
from dashboards.addresses import Query
from dashboards.controls import Rights
from dashboards.figures.look import amount_of, option
from dashboards.job.panel import extract_command, space_of
from dashboards.pages import table
from nas.results.columns import difference_words
from nas.results.comparing.points import Comparable
from nas.store import Job, Store
from nas.store.values import job_word
from search_spaces.errors import NASError

PIN = "pin"
MOST_PINS = 5
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Pinned:
    """A subnet of the short list. row: of finalists or of what is foretold.  job: whose it is."""

    number: int
    row: Mapping[str, Any]
    job: Job
    is_finalist: bool

    @property
    def key(self) -> str:
        """As an address has it."""
        return pin_key(self.row)


def pin_key(row: Mapping[str, Any]) -> str:
    """What stands for a subnet in an address: the job's id and the subnet's key."""
    return f"{row['job_id']}:{row['subnet']}"


def with_pin(query: Query, key: str) -> Query:
    """The query with a subnet more in the short list, which drops the oldest of too many, or without it."""
    toggled = query.toggled(PIN, key)
    return toggled.replaced(PIN, *toggled.all(PIN)[-MOST_PINS:])


def pinned(comparable: Comparable, foretold: pd.DataFrame, query: Query) -> tuple[list[Pinned], list[str]]:
    """The short list of an address; and the keys in it of which nothing is known here."""
    jobs = {job.id: job for job in comparable.jobs}
    rows = {pin_key(row): (row, False) for row in foretold.to_dict("records")}
    rows |= {pin_key(row): (row, True) for row in comparable.rows.to_dict("records")}
    keys = query.all(PIN)[:MOST_PINS]
    listed = [
        Pinned(number, rows[key][0], jobs[rows[key][0]["job_id"]], rows[key][1])
        for number, key in enumerate(keys, 1)
        if key in rows
    ]
    return listed, [key for key in keys if key not in rows]


def short_list(
    store: Store, comparable: Comparable, pins: Sequence[Pinned], query: Query, rights: Rights
) -> list[Component]:
    """A column a subnet; below each how to extract it."""
    if not pins:
        words = (
            f"Pin up to {MOST_PINS} subnets, in the table or by a click on a point, to see them side by side."
        )
        return [html.P(words, className="facts")]
    heads = ["", *(f"{pin.number}. {pin.row['subnet']}" for pin in pins)]
    rows: list[list[Any]] = [
        *([name, *cells] for name, cells in facts(store, comparable, pins)),
        ["Extract", *(_command(store, pin) for pin in pins)],
        *([["Download", *(_download(pin, rights) for pin in pins)]] if rights.csrf is not None else []),
        ["", *(dcc.Link("unpin", href=with_pin(query, pin.key).text) for pin in pins)],
    ]
    export = html.A(
        "Export as CSV",
        href=f"data:text/csv;charset=utf-8,{quote(csv(store, comparable, pins))}",
        download="short-list.csv",
    )
    return [html.Div(table(heads, rows), className="side"), html.P(export)]


def facts(store: Store, comparable: Comparable, pins: Sequence[Pinned]) -> list[tuple[str, list[str]]]:
    """Names and values, one for each subnet; choices in which all are the same are not told."""
    shown = [one for one in comparable.quantities if any(pd.notna(pin.row.get(one.key)) for pin in pins)]
    first: list[tuple[str, list[str]]] = [
        ("Job", [pin.job.name for pin in pins]),
        ("Known from", ["the report split" if pin.is_finalist else _foretold_from(pin.row) for pin in pins]),
    ]
    costs = [
        (
            f"{one.title[:1].upper()}{one.title[1:]}",
            [amount_of(one, pin.row.get(one.key), pin.row.get(one.error or "")) for pin in pins],
        )
        for one in shown
    ]
    layers = [("Layers", [_layers(store, pin) for pin in pins])]
    choices = dict.fromkeys(name for pin in pins for name in pin.row["architecture"])
    chosen = [(name, [_choice(pin, name) for pin in pins]) for name in choices]
    if len(pins) > 1:
        chosen = [(name, values) for name, values in chosen if len(set(values)) > 1]
    return [*first, *costs, *layers, *chosen]


def csv(store: Store, comparable: Comparable, pins: Sequence[Pinned]) -> str:
    """The short list as a table of numbers, a row a subnet."""
    names = [one.key for one in comparable.quantities]
    rows = [
        {"job": pin.job.name, "subnet": pin.row["subnet"], "is_finalist": pin.is_finalist}
        | {one.key: pin.row.get(one.key) for one in comparable.quantities}
        | {name: option(value) for name, value in pin.row["architecture"].items()}
        for pin in pins
    ]
    choices = dict.fromkeys(name for pin in pins for name in pin.row["architecture"])
    frame = pd.DataFrame(
        rows, columns=list(dict.fromkeys(["job", "subnet", "is_finalist", *names, *choices]))
    )
    return str(frame.map(_without_formula).to_csv(index=False))


def differences_words(document: Mapping[str, Any]) -> list[str]:
    """What each choice is worth that a document of `nas explain` tells, in sentences."""
    return [
        f"{change['choice']} {option(change['before'])} → {option(change['after'])}: "
        f"{difference_words(document['metric'], change['quality'], change['quality_std'])}, "
        f"{change['latency_ms']:+.3g} ms"
        for change in document["changes"]
        if change["quality"] is not None
    ]


def _foretold_from(row: Mapping[str, Any]) -> str:
    return "a prediction" if row.get("is_predicted") else "the search split"


def _choice(pin: Pinned, name: str) -> str:
    architecture = pin.row["architecture"]
    return option(architecture[name]) if name in architecture else "–"


def _layers(store: Store, pin: Pinned) -> str:
    """How many of each kind."""
    try:
        space = space_of(store, pin.job)
        layers = space.layers(space.architecture(pin.row["architecture"]))
    except NASError:
        return "–"
    counts = pd.Series([layer.kind for layer in layers], dtype=object).value_counts(sort=False)
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _command(store: Store, pin: Pinned) -> Component:
    word, name = job_word(pin.job.id, pin.job.name), f"extract-{pin.number}"
    arch = None if pin.is_finalist else pin.row["architecture"]
    command = extract_command(word, pin.row["subnet"], url=store.url, architecture=arch)
    return html.Div(
        [html.Code(command, id=name), dcc.Clipboard(target_id=name, title="Copy the command")],
        className="command",
    )


def _download(pin: Pinned, rights: Rights) -> Any:
    return controls.extraction(pin.job, rights, subnet=pin.row["subnet"]) if pin.is_finalist else "–"


def _without_formula(value: object) -> object:
    """A text as no program for tables computes it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value

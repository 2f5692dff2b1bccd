"""Which jobs a list shows, in what order and groups: functions of the board's frame and an address."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dashboards.addresses import Query
from nas.results.columns import sign_of

FACETS = {"state": "shown", "family": "family", "data": "data", "tag": "tags"}  # name in addresses -> column
SEARCHED = ("name", "note", "family", "data", "sweep", "shown")
ORDERS = {"newest": "newest first", "name": "name", "best": "best quality", "time": "longest"}
SWEEP = "sweep"


@dataclass(frozen=True)
class Facet:
    """A value that jobs may be filtered by. count: of the jobs that would be left."""

    value: str
    count: int
    is_chosen: bool


def chosen_jobs(board: pd.DataFrame, query: Query) -> pd.DataFrame:
    """Those that hold all words searched for and one of the chosen values of each facet, as ordered."""
    kept = board[searched(board, query.first("q"))]
    for name in FACETS:
        kept = kept[_has(kept, name, query.all(name))]
    return _ordered(kept, query.first("sort"))


def searched(board: pd.DataFrame, words: str) -> pd.Series:
    """Whether each job has every one of the words in its name, note, tags and so on; in any case."""
    texts = [
        " ".join([*(str(row[name] or "") for name in SEARCHED), *row["tags"]]).casefold()
        for row in board.to_dict("records")
    ]
    wanted = words.casefold().split()
    return pd.Series([all(word in text for word in wanted) for text in texts], index=board.index, dtype=bool)


def facets(board: pd.DataFrame, query: Query) -> dict[str, list[Facet]]:
    """The values of each facet, the commonest first, counted among the jobs that the others leave."""
    listed = {}
    base = board[searched(board, query.first("q"))]
    for name in FACETS:
        left = base
        for other in FACETS:
            if other != name:
                left = left[_has(left, other, query.all(other))]
        values = [value for row in left[FACETS[name]] for value in _values(row)]
        counts = pd.Series(values, dtype=object).value_counts().to_dict()
        chosen = query.all(name)
        counts |= {value: 0 for value in chosen if value not in counts}
        order = sorted(counts, key=lambda value: (-counts[value], value))
        listed[name] = [Facet(value, counts[value], value in chosen) for value in order]
    return listed


def groups(rows: pd.DataFrame, *, by_sweep: bool) -> list[tuple[str, pd.DataFrame]]:
    """The jobs of each sweep by its name, in the order in which they come; those of none by ''."""
    if not by_sweep:
        return [("", rows)] if len(rows) else []
    named = rows[SWEEP].map(lambda sweep: sweep if isinstance(sweep, str) else "")
    return [(str(sweep), of_sweep) for sweep, of_sweep in rows.groupby(named, sort=False)]


def _has(rows: pd.DataFrame, facet: str, wanted: Sequence[str]) -> pd.Series:
    if not wanted:
        return pd.Series(True, index=rows.index, dtype=bool)
    kept = [not set(wanted).isdisjoint(_values(value)) for value in rows[FACETS[facet]]]
    return pd.Series(kept, index=rows.index, dtype=bool)


def _values(cell: object) -> tuple[str, ...]:
    """A job may have several families and tags."""
    if isinstance(cell, tuple):
        return cell
    return tuple(part.strip() for part in str(cell).split(",")) if cell else ()


def _ordered(rows: pd.DataFrame, order: str) -> pd.DataFrame:
    if order == "name":
        return rows.sort_values("name", key=lambda names: names.str.casefold(), kind="stable")
    if order == "time":
        return rows.sort_values("seconds", ascending=False, na_position="last", kind="stable")
    if order == "best":
        signs = rows["metric"].map(sign_of)
        gains = pd.to_numeric(rows["best"]) * signs
        return rows.loc[gains.astype(float).sort_values(ascending=False, kind="stable").index]
    return rows

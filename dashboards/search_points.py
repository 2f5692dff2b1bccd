"""What a search has looked at, as arrays of numbers: read once, and then only the rows that are new."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from nas.store import Job, Store
from nas.store import tables as t
from nas.store.connection.patience import again

ROWS_A_PART = 50_000
LARGEST_POWER = 100  # of ten, at the end of an axis
CELLS = (200, 120)  # of a grid, along latency and along quality
IDS_A_QUERY = 1_000
COLUMNS = ("id", "subnet_id", "position", "value", "latency_ms")
SHOWN = ["subnet", "latency_ms", "value", "stderr", "architecture"]

Floats = NDArray[np.float64]
Tip = tuple[int, datetime] | None
Row = tuple[float, ...]  # COLUMNS; a row that replaces another has another one's numbers
Described = tuple[str, float | None, dict[str, Any] | None]  # key, standard error, architecture


@dataclass(frozen=True)
class View:
    """The part of the axes that is shown: latencies in ms, qualities; None: all of an axis."""

    latency: tuple[float, float] | None = None
    quality: tuple[float, float] | None = None

    @classmethod
    def read(cls, text: object) -> "View":
        """Of what `text` is; all of both axes for anything else."""
        try:
            ends = [float(part) if part else None for part in str(text).split(",")]
            (left, right, low, high) = ends
        except ValueError:
            return cls()
        return cls(_span(left, right), _span(low, high))

    @property
    def text(self) -> str:
        """As a page keeps it."""
        return ",".join(
            "" if end is None else f"{end:.6g}"
            for ends in (self.latency, self.quality)
            for end in (ends or (None, None))
        )

    def moved(self, change: Mapping[str, Any]) -> "View":
        """After what plotly tells of a figure with a logarithmic x axis; an axis that it leaves out stays."""
        latency, quality = self.latency, self.quality
        x, y = (_range(change, axis) for axis in ("xaxis", "yaxis"))
        if x is not None and all(abs(end) < LARGEST_POWER for end in x):
            latency = (10 ** x[0], 10 ** x[1])
        if y is not None:
            quality = y
        return View(
            None if change.get("xaxis.autorange") else latency,
            None if change.get("yaxis.autorange") else quality,
        )


def _range(change: Mapping[str, Any], axis: str) -> tuple[float, float] | None:
    ends = change.get(f"{axis}.range") or [change.get(f"{axis}.range[{i}]") for i in (0, 1)]
    try:
        left, right = (float(end) for end in ends)
    except (TypeError, ValueError):
        return None
    return _span(left, right)


def _span(left: float | None, right: float | None) -> tuple[float, float] | None:
    if left is None or right is None or not (math.isfinite(left) and math.isfinite(right)):
        return None
    return (min(left, right), max(left, right))


@dataclass(frozen=True, eq=False)
class Points:
    """The evaluations on the search split by position.

    rows: COLUMNS (n, 5), NaN for what is missing.  tip: of the table, when they were read.
    newest: when the newest of them was written.
    """

    rows: Floats
    tip: Tip
    newest: datetime | None

    _unbeaten: dict[float, NDArray[np.int64]] = field(default_factory=dict)  # by sign, once computed

    @cached_property
    def drawable(self) -> Floats:
        """The rows that have a latency and a quality."""
        missing = np.isnan(self.rows[:, 3:]).any(axis=1)
        return self.rows[~missing] if missing.any() else self.rows

    def unbeaten(self, sign: float) -> NDArray[np.int64]:
        """Places of the drawable rows that no other beats in latency and quality, whose sign is given."""
        if sign not in self._unbeaten:
            self._unbeaten[sign] = _unbeaten(self.drawable, sign)
        return self._unbeaten[sign]

    def inside(self, view: View) -> NDArray[np.bool_]:
        """Which of the drawable rows are in a part of the axes."""
        inside = np.ones(len(self.drawable), dtype=np.bool_)
        for column, ends in ((4, view.latency), (3, view.quality)):
            if ends is not None:
                values = self.drawable[:, column]
                inside &= (values >= ends[0]) & (values <= ends[1])
        return inside


@dataclass(frozen=True, eq=False)
class Grid:
    """How many subnets there are in each cell. counts: (qualities, latencies).

    latencies, qualities: the edges of the cells, of latencies in equal ratios.
    """

    latencies: Floats
    qualities: Floats
    counts: NDArray[np.int64]


def tip(connection: Connection, table: sa.Table) -> Tip:
    """Id and time of the last row of a table, which any new row changes."""
    query = sa.select(table.c.id, table.c.created_at).order_by(table.c.id.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else (row[0], row[1])


@again
def search_points(store: Store, job: Job, device: str | None, before: Points | None = None) -> Points:
    """The points now; `before` are those of an earlier call, of which nothing is read again.

    device: the job's name for one of several devices, whose latency is taken.
    """
    with store.read() as connection:
        last = tip(connection, t.evaluations)
        if before is not None and before.tip == last:
            return before
        asked = _of_search(job.id)
        c = t.evaluations.c
        count, newest = connection.execute(
            sa.select(sa.func.count(), sa.func.max(c.created_at)).where(asked)
        ).one()
        if before is not None and before.newest is not None and before.tip is not None:
            # A row that replaces another may get any id, but it is written later.
            new = _read(connection, asked & ((c.id > before.tip[0]) | (c.created_at > before.newest)), device)
            kept = before.rows[~np.isin(before.rows[:, 1], new[:, 1])]
            if len(kept) + len(new) == count:
                return Points(_ordered(np.concatenate([kept, new])), last, newest)
        return Points(_ordered(_read(connection, asked, device)), last, newest)


@again
def shown_points(
    store: Store,
    points: Points,
    most: int,
    chosen: str | None,
    before: dict[Row, Described],
    view: View,
    *,
    sign: float = 1.0,
) -> pd.DataFrame:
    """The points in a part of the axes as a frame; where they are more than `most` those that no other beats.

    chosen: the key of a subnet that must be there.  Architectures are read where the job has `most` or fewer.
    before: what rows were described by in an earlier call; afterwards by what they are in this one.
    sign: of qualities, of which the greater is better then.
    """
    rows = points.drawable
    is_whole = len(rows) <= most
    if not is_whole:
        keep = points.inside(view)
        if np.count_nonzero(keep) > most:
            keep[:] = False
            keep[points.unbeaten(sign)] = True
        if chosen is not None:
            keep |= np.isin(rows[:, 1], _subnet_ids(store, chosen))
        rows = rows[keep]
    shown: list[Row] = list(map(tuple, rows.tolist()))
    missing = [row for row in shown if row not in before]
    new = _described(store, [int(row[0]) for row in missing], with_architecture=is_whole)
    read = {row: new[int(row[0])] for row in missing if int(row[0]) in new}
    described = {row: before.get(row) or read[row] for row in shown if row in before or row in read}
    before.clear()
    before.update(described)
    frame = pd.DataFrame(
        [(key, row[4], row[3], stderr, arch) for row, (key, stderr, arch) in described.items()], columns=SHOWN
    )
    if is_whole:
        return frame
    short = {name: _short(frame[name]) for name in ("latency_ms", "value")}
    return frame.assign(**short, architecture=None)


def density(points: Points, view: View, most: int) -> Grid | None:
    """Where the points in a part of the axes are, if they are more than `most` there."""
    rows = points.drawable[points.inside(view) & (points.drawable[:, 4] > 0)]
    if len(rows) <= most:
        return None
    places, edges = [], []
    for values, cells in zip((np.log(rows[:, 4]), rows[:, 3]), CELLS, strict=True):
        low, high = values.min(), values.max()
        high = high if high > low else low + 1e-9
        places.append(np.minimum(((values - low) / (high - low) * cells).astype(np.int64), cells - 1))
        edges.append(np.linspace(low, high, cells + 1))
    counts = np.bincount(places[1] * CELLS[0] + places[0], minlength=CELLS[0] * CELLS[1])
    return Grid(np.exp(edges[0]), edges[1], counts.reshape(CELLS[1], CELLS[0]))


@again
def sampled_points(store: Store, points: Points, most: int) -> pd.DataFrame:
    """At most `most` of the points with a quality, evenly thinned, with architectures; columns SHOWN."""
    rows = points.rows[~np.isnan(points.rows[:, 3])]
    rows = rows[:: max(1, -(-len(rows) // most))]
    described = _described(store, [int(row[0]) for row in rows], with_architecture=True)
    cells = [(*described[int(row[0])], row) for row in rows if int(row[0]) in described]
    return pd.DataFrame(
        [(key, row[4], row[3], stderr, arch) for key, stderr, arch, row in cells], columns=SHOWN
    )


def _of_search(job_id: int) -> sa.ColumnElement[bool]:
    c = t.evaluations.c
    return sa.and_(c.job_id == job_id, c.split == "search", c.weights == "inherited")


def _read(connection: Connection, asked: sa.ColumnElement[bool], device: str | None) -> Floats:
    c = t.evaluations.c
    objectives = sa.type_coerce(c.objectives, sa.JSON)
    latency = objectives["latency_ms"].as_float()
    if device is not None:
        latency = sa.func.coalesce(objectives[f"latency_ms@{device}"].as_float(), latency)
    query = sa.select(c.id, c.subnet_id, c.position, c.value, latency).where(asked)
    parts = []
    # Plain tuples from the driver: a million rows made into SQLAlchemy's take seconds more.
    with connection.execute(query) as result:
        cursor = result.cursor
        assert cursor is not None, "it has rows"
        while rows := cursor.fetchmany(ROWS_A_PART):
            parts.append(np.array(rows, dtype=np.float64))
    return np.concatenate(parts) if parts else np.empty((0, len(COLUMNS)))


def _ordered(rows: Floats) -> Floats:
    """By position, rows without one last, and then by id."""
    if (np.diff(rows[:, 2]) > 0).all():
        return rows
    ordered: Floats = rows[np.lexsort((rows[:, 0], rows[:, 2]))]  # NaN is sorted behind all numbers
    return ordered


def _unbeaten(rows: Floats, sign: float) -> NDArray[np.int64]:
    """Places of the rows that no other beats in latency and quality."""
    gains = sign * rows[:, 3]
    by_latency = np.argsort(rows[:, 4], kind="stable")
    best = np.maximum.accumulate(gains[by_latency])
    # Few are left to be put in order by both.
    few = by_latency[gains[by_latency] >= best]
    order = few[np.lexsort((-gains[few], rows[few, 4]))]
    best = np.maximum.accumulate(gains[order])
    first = np.concatenate([[True], best[1:] > best[:-1]])
    unbeaten: NDArray[np.int64] = order[first]
    return unbeaten


def _subnet_ids(store: Store, key: str) -> list[int]:
    with store.read() as connection:
        return list(connection.scalars(sa.select(t.subnets.c.id).where(t.subnets.c.key == key)))


def _described(store: Store, ids: Sequence[int], *, with_architecture: bool) -> dict[int, Described]:
    """Key, standard error and architecture (or None) by the evaluation's id."""
    e, s = t.evaluations.c, t.subnets.c
    architecture = s.architecture if with_architecture else sa.null()
    query = sa.select(e.id, s.key, e.stderr, architecture).join(t.subnets, s.id == e.subnet_id)
    described: dict[int, Described] = {}
    with store.read() as connection:
        for begin in range(0, len(ids), IDS_A_QUERY):
            some = e.id.in_(ids[begin : begin + IDS_A_QUERY])
            described |= {row[0]: (row[1], row[2], row[3]) for row in connection.execute(query.where(some))}
    return described


def _short(values: pd.Series) -> list[float]:
    """Rounded to what a screen can show."""
    return [float(f"{value:.6g}") for value in values]

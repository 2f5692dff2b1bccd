"""What a job's page shows, kept until the rows that it was made of change: nothing is computed twice.

Each part has a mark, read from the last row of each table and from the job's few rows; a part is made anew
only under a new mark, and of the subnets of the search only those are read that came since.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import pandas as pd
import plotly.graph_objects as go
import sqlalchemy as sa
from dash.development.base_component import Component

from dashboards import controls, pages
from dashboards.figures import (
    front_figure,
    generator_figure,
    hypervolume_figure,
    predicted_measured_figure,
    training_figure,
)
from dashboards.figures.front import MOST_DOTS
from dashboards.opened import OpenedStore
from dashboards.search_points import (
    Described,
    Points,
    Row,
    View,
    density,
    sampled_points,
    search_points,
    shown_points,
    tip,
)
from nas.results import baselines, frames, job_devices, latency_frames
from nas.results.cautions import cautions
from nas.results.columns import sign_of
from nas.results.comparing.points import Comparable, comparable
from nas.results.front import points_frame
from nas.results.running.board import best_qualities, board
from nas.results.running.stage_progress import stage_progress
from nas.store import Job, Store, digest
from nas.store import tables as t

MOST_KEPT = 24  # parts; the largest is a figure of MOST_DOTS subnets
MOST_SEARCHES = 4  # whose subnets are kept as numbers
MINUTE = 60
WHOLE = View()
MOST_OF_A_CURVE = 2_000  # points of the hypervolume
T = TypeVar("T")


class JobViews:
    """The parts of the pages of one store's jobs. Threads may share it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.RLock()
        self._kept: OrderedDict[Hashable, tuple[Hashable, Any]] = OrderedDict()
        self._searches: OrderedDict[Hashable, Points] = OrderedDict()
        self._described: OrderedDict[Hashable, dict[Row, Described]] = OrderedDict()

    def counts(self) -> dict[int, int]:
        """As `frames.evaluation_counts`."""
        with self.store.read() as connection:
            mark = tip(connection, t.evaluations)
        return self._under("counts", mark, lambda: frames.evaluation_counts(self.store))

    def board(self) -> pd.DataFrame:
        """As `nas.results.running.board`."""
        counts = self.counts()
        with self.store.read() as connection:
            mark = tip(connection, t.evaluations)
        bests = self._under("bests", mark, lambda: best_qualities(self.store))
        return board(self.store, counts, bests)

    def mark(self, job_ids: Sequence[int]) -> str:
        """Another text whenever something that was found by one of these jobs is another."""
        marks = [(self._results(job), job.state) for job in map(self.store.job, job_ids)]
        return digest(repr(marks))

    def comparable(self, job_ids: Sequence[int]) -> Comparable:
        """The finalists of jobs, as of `nas.results.comparing.points`."""
        jobs = [self.store.job(job_id) for job_id in job_ids]
        key = ("comparable", tuple(job_ids))
        return self._under(key, self.mark(job_ids), lambda: comparable(self.store, jobs))

    def sampled(self, job_id: int, most: int) -> pd.DataFrame:
        """Subnets that the search of a job has evaluated, with their architectures."""
        job = self.store.job(job_id)

        def read() -> pd.DataFrame:
            points = self._points(job, job_devices.searched_name(self.store, job))
            return sampled_points(self.store, points, most)

        return self._under(("sampled", job_id, most), self._results(job), read)

    def version(self, job_id: int, device_id: int | None) -> str:
        """Another text whenever something on the job's page is another, or a minute of a running job."""
        row = self._row(job_id)
        row["seconds"] = None if row["seconds"] is None else row["seconds"] // MINUTE
        job = self.store.job(job_id)
        running = stage_progress(self.store, job)
        words = None if running is None else running.words
        marks = repr((self._results(job), self._events(job), job.note, job.tags, controls.mark(job)))
        return digest([repr(row), words, marks, device_id])

    def front(
        self, job_id: int, *, selected: str | None, device_id: int | None = None, view: View = WHOLE
    ) -> go.Figure:
        """The front figure of a job, with a ring around the chosen subnet.

        device_id: whose latency is shown; the search's dots only on a device that it was for.  view: the part
        of the axes that is looked at, where subnets are drawn one by one if they are few.
        """
        job = self.store.job(job_id)
        key = ("front", job_id, device_id, selected, view)
        return self._under(key, self._results(job), lambda: self._front(job, selected, device_id, view))

    def view(
        self, job_id: int, device_id: int | None, before: View, change: Mapping[str, Any]
    ) -> View | None:
        """The part of the axes after what plotly tells; None where a front is drawn the same for any."""
        job = self.store.job(job_id)
        points = self._searches.get((job_id, job_devices.searched_name(self.store, job, device_id)))
        if points is None or len(points.drawable) <= MOST_DOTS:
            return None
        return before.moved(change)

    def parts(self, job_id: int, *, device_id: int | None = None) -> tuple[Any, ...]:
        """The other parts of a job's page: head, front table, three charts, a fourth of a job with a
        generator, and whether its clock may stop. device_id: whose latency is shown, by default the job's
        own device's.
        """
        job, row = self.store.job(job_id), self._row(job_id)
        head, warnings, table, predicted = self._under(
            ("tables", job_id, device_id), self._results(job), lambda: self._tables(job, device_id)
        )
        hypervolume, training, generator = self._under(
            ("curves", job_id), self._events(job), lambda: self._curves(job)
        )
        shown, measured_on = head
        return (
            pages.job_head(
                row,
                measured_on,
                device=shown,
                progress=stage_progress(self.store, job),
                cautions=warnings,
                note=job.note,
                tags=job.tags or (),
            ),
            table,
            hypervolume,
            predicted,
            training,
            generator,
            job.state not in pages.LIVE_STATES,
        )

    def _row(self, job_id: int) -> dict[str, Any]:
        jobs = frames.jobs(self.store, self.counts())
        row: dict[str, Any] = jobs[jobs["id"] == job_id].to_dict("records")[0]
        return row | {"seconds": None if pd.isna(row["seconds"]) else row["seconds"]}

    def _results(self, job: Job) -> Hashable:
        """The mark of what evaluations, measurements, predictors and stages tell."""
        p, s, d = t.predictors.c, t.stages.c, t.devices.c
        predictors = sa.select(p.id, p.created_at).where(p.job_id == job.id).order_by(p.id)
        stages = sa.select(s.id, s.state, s.key, s.finished_at).where(s.job_id == job.id).order_by(s.id)
        with self.store.read() as connection:
            return (
                tip(connection, t.evaluations),
                tip(connection, t.measurements),
                tip(connection, t.device_qualities),
                *(tuple(row) for row in connection.execute(predictors)),
                *(tuple(row) for row in connection.execute(stages)),
                *(tuple(row) for row in connection.execute(sa.select(d.id, d.name))),
            )

    def _events(self, job: Job) -> Hashable:
        """The mark of the events, which are only ever added to."""
        query = sa.select(sa.func.max(t.events.c.id)).where(t.events.c.job_id == job.id)
        with self.store.read() as connection:
            last: int | None = connection.scalar(query)
            return last

    def _front(self, job: Job, selected: str | None, device_id: int | None, view: View) -> go.Figure:
        store = self.store
        finalists = self._finalists(job, device_id)
        stars = baselines.frame(baselines.baselines(store, job, device_id))
        searched_on = (
            None,
            job_devices.own_device(store, job),
            *job_devices.searched_for(store, job).values(),
        )
        if device_id not in searched_on:
            return front_figure(
                finalists, job=job.name, selected=selected, baselines=stars, metric=_quality_of(job)
            )
        points = self._points(job, job_devices.searched_name(store, job, device_id))
        with self._lock:
            described = self._described.setdefault(job.id, {})
            sign = sign_of(_quality_of(job))
            shown = shown_points(store, points, MOST_DOTS, selected, described, view, sign=sign)
            _keep(self._described, job.id, self._described[job.id], MOST_SEARCHES)
        return front_figure(
            finalists,
            shown,
            job=job.name,
            selected=selected,
            searched=len(points.drawable),
            baselines=stars,
            metric=_quality_of(job),
            grid=density(points, view, MOST_DOTS),
        )

    def _finalists(self, job: Job, device_id: int | None) -> pd.DataFrame:
        """As `points_frame`, or else `frames.finalists`; front figure and table show the same ones."""

        def read() -> pd.DataFrame:
            points = points_frame(self.store, job) if device_id is None else None
            return frames.finalists(self.store, job, device_id) if points is None else points

        return self._under(("finalists", job.id, device_id), self._results(job), read)

    def _points(self, job: Job, device: str | None) -> Points:
        """The subnets of the search; only those are read that were not there before."""
        key = (job.id, device)
        with self._lock:
            points = search_points(self.store, job, device, self._searches.get(key))
            _keep(self._searches, key, points, MOST_SEARCHES)
            return points

    def _tables(self, job: Job, device_id: int | None) -> tuple[Any, ...]:
        finalists = self._finalists(job, device_id)
        shown = job_devices.own_device(self.store, job) if device_id is None else device_id
        return (
            (shown, latency_frames.measured_on(self.store, job)),
            cautions(self.store, job),
            pages.front_table(finalists, device=device_id),
            predicted_measured_figure(finalists),
        )

    def _curves(self, job: Job) -> tuple[Any, ...]:
        store = self.store
        generator = frames.events(store, job, "generator")
        return (
            hypervolume_figure(frames.events(store, job, "hypervolume", most=MOST_OF_A_CURVE)),
            training_figure(frames.training(store, job)),
            _generator(generator, _quality_of(job)),
        )

    def _under(self, key: Hashable, mark: Hashable, make: Callable[[], T]) -> T:
        """What was made for the key under this mark, or else is made now."""
        with self._lock:
            before = self._kept.get(key)
            if before is None or before[0] != mark:
                before = (mark, make())
            _keep(self._kept, key, before, MOST_KEPT)
            made: T = before[1]
            return made


class CurrentViews:
    """The views of the store that is there now."""

    def __init__(self, opened: OpenedStore) -> None:
        self._opened = opened
        self._views = JobViews(opened.get())

    def get(self) -> JobViews:
        """Raises StoreError when the store is not there."""
        store = self._opened.get()
        if self._views.store is not store:
            self._views = JobViews(store)
        return self._views


def _keep(kept: OrderedDict[Hashable, T], key: Hashable, value: T, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def _quality_of(job: Job) -> str:
    """What its quality is; jobs of before it could be chosen tell the accuracy."""
    return str(job.config.get("quality", "accuracy"))


def _generator(events: pd.DataFrame, metric: str) -> list[Component]:
    figure = generator_figure(events, metric)
    return [] if events.empty else [pages.chart("generator-curve", figure)]

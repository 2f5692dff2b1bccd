"""A job of many subnets: nothing is read or drawn twice, and the front is complete."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from filled_store import finished_job, known_subnets

from dashboards import job_views, search_points
from dashboards.figures import front_figure
from dashboards.job_views import JobViews
from dashboards.search_points import View
from nas.results import frames
from nas.store import NewEvaluation, NewEvent, Store
from nas.store import tables as t
from predictors.measurement.labels import Measurement


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store.open(store_url) as opened:
        finished_job(opened, "j", count=80)
        yield opened


@contextmanager
def counted(store: Store) -> Iterator[list[str]]:
    """The statements that the store's database gets meanwhile."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    sa.event.listen(store._engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(store._engine, "before_cursor_execute", note)


def add(store: Store, count: int, *, seed: int = 5, replace: bool = False) -> list[str]:
    """Evaluations of new subnets, or in place of those that are there; their keys."""
    known = known_subnets(count, seed=seed)
    shared = {"split": "search", "metric": "accuracy", "stderr": 0.01}
    new = [
        NewEvaluation(
            subnet=k.subnet,
            value=k.accuracy / 2,
            objectives={"latency_ms": k.latency_ms},
            position=200 + i,
            **shared,
        )
        for i, k in enumerate(known)
    ]
    job = store.job("j")
    with store.acquire(job) as lease:
        store.replace_evaluations(lease, new, {}) if replace else store.add_evaluations(lease, new)
        lease.finish("succeeded")
    return [k.subnet.key for k in known]


def as_before(store: Store, selected: str | None = None) -> Any:
    """The front figure from all rows."""
    job = store.job("j")
    finalists, searched = frames.finalists(store, job), frames.evaluations(store, job)
    return front_figure(finalists, searched, job=job.name, selected=selected)


def test_a_small_job_is_drawn_as_from_all_its_rows(store: Store) -> None:
    views = JobViews(store)
    for selected in (None, known_subnets(3)[1].subnet.key):
        assert views.front(1, selected=selected).to_json() == as_before(store, selected).to_json()
    add(store, 30)
    assert views.front(1, selected=None).to_json() == as_before(store).to_json()
    add(store, 12, replace=True)
    assert views.front(1, selected=None).to_json() == as_before(store).to_json()
    add(store, 80, seed=0, replace=True)  # all that there were, some of them with the ids of others
    assert views.front(1, selected=None).to_json() == as_before(store).to_json()


def test_a_second_look_computes_nothing_and_reads_marks_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = JobViews(store)
    first = views.front(1, selected=None), views.parts(1)
    made: list[str] = []
    for name in ("front_figure", "hypervolume_figure", "predicted_measured_figure", "training_figure"):
        monkeypatch.setattr(job_views, name, lambda *_, name=name, **__: made.append(name))
    with counted(store) as statements:
        again = views.front(1, selected=None), views.parts(1)
    assert again[0] is first[0]
    assert [a is b for a, b in zip(again[1][2:6], first[1][2:6], strict=True)] == [True] * 4
    assert made == []
    assert not [
        text for text in statements if "objectives" in text or "architecture" in text or "raw" in text
    ]
    assert all("evaluations" not in text or "LIMIT" in text for text in statements)


def test_the_finalists_of_figure_and_table_are_read_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int | None] = []
    inner = frames.finalists
    monkeypatch.setattr(frames, "finalists", lambda s, j, d=None: (read.append(d), inner(s, j, d))[1])
    views = JobViews(store)
    views.front(1, selected=None), views.parts(1)
    assert read == [None]


@pytest.mark.parametrize("stage", ["search", "train", "latency"])
def test_how_far_a_running_job_is_takes_few_rows(store: Store, stage: str) -> None:
    job = store.job("j")
    with store.acquire(job) as lease:
        store.begin_stage(lease, stage, "another")
        kind = "hypervolume" if stage == "search" else stage
        events = [NewEvent(kind, {"of": 90}, stage="again", step=step) for step in range(1, 61)]
        store.add_events(lease, events)
        device = store.register_device("cpu-1-thread", {"cpu": "made up", "threads": 1})
        sample = [(k.subnet, Measurement(1.0, raw=[[1]])) for k in known_subnets(60)]
        store.add_measurements(lease, sample, device_id=device.id, purpose="sample")
        views = JobViews(store)
        views.front(1, selected=None), views.parts(1)
        with counted(store) as statements:
            head = views.parts(1)[0]
            views.version(1, None)
        assert "60" in str(head)
        assert not [text for text in statements if "raw" in text or "architecture" in text]
        assert all("FROM events" not in text or "LIMIT" in text or "max(" in text for text in statements)
        lease.finish("stopped")


def test_only_new_rows_are_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    inner = search_points._read
    monkeypatch.setattr(
        search_points, "_read", lambda *given: (rows := inner(*given), read.append(len(rows)))[0]
    )
    job, points = store.job("j"), None
    expected = []
    for step in (lambda: None, lambda: None, lambda: add(store, 30), lambda: add(store, 12, replace=True)):
        step()
        points = search_points.search_points(store, job, None, points)
        expected.append(len(points.rows))
    known = {k.subnet.key for k in known_subnets(80)}
    new = [key for key in (k.subnet.key for k in known_subnets(30, seed=5)) if key not in known]
    assert expected[:2] == [80, 80]
    assert expected[2] == 80 + len(new)
    assert len(read) == 3  # the second look reads nothing
    assert read[0] == 80
    assert read[1] == len(new)
    assert read[2] < 30


def test_many_points_are_a_density_with_those_that_none_beats_and_the_chosen_one(store: Store) -> None:
    add(store, 400, seed=9)
    job = store.job("j")
    points = search_points.search_points(store, job, None)
    hidden = frames.evaluations(store, job)["subnet"].iloc[3]
    shown = search_points.shown_points(store, points, 50, hidden, {}, View())
    everything = frames.evaluations(store, job)
    assert shown["architecture"].isna().all()
    front = set()
    for row in everything.to_dict("records"):
        faster, better = everything["latency_ms"] < row["latency_ms"], everything["value"] > row["value"]
        as_fast, as_good = everything["latency_ms"] <= row["latency_ms"], everything["value"] >= row["value"]
        if not ((as_fast & better) | (faster & as_good)).any():
            front.add(row["subnet"])
    assert len(front) > 3
    assert set(shown["subnet"]) == front | {hidden}
    told = everything.set_index("subnet").loc[shown["subnet"]]
    np.testing.assert_allclose(shown["latency_ms"], told["latency_ms"], rtol=1e-5)
    np.testing.assert_allclose(shown["stderr"].astype(float), told["stderr"].astype(float))
    grid = search_points.density(points, View(), 50)
    assert grid is not None
    finalists = frames.finalists(store, job)
    picture, dots, *_ = front_figure(finalists, shown, searched=len(points.drawable), grid=grid).data
    cells = np.nan_to_num(picture.z)
    expected, *_ = np.histogram2d(points.drawable[:, 3], points.drawable[:, 4], bins=[picture.y, picture.x])
    assert cells.sum() == len(points.drawable)
    assert np.abs(cells - expected).sum() < 20  # but for those on an edge
    assert f"of {len(points.drawable)}" in dots.name


def test_few_points_in_a_part_of_the_axes_are_drawn_one_by_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_views, "MOST_DOTS", 50)
    views, everything = JobViews(store), frames.evaluations(store, store.job("j"))
    whole = views.front(1, selected=None)
    assert whole.data[0].type == "heatmap"
    ends = np.sort(everything["latency_ms"])[[10, 30]]
    zoomed = {"xaxis.range[0]": np.log10(ends[0]), "xaxis.range[1]": np.log10(ends[1])}
    view = views.view(1, None, View(), {**zoomed, "yaxis.autorange": True})
    assert view is not None
    dots = views.front(1, selected=None, view=View.read(view.text)).data[0]
    inside = everything["latency_ms"].between(*(float(f"{end:.6g}") for end in ends))
    assert 15 < len(dots.x) <= 21
    assert set(dots.customdata) == set(everything[inside]["subnet"])
    assert views.view(1, None, view, {"xaxis.autorange": True}) == View()
    kept = views.view(1, None, view, {"yaxis.range": [0.9, 0.5]})
    assert kept == View(view.latency, (0.5, 0.9))
    assert views.view(1, None, view, {"autosize": True, "xaxis.range[0]": "x"}) == view
    monkeypatch.setattr(job_views, "MOST_DOTS", 5_000)
    assert views.view(1, None, View(), zoomed) is None


@pytest.mark.parametrize("text", ["", "1,2", "a,b,c,d", "nan,1,inf,2", None])
def test_a_part_of_the_axes_that_is_none_is_all_of_them(text: str | None) -> None:
    assert View.read(text) == View()


def test_long_curves_are_thinned_and_keep_their_end(store: Store) -> None:
    job = store.job("j")
    with store.acquire(job) as lease:
        store.add_events(lease, [NewEvent("long", {"of": i}, stage="search", step=i) for i in range(1, 101)])
        lease.finish("succeeded")
    assert list(frames.events(store, job, "long", most=30)["step"]) == [*range(4, 101, 4)]
    assert len(frames.events(store, job, "long", most=100)) == 100


def test_what_is_kept_is_bounded(store: Store) -> None:
    views = JobViews(store)
    for known in known_subnets(40):
        views.front(1, selected=known.subnet.key)
    assert len(views._kept) <= job_views.MOST_KEPT
    assert len(views._searches) == 1
    with store.read() as connection:
        assert search_points.tip(connection, t.evaluations) is not None


def test_the_version_changes_with_what_is_shown(store: Store) -> None:
    views = JobViews(store)
    first = views.version(1, None)
    assert views.version(1, None) == first
    assert views.version(1, 2) != first
    add(store, 30)
    assert views.version(1, None) != first

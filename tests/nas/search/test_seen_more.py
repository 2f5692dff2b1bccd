"""Subnets near the front see more images at the end: which, how many, and that it goes on after a Ctrl-C."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from raced import ARCHS, IMAGES, QUALITY, Data, Looked, Scores, rows_of, run_search, running, table

from nas.search import finalists
from nas.search.finalists import choose
from nas.store import Evaluation, Store

FINALISTS = 8


def show(store: Store, name: str, pool: Looked) -> dict[str, Any]:
    """As stage `finalists` does, once; an interruption ends it early. Returns the rows as they are then."""
    with running(store, name) as (run, objectives):

        def chosen() -> list[Evaluation]:
            return choose(objectives, store.evaluations(run.lease.job, "search"), FINALISTS)

        finalists.show_more(run, objectives, Data(), pool, chosen)  # type: ignore[arg-type]
    return rows_of(store, name)


def images(rows: dict[str, Any]) -> int:
    return sum(count for *_, count, _ in rows.values())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_the_chosen_see_more_within_the_share(
    store: Store, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(finalists, "SHARE", share)
    hits = table(QUALITY)
    before = run_search(store, "job", Looked(hits))
    pool = Looked(hits)
    after = show(store, "job", pool)
    assert images(after) - images(before) == pool.images
    assert images(after) <= max(share * len(after) * IMAGES, images(before))
    assert (pool.images > 0) == (share > 0)
    places = {arch.key: place for place, arch in enumerate(ARCHS)}
    for key, (position, value, _, count, seen) in after.items():
        assert position == before[key][0]
        assert seen == hits[places[key], :count].tolist()
        assert count > before[key][3] or after[key] == before[key]
        if count == IMAGES:
            assert value == np.mean(seen)
    job = store.job("job")
    with running(store, "job") as (_, objectives):
        found = choose(objectives, store.evaluations(job, "search"), FINALISTS)
    assert (share < 1) or all(one.count == IMAGES for one in found)


def test_what_is_interrupted_goes_on_where_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finalists, "SHARE", 0.4)
    hits = table(QUALITY)
    run_search(store, "whole", Looked(hits))
    run_search(store, "stopped", Looked(hits))
    pool = Looked(hits)
    whole = show(store, "whole", pool)
    assert len(pool.asked) > 4
    for stop in (1, 2):
        assert show(store, "stopped", Looked(hits, stop)) != whole
    assert show(store, "stopped", Looked(hits)) == whole


class WithReport(Looked):
    """Looks up the report split, too, which is the search split here."""

    def scored(self, archs: Sequence[Any], split: str, images: slice | None = None) -> list[Scores]:
        return super().scored(archs, "search", images or slice(0, IMAGES))


@pytest.mark.parametrize("racing", [0.1, None])
def test_the_stage_shows_more_before_it_chooses(
    store: Store, monkeypatch: pytest.MonkeyPatch, racing: float | None
) -> None:
    monkeypatch.setattr(finalists, "SHARE", 1.0)
    monkeypatch.setattr(finalists, "build_device", lambda *_: None)
    monkeypatch.setattr(finalists, "measure", lambda *_, **__: {})
    before = run_search(store, "job", Looked(table(QUALITY)), racing=racing)
    pool = WithReport(table(QUALITY))
    with running(store, "job", racing=racing) as (run, objectives):
        finalists.report(run, objectives, Data(), pool)  # type: ignore[arg-type]
    reported = {one.subnet.key for one in store.evaluations(store.job("job"), "report")}
    after = rows_of(store, "job")
    assert len(reported) > 4
    assert {after[key][3] for key in reported} == {IMAGES}
    assert (after != before) == (racing is not None)


def test_nobody_sees_more_than_all(store: Store) -> None:
    hits = table(QUALITY)
    before = run_search(store, "full", Looked(hits), racing=None)
    pool = Looked(hits)
    assert show(store, "full", pool) == before
    assert pool.asked == []

"""Racing: who is stopped when, how often wrongly, and that a resumed search goes on as it was."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from raced import ARCHS, IMAGES, QUALITY, Data, Looked, run_search, running, table

from nas.evaluation import Failed
from nas.evaluation.estimates import whole_qualities
from nas.proposals.distinct import OneByOne
from nas.search import stage as search_stage
from nas.search.racing import Race, rungs
from nas.store import Store, tables
from supernet.evaluation.standard_errors import MeanErrors


def test_rungs_double_and_none_is_tiny() -> None:
    assert rungs(16_000) == (1000, 2000, 4000, 8000, 16_000)
    assert rungs(1800) == (113, 225, 450, 900, 1800)
    assert rungs(300) == (75, 150, 300)
    assert rungs(40) == (40,)


def test_a_bad_one_is_stopped_early_and_the_best_sees_everything() -> None:
    hits = table(np.array([0.2, 0.9, 0.89, 0.3]))
    pool = Looked(hits)
    costs = np.array([[1.0], [2.0], [3.0], [4.0]])
    raced = Race(pool, rungs(IMAGES), rate=0.1).run([0, 1, 2, 3], costs)  # type: ignore[arg-type]
    assert [one.quality.count for one in raced] == [128, IMAGES, 64, 64]
    for i, one in enumerate(raced):
        assert one.scores.tolist() == hits[i, : one.quality.count].tolist()
    assert raced[1].quality.value == hits[1].mean()
    # No image was looked at twice.
    assert pool.images == sum(one.quality.count for one in raced)


def test_the_front_of_earlier_batches_is_raced_against() -> None:
    hits = table(np.array([0.9, 0.5, 0.6]))
    race = Race(Looked(hits), rungs(IMAGES), rate=0.1)
    first = race.run([0], np.array([[1.0]]))  # type: ignore[list-item]
    race.remember([first[0].scores], [{"accuracy": 0.9, "macs": 1.0}])
    worse, cheaper = race.run([1, 2], np.array([[2.0], [0.5]]))  # type: ignore[list-item]
    assert worse.quality.count < IMAGES
    assert cheaper.quality.count == IMAGES


def test_what_failed_is_no_rival() -> None:
    race = Race(Looked(table(np.array([0.9, 0.5]))), rungs(IMAGES), rate=0.1)
    first = race.run([0], np.array([[1.0]]))  # type: ignore[list-item]
    race.remember([first[0].scores], [{"accuracy": 0.9, "latency_ms": None}])
    assert race.run([1], np.array([[2.0]]))[0].quality.count == IMAGES  # type: ignore[list-item]


def test_at_most_half_a_quarter_and_so_on_of_a_batch_go_on() -> None:
    hits = table(np.full(16, 0.7))
    pool = Looked(hits)
    raced = Race(pool, rungs(IMAGES), rate=0.1).run(range(16), np.arange(16.0)[:, None])  # type: ignore[arg-type]
    assert all(len(rows) <= 16 // 2**i for i, (rows, _) in enumerate(pool.asked))
    assert pool.images <= 16 * IMAGES / 5
    assert max(one.quality.count for one in raced) == IMAGES


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_equals_alone_are_stopped_no_more_often_than_stated(rate: float) -> None:
    stopped = 0
    for seed in range(150):
        hits = table(np.array([0.7, 0.7]), seed=seed)
        race = Race(Looked(hits), rungs(IMAGES), rate=rate)
        race.remember([hits[0]], [{"accuracy": hits[0].mean(), "macs": 1.0}])
        stopped += race.run([1], np.array([[2.0]]))[0].quality.count < IMAGES  # type: ignore[list-item]
    assert stopped / 150 <= rate + 3 * np.sqrt(rate * (1 - rate) / 150)
    assert stopped > 0


def test_shared_sources_make_a_race_more_careful() -> None:
    """Pairs of images that are one image twice are half as many."""
    half = table(np.array([0.6, 0.68]), 128)
    hits = np.repeat(half, 2, axis=1)
    sources = torch.arange(128).repeat_interleave(2)[:, None]

    def error(sources: torch.Tensor | None) -> float:
        ahead = torch.from_numpy((hits[1] ^ hits[0]).astype(np.float64))[:, None]
        return float(MeanErrors.over(256, sources).of_means(ahead))

    assert error(sources) == pytest.approx(np.sqrt(2) * error(None))


def test_the_quality_of_a_stopped_one_knows_how_hard_its_images_were() -> None:
    hits = table(np.linspace(0.5, 0.8, 120))
    order = np.random.default_rng(0).permuted(np.argsort(-hits[::3].sum(axis=0)).reshape(2, -1), axis=1)
    hits = hits[:, order.flatten()]  # the easier half of the images comes first
    ease, others = hits[1::3].mean(axis=0), hits[2::3]
    told = whole_qualities(others[:, :256], ease, MeanErrors.over)
    apart = np.array([one.value for one in told]) - others.mean(axis=1)
    naive = others[:, :256].mean(axis=1) - others.mean(axis=1)
    assert np.abs(apart).mean() < np.abs(naive).mean() / 2
    assert all(one.count == 256 and 0 < one.stderr < 0.1 for one in told)
    (everything,) = whole_qualities(hits[:1], ease, MeanErrors.over)
    assert everything.value == hits[0].mean()


def test_an_interrupted_search_goes_on_as_if_nothing_had_been(store: Store) -> None:
    hits = table(QUALITY)
    whole = run_search(store, "whole", Looked(hits))
    assert len({count for *_, count, _ in whole.values()}) > 2
    for stop in (3, 11, 20):
        name = f"until {stop}"
        before = run_search(store, name, Looked(hits, stop))
        assert len(before) < len(whole)
        assert run_search(store, name, Looked(hits)) == whole


def test_racing_looks_at_fewer_images(store: Store) -> None:
    hits = table(QUALITY)
    raced, full = Looked(hits), Looked(hits)
    run_search(store, "raced", raced)
    rows = run_search(store, "full", full, racing=None)
    assert full.images == len(rows) * IMAGES
    assert raced.images < 0.5 * full.images


def test_a_search_that_began_without_hits_goes_on_without_racing(store: Store) -> None:
    hits = table(QUALITY)
    run_search(store, "old", Looked(hits, 1), racing=None)
    with (
        store.acquire(next(job for job in store.jobs() if job.name == "old")) as lease,
        lease.write() as open_,
    ):
        open_.execute(sa.delete(tables.hits))
    pool = Looked(hits)
    run_search(store, "old", pool)
    assert len(pool.asked) == 7
    assert {(images.start, images.stop) for _, images in pool.asked} == {(0, IMAGES)}


def test_the_searcher_is_told_how_sure_values_are(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    of_batches: list[np.ndarray] = []
    tell = OneByOne.tell

    def listening(searcher: OneByOne, codes: Any, values: Any, errors: Any = None) -> None:
        tell(searcher, codes, values, errors)
        of_batches.append(errors)

    monkeypatch.setattr(OneByOne, "tell", listening)
    rows = run_search(store, "told", Looked(table(QUALITY)))
    errors = np.concatenate(of_batches)
    assert errors[:, 0].tolist() == [stderr for _, _, stderr, *_ in rows.values()]
    assert np.isnan(errors[:, 1:]).all()


class Poisoned(Looked):
    """Cannot evaluate some of the subnets, from some image on."""

    poison = frozenset({5, 17, 30})

    def scored(self, archs: Sequence[Any], split: str, images: slice | None = None) -> list[Any]:
        found: list[Any] = super().scored(archs, split, images)
        rows, part = self.asked[-1]
        late = [row in self.poison and part.start >= 64 * (row % 2) for row in rows]
        return [Failed("it hung") if bad else one for one, bad in zip(found, late, strict=True)]


@pytest.mark.parametrize("racing", [0.1, None])
def test_subnets_that_cannot_be_evaluated_fail_and_the_search_goes_on(
    store: Store, racing: float | None
) -> None:
    hits = table(QUALITY)
    settings = {"evaluations": len(QUALITY), "searcher": "random", "racing": racing}

    def told(name: str, pool: Looked) -> list[Any]:
        with running(store, name, **settings) as (run, objectives):
            search_stage.search(run, objectives, Data(), pool)  # type: ignore[arg-type]
        row = next(found for found in store.jobs() if found.name == name)
        kept = {key: seen.tolist() for key, seen in store.hits(row, "search").items()}
        rows = store.evaluations(row, "search")
        return [(e.subnet.key, e.state, e.value, e.count, e.reason, kept.get(e.subnet.key)) for e in rows]

    whole = told("whole", Poisoned(hits))
    failed = [one for one in whole if one[1] == "failed"]
    assert {(value, count, reason, kept) for _, _, value, count, reason, kept in failed} == {
        (None, None, "it hung", None)
    }
    assert {key for key, *_ in failed} <= {ARCHS[i].key for i in Poisoned.poison}
    assert {key for key, *_ in failed} >= {ARCHS[i].key for i in Poisoned.poison if i % 2 == 0}
    stop = 9 if racing else 3
    told("cut", Poisoned(hits, stop=stop))
    assert told("cut", Poisoned(hits)) == whole

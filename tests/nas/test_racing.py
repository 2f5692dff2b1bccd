"""Racing: who is stopped when, how often wrongly, and that a resumed search goes on as it was."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from no_latency import NoLatency
from numpy.typing import NDArray

import search_spaces
from nas.agreement import agreement
from nas.config import JobConfig, SearchConfig
from nas.progress import Silent
from nas.searchers import STDERR
from nas.stages import search as search_stage
from nas.stages._estimates import whole_qualities
from nas.stages._objectives import Objectives
from nas.stages._racing import Race, rungs
from nas.stages._reproducibility import halves, scores
from nas.stages._run import Run
from nas.store import Store
from nas.store import _tables as tables
from search_spaces import Architecture
from supernet._standard_errors import MeanErrors

IMAGES = 1024
SPACE = search_spaces.get(
    "matformer", image_size=(8, 8), patch_size=4, in_chans=1, num_classes=10, embed_dim=(16,), num_heads=(2,)
)
ARCHS = SPACE.decode(SPACE.all_codes())
MACS = SPACE.costs(SPACE.all_codes())["macs"].astype(np.float64)

Hits = NDArray[np.bool_]


def table(quality: NDArray[np.float64], images: int = IMAGES, *, seed: int = 0) -> Hits:
    """Hits of subnets of these qualities: images differ in difficulty, so that subnets mostly agree."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(0, 2, size=images)
    logit = np.log(quality / (1 - quality))[:, None] * 2.0
    return rng.random((len(quality), images)) < 1 / (1 + np.exp(-logit - ease))


class Looked:
    """An evaluator of table rows, by their numbers or as architectures; a Ctrl-C comes at call `stop`."""

    def __init__(self, hits: Hits, stop: int | None = None) -> None:
        self.hits, self.asked, self._stop = hits, [], stop  # type: ignore[var-annotated]
        self._places = {arch: i for i, arch in enumerate(ARCHS)}

    def correct(self, archs: Sequence[Any], split: str, images: slice | None = None) -> list[Hits]:
        assert split == "search"
        assert images is not None
        if len(self.asked) == self._stop:
            raise KeyboardInterrupt
        rows = [self._places.get(arch, arch) for arch in archs]
        self.asked.append((rows, images))
        return list(self.hits[rows, images])

    def probe(self, archs: Sequence[Architecture]) -> list[Any]:
        raise AssertionError("nobody asked")

    @property
    def images(self) -> int:
        return sum(len(rows) * (images.stop - images.start) for rows, images in self.asked)


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
        assert one.hits.tolist() == hits[i, : one.quality.count].tolist()
    assert raced[1].quality.value == hits[1].mean()
    # No image was looked at twice.
    assert pool.images == sum(one.quality.count for one in raced)


def test_the_front_of_earlier_batches_is_raced_against() -> None:
    hits = table(np.array([0.9, 0.5, 0.6]))
    race = Race(Looked(hits), rungs(IMAGES), rate=0.1)
    first = race.run([0], np.array([[1.0]]))  # type: ignore[list-item]
    race.remember([first[0].hits], [{"accuracy": 0.9, "macs": 1.0}])
    worse, cheaper = race.run([1, 2], np.array([[2.0], [0.5]]))  # type: ignore[list-item]
    assert worse.quality.count < IMAGES
    assert cheaper.quality.count == IMAGES


def test_what_failed_is_no_rival() -> None:
    race = Race(Looked(table(np.array([0.9, 0.5]))), rungs(IMAGES), rate=0.1)
    first = race.run([0], np.array([[1.0]]))  # type: ignore[list-item]
    race.remember([first[0].hits], [{"accuracy": 0.9, "latency_ms": None}])
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


class Data:
    """As much of a data set as the stage looks at."""

    sizes = {"search": IMAGES}  # noqa: RUF012 - nobody changes it

    def sources(self, split: str) -> None:
        return None


QUALITY = 0.3 + 0.5 * (MACS - MACS.min()) / np.ptp(MACS) + 0.1 * np.random.default_rng(1).random(len(MACS))


def run_search(store: Store, name: str, pool: Looked, **settings: Any) -> dict[str, Any]:
    """Once; an interruption ends it early. Returns the rows as far as they are."""
    section = {"evaluations": 96, "batch": 12, "searcher": "nsga2", "population": 12} | settings
    config = JobConfig.model_validate({"objectives": ["accuracy", "macs"], "search": section})
    known = [found for found in store.jobs() if found.name == name]
    row = known[0] if known else store.create_job(name, config={}, seed=0, provenance={})
    with store.acquire(row) as lease:
        run = Run(store, lease, config, Silent(), threading.Event())
        objectives = Objectives(("accuracy", "macs"), SPACE, NoLatency())  # type: ignore[arg-type]
        try:
            search_stage.search(run, objectives, Data(), pool)  # type: ignore[arg-type]
            lease.finish("succeeded")
        except KeyboardInterrupt:
            lease.finish("stopped")
    hits = {key: seen.tolist() for key, seen in store.hits(row, "search").items()}
    rows = store.evaluations(row, "search")
    assert all(len(hits.get(e.subnet.key, range(IMAGES))) == e.count for e in rows)
    return {e.subnet.key: (e.position, e.value, e.stderr, e.count, hits.get(e.subnet.key)) for e in rows}


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
    told: list[dict[str, float]] = []
    tell = search_stage._tell

    def listening(study: Any, objectives: Any, trial: Any, row: Any) -> None:
        tell(study, objectives, trial, row)
        told.append(trial.user_attrs[STDERR])

    monkeypatch.setattr(search_stage, "_tell", listening)
    rows = run_search(store, "told", Looked(table(QUALITY)))
    assert told == [{"accuracy": stderr} for _, _, stderr, *_ in rows.values()]


def test_older_jobs_keep_the_key_of_their_search() -> None:
    assert "racing" not in SearchConfig().inputs()
    assert SearchConfig(racing=None).inputs()["racing"] is None


def test_halves_share_no_source() -> None:
    sources = torch.randint(40, (300, 2), generator=torch.Generator().manual_seed(0))
    first, second = halves(300, sources)
    assert not set(sources[first].flatten().tolist()) & set(sources[second].flatten().tolist())
    assert min(first.sum(), second.sum()) > 40
    even, odd = halves(7, None)
    assert (even.sum(), odd.sum(), (even & odd).any()) == (4, 3, False)


def test_a_handful_of_images_ranks_nothing() -> None:
    codes = SPACE.all_codes()
    assert scores(SPACE, codes, [row[:31] for row in table(QUALITY)], None) == {}
    sources = torch.tensor([[0, 1], [1, 2], [2, 0]]).repeat(40, 1)
    assert scores(SPACE, codes, [row[:120] for row in table(QUALITY)], sources) == {}


def test_a_ranking_of_equals_is_noise_and_a_clear_one_is_not() -> None:
    codes = SPACE.all_codes()
    clear = scores(SPACE, codes, list(table(QUALITY)), None)
    noise = scores(SPACE, codes, list(table(np.full(len(codes), 0.7))), None)
    assert clear["images"] == [IMAGES // 2, IMAGES // 2]
    assert clear["ranking"]["tau"] > 0.6 > 0.3 > noise["ranking"]["tau"]
    assert clear["predictor"]["tau"] > 0.5 > 0.3 > noise["predictor"]["tau"]


def test_the_predictor_is_scored_on_images_that_its_labels_did_not_use() -> None:
    """Hits on the first half that say the opposite of those on the second teach the opposite."""
    codes = SPACE.all_codes()
    good, bad = table(QUALITY), table(1 - QUALITY, seed=1)
    mixed = good.copy()
    mixed[:, ::2] = bad[:, ::2]
    told = scores(SPACE, codes, list(mixed), None)
    assert told["ranking"]["tau"] < -0.5
    assert told["predictor"]["tau"] < -0.5


def test_stopped_ones_teach_the_predictor_but_are_not_ranked() -> None:
    codes = SPACE.all_codes()
    hits = table(QUALITY)
    stopped = [row if i % 3 == 0 else row[:128] for i, row in enumerate(hits)]
    told = scores(SPACE, codes, stopped, None)
    assert told["ranking"]["count"] == len(hits[::3])
    ours = hits[::3, ::2].mean(axis=1), hits[::3, 1::2].mean(axis=1)
    expected = agreement([(ours[0].tolist(), ours[1].tolist())])
    assert expected is not None
    assert told["ranking"] == expected.to_dict()
    assert told["predictor"]["tau"] > 0.4

"""A search that begins with what another job has evaluated: nothing of it is paid for again."""

from typing import Any

import pytest
import tiny_job as tiny

from nas import jobs, pipeline
from nas.analysis.what_if import follow_up, question
from nas.config import JobConfig, checked_config
from nas.errors import ConflictError, JobFailedError
from nas.evaluation import EvaluationPool
from nas.measuring import networks
from nas.progress import Silent
from nas.search import stage as search_stage
from nas.store import Job, Store, remove
from nas.training import supernets as train_stage
from search_spaces.errors import NotFoundError, UsageError

LIMIT = 5_000


def bomb(*_: object, **__: object) -> None:
    raise AssertionError("this was paid for already")


@pytest.fixture
def store(tiny_copy: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The store of the tiny job, on a machine that is as fast as it was, and trains nothing."""
    monkeypatch.setattr(networks, "_is_as_it_was", lambda *_: True)
    monkeypatch.setattr(train_stage, "Training", bomb)
    with Store.open(tiny_copy) as opened:
        yield opened


def going_on(store: Store, count: int) -> JobConfig:
    """The config of the job that evaluates so many more for smaller subnets."""
    job = store.job("tiny")
    asked = question(store, job, [f"params<={LIMIT}"], ["accuracy", "macs"])
    config, used = jobs.with_supernet(store.url, follow_up(store, job, asked, count))
    jobs.check(config, used)
    return config


def created(store: Store, config: JobConfig) -> Job:
    return jobs.create(store, config, name=None, base="next")


def within(store: Store) -> dict[str, Any]:
    """What the tiny job has evaluated within the new limit, by key."""
    rows = store.evaluations(store.job("tiny"), "search")
    return {row.subnet.key: row for row in rows if row.subnet.params <= LIMIT}


def searched(store: Store, job: Job) -> list[Any]:
    return [
        (row.subnet.key, row.batch, row.position, row.value, row.stderr, row.count)
        for row in store.evaluations(job, "search")
    ]


def test_more_is_evaluated_and_nothing_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    scored = EvaluationPool.scored

    def noted(pool: Any, archs: Any, split: str, images: Any = None) -> Any:
        asked.extend(
            arch.key for arch in archs if split == "search" and (images is None or images.start == 0)
        )
        return scored(pool, archs, split, images)

    monkeypatch.setattr(EvaluationPool, "scored", noted)
    job = created(store, going_on(store, 5))
    pipeline.run(store, job, progress=Silent())
    old, rows = within(store), store.evaluations(job, "search")
    taken, new = rows[: len(old)], rows[len(old) :]
    assert len(new) == 5
    assert [row.position for row in rows] == list(range(len(rows)))
    for row in taken:
        before = old[row.subnet.key]
        assert (row.value, row.stderr, row.count) == (before.value, before.stderr, before.count)
        assert row.reused
        assert {"accuracy", "macs", "params", "latency_ms"} <= row.objectives.keys()
    assert not set(asked) & set(old)
    assert {row.subnet.key for row in new} == set(asked)
    assert all(row.subnet.params <= LIMIT for row in rows)
    assert store.job(job.id).state == "succeeded"
    use = store.supernet_of(job)
    assert use is not None
    assert (use.reused, use.supernet.name) == (True, "tiny")
    assert {row.reused for row in store.measurements(job, "sample")} == {True}
    assert store.evaluations(job, "report")


@pytest.mark.slow
def test_what_is_interrupted_goes_on_as_it_would_have(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = created(store, going_on(store, 4))
    pipeline.run(store, whole, progress=Silent())
    add, takeover = search_stage._Evaluated.add, store.add_evaluations
    left = [1, 1]

    def once(*words: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            takeover(*words, **options)
            raise KeyboardInterrupt
        return takeover(*words, **options)

    def interrupted(evaluated: Any, archs: Any) -> Any:
        if left[1]:
            left[1] -= 1
            raise KeyboardInterrupt
        return add(evaluated, archs)

    monkeypatch.setattr("nas.search.source.ROWS", 6)  # a batch
    monkeypatch.setattr(store, "add_evaluations", once)
    monkeypatch.setattr(search_stage._Evaluated, "add", interrupted)
    job = created(store, going_on(store, 4))
    for stored in (6, len(within(store))):
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(store, job, progress=Silent())
        assert len(searched(store, job)) == stored
    pipeline.run(store, job, progress=Silent())
    assert searched(store, job) == searched(store, whole)


def test_a_source_is_kept_until_the_search_has_ended(store: Store) -> None:
    job = created(store, going_on(store, 1))
    with pytest.raises(ConflictError, match="the search of 'next' begins with its evaluations"):
        remove(store, store.job("tiny"))
    remove(store, job)
    remove(store, store.job("tiny"))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"search": {"source": "nobody"}}, NotFoundError, "no job 'nobody'"),
        ({"search": {"source": "tiny", "images": 100}}, UsageError, "on all examples of its subnets"),
        ({"search": {"source": "tiny"}, "quality": "balanced_accuracy"}, UsageError, "has told the accuracy"),
    ],
)
def test_a_source_that_cannot_be_one(store: Store, changes: dict[str, Any], error: Any, words: str) -> None:
    config = checked_config(tiny.CONFIG | {"name": None} | changes, where="here")
    with pytest.raises(error, match=words):
        created(store, config)


def test_a_source_that_has_not_finished(store: Store) -> None:
    job = created(store, checked_config(tiny.CONFIG | {"name": "begun"}, where="here"))
    config = checked_config(tiny.CONFIG | {"name": None, "search": {"source": job.name}}, where="here")
    with pytest.raises(ConflictError, match="'begun' has no front yet"):
        created(store, config)


@pytest.mark.slow
def test_a_source_with_another_supernet(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    search = tiny.CONFIG["search"] | {"source": "tiny"}
    train = tiny.CONFIG["train"] | {"steps": 2, "warmup": 1}
    config = checked_config(tiny.CONFIG | {"name": None, "search": search, "train": train}, where="here")
    with pytest.raises(JobFailedError, match="job 'tiny' has another supernet, tiny, than this one"):
        pipeline.run(store, created(store, config), progress=Silent())

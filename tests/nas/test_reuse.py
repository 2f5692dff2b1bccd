"""What one job has paid for, the next one finds: trained weights, evaluations, measurements."""

from typing import Any

import pandas as pd
import pytest
import tiny_job as tiny

import nas
from nas import jobs, pipeline
from nas.config import checked_config
from nas.errors import JobFailedError
from nas.measuring import networks
from nas.progress import Silent
from nas.results import frames
from nas.search import stage as search_stage
from nas.store import Evaluation, Job, Store
from nas.training import supernets as train_stage
from search_spaces.errors import NotFoundError, UsageError


def bomb(*_: object, **__: object) -> None:
    raise AssertionError("this was paid for already")


@pytest.fixture
def store(tiny_copy: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The store of the tiny job, on a machine that is as fast as it was."""
    monkeypatch.setattr(networks, "_is_as_it_was", lambda *_: True)
    with Store.open(tiny_copy) as opened:
        yield opened


def asked(store: Store, **changes: Any) -> Job:
    """A job with other settings, run to its end."""
    config = checked_config(tiny.CONFIG | {"name": None} | changes, where="here")
    config, used = jobs.with_supernet(store.url, config)
    jobs.check(config, used)
    job = jobs.create(store, config, name=None, base="next")
    pipeline.run(store, job, progress=Silent())
    return store.job(job.id)


def searched(store: Store, job: Job) -> list[tuple[Any, ...]]:
    return [plain(evaluation) for evaluation in store.evaluations(job, "search")]


def plain(evaluation: Evaluation) -> tuple[Any, ...]:
    subnet = evaluation.subnet.key
    return (subnet, evaluation.batch, evaluation.position, evaluation.value, evaluation.count)


def logged(store: Store, job: Job) -> str:
    return "\n".join(event.data["message"] for event in store.events(job, "log"))


def test_the_same_question_pays_nothing_and_gets_the_same_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_stage, "Training", bomb)
    monkeypatch.setattr("nas.evaluation.EvaluationPool.scored", bomb)
    monkeypatch.setattr("nas.measuring.subnets.measured", bomb)
    first, job = store.job("tiny"), asked(store)
    assert searched(store, job) == searched(store, first)
    assert {evaluation.reused for evaluation in store.evaluations(job, "search")} == {True}
    assert {evaluation.reused for evaluation in store.evaluations(first, "search")} == {False}
    assert [row.value for row in store.evaluations(job, "report")] == [
        row.value for row in store.evaluations(first, "report")
    ]
    by_both = [
        sorted((row.subnet.key, row.purpose, row.result.latency_ms, row.created_at) for row in rows)
        for rows in (store.measurements(job), store.measurements(first))
    ]
    assert by_both[0] == by_both[1]
    assert {row.reused for row in store.measurements(job)} == {True}
    assert store.artifacts(job, "supernet") == store.artifacts(first, "supernet")
    use, own = store.supernet_of(job), store.supernet_of(first)
    assert use is not None
    assert own is not None
    assert (use.reused, own.reused) == (True, False)
    assert use.supernet == own.supernet
    assert use.supernet.seconds > 0
    assert [point["step"] for point in use.supernet.curve] == [25, 50, 60]
    pd.testing.assert_frame_equal(frames.training(store, job), frames.training(store, first), check_like=True)
    assert "Supernet 'tiny', trained by job 'tiny', is reused" in logged(store, job)
    stage = store.stage(job, "train")
    assert stage is not None
    assert stage.told("saved_seconds") == use.supernet.seconds


@pytest.mark.slow
def test_another_question_of_the_same_supernet_trains_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_stage, "Training", bomb)
    search = tiny.CONFIG["search"] | {"searcher": "random", "seed": 7}
    job = asked(store, constraints=["params<=4500"], search=search)
    rows = store.evaluations(job, "search")
    assert all(row.subnet.params <= 4500 for row in rows)
    reused = [row.reused for row in rows]
    seen = {row.subnet.key for row in store.evaluations(store.job("tiny"), "search")}
    assert sum(reused) > 0
    # A race shows some of what is found more images than the first one did, which has to be paid for.
    assert {row.subnet.key for row in rows if row.reused} <= seen
    stage = store.stage(job, "search")
    assert stage is not None
    assert stage.told("reused") == sum(reused)


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_as_it_would_have(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = tiny.CONFIG["search"] | {"seed": 3}
    whole = asked(store, search=search, reuse=False)
    assert {row.reused for row in store.evaluations(whole, "search")} == {False}
    add = search_stage._Evaluated.add

    def interrupted(evaluated: Any, archs: Any) -> Any:
        if evaluated.batch == 2:
            raise KeyboardInterrupt
        return add(evaluated, archs)

    with monkeypatch.context() as patch:
        patch.setattr(search_stage._Evaluated, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            asked(store, search=search)
    job = store.jobs()[-1]
    assert len(searched(store, job)) == 12
    pipeline.run(store, job, progress=Silent())
    assert searched(store, job) == searched(store, whole)


@pytest.mark.slow
def test_without_reuse_everything_is_paid_for_again_and_nobody_finds_the_weights(store: Store) -> None:
    job = asked(store, reuse=False)
    use = store.supernet_of(job)
    assert use is not None
    assert not use.reused
    assert use.supernet.key is None
    assert use.supernet.name == "next"
    assert not any(row.reused for row in [*store.evaluations(job), *store.measurements(job)])
    weights = [store.artifacts(one, "supernet")[-1] for one in (job, store.job("tiny"))]
    assert weights[0].id != weights[1].id
    assert weights[0].sha256 == weights[1].sha256  # the training was the same


def test_a_measurement_that_is_too_old_is_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        networks, "now", lambda: max(m.created_at for m in store.measurements(store.job("tiny")))
    )
    monkeypatch.setattr("nas.measuring.subnets.measured", bomb)
    predictor = tiny.CONFIG["predictor"] | {"max_age": 0.001}
    with pytest.raises(AssertionError, match="paid for"):
        asked(store, predictor=predictor)


def test_a_job_names_the_supernet_that_it_uses(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_stage, "Training", bomb)
    monkeypatch.setattr("nas.evaluation.EvaluationPool.scored", bomb)
    monkeypatch.setattr("nas.measuring.subnets.measured", bomb)
    changes = {"supernet": {"use": "tiny"}, "train": {"threads": 1}}
    job = asked(store, **changes)
    assert searched(store, job) == searched(store, store.job("tiny"))
    assert job.config["supernet"]["use"] == "tiny"
    assert job.config["supernet"]["space"] == tiny.CONFIG["supernet"]["space"]
    assert job.config["train"]["steps"] == 60


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"supernet": {"use": "tinny"}}, NotFoundError, "no supernet 'tinny'"),
        ({"supernet": {"use": "tiny", "family": "matformer"}}, UsageError, "leave family out"),
        ({"supernet": {"use": "tiny"}, "train": {"steps": 5}}, UsageError, "leave train.steps out"),
        ({"supernet": {"use": "tiny"}, "data": "digit_pairs"}, UsageError, "knows 10 classes"),
        (
            {"supernet": {"use": "tiny"}, "data": {"name": "digits", "split_seed": 1}},
            UsageError,
            "was trained on other data",
        ),
    ],
)
def test_a_supernet_that_cannot_be_used_is_refused_with_a_sentence(
    tiny_job: nas.JobHandle, changes: dict[str, Any], error: Any, words: str
) -> None:
    settings = tiny.CONFIG | {"train": {"threads": 1}} | changes
    with pytest.raises(error, match=words):
        jobs.check(*jobs.with_supernet(tiny_job.store.url, checked_config(settings, where="here")))


def test_weights_that_are_damaged_are_named(store: Store) -> None:
    (weights,) = store.artifacts(store.job("tiny"), "supernet")
    path = store.artifact_root / weights.path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(JobFailedError, match="bytes, not"):
        asked(store, supernet={"use": "tiny"}, train={"threads": 1})

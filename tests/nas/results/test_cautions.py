"""What is said of a front that may say nothing: as sentences, in `nas front` and `nas show`, on the page."""

import json
from typing import Any

import pytest

from nas.results.cautions import baseline, best_finalist, cautions, ranking
from nas.results.front import front
from nas.store import Job, NewEvaluation, NewSubnet, Store

BASELINE = {"examples": 100, "classes": 2, "majority": 0.9, "majority_class": "common"}


def add_job(
    store: Store,
    *values: tuple[float, float],
    metric: str = "accuracy",
    told: dict[str, Any] | None = BASELINE,
    tau: dict[str, Any] | None = None,
    classes: int | None = None,
) -> Job:
    """A finished job with finalists of these qualities and standard errors."""
    config = {"objectives": [metric, "params"], "quality": metric}
    job = store.create_job(store.free_name("job"), config=config, seed=0, provenance={})
    rows = [
        NewEvaluation(
            NewSubnet(f"s{i}", {"depth": i}, 1, 1),
            value,
            split="report",
            metric=metric,
            stderr=stderr,
            objectives={"accuracy": value, "balanced_accuracy": value / 2},
        )
        for i, (value, stderr) in enumerate(values)
    ]
    results: dict[str, dict[str, Any]] = {
        "space": {"space": {"options": {"num_classes": classes} if classes else {}}},
        "search": {"reproducibility": {"images": [5, 5], "ranking": tau, "predictor": None}},
        "finalists": {"finalists": len(rows)} | ({"baseline": told} if told else {}),
    }
    with store.acquire(job) as lease:
        store.add_evaluations(lease, rows)
        for name, result in results.items():
            store.begin_stage(lease, name, "key")
            store.finish_stage(lease, name, result)
        lease.finish("succeeded")
    return store.job(job.id)


@pytest.mark.parametrize(
    ("value", "stderr", "metric", "said"),
    [
        (0.95, 0.02, "accuracy", False),
        (0.90, 0.02, "accuracy", True),
        (0.60, 0.01, "accuracy", True),
        (0.9401, 0.02, "accuracy", False),
        (0.9399, 0.02, "accuracy", True),
        (0.9, 0.02, "balanced_accuracy", False),  # the commonest class alone has 50 %
        (0.5, 0.0, "balanced_accuracy", True),
        (0.53, 0.02, "balanced_accuracy", True),
        (0.55, 0.02, "balanced_accuracy", False),
    ],
)
def test_a_front_that_is_not_clearly_above_what_needs_no_learning(
    store: Store, value: float, stderr: float, metric: str, said: bool
) -> None:
    found = cautions(store, add_job(store, (0.3, 0.01), (value, stderr), metric=metric))
    assert len(found) == said
    if said:
        least = (
            "90.0 % of always answering 'common'" if metric == "accuracy" else "chance (50.0 %, 2 classes)"
        )
        assert least in found[0]
        assert f"{100 * value:.1f} ± {100 * stderr:.1f} %" in found[0]
        assert f"finalist's {metric.replace('_', ' ')} of" in found[0]


def test_equal_classes_are_chance_and_a_job_of_an_earlier_version_knows_their_number(store: Store) -> None:
    equal = BASELINE | {"majority": 0.5}
    (said,) = cautions(store, add_job(store, (0.52, 0.02), told=equal))
    assert "chance (50.0 %, 2 classes)" in said
    older = add_job(store, (0.11, 0.01), told=None, classes=10)
    assert baseline(store, older) == {"classes": 10, "chance": 0.1}
    assert "chance (10.0 %, 10 classes)" in cautions(store, older)[0]
    assert cautions(store, add_job(store, (0.11, 0.01), told=None)) == ()


@pytest.mark.parametrize(
    ("tau", "low", "said"),
    [(0.2, None, True), (-0.1, -0.3, True), (0.5, -0.1, True), (0.5, 0.2, False), (0.4, None, False)],
)
def test_a_ranking_that_is_noise(store: Store, tau: float, low: float | None, said: bool) -> None:
    told = {"tau": tau, "low": low, "high": None if low is None else 0.9, "count": 12}
    job = add_job(store, (0.99, 0.001), tau=told)
    assert ranking(store, job) is not None
    found = cautions(store, job)
    assert len(found) == said
    assert all("the subnets is noise" in one for one in found)


def test_a_job_without_results_has_no_cautions(store: Store) -> None:
    job = store.create_job("new", config={}, seed=0, provenance={})
    assert (cautions(store, job), baseline(store, job), best_finalist(store, job)) == ((), None, None)


def test_the_front_has_them_and_of_several_jobs_with_their_names(store: Store) -> None:
    bad, good = add_job(store, (0.9, 0.02)), add_job(store, (0.99, 0.001))
    data = front(store, bad).to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["cautions"] == list(cautions(store, bad))
    assert data["front"][0]["quality"]["balanced_accuracy"] == 0.45
    assert "cautions" not in front(store, good).to_dict()
    assert [one.split(":")[0] for one in front(store, [good, bad]).cautions] == [bad.name]

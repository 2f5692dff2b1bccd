"""Whether a front is good enough: what counts as measured, which subnet is best, which came closest."""

import pytest
from made_fronts import add_job

from nas.analysis.gate import Gate, gate
from nas.errors import ConflictError
from nas.limits import Limit
from nas.store import Job, Store
from search_spaces.errors import NotFoundError, UsageError


def asked(store: Store, job: Job, *limits: str, device: str | None = None) -> Gate:
    return gate(store, job, list(map(Limit.parse, limits)), device=device)


def test_the_best_that_keeps_all_limits_passes(store: Store) -> None:
    job = add_job(store, "a")  # 1 ms 0.5, 2 ms 0.8, 4 ms 0.79, 8 ms 0.9
    passed = asked(store, job, "accuracy>=0.6", "latency_ms<=4")
    assert (passed.passed, passed.best and passed.best.subnet, passed.closest) == (True, "a1", None)
    assert passed.sentence == "Subnet a1 of 'a' keeps accuracy>=0.6 and latency_ms<=4."
    data = passed.to_dict()
    assert (data["passed"], data["best"]["subnet"], data["closest"], data["device"]) == (
        True,
        "a1",
        None,
        "cpu",
    )


def test_else_the_closest_is_told_with_what_it_misses(store: Store) -> None:
    judged = asked(store, add_job(store, "a"), "accuracy>=0.88", "latency_ms<=3.2")
    # Off by shares of the limits: a0 0.43, a1 0.09, a2 0.10 + 0.25, a3 1.5.
    assert (judged.passed, judged.closest and judged.closest.subnet) == (False, "a1")
    assert judged.sentence == (
        "No measured subnet of 'a' keeps accuracy>=0.88 and latency_ms<=3.2: the closest, a1, has "
        "accuracy 0.8 (8 points too little)."
    )
    assert asked(store, store.job("a"), "accuracy>=0.9", "latency_ms<=0.0078125").sentence.endswith(
        "a0, has accuracy 0.5 (40 points too little) and latency_ms 1 (12,700 % too much)."
    )


def test_a_prediction_is_no_measurement(store: Store) -> None:
    job = add_job(store, "a", timed=False)
    judged = asked(store, job, "latency_ms<=100")
    assert (judged.passed, judged.closest) == (False, None)
    assert "was measured of none" in judged.sentence
    assert asked(store, job, "predicted_ms<=100").passed
    assert asked(store, job, "accuracy>=0.9").passed


def test_what_cannot_be_judged_is_an_error(store: Store) -> None:
    job = add_job(store, "a")
    with pytest.raises(UsageError, match="needs a limit"):
        asked(store, job)
    with pytest.raises(UsageError, match="latency_ms@pi' is not known"):
        asked(store, job, "latency_ms@pi<=1")
    with pytest.raises(UsageError, match="balanced_accuracy"):
        asked(store, job, "balanced_accuracy>=0.1")
    with pytest.raises(NotFoundError, match="measured on 'pi'"):
        asked(store, job, "latency_ms<=1", device="pi")
    with pytest.raises(ConflictError, match="not finished"):
        asked(store, store.create_job("new", config={}, seed=0, provenance={}), "accuracy>=0.1")

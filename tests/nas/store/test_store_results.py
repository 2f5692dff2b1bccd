import math

import numpy as np
import pytest

from nas.store import Lease, NewEvaluation, NewEvent, NewSubnet, Store
from nas.store.subnets import subnet_ids
from predictors.measurement.labels import Failure, Measurement
from search_spaces.errors import NotFoundError, UsageError


@pytest.fixture
def store(any_url):
    with Store.open(any_url) as opened:
        yield opened


@pytest.fixture
def lease(store):
    with store.acquire(store.create_job("job", config={}, seed=0, provenance={})) as held:
        yield held


def subnet(n, macs=10):
    return NewSubnet(f"{n:012x}", {"depth": n, "mlp_ratio": [1, 2]}, 100 + n, macs)


def add_subnets(lease, subnets):
    with lease.write() as connection:
        return subnet_ids(connection, lease.job.id, subnets)


def test_subnets_are_added_once(store, lease):
    first = add_subnets(lease, [subnet(1), subnet(2), subnet(1)])
    second = add_subnets(lease, [subnet(2), subnet(3)])
    assert first.keys() == {subnet(1).key, subnet(2).key}
    assert second[subnet(2).key] == first[subnet(2).key]
    assert [row.params for row in store.subnets(lease.job)] == [101, 102, 103]
    assert store.subnets(lease.job)[0].architecture == {"depth": 1, "mlp_ratio": [1, 2]}
    assert add_subnets(lease, []) == {}


def test_more_subnets_than_one_query_names(store, lease):
    assert len(add_subnets(lease, [subnet(n, macs=3 * 10**12) for n in range(2_500)])) == 2_500
    assert store.subnets(lease.job)[-1].macs == 3 * 10**12


def test_the_same_architecture_in_two_jobs_is_two_subnets(store, lease):
    other = store.create_job("other", config={}, seed=0, provenance={})
    add_subnets(lease, [subnet(1)])
    with store.acquire(other) as second:
        add_subnets(second, [subnet(1)])
    assert store.subnets(other)[0].id != store.subnets(lease.job)[0].id


def test_a_subnet_is_found_by_the_beginning_of_its_key(store, lease):
    keys = ["abc123", "abd456", "ab"]
    add_subnets(lease, [NewSubnet(key, {}, 1, 1) for key in keys])
    assert store.subnet(lease.job, "abc").key == "abc123"
    assert store.subnet(lease.job, "ab").key == "ab"
    with pytest.raises(UsageError, match="Several subnets") as caught:
        store.subnet(lease.job, "a")
    assert "abc123" in caught.value.hint
    for wrong in ("", "%", "_", "x", "ABC", "'", "\0", "\ud800"):
        with pytest.raises(NotFoundError):
            store.subnet(lease.job, wrong)


def test_a_batch_of_evaluations_comes_back_by_position(store, lease):
    told = {"accuracy": 0.9, "latency_ms": np.float64(1.5)}
    batch = [
        NewEvaluation(subnet(n), n / 10, stderr=0.01, count=360, batch=0, position=n, objectives=told)
        for n in (2, 0, 1)
    ]
    store.add_evaluations(lease, batch)
    store.add_evaluations(lease, [NewEvaluation(subnet(2), 0.21, split="report", count=500)])
    found = store.evaluations(lease.job)
    assert [(e.split, e.position, e.value) for e in found] == [
        ("search", 0, 0.0),
        ("search", 1, 0.1),
        ("search", 2, 0.2),
        ("report", None, 0.21),
    ]
    assert found[0].objectives == {"accuracy": 0.9, "latency_ms": 1.5}
    assert (found[0].subnet.key, found[0].state, found[0].metric) == (subnet(0).key, "ok", "accuracy")
    assert (found[0].weights, found[0].stderr, found[0].count, found[0].reason) == (
        "inherited",
        0.01,
        360,
        None,
    )
    assert [e.split for e in store.evaluations(lease.job, "report")] == ["report"]


def test_what_was_evaluated_stays_as_it_is(store, lease):
    store.add_evaluations(lease, [NewEvaluation(subnet(1), 0.5, position=0)])
    store.add_evaluations(lease, [NewEvaluation(subnet(k), 0.7, position=k) for k in (1, 2)])
    assert [(e.position, e.value) for e in store.evaluations(lease.job)] == [(0, 0.5), (2, 0.7)]


def test_a_batch_takes_the_place_of_what_was_told_before(store, lease):
    hits = {subnet(n).key: np.arange(4) < n for n in (1, 2)}
    first = [NewEvaluation(subnet(n), n / 4, count=4, batch=0, position=n) for n in (1, 2)]
    store.add_evaluations(lease, [*first, NewEvaluation(subnet(1), 0.9, split="report")], hits)
    more = {subnet(1).key: np.ones(8, dtype=bool)}
    store.replace_evaluations(lease, [NewEvaluation(subnet(1), 1.0, count=8, batch=0, position=1)], more)
    told = [(e.subnet.key, e.value, e.count) for e in store.evaluations(lease.job, "search")]
    assert told == [(subnet(1).key, 1.0, 8), (subnet(2).key, 0.5, 4)]
    assert [e.value for e in store.evaluations(lease.job, "report")] == [0.9]
    kept = store.hits(lease.job, "search")
    assert {key: seen.tolist() for key, seen in kept.items()} == {
        subnet(1).key: [True] * 8,
        subnet(2).key: [True, True, False, False],
    }


def test_a_batch_is_written_whole_or_not_at_all(store, lease):
    broken = NewEvaluation(NewSubnet("b", {}, 1, 1), 0.5, split=None)
    with pytest.raises(Exception, match=r"(?i)not.null"):
        store.add_evaluations(lease, [NewEvaluation(subnet(1), 0.5), broken])
    assert store.evaluations(lease.job) == []
    assert store.subnets(lease.job) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_value_that_is_no_number_is_a_failed_evaluation(store, lease, value):
    store.add_evaluations(lease, [NewEvaluation(subnet(1), value, stderr=math.nan)])
    store.add_evaluations(lease, [NewEvaluation(subnet(2), value, reason="out of memory")])
    first, second = store.evaluations(lease.job)
    assert (first.state, first.value, first.stderr) == ("failed", None, None)
    assert first.reason.startswith("accuracy is ")
    assert second.reason == "out of memory"


def test_an_objective_that_is_no_number_fails_the_evaluation(store, lease):
    told = {"latency_ms": math.inf, "params": 3}
    store.add_evaluations(lease, [NewEvaluation(subnet(1), 0.5, objectives=told)])
    (found,) = store.evaluations(lease.job)
    assert (found.state, found.value, found.reason) == ("failed", None, "latency_ms is inf")
    assert found.objectives == {"latency_ms": None, "params": 3}


def test_measurements_are_kept_once_for_each_purpose(store, lease):
    device = store.register_device("cpu", {"threads": 2})

    def add(purpose, latency_ms):
        rows = [[0.0, math.nan]]
        timed = Measurement(latency_ms, math.nan, reference_ms=2.0, rounds=9, raw=rows, contention=1.1)
        store.add_measurements(lease, [(subnet(1), timed)], device_id=device.id, purpose=purpose)

    add("sample", 1.0), add("finalist", 1.1)
    add("sample", 9.0)
    assert [m.result.latency_ms for m in store.measurements(lease.job)] == [1.0, 1.1]
    (found,) = store.measurements(lease.job, "finalist")
    kept = Measurement(1.1, reference_ms=2.0, rounds=9, raw=[[0.0, None]], contention=1.1)
    assert found.result == kept
    assert found.subnet.key == subnet(1).key
    assert (found.device_id, found.purpose) == (device.id, "finalist")


def test_what_the_measuring_code_returns_is_what_the_store_takes_and_returns(store, lease):
    device = store.register_device("cpu", {"threads": 2})
    raw = [[0, 0, 0.002, None, 0.001, None, 0.0011, None, 1], [1, 0, 0.003, 0.001, 0.1, 0.1, 0.1, 0.1, 2]]
    told = [Measurement(1.5, 0.2, 0.1, 3.0, 2, raw, 1.2, 5 * 2**30, 2.5), Failure("out of memory", raw[:1])]
    batch = [(subnet(i), result) for i, result in enumerate(told)]
    store.add_measurements(lease, batch, device_id=device.id, purpose="sample")
    assert [row.result for row in store.measurements(lease.job)] == told[:1]
    assert [row.result for row in store.failures(lease.job)] == told[1:]


def test_a_measurement_that_failed_is_a_row_with_a_reason(store, lease):
    device = store.register_device("cpu", {"threads": 2})
    batch = [(subnet(1), Failure("out of memory")), (subnet(2), Measurement(math.nan))]
    store.add_measurements(lease, batch, device_id=device.id, purpose="sample")
    assert store.measurements(lease.job) == []
    first, second = store.failures(lease.job, "sample")
    assert (first.result, second.result) == (Failure("out of memory"), Failure("its latency is nan"))
    with store.read() as connection:
        told = connection.exec_driver_sql("SELECT state, latency_ms, rounds FROM measurements ORDER BY id")
        assert [tuple(row) for row in told] == [("failed", None, 0)] * 2


def test_a_failed_measurement_gives_way_to_the_next_attempt_and_a_good_one_stays(store, lease):
    device, other = (store.register_device("cpu", {"threads": n}) for n in (1, 2))

    def add(result, device):
        store.add_measurements(lease, [(subnet(1), result)], device_id=device.id, purpose="sample")

    failed, good = Failure("out of memory"), Measurement(1.5, stderr_ms=0.1, peak_memory_bytes=5 * 2**30)
    add(failed, device), add(Failure("no such operator"), other)
    add(good, device)
    (found,) = store.measurements(lease.job)
    assert found.result == good
    assert [m.result.reason for m in store.failures(lease.job)] == ["no such operator"]
    add(failed, device)
    assert store.measurements(lease.job) == [found]


def test_a_predictor_takes_the_place_of_the_one_before(store, lease):
    device, other = (store.register_device("cpu", {"threads": n}) for n in (1, 2))
    assert store.predictor(lease.job) is None
    assert store.predictor(lease.job, other.id) is None
    store.put_predictor(lease, device_id=device.id, kind="linear", state={"w": [1.0]}, score={"r2": 0.5})
    store.put_predictor(lease, device_id=device.id, kind="linear", state={"w": [2.0]}, score={"r2": 0.9})
    found = store.predictor(lease.job, device.id)
    assert (found.state, found.score, found.kind, found.metric) == (
        {"w": [2.0]},
        {"r2": 0.9},
        "linear",
        "latency_ms",
    )
    store.put_predictor(lease, device_id=other.id, kind="linear", state={}, score={})
    assert store.predictor(lease.job) == found
    assert store.predictor(lease.job, metric="energy_mj") is None


def test_events_with_a_step_are_kept_once_and_logs_always(store, lease):
    store.add_events(lease, [NewEvent("train", {"loss": 1.0}, stage="train", step=1)])
    again = [NewEvent("train", {"loss": math.nan}, stage="train", step=n) for n in (1, 2)]
    store.add_events(lease, again)
    store.add_events(lease, [NewEvent("log", {"text": "same"}), NewEvent("log", {"text": "same"})])
    assert [(e.step, e.data) for e in store.events(lease.job, "train")] == [
        (1, {"loss": 1.0}),
        (2, {"loss": None}),
    ]
    assert len(store.events(lease.job, "log")) == 2
    assert len(store.events(lease.job)) == 4


def test_what_jobs_have_searched_is_read_without_repeats(store: Store) -> None:
    jobs = [store.create_job(name, config={}, seed=0, provenance={}) for name in "ab"]
    for job, count in zip(jobs, (100, 300), strict=True):
        with store.acquire(job) as lease:
            subnets = [NewSubnet(key, {"width": len(key)}, 1, 2) for key in ("x", "yy", f"only-{job.name}")]
            rows = [NewEvaluation(s, 0.5 + count / 1e4, stderr=0.1, count=count, position=0) for s in subnets]
            rows += [NewEvaluation(NewSubnet("failed", {}, 1, 1), None, position=3)]
            rows += [NewEvaluation(subnets[0], 0.9, split="report")]
            store.add_evaluations(lease, rows)
            lease.finish("succeeded")
    searched = store.searched([job.id for job in jobs], "accuracy")
    told = zip(searched.examples, searched.quality.tolist(), strict=True)
    assert dict(zip(searched.keys, told, strict=True)) == {
        "x": (300, 0.53),
        "yy": (300, 0.53),
        "only-a": (100, 0.51),
        "only-b": (300, 0.53),
    }
    assert len(searched) == 4
    assert len(store.searched([jobs[0].id], "balanced_accuracy")) == 0
    some = searched.at([searched.keys.index(key) for key in ("yy", "x")])
    assert (some.keys, some.examples, some.macs.tolist()) == (["yy", "x"], [300, 300], [2, 2])
    ids = some.ids
    assert store.architectures(ids) == [{"width": 2}, {"width": 1}]
    assert store.evaluation_count(jobs[0]) == 4


def test_the_last_event_of_a_kind(store: Store, lease: Lease) -> None:
    assert store.last_event(lease.job, "train") is None
    store.add_events(lease, [NewEvent(kind, {"n": n}, step=n) for n in (1, 2) for kind in ("train", "log")])
    last = store.last_event(lease.job, "train")
    assert last is not None
    assert last.data == {"n": 2}

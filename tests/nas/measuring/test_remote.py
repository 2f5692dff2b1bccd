"""Jobs that are measured by an agent: what comes back, who waits for whom, what stops and what fails."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import search_spaces
from nas.config import checked_config
from nas.errors import ConflictError, JobFailedError
from nas.job_run import Run
from nas.measuring import agent, remote, requests, subnets
from nas.measuring.answers import plain_answer
from nas.measuring.remote import RemoteDevice
from nas.measuring.requests import Plan
from nas.progress import Silent
from nas.store import Lease, Store, leases
from predictors.measurement.rounds import Failure, Measurement
from search_spaces import SearchSpace
from tests import made_device

OPTIONS = {"backend": made_device.BACKEND, "threads": 1, "batch": 2, "precision": "fp32"}
FINGERPRINT = made_device.build(name="pi", batch=2).fingerprint()
SPACE = {"image_size": (8, 8), "in_chans": 1, "num_classes": 10, "embed_dim": (8, 16), "depth": (1, 2)}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(agent, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(agent, "CHECK_SECONDS", 0.0)


@pytest.fixture
def store(any_url_slowly: str) -> Iterator[Store]:
    with Store.open(any_url_slowly) as opened:
        yield opened


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return search_spaces.get("matformer", patch_size=4, head_dim=8, num_heads=(1, 2), **SPACE)


def request(space: SearchSpace, count: int = 3) -> dict[str, Any]:
    return requests.request_for(plan(space, count))


def plan(space: SearchSpace, count: int = 3) -> Plan:
    archs = {arch.key: arch for arch in space.uniform(count)}
    return Plan(space, archs, seed=0, rounds=2, max_rounds=2, reference_ms=None)


def device(store: Store) -> RemoteDevice:
    found = store.agent("pi")
    assert found is not None
    return RemoteDevice("pi", "pi", found.device)


def known_agent(store: Store) -> RemoteDevice:
    """The device of an agent that has left."""
    with store.acquire_agent("pi", FINGERPRINT, OPTIONS):
        pass
    return device(store)


@contextmanager
def serving(url: str, **options: Any) -> Iterator[list[str]]:
    """An agent that measures what is queued until the context ends; what it told."""
    told: list[str] = []
    stop = threading.Event()

    def serve() -> None:
        with Store.open(url) as opened:
            while not stop.is_set():
                agent.serve(opened, "pi", OPTIONS | options, once=True, tell=told.append)
                time.sleep(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield told
    finally:
        stop.set()
        thread.join()


def measured(store: Store, lease: Lease, asked: dict[str, Any], check_stop: Any = lambda: None) -> Any:
    warnings: list[str] = []
    found = remote.measure(store, lease, device(store), asked, warn=warnings.append, check_stop=check_stop)
    return found, warnings


def test_an_agent_measures_what_this_host_would(store: Store, lease: Lease, space: SearchSpace) -> None:
    known_agent(store)
    asked = request(space)
    assert json.loads(json.dumps(asked)) == json.loads(json.dumps(request(space)))
    with serving(store.url):
        found, _ = measured(store, lease, asked)
    assert found == requests.measured(made_device.build(name="here", batch=2), plan(space))
    assert list(found) == [arch.key for arch in space.uniform(3)]
    assert all(isinstance(m, Measurement) and len(m.raw) == m.rounds for m in found.values())
    assert [m.peak_memory_bytes for m in found.values()] == [
        4 * space.cost(arch).params for arch in space.uniform(3)
    ]


def test_a_result_is_a_row_and_a_failure_is_one_too(store: Store, lease: Lease, space: SearchSpace) -> None:
    results = requests.measured(made_device.build(name="here", batch=2), plan(space, 2))
    one, two = space.uniform(2)
    results[two.key] = Failure("out of memory")
    row = store.register_device("here", FINGERPRINT)
    batch = [(subnets.subnet_row(space, arch), results[arch.key]) for arch in (one, two)]
    store.add_measurements(lease, batch, device_id=row.id, purpose="sample")
    (good,) = store.measurements(lease.job)
    (bad,) = store.failures(lease.job)
    assert (good.subnet.key, good.result) == (one.key, results[one.key])
    assert (bad.subnet.key, bad.result) == (two.key, Failure("out of memory"))


def test_a_job_tells_once_that_it_waits_and_again_when_the_agent_vanishes(
    store: Store, lease: Lease, space: SearchSpace
) -> None:
    known_agent(store)
    steps = iter(range(100))
    held: list[Any] = []

    def check_stop() -> None:
        step = next(steps)
        if step == 3:
            held.append(store.acquire_agent("pi", FINGERPRINT, OPTIONS))
        if step == 6:
            with held[0]:
                pass
        if step == 9:
            with store.acquire_agent("pi", FINGERPRINT, OPTIONS) as last:
                taken = store.take_request(last)
                assert taken is not None
                results = requests.measured(made_device.build(name="here", batch=2), plan(space))
                taken.finish(plain_answer(device(store).row.id, results))

    found, warnings = measured(store, lease, request(space), check_stop)
    assert len(found) == 3
    assert warnings == ["Waiting for device 'pi': no agent 'pi' is running."] * 2


def test_a_job_that_stops_takes_its_request_along(store: Store, lease: Lease, space: SearchSpace) -> None:
    known_agent(store)

    def check_stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(store, lease, request(space), check_stop)
    assert [r.state for r in store.requests(lease.job)] == ["cancelled"]


def test_an_agent_drops_a_request_that_was_cancelled_and_lives_on(
    store: Store, lease: Lease, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_agent(store)
    first = store.add_request(lease, "pi", request(space))

    def cancelling(taken: Any, stop: threading.Event) -> Callable[[int, int], None]:
        watch = original(taken, stop)

        def progress(done: int, total: int) -> None:
            if taken.request.id == first.id and done == 2:
                store.cancel_request(lease, first)
            watch(done, total)

        return progress

    original = agent._watch
    monkeypatch.setattr(agent, "_watch", cancelling)
    second = store.add_request(lease, "pi", request(space, 2))
    told: list[str] = []
    assert agent.serve(store, "pi", OPTIONS, once=True, tell=told.append) == 1
    assert [store.request(r.id).state for r in (first, second)] == ["cancelled", "done"]
    assert f"Request {first.id}: cancelled." in told


def test_a_process_that_lost_the_job_leaves_the_request_to_its_successor(
    store: Store, lease: Lease, space: SearchSpace
) -> None:
    known_agent(store)
    asked = request(space)

    def lose() -> None:
        with store.write() as connection:
            connection.exec_driver_sql("UPDATE jobs SET owner = 'other:1:0.0:x'")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(store, lease, asked, lose)
    (left,) = store.requests(lease.job)
    assert left.state == "queued"
    with store.write() as connection:
        connection.exec_driver_sql(f"UPDATE jobs SET owner = '{lease.owner}'")
    with serving(store.url):
        found, _ = measured(store, lease, asked)
    assert len(found) == 3
    assert [(r.id, r.state) for r in store.requests(lease.job)] == [(left.id, "done")]
    again = remote.submit(store, lease, device(store), asked)
    assert again.id == left.id
    assert remote.submit(store, lease, device(store), request(space, 2)).id != left.id


def test_a_request_is_the_same_when_only_the_clean_time_became_known(
    store: Store, lease: Lease, space: SearchSpace
) -> None:
    there = known_agent(store)
    first = remote.submit(store, lease, there, request(space))
    assert remote.submit(store, lease, there, request(space) | {"reference_ms": 1.5}).id == first.id
    elsewhere = store.add_request(lease, "other", request(space))
    second = remote.submit(store, lease, there, request(space, 2))
    states = [store.request(r.id).state for r in (first, elsewhere, second)]
    assert states == ["cancelled", "queued", "queued"]


def test_what_has_failed_as_a_whole_is_asked_for_again(
    store: Store, lease: Lease, space: SearchSpace
) -> None:
    there = known_agent(store)
    asked = request(space, 1)
    first = remote.submit(store, lease, there, asked)
    with store.acquire_agent("pi", FINGERPRINT, OPTIONS) as held:
        taken = store.take_request(held)
        assert taken is not None
        taken.finish({"device_id": there.row.id, "subnets": {"k": {"reason": "out of memory"}}})
    assert remote.submit(store, lease, there, asked).id != first.id


def test_what_another_device_has_answered_is_asked_for_again(
    store: Store, lease: Lease, space: SearchSpace
) -> None:
    there = known_agent(store)
    asked = request(space, 1)
    first = remote.submit(store, lease, there, asked)
    with store.acquire_agent("pi", FINGERPRINT | {"speed": 2.0}, OPTIONS, replace=True) as held:
        taken = store.take_request(held)
        assert taken is not None
        taken.finish({"device_id": held.agent.device.id, "subnets": {"k": {"latency_ms": 1.0}}})
    with store.acquire_agent("pi", FINGERPRINT, OPTIONS, replace=True):
        assert remote.submit(store, lease, there, asked).id != first.id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"space": {"family": "nope", "options": {}}}, "nope"),
        ({"reference_ms": -1.0}, "-1.0 ms"),
        ({"archs": {"k": {"depth": 99}}}, "lacks a value"),
        ({"rounds": None}, "TypeError"),
    ],
)
def test_a_request_that_cannot_be_measured_fails_and_the_agent_lives_on(
    store: Store, lease: Lease, space: SearchSpace, change: dict[str, Any], reason: str
) -> None:
    known_agent(store)
    with serving(store.url) as told:
        with pytest.raises(JobFailedError, match="Device 'pi' could not measure: ") as caught:
            measured(store, lease, request(space, 1) | change)
        assert reason in caught.value.message
        assert len(measured(store, lease, request(space, 1))[0]) == 1
    assert any(line.startswith("Request 1: failed: ") for line in told)


def test_an_answer_from_another_device_is_refused(store: Store, lease: Lease, space: SearchSpace) -> None:
    there = known_agent(store)

    def replaced() -> None:
        with store.acquire_agent("pi", FINGERPRINT | {"speed": 2.0}, OPTIONS, replace=True) as held:
            if (taken := store.take_request(held)) is not None:
                taken.finish({"device_id": held.agent.device.id, "subnets": {}})

    words = r"another device by now: speed was 1\.0 and is 2\.0\."
    with pytest.raises(JobFailedError, match=words):
        remote.measure(store, lease, there, request(space, 1), warn=lambda _: None, check_stop=replaced)
    assert [r.state for r in store.requests(lease.job)] == ["done"]
    with pytest.raises(JobFailedError, match=words):
        remote.measure(store, lease, there, request(space, 2), warn=lambda _: None, check_stop=replaced)
    assert len(store.requests(lease.job)) == 1


def test_a_request_that_three_agents_died_of_fails_the_wait(
    store: Store, lease: Lease, space: SearchSpace
) -> None:
    known_agent(store)

    def check_stop() -> None:
        with store.write() as connection:
            connection.exec_driver_sql(
                "UPDATE requests SET state = 'running', attempt = 3, owner = 'far:1:0.0:x', lease_until = 1.0"
                " WHERE state = 'queued'"
            )

    with pytest.raises(JobFailedError, match="3 processes of agent 'pi' ended"):
        measured(store, lease, request(space, 1), check_stop)


def test_an_agent_that_is_told_to_leave_gives_its_request_back(
    store: Store, lease: Lease, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = store.add_request(lease, "pi", request(space))
    stop = threading.Event()

    @contextmanager
    def graceful_stop(**_: Any) -> Iterator[threading.Event]:
        yield stop

    def leave(taken: Any, event: threading.Event) -> Callable[[int, int], None]:
        stop.set()
        return original(taken, event)

    original = agent._watch
    monkeypatch.setattr(agent, "graceful_stop", graceful_stop)
    monkeypatch.setattr(agent, "_watch", leave)
    assert agent.serve(store, "pi", OPTIONS, tell=lambda _: None) == 0
    now = store.request(waiting.id)
    assert (now.state, now.attempt, now.live) == ("queued", 0, False)
    found = store.agent("pi")
    assert found is not None
    assert not found.live


def test_an_agent_whose_name_was_taken_leaves(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)

    def take_name(text: str) -> None:
        with store.write() as connection:
            connection.exec_driver_sql("UPDATE agents SET owner = 'other:1:0.0:x'")

    with pytest.raises(ConflictError, match="taken over the name of agent 'pi'"):
        agent.serve(store, "pi", OPTIONS, tell=take_name)


def test_a_stage_measures_on_an_agent_as_it_does_here(store: Store, lease: Lease, space: SearchSpace) -> None:
    there = known_agent(store)
    config = checked_config(
        {"devices": {"pi": {"backend": "remote"}}, "predictor": {"rounds": 2, "max_rounds": 2}}, where="x"
    )
    run = Run(store, lease, config, Silent(), threading.Event())
    target = subnets.build_device(run, "pi")
    assert target == there
    assert (there.batch, there.fingerprint()) == (2, FINGERPRINT)
    with serving(store.url):
        found = subnets.measure(run, space, target, there.row, space.uniform(3), purpose="sample")
        assert subnets.measure(run, space, target, there.row, space.uniform(3), purpose="sample") == found
    rows = store.measurements(lease.job, "sample")
    assert [m.result.latency_ms for m in rows] == list(found.values())
    assert {m.device_id for m in rows} == {there.row.id}
    assert store.reference(there.row.id) == rows[0].result.reference_ms
    assert len(store.requests(lease.job)) == 1

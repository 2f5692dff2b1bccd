"""Answers of agents that cannot be: refused with a reason, asked for again, failed rows in the end.

Some are no JSON, which no server lets into a column: SQLite does, and is what all of them are tried on.
"""

import json
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import sqlalchemy as sa

import search_spaces
from nas.errors import JobFailedError
from nas.job_run import subnet_row
from nas.measuring import answers, remote, requests
from nas.measuring.answers import BadAnswerError, checked_answer, is_useful, plain_answer, salvaged
from nas.measuring.remote import RemoteDevice
from nas.store import Lease, Store
from nas.store import tables as t
from predictors.measurement.rounds import Failure, Measurement
from search_spaces import SearchSpace
from tests import made_device

OPTIONS = {"backend": made_device.BACKEND, "threads": 1, "batch": 2, "precision": "fp32"}
FINGERPRINT = made_device.build(name="pi", batch=2).fingerprint()
DEVICE = 7
NAN, HUGE = math.nan, 10**400


def space() -> SearchSpace:
    return search_spaces.get(
        "matformer", image_size=(8, 8), in_chans=1, num_classes=10, patch_size=4, head_dim=8,
        embed_dim=(8, 16), depth=(1, 2), num_heads=(1, 2),
    )  # fmt: skip


def plan() -> requests.Plan:
    archs = {arch.key: arch for arch in space().uniform(3)}
    return requests.Plan(space(), archs, seed=0, rounds=2, max_rounds=2, reference_ms=None)


def request() -> dict[str, Any]:
    return requests.request_for(plan())


def measured() -> requests.Results:
    return requests.measured(made_device.build(name="pi", batch=2), plan())


def good(device_id: int = DEVICE) -> dict[str, Any]:
    """As an agent of this version answers, after its way through JSON."""
    return dict(json.loads(json.dumps(plain_answer(device_id, measured()))))


Change = Callable[[dict[str, Any], str], object]


def of(name: str, value: object) -> Change:
    """One field of one network."""
    return lambda answer, key: answer["subnets"][key].__setitem__(name, value)


def of_row(column: int, value: object) -> Change:
    return lambda answer, key: answer["subnets"][key]["raw"][0].__setitem__(column, value)


NUMBERS = (NAN, math.inf, -1.0, 1e308, HUGE, -HUGE, True, "1.5", None, [1.0], {"ms": 1.0})
CHANGES: list[Change] = [
    *(of(name, value) for name in ("latency_ms", "reference_ms") for value in (0, *NUMBERS)),
    *(of(name, value) for name in ("spread_ms", "stderr_ms", "contention", "rounds") for value in NUMBERS),
    *(of("peak_memory_bytes", value) for value in NUMBERS if value is not None),
    *(of("energy_mj", value) for value in (0, *NUMBERS) if value is not None),
    *(of("raw", value) for value in (None, [], "raw", [[1.0]], [[[1.0]] * 9] * 4, {"a": 1})),
    *(of_row(2, value) for value in (0, 5e-324, *NUMBERS)),
    *(of_row(4, value) for value in (5e-324, 1e7)),
    of("reference_ms", 5e-324),
    *(of("rounds", value) for value in (0, 2**63, 4.0, "4")),
    *(
        of("raw", value)
        for value in ([None] * 4, ["row"] * 4, [[NAN] * 9] * 4, [["1.0"] * 9] * 4, [[[]] * 9] * 4)
    ),
    *(of("latency_ms", json.loads("[" * depth + "]" * depth)) for depth in (1, 400)),
    of("reason", None),
    of("reason", ["it broke"]),
    lambda answer, key: answer["subnets"].__setitem__(key, json.dumps(answer["subnets"][key])),
    lambda answer, key: answer["subnets"].__setitem__(key, {}),
    lambda answer, key: answer["subnets"].__setitem__(key, "\ud800"),
    lambda answer, key: answer["subnets"].__setitem__(key.upper(), answer["subnets"].pop(key)),
    lambda answer, key: answer["subnets"][key].__setitem__("\ud800" * 100_000, 1),
    lambda answer, key: answer["subnets"].__setitem__("x" * 10_000_000, answer["subnets"][key]),
    lambda answer, key: answer.__setitem__(
        "subnets", [[one, told] for one, told in answer["subnets"].items()]
    ),
    lambda answer, key: answer.__setitem__("subnets", json.dumps(answer["subnets"])),
    lambda answer, key: answer.__setitem__("device_id", str(DEVICE)),
    lambda answer, key: answer.__setitem__("device_id", None),
    *(of_row(4, value) for value in (0, NAN, None, "x")),
    *(of_row(8, value) for value in (0, NAN, None)),
    of("extras_failure", 3),
    of("surprise", 1.0),
    of("reason", 5),
    lambda answer, key: answer["subnets"][key].pop("spread_ms"),
    lambda answer, key: answer["subnets"][key].pop("raw"),
    lambda answer, key: answer["subnets"][key]["raw"].pop(),
    lambda answer, key: answer["subnets"].pop(key),
    lambda answer, key: answer["subnets"].clear(),
    lambda answer, key: answer["subnets"].__setitem__("\ud800unknown", answer["subnets"][key]),
    lambda answer, key: answer["subnets"].__setitem__(key, [answer["subnets"][key]]),
    lambda answer, key: answer["subnets"].__setitem__(key, None),
    lambda answer, key: answer.__setitem__("subnets", []),
    lambda answer, key: answer.__setitem__("device_id", DEVICE + 1),
    lambda answer, key: answer.__setitem__("device_id", True),
    lambda answer, key: answer.__setitem__("device_id", HUGE),
    lambda answer, key: answer.pop("device_id"),
    lambda answer, key: answer.__setitem__("version", 2),
]


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    return good()


def test_a_good_answer_is_taken_as_it_is(answer: dict[str, Any]) -> None:
    asked = list(request()["archs"])
    found = checked_answer(answer, asked=asked, device_id=DEVICE)
    assert found == measured()
    assert is_useful(answer, asked=asked, device_id=DEVICE)
    answer = json.loads(json.dumps(answer))
    answer["subnets"][asked[0]] = {"reason": "it broke", "raw": []}
    assert checked_answer(answer, asked=asked, device_id=DEVICE)[asked[0]] == Failure("it broke")


def test_every_field_of_the_records_is_checked() -> None:
    for checked, record in ((answers._Measured, Measurement), (answers._Failed, Failure)):
        assert set(checked.model_fields) == {field.name for field in fields(record)}


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_an_answer_that_cannot_be_is_refused_with_a_reason(answer: dict[str, Any], number: int) -> None:
    asked, changed = list(request()["archs"]), json.loads(json.dumps(answer))
    CHANGES[number](changed, asked[1])
    with pytest.raises(BadAnswerError) as caught:
        checked_answer(changed, asked=asked, device_id=DEVICE)
    reason = str(caught.value)
    reason.encode()  # a terminal and a database can take it
    assert 10 < len(reason) <= 600
    assert not is_useful(changed, asked=asked, device_id=DEVICE)
    found = salvaged(changed, asked=asked, device_id=DEVICE)
    assert list(found) == asked
    assert isinstance(found[asked[1]], Failure)


@pytest.mark.parametrize("answer", [None, [], "x", 3, NAN, {}, [[{}]], {"subnets": {}}])
def test_an_answer_of_another_kind_is_refused(answer: object) -> None:
    with pytest.raises(BadAnswerError):
        checked_answer(answer, asked=["a"], device_id=DEVICE)
    assert isinstance(salvaged(answer, asked=["a"], device_id=DEVICE)["a"], Failure)


def answering(store: Store, name: str, answers: list[object]) -> Callable[[], None]:
    """Somebody's agent: while a job waits it answers what it is asked with these, one after the other."""

    def check_stop() -> None:
        with store.acquire_agent(name, FINGERPRINT, OPTIONS) as held:
            if answers and (taken := store.take_request(held)) is not None:
                taken.finish({})
                with store.write() as connection:  # what no column of ours would let pass
                    text = json.dumps(answers.pop(0))
                    connection.execute(
                        sa.text("UPDATE requests SET result = :text WHERE id = :id"),
                        {"text": text, "id": taken.request.id},
                    )

    return check_stop


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.001)


def device(store: Store) -> RemoteDevice:
    with store.acquire_agent("pi", FINGERPRINT, OPTIONS) as held:
        return RemoteDevice("pi", "pi", held.agent.device)


def bad(device_id: int) -> dict[str, Any]:
    answer = good(device_id)
    next(iter(answer["subnets"].values()))["latency_ms"] = NAN
    return answer


def test_a_bad_answer_goes_back_and_is_asked_for_again(store: Store, lease: Lease) -> None:
    there, warnings = device(store), list[str]()
    answers: list[object] = [bad(there.row.id), [], good(there.row.id)]
    found = remote.measure(
        store, lease, there, request(), warn=warnings.append, check_stop=answering(store, "pi", answers)
    )
    assert all(isinstance(result, Measurement) for result in found.values())
    (asked,) = store.requests(lease.job)
    assert (asked.state, asked.attempt) == ("done", 3)
    told = [line for line in warnings if "bad answer" in line]
    assert len(told) == 2
    assert "latency_ms" in told[0]


def test_after_the_last_attempt_what_is_bad_has_failed_and_is_asked_for_when_the_job_goes_on(
    store: Store, lease: Lease
) -> None:
    there = device(store)
    answers: list[object] = [bad(there.row.id) for _ in range(3)]
    found = remote.measure(
        store, lease, there, request(), warn=lambda _: None, check_stop=answering(store, "pi", answers)
    )
    first, *others = found.values()
    assert isinstance(first, Failure)
    assert "latency_ms" in first.reason
    assert all(isinstance(result, Measurement) for result in others)
    (asked,) = store.requests(lease.job)
    assert (asked.state, asked.attempt) == ("failed", 3)
    assert "latency_ms" in (asked.error or "")
    assert remote.submit(store, lease, there, request()).id != asked.id


def test_another_agent_of_the_same_device_is_asked_next(store: Store, lease: Lease) -> None:
    there = device(store)
    first = answering(store, "pi", [bad(there.row.id)])
    with store.acquire_agent("pi-2", FINGERPRINT, OPTIONS) as second:

        def check_stop() -> None:
            first()
            if (taken := store.take_request(second)) is not None:
                taken.finish(good(there.row.id))

        found = remote.measure(store, lease, there, request(), warn=lambda _: None, check_stop=check_stop)
    assert all(isinstance(result, Measurement) for result in found.values())
    (asked,) = store.requests(lease.job)
    assert (asked.agent, asked.attempt) == ("pi-2", 2)
    assert remote.submit(store, lease, there, request()).id == asked.id


def test_an_older_answer_that_cannot_be_is_asked_for_again(store: Store, lease: Lease) -> None:
    there = device(store)
    asked = store.add_request(lease, "pi", request())
    answering(store, "pi", [bad(there.row.id)])()
    assert store.request(asked.id).state == "done"
    assert remote.submit(store, lease, there, request()).id != asked.id


def test_an_answer_of_a_device_that_is_not_there_is_refused_and_one_of_a_replaced_agent_ends_the_job(
    store: Store, lease: Lease
) -> None:
    there = device(store)
    answers: list[object] = [good(999), good(there.row.id)]
    found = remote.measure(
        store, lease, there, request(), warn=lambda _: None, check_stop=answering(store, "pi", answers)
    )
    assert len(found) == 3

    def replaced() -> None:
        with store.acquire_agent("pi", FINGERPRINT | {"speed": 2.0}, OPTIONS, replace=True) as held:
            if (taken := store.take_request(held)) is not None:
                taken.finish(good(held.agent.device.id))

    with pytest.raises(JobFailedError, match="another device by now"):
        remote.measure(store, lease, there, request() | {"seed": 1}, warn=lambda _: None, check_stop=replaced)


@pytest.mark.parametrize("latency", [-1.0, 0.0, 1e308])
def test_a_stored_latency_that_cannot_be_counts_as_not_measured_and_gives_way(
    store: Store, lease: Lease, latency: float
) -> None:
    subnet = subnet_row(space(), space().smallest)
    row = store.register_device("pi", FINGERPRINT)
    timed = next(iter(measured().values()))
    store.add_measurements(lease, [(subnet, timed)], device_id=row.id, purpose="sample")
    with store.write() as connection:
        connection.execute(sa.update(t.measurements).values(latency_ms=latency))
        connection.execute(sa.update(t.devices).values(reference_ms=latency))
    assert store.measurements(lease.job) == []
    assert store.failures(lease.job) == []
    assert store.reference(row.id) is None
    assert store.set_reference(row.id, 2.0) == 2.0
    store.add_measurements(lease, [(subnet, timed)], device_id=row.id, purpose="sample")
    assert [m.result for m in store.measurements(lease.job)] == [timed]


TEXTS = [
    "no JSON",
    "",
    "null",
    "[" * 100_000,
    "[" * 900 + "]" * 900,
    "1" * 10_000,
    '"' + "x" * 10_000_000 + '"',
    json.dumps(json.dumps({"device_id": 1, "subnets": {}})),
    '{"device_id": 1, "device_id": 1, "subnets": {}, "subnets": {}}',
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_result_that_cannot_be_read_is_refused_and_asked_for_again(
    store: Store, lease: Lease, text: str
) -> None:
    there, warnings, told = device(store), list[str](), 0

    def check_stop() -> None:
        nonlocal told
        told += 1
        with store.acquire_agent("pi", FINGERPRINT, OPTIONS) as held:
            if (taken := store.take_request(held)) is not None:
                taken.finish(good(there.row.id))
                if told < 2:
                    with store.write() as connection:
                        connection.execute(sa.text("UPDATE requests SET result = :text"), {"text": text})

    found = remote.measure(store, lease, there, request(), warn=warnings.append, check_stop=check_stop)
    assert all(isinstance(result, Measurement) for result in found.values())
    assert len([line for line in warnings if "bad answer" in line]) == 1
    assert max(map(len, warnings)) < 1000


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_request_that_somebody_spoilt_is_no_obstacle_when_the_job_goes_on(
    store: Store, lease: Lease, text: str
) -> None:
    there = device(store)
    spoilt = store.add_request(lease, "pi", request())
    with store.write() as connection:
        connection.execute(sa.text("UPDATE requests SET payload = :text"), {"text": text})
    again = remote.submit(store, lease, there, request())
    assert again.id != spoilt.id
    assert store.request(spoilt.id).state == "cancelled"
    assert again.payload == json.loads(json.dumps(request()))


def test_over_what_processes_hung_is_told_to_the_next_agent(store: Store, lease: Lease) -> None:
    there, (first, second, _) = device(store), request()["archs"]
    with store.acquire_agent("pi", FINGERPRINT, OPTIONS) as held:
        store.add_request(lease, "pi", request())
        for subnet in (first, second, first):
            taken = store.take_request(held)
            assert taken is not None
            taken.hung_over(subnet)
    (asked,) = store.requests(lease.job)
    assert remote.submit(store, lease, there, request()).id == asked.id
    other = remote.submit(store, lease, there, request() | {"seed": 1})
    assert sorted(other.payload["hung"]) == sorted([first, first, second])
    third = remote.submit(store, lease, there, request() | {"seed": 2})
    assert sorted(third.payload["hung"]) == sorted([first, first, second])


def test_a_long_remark_of_an_agent_is_cut(answer: dict[str, Any]) -> None:
    asked, changed = list(request()["archs"]), json.loads(json.dumps(answer))
    changed["subnets"][asked[0]]["extras_failure"] = "x" * 10_000_000
    changed["subnets"][asked[1]] = {"reason": "y" * 10_000_000}
    found = checked_answer(changed, asked=asked, device_id=DEVICE)
    assert len(found[asked[0]].extras_failure or "") <= 500  # type: ignore[union-attr]
    assert len(found[asked[1]].reason) <= 500  # type: ignore[union-attr]

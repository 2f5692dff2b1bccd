"""What an agent does while the store does not answer."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa

from nas import watchdog
from nas.errors import ConflictError, StoreError
from nas.measuring import agent
from nas.measuring.agent import patiently
from nas.measuring.remote import RemoteDevice
from nas.measuring.requests import WORN_OUT, Results
from nas.measuring.targets import registered
from nas.store import Lease, Store
from predictors.measurement.labels import Failure
from predictors.measurement.session import Within
from search_spaces.errors import NASError
from tests import made_device


@pytest.fixture
def store(any_url_slowly: str) -> Iterator[Store]:
    with Store.open(any_url_slowly) as opened:
        yield opened


def spoil(store: Store, statement: str, text: str) -> None:
    """Writes a text past every rule; what is no JSON only SQLite takes."""
    with store.write() as connection:
        if connection.dialect.name != "sqlite":
            try:
                json.loads(text)
            except ValueError:
                pytest.skip("a server refuses what is no JSON")
            except RecursionError:
                pytest.skip("a server refuses what is nested without end")
        connection.execute(sa.text(statement), {"text": text})


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(agent, "LONGEST_WAIT_SECONDS", 0.004)


def failing(times: int, error: Exception, after: Callable[[int], None] = lambda _: None) -> Callable[[], str]:
    """An attempt that fails some times; `after` is told the number of each failure."""
    failures = 0

    def attempt() -> str:
        nonlocal failures
        if failures < times:
            failures += 1
            after(failures)
            raise error
        return f"after {failures}"

    return attempt


def test_a_store_that_comes_back_is_waited_for() -> None:
    told: list[str] = []
    lost = StoreError("The connection is lost.")
    assert patiently(failing(4, lost), threading.Event(), told.append) == "after 4"
    waits = [0.001, 0.002, 0.004, 0.004]
    assert told == [f"The connection is lost. Trying again in {wait:.3g} s." for wait in waits]


def test_an_agent_that_has_to_leave_tries_once_more_and_then_gives_up() -> None:
    stop = threading.Event()
    lost = StoreError("The connection is lost.")
    with pytest.raises(StoreError):
        patiently(failing(9, lost, lambda count: stop.set() if count == 3 else None), stop, lambda _: None)
    assert patiently(failing(0, lost), stop, lambda _: None) == "after 0"


def test_a_lost_lease_is_no_hiccup() -> None:
    with pytest.raises(ConflictError):
        patiently(failing(1, ConflictError("Taken over.")), threading.Event(), lambda _: None)


OPTIONS = {"backend": made_device.BACKEND, "threads": 1, "batch": 2, "precision": "fp32"}


def hang(*_: Any, within: Within, **__: Any) -> None:
    with within("Subnet x", 0.2):
        time.sleep(1000.0)


def hang_for_good(*_: Any, within: Within, **about: Any) -> None:
    """For a second, that is, whatever is raised in it."""
    end = time.monotonic() + 1.0
    with within("Subnet x", 0.2, **about):
        while time.monotonic() < end:
            with suppress(BaseException):
                time.sleep(end - time.monotonic())
    raise KeyboardInterrupt


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("measuring", [hang, hang_for_good])
def test_a_measurement_that_hangs_fails_or_is_given_back(
    store: Store, lease: Lease, monkeypatch: pytest.MonkeyPatch, stopped: bool, measuring: Callable[..., None]
) -> None:
    monkeypatch.setattr(agent, "plan_of", dict)
    monkeypatch.setattr(agent, "measured", measuring)
    for name, seconds in {"GRACE": 0.05, "LAST": 0.4, "RETURN": 0.2, "TICK": 0.02}.items():
        monkeypatch.setattr(watchdog, f"{name}_SECONDS", seconds)
    if stopped:
        monkeypatch.setattr(watchdog, "RETURN_SECONDS", 1000.0)
    asked = store.add_request(lease, "pi", {"archs": {"x": {}}})
    ended: list[NASError | None] = []

    def tell(text: str) -> None:
        if stopped and text.startswith("Request") and "subnets" in text:
            os.kill(os.getpid(), signal.SIGTERM)

    with suppress(KeyboardInterrupt):
        agent.serve(store, "pi", OPTIONS, once=True, tell=tell, end=ended.append)
    now = store.request(asked.id)
    if measuring is hang:
        assert ended == []
        assert (now.state, now.attempt) == (("queued", 0) if stopped else ("failed", 1))
    else:
        assert ended
        assert (ended[0] is None) == stopped
        assert (now.state, now.attempt) == ("queued", 0 if stopped else 1)


def quick_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"GRACE": 0.05, "LAST": 0.4, "RETURN": 0.2, "TICK": 0.02}.items():
        monkeypatch.setattr(watchdog, f"{name}_SECONDS", seconds)


def test_a_subnet_over_which_processes_hang_for_good_is_given_up_and_the_others_are_measured(
    store: Store, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_watchdog(monkeypatch)
    tried: list[list[str]] = []

    def measured(_: Any, plan: Any, progress: Any, *, within: Within) -> Results:
        tried.append(list(plan["archs"]))
        if "x" in plan["archs"]:
            hang_for_good(within=within, subnet="x")
        return {"y": Failure("as measured")}

    monkeypatch.setattr(agent, "plan_of", dict)
    monkeypatch.setattr(agent, "measured", measured)
    asked = store.add_request(lease, "pi", {"archs": {"x": {}, "y": {}}})
    for hung in (1, 2, 3):
        with suppress(KeyboardInterrupt):
            agent.serve(store, "pi", OPTIONS, once=True, tell=lambda _: None, end=lambda _: None)
        now = store.request(asked.id)
        assert (now.state, now.attempt, now.payload["hung"]) == ("queued", 0, ["x"] * hung)
    assert agent.serve(store, "pi", OPTIONS, once=True, tell=lambda _: None) == 1
    now = store.request(asked.id)
    assert tried == [["x", "y"]] * 3 + [["y"]]
    assert now.state == "done"
    assert now.result is not None
    assert now.result["subnets"]["x"]["reason"] == WORN_OUT
    assert now.result["subnets"]["y"]["reason"] == "as measured"


UNREADABLE = ["[]", "null", "3", '"text"', "no JSON", "[" * 100_000, "1" * 10_000, "[" * 900 + "]" * 900]
PAYLOADS = [
    *UNREADABLE,
    "{}",
    '{"archs": [1]}',
    '{"archs": null}',
    '{"archs": {"x": 1}}',
    '{"archs": {"x": {}}, "space": 1}',
    '{"hung": 3, "archs": {"x": {}}}',
]
ROWS = [*UNREADABLE, '{"backend": 3}', '{"batch": "x"}']


@pytest.mark.parametrize("text", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_request_that_somebody_spoilt_fails_and_the_agent_lives_on(
    store: Store, lease: Lease, text: str
) -> None:
    asked = store.add_request(lease, "pi", {"archs": {"x": {}}})
    spoil(store, "UPDATE requests SET payload = :text", text)
    assert agent.serve(store, "pi", OPTIONS, once=True, tell=lambda _: None) == 0
    now = store.request(asked.id)
    assert now.state == "failed"
    assert now.error


@pytest.mark.parametrize("column", ["fingerprint", "options"])
@pytest.mark.parametrize("text", ROWS, ids=range(len(ROWS)))
def test_a_device_row_that_somebody_spoilt_ends_nothing_with_an_internal_error(
    store: Store, column: str, text: str
) -> None:
    with store.acquire_agent("pi", {"backend": "a", "batch": 2}, OPTIONS):
        pass
    spoil(store, f"UPDATE devices SET {column} = :text", text)
    row = store.devices()[0]
    with suppress(NASError):
        assert RemoteDevice("pi", "pi", row).batch == 2
    with suppress(NASError):
        registered(store, "pi")
    with suppress(NASError), store.acquire_agent("pi", {"backend": "a", "batch": 2}, OPTIONS):
        pass
    with store.acquire_agent("pi", {"backend": "a", "batch": 2}, OPTIONS, replace=True) as held:
        assert held.agent.device.id == row.id

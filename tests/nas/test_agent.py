"""What an agent does while the store does not answer."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from nas import agent
from nas.agent import _patiently
from nas.stages import _watchdog
from nas.store import Lease, Store
from predictors._session import Within
from search_spaces._errors import ConflictError, NASError, StoreError
from tests import made_device


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
    assert _patiently(failing(4, lost), threading.Event(), told.append) == "after 4"
    waits = [0.001, 0.002, 0.004, 0.004]
    assert told == [f"The connection is lost. Trying again in {wait:.3g} s." for wait in waits]


def test_an_agent_that_has_to_leave_tries_once_more_and_then_gives_up() -> None:
    stop = threading.Event()
    lost = StoreError("The connection is lost.")
    with pytest.raises(StoreError):
        _patiently(failing(9, lost, lambda count: stop.set() if count == 3 else None), stop, lambda _: None)
    assert _patiently(failing(0, lost), stop, lambda _: None) == "after 0"


def test_a_lost_lease_is_no_hiccup() -> None:
    with pytest.raises(ConflictError):
        _patiently(failing(1, ConflictError("Taken over.")), threading.Event(), lambda _: None)


OPTIONS = {"backend": made_device.BACKEND, "threads": 1, "batch": 2, "precision": "fp32"}


def hang(*_: Any, within: Within, **__: Any) -> None:
    with within("Subnet x", 0.2):
        time.sleep(1000.0)


def hang_for_good(*_: Any, within: Within, **__: Any) -> None:
    """For a second, that is, whatever is raised in it."""
    end = time.monotonic() + 1.0
    with within("Subnet x", 0.2):
        while time.monotonic() < end:
            with suppress(BaseException):
                time.sleep(end - time.monotonic())
    raise KeyboardInterrupt


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("measuring", [hang, hang_for_good])
def test_a_measurement_that_hangs_fails_or_is_given_back(
    store: Store, lease: Lease, monkeypatch: pytest.MonkeyPatch, stopped: bool, measuring: Callable[..., None]
) -> None:
    monkeypatch.setattr(agent, "execute", measuring)
    for name, seconds in {"GRACE": 0.05, "LAST": 0.4, "RETURN": 0.2, "TICK": 0.02}.items():
        monkeypatch.setattr(_watchdog, f"{name}_SECONDS", seconds)
    if stopped:
        monkeypatch.setattr(_watchdog, "RETURN_SECONDS", 1000.0)
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

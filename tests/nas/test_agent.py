"""What an agent does while the store does not answer."""

import threading
from collections.abc import Callable

import pytest

from nas import agent
from nas.agent import _patiently
from search_spaces._errors import ConflictError, StoreError


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

"""An agent: a process on a device's host that measures what jobs elsewhere ask of its name."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from nas.errors import StoreError
from nas.measuring.answers import plain_answer
from nas.measuring.requests import (
    WORN_OUT,
    Results,
    build_device,
    measured,
    plan_of,
    subnets_of,
    worn_out,
)
from nas.store import Patience, Request, RequestLease, Store, hung
from nas.watchdog import HungError, Leave, OverdueError, graceful_stop, within
from predictors.devices import Device
from predictors.measurement.rounds import Failure
from search_spaces.errors import NASError
from search_spaces.registry import allow

T = TypeVar("T")

POLL_SECONDS = 1.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0  # while the store does not answer
PATIENCE_SECONDS = 600.0  # of the store itself, for a server that is restarted
CHECK_SECONDS = 1.0  # between two looks whether a request that is being measured was cancelled


def serve(
    store: Store,
    name: str,
    options: Mapping[str, Any],
    *,
    once: bool = False,
    replace: bool = False,
    tell: Callable[[str], None],
    end: Leave | None = None,
) -> int:
    """Measures requests until SIGTERM or Ctrl-C; what is not finished then is queued again.

    Returns how many requests were measured.
    options: `backend`, and what its `build` takes.  once: leaves when nothing is queued.
    replace: the name may have stood for another device.  tell: told about every request.
    end: ends the process when a measurement hangs so that it cannot even be interrupted; the request is
    queued again then, as often as a request may be begun with.
    Raises ConflictError for a name that a live agent has, or that stood for a device with another
    fingerprint.
    """
    allow([str(options.get("backend", ""))])
    device, count = build_device(name, options), 0
    lease = store.acquire_agent(name, device.fingerprint(), options, replace=replace)
    working: list[RequestLease] = []
    with (
        graceful_stop(leave=partial(_leave, working), end=end) as stop,
        store.patient(Patience(PATIENCE_SECONDS, stop, tell)),
        lease as agent,
    ):
        tell(f"Agent '{name}' measures with {options['backend']} for the jobs in this store.")
        while not stop.is_set():
            request = patiently(lambda: store.take_request(agent), stop, tell)
            if request is not None:
                working[:] = [request]
                state = _answer(store, request, agent.agent.device.id, device, stop, tell)
                working.clear()
                count += state == "done"
            elif once:
                break
            else:
                stop.wait(POLL_SECONDS)
    return count


def _answer(
    store: Store,
    taken: RequestLease,
    device_id: int,
    device: Device,
    stop: threading.Event,
    tell: Callable[[str], None],
) -> str:
    """Measures one request; its state then. Whatever is wrong with it, the agent lives on."""
    number = taken.request.id
    try:
        with taken:
            tell(f"Request {number}: {len(subnets_of(taken.request.payload))} subnets.")
            results = _measured(device, taken.request, _watch(taken, stop))
            patiently(lambda: taken.finish(plain_answer(device_id, results)), stop, tell)
    except StoreError:
        raise
    except (Exception, _StoppedError, OverdueError):
        pass  # the lease has written how it ended
    after = patiently(lambda: store.request(number), stop, tell)
    tell(f"Request {number}: {after.state}{f': {after.error}' if after.error else ''}.")
    return after.state


def _measured(device: Device, request: Request, progress: Callable[[int, int], None]) -> Results:
    """What the subnets came to, without a try at those over which processes hung again and again."""
    over, archs = worn_out(hung(request)), request.payload["archs"]
    rest = {key: arch for key, arch in archs.items() if key not in over}
    results: Results = {key: Failure(WORN_OUT) for key in archs if key in over}
    if not rest:
        return results
    plan = plan_of({**request.payload, "archs": rest})
    return measured(device, plan, progress, within=within) | results


def _leave(working: Sequence[RequestLease], error: NASError | None) -> None:
    """Gives back what is being measured: when a stop was asked for as if nobody had begun with it."""
    for taken in working:
        subnet = error.about.get("subnet") if isinstance(error, HungError) else None
        if subnet is not None:
            taken.hung_over(subnet)
        else:
            taken.give_back(begun=error is not None)


def patiently(attempt: Callable[[], T], stop: threading.Event, tell: Callable[[str], None]) -> T:
    """What the attempt returns; while the store does not answer it is made again, ever more seldom.

    What was measured is kept meanwhile. Raises StoreError once the agent has to leave.
    """
    wait = FIRST_WAIT_SECONDS
    while True:
        leaving = stop.is_set()
        try:
            return attempt()
        except StoreError as error:
            if leaving:
                raise
            tell(f"{error.message} Trying again in {wait:.3g} s.")
        stop.wait(wait)
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


class _StoppedError(BaseException):
    """The agent has to leave; no `except Exception` on the way may keep it."""


def _watch(taken: RequestLease, stop: threading.Event) -> Callable[[int, int], None]:
    """Progress of a measurement that ends when the agent has to leave or the request is no longer ours."""
    checked = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal checked
        if stop.is_set():
            raise _StoppedError
        if time.monotonic() - checked > CHECK_SECONDS:
            checked = time.monotonic()
            with suppress(StoreError):  # it is asked again soon, and the measurement is worth more
                taken.check()

    return progress

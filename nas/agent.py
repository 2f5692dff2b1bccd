"""An agent: a process on a device's host that measures what jobs elsewhere ask of its name."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from nas.measuring import build_device, execute
from nas.stages._run import graceful_stop
from nas.store import RequestLease, Store
from predictors.devices import Device
from search_spaces._errors import StoreError

POLL_SECONDS = 1.0
CHECK_SECONDS = 1.0  # between two looks whether a request that is being measured was cancelled


def serve(
    store: Store,
    name: str,
    options: Mapping[str, Any],
    *,
    once: bool = False,
    replace: bool = False,
    tell: Callable[[str], None],
) -> int:
    """Measures requests until SIGTERM or Ctrl-C; what is not finished then is queued again.

    Returns how many requests were measured.
    options: `backend`, and what its `build` takes.  once: leaves when nothing is queued.
    replace: the name may have stood for another device.  tell: told about every request.
    Raises ConflictError for a name that a live agent has, or that stood for a device with another
    fingerprint.
    """
    device, measured = build_device(name, options), 0
    lease = store.acquire_agent(name, device.fingerprint(), options, replace=replace)
    with lease as agent, graceful_stop() as stop:
        tell(f"Agent '{name}' measures with {options['backend']} for the jobs in this store.")
        while not stop.is_set():
            request = store.take_request(agent)
            if request is not None:
                state = _answer(store, request, agent.agent.device.id, device, stop, tell)
                measured += state == "done"
            elif once:
                break
            else:
                stop.wait(POLL_SECONDS)
    return measured


def _answer(
    store: Store,
    taken: RequestLease,
    device_id: int,
    device: Device,
    stop: threading.Event,
    tell: Callable[[str], None],
) -> str:
    """Measures one request; its state then. Whatever is wrong with it, the agent lives on."""
    number, payload = taken.request.id, taken.request.payload
    tell(f"Request {number}: {len(payload.get('archs') or ())} subnets.")
    try:
        with taken:
            subnets = execute(device, payload, _watch(taken, stop))
            taken.finish({"device_id": device_id, "subnets": subnets})
    except StoreError:
        raise
    except (Exception, _StoppedError):
        pass  # the lease has written how it ended
    after = store.request(number)
    tell(f"Request {number}: {after.state}{f': {after.error}' if after.error else ''}.")
    return after.state


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
            taken.check()

    return progress

"""Measuring on another host: the job leaves a request in the store and waits for an agent's answer."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nas.measuring import Results, results
from nas.store import Device as DeviceRow
from nas.store import Lease, Request, Store, changes, digest
from predictors.devices import JSON
from search_spaces._errors import ConflictError, JobFailedError, StoreError

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class RemoteDevice:
    """The device of an agent, as the store knows it; only the agent can time on it."""

    name: str
    agent: str
    row: DeviceRow

    @property
    def batch(self) -> int:
        """Samples in one forward pass."""
        return int((self.row.options or {})["batch"])

    def fingerprint(self) -> dict[str, JSON]:
        """As the agent told it."""
        return self.row.fingerprint


def measure(
    store: Store,
    lease: Lease,
    device: RemoteDevice,
    request: Mapping[str, Any],
    *,
    warn: Callable[[str], None],
    check_stop: Callable[[], None],
) -> Results:
    """Has a request of the job measured by the device's agent, however long that takes.

    warn: told when nobody is there to measure.  check_stop: may raise to stop; the request is cancelled then.
    Raises JobFailedError when the agent could not measure, or stands for another device by now.
    """
    submitted = submit(store, lease, device, request)
    try:
        return wait(store, device, submitted, warn=warn, check_stop=check_stop)
    except BaseException:
        # A process that has lost the job must not take the request from the one that has it now.
        with suppress(ConflictError, StoreError):
            store.cancel_request(lease, submitted)
        raise


def submit(store: Store, lease: Lease, device: RemoteDevice, request: Mapping[str, Any]) -> Request:
    """A new request of the job, or the same one that an interrupted run of the job has left.

    What else the job has left waiting for the agent is cancelled. Raises JobFailedError when the agent stands
    for another device by now.
    """
    if (agent := store.agent(device.agent)) is not None:
        _check_same(device, agent.device)
    asked = [earlier for earlier in store.requests(lease.job) if earlier.agent == device.agent]
    for earlier in reversed(asked):
        if _matter(earlier.payload) == _matter(request) and _useful(device, earlier):
            return earlier
    for earlier in asked:
        store.cancel_request(lease, earlier)
    return store.add_request(lease, device.agent, request)


def wait(
    store: Store,
    device: RemoteDevice,
    submitted: Request,
    *,
    warn: Callable[[str], None],
    check_stop: Callable[[], None],
) -> Results:
    """The results of a request. Tells once when no agent is there, and again when one has vanished."""
    told = False
    while True:
        now = store.request(submitted.id)
        if now.state == "done":
            return _answer(store, device, now)
        if now.state in ("failed", "cancelled"):
            reason = (now.error or "the request was cancelled").rstrip(".")
            raise JobFailedError(f"Device '{device.name}' could not measure: {reason}.")
        agent = store.agent(device.agent)
        live = agent is not None and agent.live
        if not live and not told:
            warn(f"Waiting for device '{device.name}': no agent '{device.agent}' is running.")
        told = not live
        if now.state == "running" and not now.live:
            store.fail_abandoned(device.agent)
        check_stop()
        time.sleep(POLL_SECONDS)


def _answer(store: Store, device: RemoteDevice, request: Request) -> Results:
    result = request.result or {}
    _check_same(device, next(row for row in store.devices() if row.id == result["device_id"]))
    return results(result["subnets"])


def _check_same(device: RemoteDevice, now: DeviceRow) -> None:
    if now.id != device.row.id:
        raise JobFailedError(
            f"Agent '{device.agent}' stands for another device by now: "
            f"{changes(device.row.fingerprint, now.fingerprint)}.",
            "Let it measure on the device that this job began with, or start a new job.",
        )


def _matter(payload: Mapping[str, Any]) -> str:
    """What two requests for the same have in common; the clean time may be known to the later one only."""
    return digest({key: value for key, value in payload.items() if key != "reference_ms"})


def _useful(device: RemoteDevice, request: Request) -> bool:
    """Whether it is worth waiting for. Subnets that have all failed are asked for to be tried again, and so
    are those that the agent measured while it stood for another device.
    """
    if request.state == "done":
        result = request.result or {}
        some = any("latency_ms" in told for told in result["subnets"].values())
        return some and bool(result["device_id"] == device.row.id)
    return request.state in ("queued", "running")

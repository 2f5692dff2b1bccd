"""Measuring on another host: the job leaves a request in the store and waits for an agent's answer."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nas.errors import ConflictError, JobFailedError, StoreError
from nas.measuring.answers import BadAnswerError, checked_answer, is_useful, salvaged
from nas.measuring.requests import Results, subnets_of
from nas.store import HUNG, Lease, Request, Store, changes, digest, hung
from nas.store import Device as DeviceRow
from predictors.devices import JSON
from search_spaces.errors import UsageError

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class RemoteDevice:
    """The device of an agent, as the store knows it; only the agent can time on it."""

    name: str
    agent: str
    row: DeviceRow

    @property
    def batch(self) -> int:
        """Samples in one forward pass. Raises UsageError where the agent's row tells none."""
        batch = (self.row.options or {}).get("batch")
        if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
            raise UsageError(
                f"The store does not tell the batch of agent '{self.agent}'.",
                "Start it again: it says so then.",
            )
        return batch

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
        return wait(store, lease, device, submitted, warn=warn, check_stop=check_stop)
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
    ours = {device.agent} | {agent.name for agent in store.agents() if agent.device.id == device.row.id}
    theirs = [earlier for earlier in store.requests(lease.job) if earlier.agent in ours]
    asked = [earlier for earlier in theirs if _is_payload(earlier.payload)]
    for earlier in reversed(asked):
        if _matter(earlier.payload) == _matter(request) and _useful(device, earlier):
            return earlier
    for earlier in theirs:
        store.cancel_request(lease, earlier)
    if noted := _hung(asked, request):
        request = {**request, HUNG: noted}
    return store.add_request(lease, device.agent, request)


def wait(
    store: Store,
    lease: Lease,
    device: RemoteDevice,
    submitted: Request,
    *,
    warn: Callable[[str], None],
    check_stop: Callable[[], None],
) -> Results:
    """The results of a request. Tells once when no agent is there, and again when one has vanished.

    A bad answer goes back to the queue; after the last attempt its networks have failed.
    """
    has_warned, keys = False, _keys(submitted)
    while True:
        now = store.request(submitted.id)
        if now.state == "done":
            try:
                return _answer(store, device, now, keys)
            except BadAnswerError as error:
                warn(f"Device '{device.name}' gave a bad answer: {error}.")
                if store.refuse_answer(lease, now, _another(store, device, now), str(error)):
                    continue
                return salvaged(now.result, asked=keys, device_id=device.row.id)
        if now.state in ("failed", "cancelled"):
            reason = (now.error or "the request was cancelled").rstrip(".")
            raise JobFailedError(f"Device '{device.name}' could not measure: {reason}.")
        agent = store.agent(now.agent)
        live = agent is not None and agent.live
        if not live and not has_warned:
            warn(f"Waiting for device '{device.name}': no agent '{now.agent}' is running.")
        has_warned = not live
        if now.state == "running" and not now.live:
            store.fail_abandoned(now.agent)
        check_stop()
        time.sleep(POLL_SECONDS)


def _answer(store: Store, device: RemoteDevice, request: Request, keys: list[str]) -> Results:
    """Raises BadAnswerError, and JobFailedError when the agent stands for another device by now."""
    try:
        return checked_answer(request.result, asked=keys, device_id=device.row.id)
    except BadAnswerError:
        if (agent := store.agent(request.agent)) is not None:
            _check_same(device, agent.device)
        raise


def _keys(request: Request) -> list[str]:
    return list(request.payload["archs"])


def _another(store: Store, device: RemoteDevice, request: Request) -> str:
    """Who is asked next: another live agent of the same device, if there is one."""
    same = [agent.name for agent in store.agents() if agent.live and agent.device.id == device.row.id]
    return next((name for name in same if name != request.agent), request.agent)


def _check_same(device: RemoteDevice, now: DeviceRow) -> None:
    if now.id != device.row.id:
        raise JobFailedError(
            f"Agent '{device.agent}' stands for another device by now: "
            f"{changes(device.row.fingerprint, now.fingerprint)}.",
            "Let it measure on the device that this job began with, or start a new job.",
        )


def _is_payload(payload: Mapping[str, Any]) -> bool:
    """Whether it is as we write it; what is in the store may be anything."""
    try:
        return bool(subnets_of(payload) and _matter(payload))
    except (UsageError, RecursionError, ValueError):
        return False


def _matter(payload: Mapping[str, Any]) -> str:
    """What two requests for the same have in common; the clean time may be known to the later one only."""
    return digest({key: value for key, value in payload.items() if key not in ("reference_ms", HUNG)})


def _hung(asked: Iterable[Request], request: Mapping[str, Any]) -> list[str]:
    """The subnets over which processes hung, as earlier requests tell; each repeats those before it."""
    most: Counter[str] = Counter()
    for earlier in asked:
        most |= Counter(key for key in hung(earlier) if key in request["archs"])
    return list(most.elements())


def _useful(device: RemoteDevice, request: Request) -> bool:
    """Whether it is worth waiting for. Subnets that have all failed are asked for to be tried again, and so
    are bad answers and those that the agent measured while it stood for another device.
    """
    if request.state == "done":
        return is_useful(request.result, asked=_keys(request), device_id=device.row.id)
    return request.state in ("queued", "running")

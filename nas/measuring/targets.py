"""The devices that job files name: built here, taken by name from the store, or an agent's elsewhere."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, TypeAlias

from nas.config import REMOTE, STORED, DeviceConfig, JobConfig
from nas.errors import JobFailedError
from nas.measuring.remote import RemoteDevice
from nas.measuring.requests import build_device
from nas.store import Agent, Store, changes, digest, is_same
from predictors.devices import Device
from search_spaces import SearchSpace
from search_spaces.errors import NotFoundError, UsageError, did_you_mean
from search_spaces.registry import load, names, trusted

Target: TypeAlias = Device | RemoteDevice
BACKENDS = "predictors.devices"


def resolved(store: Store, config: JobConfig) -> JobConfig:
    """The config with the options of all its devices, as the store knows them.

    Raises UsageError for a device or an agent that the store does not know, an agent that does not run, a
    device that is no longer what it was when it was registered.
    """
    devices = {name: _resolved(store, name, device) for name, device in config.devices.items()}
    return config.model_copy(update={"devices": devices})


def target(store: Store, name: str, device: DeviceConfig) -> Target:
    """Where a job's device can be timed.

    Raises what `build_device` raises, UsageError for unknown agents, JobFailedError, saying what changed,
    when this is not the device that the job was made for.
    """
    if device.backend == STORED:
        return target(store, name, _resolved(store, name, device))
    built: Target
    if device.backend == REMOTE:
        agent = _agent(store, device.agent or name)
        built = RemoteDevice(name, agent.name, agent.device)
    else:
        built = build_device(name, {"backend": device.backend, **device.options})
    if changed := _changed(store, device.digest, built.fingerprint()):
        raise JobFailedError(
            f"The device '{name}' is not the one that this job was made for: {changed}.",
            "Run the job where that device is, or start a new one here.",
        )
    return built


def check_runs(store: Store, device: Target) -> None:
    """Raises UsageError for the device of an agent that does not run."""
    if isinstance(device, RemoteDevice):
        _check_live(store, device.name, _agent(store, device.agent))


def check_takes(space: SearchSpace, device: Target) -> None:
    """Raises UsageError for networks of the space that the device's backend, one of ours, does not run.

    Of an agent's device, or one that is known by its name, nobody has asked so when the job was made.
    """
    fingerprint = device.fingerprint()
    if fingerprint.get("backend") not in names(BACKENDS):
        return
    backend = load(BACKENDS, str(fingerprint["backend"]))
    if hasattr(backend, "check_space"):
        backend.check_space(space, name=device.name, precision=fingerprint.get("precision"))


def check_different(fingerprints: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UsageError when two devices of a job, by its names for them, have the same fingerprint."""
    for (other, one), (name, fingerprint) in combinations(fingerprints.items(), 2):
        if digest(one) == digest(fingerprint) or is_same(one, fingerprint):
            raise UsageError(
                f"The devices '{other}' and '{name}' are the same one: their latencies do not differ.",
                "Leave one of them out, or give it another precision, other threads or another batch.",
            )


def registered(store: Store, name: str) -> Target:
    """The device of this name: that of an agent, or else one that was registered here with its options.

    Raises NotFoundError for an unknown one, UsageError for one that is no longer what it was.
    """
    agent = store.agent(name)
    if agent is not None:
        return RemoteDevice(name, agent.name, agent.device)
    row = store.device(name)
    trusted((row.options or {}).get("backend", ""), where=f"The stored device '{name}'")
    device = build_device(name, row.options or {})
    changed = changes(row.fingerprint, device.fingerprint())
    if changed:
        raise UsageError(
            f"Device '{name}' is not what it was when it was registered: {changed}.",
            f"`nas devices add {name} ... --replace` registers it as it is now.",
        )
    return device


def _resolved(store: Store, name: str, device: DeviceConfig) -> DeviceConfig:
    if device.backend == STORED:
        if store.agent(name) is not None:
            return _of_agent(store, name, DeviceConfig(backend=REMOTE))
        try:
            registered(store, name)
            row = store.device(name)
            return _with((row.options or {}) | {"digest": row.digest})
        except NotFoundError as error:
            raise UsageError(f"devices.{name}: {error.message}", error.hint) from None
    return _of_agent(store, name, device) if device.backend == REMOTE else device


def _of_agent(store: Store, name: str, device: DeviceConfig) -> DeviceConfig:
    agent = _agent(store, device.agent or name)
    _check_live(store, f"devices.{name}", agent)
    if changed := _changed(store, device.digest, agent.device.fingerprint):
        raise UsageError(
            f"devices.{name}: agent '{agent.name}' stands for another device by now: {changed}.",
            "Leave the digest out to measure on the device that it has now.",
        )
    options = dict(agent.device.options or {})
    for key in device.model_fields_set - {"backend", "agent", "digest"} | set(device.extra):
        if device.options.get(key) != options.get(key):
            raise UsageError(
                f"devices.{name}.{key}: agent '{agent.name}' measures with {options.get(key)!r}, "
                f"not with {device.options.get(key)!r}.",
                "Leave it out: what an agent measures with is said where it is started.",
            )
    return _with(options | {"backend": REMOTE, "agent": agent.name, "digest": agent.device.digest})


def _check_live(store: Store, what: str, agent: Agent) -> None:
    if not agent.live:
        raise UsageError(
            f"{what}: agent '{agent.name}' does not run.",
            f"Start it on its machine: nas device-agent {agent.name} ... --store {store.url}",
        )


def _changed(store: Store, before: str | None, now: Mapping[str, Any]) -> str:
    """How a fingerprint differs from the one with the digest `before`; nothing for the same, or for None."""
    if before in (None, digest(now)):
        return ""
    # What was found out of it later belongs to the row, whose digest stays.
    fingerprints = [row.fingerprint for row in store.devices() if row.digest == before]
    return changes(fingerprints[0], now) if fingerprints else "that one is not in this store"


def _agent(store: Store, name: str) -> Agent:
    agent = store.agent(name)
    if agent is None:
        names = [agent.name for agent in store.agents()]
        raise UsageError(
            f"The store knows no agent '{name}'.",
            did_you_mean(name, names) or f"`nas device-agent {name}` on the device's machine makes it known.",
        )
    return agent


def _with(options: dict[str, Any]) -> DeviceConfig:
    return DeviceConfig.model_validate(options, strict=False)

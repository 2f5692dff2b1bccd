"""The devices that job files name: built here, taken by name from the store, or an agent's elsewhere."""

from typing import Any, TypeAlias

from nas.config import REMOTE, STORED, DeviceConfig, JobConfig
from nas.measuring import build_device
from nas.remote import RemoteDevice
from nas.store import Agent, Store, changes
from predictors.devices import Device
from search_spaces._errors import NotFoundError, UsageError, did_you_mean

Target: TypeAlias = Device | RemoteDevice


def resolved(store: Store, config: JobConfig) -> JobConfig:
    """The config with the options of all its devices, as the store knows them.

    Raises UsageError for a device or an agent that the store does not know, an agent that does not run, a
    device that is no longer what it was when it was registered.
    """
    devices = {name: _resolved(store, name, device) for name, device in config.devices.items()}
    return config.model_copy(update={"devices": devices})


def target(store: Store, name: str, device: DeviceConfig) -> Target:
    """Where a job's device can be timed. Raises what `build_device` raises, UsageError for unknown agents."""
    if device.backend == REMOTE:
        agent = _agent(store, device.agent or name)
        return RemoteDevice(name, agent.name, agent.device)
    if device.backend == STORED:
        return target(store, name, _resolved(store, name, device))
    return build_device(name, {"backend": device.backend, **device.options})


def registered(store: Store, name: str) -> Target:
    """The device of this name: that of an agent, or else one that was registered here with its options.

    Raises NotFoundError for an unknown one, UsageError for one that is no longer what it was.
    """
    agent = store.agent(name)
    if agent is not None:
        return RemoteDevice(name, agent.name, agent.device)
    row = store.device(name)
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
            return _with(store.device(name).options or {})
        except NotFoundError as error:
            raise UsageError(f"devices.{name}: {error.message}", error.hint) from None
    return _of_agent(store, name, device) if device.backend == REMOTE else device


def _of_agent(store: Store, name: str, device: DeviceConfig) -> DeviceConfig:
    agent = _agent(store, device.agent or name)
    if not agent.live:
        raise UsageError(
            f"devices.{name}: agent '{agent.name}' does not run.",
            f"Start it on its machine: nas device-agent {agent.name} ... --store {store.url}",
        )
    options = dict(agent.device.options or {})
    for key in device.model_fields_set - {"backend", "agent"} | set(device.extra):
        if device.options[key] != options.get(key):
            raise UsageError(
                f"devices.{name}.{key}: agent '{agent.name}' measures with {options.get(key)!r}, "
                f"not with {device.options[key]!r}.",
                "Leave it out: what an agent measures with is said where it is started.",
            )
    return _with(options | {"backend": REMOTE, "agent": agent.name})


def _agent(store: Store, name: str) -> Agent:
    agent = store.agent(name)
    if agent is None:
        known = [agent.name for agent in store.agents()]
        raise UsageError(
            f"The store knows no agent '{name}'.",
            did_you_mean(name, known) or f"`nas device-agent {name}` on the device's machine makes it known.",
        )
    return agent


def _with(options: dict[str, Any]) -> DeviceConfig:
    return DeviceConfig.model_validate(options, strict=False)

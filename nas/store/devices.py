"""Devices by their fingerprint, and the agents that measure on them for jobs elsewhere."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from nas.errors import ConflictError, StoreError
from nas.store import tables as t
from nas.store.connection.database import Database, fetch
from nas.store.connection.engine import database_seconds, insert_missing
from nas.store.connection.patience import again
from nas.store.leases import LEASE_SECONDS, RowLease, held, new_owner, unheld, whose
from nas.store.records import Agent, Device
from nas.store.values import (
    changes,
    checked_name,
    completed,
    digest,
    is_same,
    now,
    shared,
)
from predictors.measurement.plausibility import DAY_MS, is_time
from search_spaces.errors import NotFoundError, did_you_mean

AGENTS = sa.select(t.agents, database_seconds().label("now"))


class AgentLease(RowLease):
    """The right to measure under an agent's name; it is free again when the agent leaves."""

    def __init__(self, store: Database, agent: Agent, owner: str) -> None:
        super().__init__(store, t.agents, agent.id, owner)
        self.agent = agent

    @again
    def _left(self, error: BaseException | None) -> None:
        # The time stays, as it tells when the agent was seen last.
        with suppress(ConflictError, StoreError), self._store.write() as connection:
            self._guarded(connection, owner=None, lease_until=database_seconds() + LEASE_SECONDS)

    def _conflict(self) -> ConflictError:
        return ConflictError(f"Another process has taken over the name of agent '{self.agent.name}'.")


class Devices(Database):
    """The devices and agents of a store."""

    @again
    def register_device(
        self, name: str, fingerprint: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Device:
        """The device of this fingerprint; it is made, with this name, when there is none.

        options: what its backend's `build` was given, and `backend`. They name a device that had none, and
        make one of this name the one that the name stands for.
        """
        with self.write() as connection:
            return _registered(connection, name, fingerprint, options)

    @again
    def devices(self) -> list[Device]:
        """All devices, the oldest first."""
        with self.read() as connection:
            return fetch(connection, Device, sa.select(t.devices).order_by(t.devices.c.id))

    @again
    def device(self, name: str) -> Device:
        """The device that was registered last under this name with its options. Raises NotFoundError."""
        with self.read() as connection:
            device = _named(connection, name)
        if device is None:
            named = [device for device in self.devices() if device.options is not None]
            names = {device.name for device in named}
            hint = did_you_mean(name, names) or "`nas devices add NAME --backend BACKEND` registers one."
            raise NotFoundError(f"No device '{name[:60]}' is registered.", hint)
        return device

    @again
    def set_reference(self, device_id: int, reference_ms: float, *, replace: bool = False) -> float:
        """The clean time of the device's calibrator in ms: this one, if there is none or to `replace` it."""
        c = t.devices.c
        unknown = c.reference_ms.is_(None) | (c.reference_ms <= 0) | (c.reference_ms >= DAY_MS)
        which = (c.id == device_id) & (sa.true() if replace else unknown)
        with self.write() as connection:
            connection.execute(sa.update(t.devices).where(which).values(reference_ms=reference_ms))
            return float(connection.execute(sa.select(c.reference_ms).where(c.id == device_id)).scalar_one())

    @again
    def reference(self, device_id: int) -> float | None:
        """The clean time of the device's calibrator in ms; None until it was measured."""
        with self.read() as connection:
            reference_ms: float | None = connection.scalar(
                sa.select(t.devices.c.reference_ms).where(t.devices.c.id == device_id)
            )
        return reference_ms if is_time(reference_ms) else None

    @again
    def agents(self) -> list[Agent]:
        """All agents that were ever there, by name."""
        with self.read() as connection:
            rows = connection.execute(AGENTS.order_by(t.agents.c.name)).all()
            return [_agent(connection, row) for row in rows]

    def agent(self, name: str) -> Agent | None:
        """One agent, or None."""
        return next((agent for agent in self.agents() if agent.name == name), None)

    @again
    def acquire_agent(
        self,
        name: str,
        fingerprint: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        replace: bool = False,
    ) -> AgentLease:
        """Takes an agent's name for this process, and registers its device.

        Raises ConflictError while a live process has the name and, unless `replace`, when it stood for a
        device with another fingerprint: says what changed.
        """
        owner, c = new_owner(), t.agents.c
        with self.write() as connection:
            before = _one_agent(connection, checked_name(name, what="agent"))
            if before is not None:
                _check_agent(before, fingerprint, replace=replace)
            device = _registered(connection, name, fingerprint, options)
            insert_missing(connection, t.agents, [{"name": name, "device_id": device.id}])
            holder = connection.scalar(sa.select(c.owner).where(c.name == name))
            values = {"owner": owner, "device_id": device.id}
            mine = sa.update(t.agents).where((c.name == name) & unheld(t.agents, holder))
            lease_until = database_seconds() + LEASE_SECONDS
            if connection.execute(mine.values(values | {"lease_until": lease_until})).rowcount == 0:
                raise ConflictError(
                    f"An agent '{name}' runs already ({whose(holder)}).",
                    "End it first, or choose another name.",
                )
            after = _one_agent(connection, name)
        assert after is not None
        return AgentLease(self, after, owner)


def _check_agent(before: Agent, fingerprint: Mapping[str, Any], *, replace: bool) -> None:
    changed = changes(before.device.fingerprint, fingerprint)
    if replace or before.live or not changed:
        return
    raise ConflictError(
        f"Agent '{before.name}' stood for another device: {changed}.",
        "Measurements of the two do not compare: choose another name, or accept the change with --replace.",
    )


def _registered(
    connection: Connection, name: str, fingerprint: Mapping[str, Any], options: Mapping[str, Any] | None
) -> Device:
    c = t.devices.c
    checked_name(name, what="device")
    same = _same_device(connection, fingerprint)
    its_digest = digest(fingerprint) if same is None else same.digest
    before = None if options is None else _named(connection, name)
    moment = now()
    if before is not None and before.digest != its_digest:
        # Whatever the clocks of the hosts say, the last registration has the latest time.
        moment = max(moment, before.created_at + timedelta(microseconds=1))
    if same is None:
        row = {"name": name, "digest": its_digest, "fingerprint": fingerprint, "options": options}
        insert_missing(connection, t.devices, [{**row, "created_at": moment}])
    else:
        both = completed(same.fingerprint, fingerprint)
        connection.execute(sa.update(t.devices).where(c.id == same.id).values(fingerprint=both))
    if options is not None and (before is None or before.digest != its_digest):
        ours = (c.digest == its_digest) & (c.options.is_(None) | (c.name == name))
        values = {"name": name, "options": options, "created_at": moment}
        connection.execute(sa.update(t.devices).where(ours).values(values))
    return fetch(connection, Device, sa.select(t.devices).where(c.digest == its_digest))[0]


def _same_device(connection: Connection, fingerprint: Mapping[str, Any]) -> Device | None:
    """The device that the fingerprint is of, also when one of the two knows more than the other.

    Of several it is the one with which it shares most, or else the oldest.
    """
    devices = fetch(connection, Device, sa.select(t.devices).order_by(t.devices.c.id))
    exact = digest(fingerprint)
    for device in devices:
        if exact in (device.digest, digest(device.fingerprint)):
            return device
    like = [device for device in devices if is_same(device.fingerprint, fingerprint)]
    return max(like, key=lambda device: (shared(device.fingerprint, fingerprint), -device.id), default=None)


def _named(connection: Connection, name: str) -> Device | None:
    """The device that was registered last under a name with its options."""
    c = t.devices.c
    mine = sa.select(t.devices).where((c.name == name) & c.options.is_not(None))
    return next(iter(fetch(connection, Device, mine.order_by(c.created_at.desc(), c.id.desc()))), None)


def _one_agent(connection: Connection, name: str) -> Agent | None:
    row = connection.execute(AGENTS.where(t.agents.c.name == name)).first()
    return None if row is None else _agent(connection, row)


def _agent(connection: Connection, row: Row[Any]) -> Agent:
    device = fetch(connection, Device, sa.select(t.devices).where(t.devices.c.id == row.device_id))[0]
    live = held(row.owner, row.lease_until, row.now)
    seen = None if row.lease_until is None else datetime.fromtimestamp(row.lease_until - LEASE_SECONDS, UTC)
    return Agent(row.id, row.name, device, live, seen)

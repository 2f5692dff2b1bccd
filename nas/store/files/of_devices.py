"""Files of devices, `<root>/device-<id>-models-...`: named by rows that are written last, of no job."""

import hashlib
import uuid
from pathlib import Path

import sqlalchemy as sa

from nas.store import tables as t
from nas.store.connection.database import fetch
from nas.store.connection.patience import again
from nas.store.connection.rows import OF_DEVICE
from nas.store.files.places import Places
from nas.store.records import Artifact, Device
from nas.store.values import now


class DeviceFiles(Places):
    """The one file of each device: what was measured on it of models that no job searched for."""

    def device_file(self, device: Device) -> Path | None:
        """The device's file, checked; None where there is none. Raises DamagedError for another content."""
        rows = self._rows(device)
        return self.artifact_root.local(rows[-1]) if rows else None

    def put_device_file(self, device: Device, text: str) -> None:
        """A new file in place of the device's file; the old one goes when the new one is there."""
        root, name = self.own_root(), f"{_beginning(device)}{uuid.uuid4().hex}.json"
        before = self._rows(device)
        root.write(name, text)
        self._replace_rows(before, name, text.encode())
        for artifact in before:
            root.remove(artifact.path)

    @again
    def _rows(self, device: Device) -> list[Artifact]:
        c = t.artifacts.c
        mine = (c.kind == OF_DEVICE) & c.path.startswith(_beginning(device))
        with self.read() as connection:
            return fetch(connection, Artifact, sa.select(t.artifacts).where(mine).order_by(c.id))

    @again
    def _replace_rows(self, before: list[Artifact], name: str, content: bytes) -> None:
        c, values = t.artifacts.c, {"kind": OF_DEVICE, "path": name, "created_at": now()}
        values |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        with self.write() as connection:
            connection.execute(sa.delete(t.artifacts).where(c.id.in_([one.id for one in before])))
            connection.execute(sa.delete(t.artifacts).where((c.kind == OF_DEVICE) & (c.path == name)))
            connection.execute(sa.insert(t.artifacts).values(values))


def _beginning(device: Device) -> str:
    return f"device-{device.id}-models-"

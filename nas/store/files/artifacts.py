"""Files of jobs and supernets: `<root>/job-<id>/<kind>...`, each named by a row that is written last."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from nas.artifacts import crash_point, sha256
from nas.store import tables as t
from nas.store.connection.database import fetch
from nas.store.connection.patience import again
from nas.store.files.places import Places
from nas.store.files.remote import Remote
from nas.store.leases import RowLease
from nas.store.records import Artifact, Job
from nas.store.values import now
from search_spaces.errors import NotFoundError

_WORD = re.compile(r"[a-z][a-z0-9_-]{0,59}")
_SUFFIX = re.compile(r"\.[a-z0-9]{1,15}")


class Artifacts(Places):
    """The files of jobs and supernets. Who holds the lease of one writes to its folder."""

    def new_artifact_path(self, lease: RowLease, kind: str, suffix: str, *, step: int | None = None) -> Path:
        """A path for a file of the lease's holder that does not exist yet; its folder does.

        Never an old path again: a crash between overwriting a file and its row would leave a row that lies.
        """
        if not _WORD.fullmatch(kind) or not _SUFFIX.fullmatch(suffix):
            raise ValueError(f"not a kind and a suffix of a file: {kind!r}, {suffix!r}")
        base = kind if step is None else f"{kind}-{step:08d}"
        return self.own_root().draft(lease.folder, base, suffix)

    def add_artifact(self, lease: RowLease, kind: str, path: Path, *, step: int | None = None) -> Artifact:
        """Records a finished file with its hash and size, where all who see the store's files have it."""
        root = self.own_root()
        inner = root.inner(path)
        if not inner.startswith(f"{lease.folder}/") or not path.is_file():
            raise ValueError(f"not a file in the folder {lease.folder}: {path}")
        values = {"kind": kind, "sha256": sha256(path), "size": path.stat().st_size, "step": step}
        if isinstance(root, Remote):
            lease.check()  # before it is sent: what lies in a folder is at its place already
        root.put(path, inner)
        artifact = self._record(lease, inner, values)
        root.settle(path, artifact.sha256)
        return artifact

    @again
    def _record(self, lease: RowLease, inner: str, values: Mapping[str, Any]) -> Artifact:
        this = _owned_by(lease) & (t.artifacts.c.path == inner)
        with lease.write() as connection:
            if connection.execute(sa.update(t.artifacts).where(this).values(values)).rowcount == 0:
                new = {**lease.owns, "path": inner, "created_at": now(), **values}
                connection.execute(sa.insert(t.artifacts).values(new))
            return fetch(connection, Artifact, sa.select(t.artifacts).where(this))[0]

    @again
    def artifacts(self, job: Job, kind: str | None = None) -> list[Artifact]:
        """The files of the job and of the supernets that it uses, the oldest first, of one kind or of all."""
        c, uses = t.artifacts.c, t.job_supernets.c
        of_kind = sa.true() if kind is None else c.kind == kind
        used = c.supernet_id.in_(sa.select(uses.supernet_id).where(uses.job_id == job.id))
        query = sa.select(t.artifacts).where(((c.job_id == job.id) | used) & of_kind).order_by(c.id)
        with self.read() as connection:
            return fetch(connection, Artifact, query)

    @again
    def artifact(self, artifact_id: int) -> Artifact:
        """One file by its id. Raises NotFoundError."""
        with self.read() as connection:
            artifacts = fetch(
                connection, Artifact, sa.select(t.artifacts).where(t.artifacts.c.id == artifact_id)
            )
        if not artifacts:
            raise NotFoundError(f"There is no artifact {artifact_id}.")
        return artifacts[0]

    def remove_artifact(self, lease: RowLease, artifact: Artifact) -> None:
        """Forgets a file, then deletes it: a row never names a missing file.

        A file that is not the store's own stays, whatever its row says.
        """
        self._forget(lease, artifact)
        # What older versions trained lies in the folder of the job that trained it.
        may_be_its = artifact.supernet_id is not None or artifact.path.startswith(f"{lease.folder}/")
        if may_be_its and self.removable([artifact.path]):
            self.artifact_root.remove(artifact.path)
            crash_point("file deleted")

    @again
    def _forget(self, lease: RowLease, artifact: Artifact) -> None:
        c = t.artifacts.c
        this = (c.id == artifact.id) & _owned_by(lease)
        with lease.write() as connection:
            connection.execute(sa.delete(t.artifacts).where(this))

    def orphans(self) -> list[str]:
        """The store's own files that no row names, by their paths in its root: left by a crash, or just being
        written by a live job. Of a root that is not the store's there are none.
        """
        claim = self.claim()
        if claim is None:
            return []
        named = {*(artifact.path for artifact in self.all_artifacts()), *claim.others}
        return [inner for inner in self.artifact_root.files() if inner not in named]

    def remove_orphans(self, lease: RowLease) -> None:
        """Deletes files in the holder's folder that no row names: a crash came while they were written.

        None in a folder that a store of an earlier schema may still write to.
        """
        lease.check()
        if self.is_shared():
            return
        for inner in self.orphans():
            if inner.startswith(f"{lease.folder}/"):
                self.artifact_root.remove(inner)


def _owned_by(lease: RowLease) -> sa.ColumnElement[bool]:
    return sa.and_(*(t.artifacts.c[name] == row_id for name, row_id in lease.owns.items()))

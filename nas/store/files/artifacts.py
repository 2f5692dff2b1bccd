"""Files of jobs and supernets: `<root>/job-<id>/<kind>...`, each named by a row that is written last."""

import re
from pathlib import Path

import sqlalchemy as sa

from nas.artifacts import crash_point, is_inside, sha256
from nas.store import tables as t
from nas.store.connection.database import fetch
from nas.store.connection.patience import again
from nas.store.files.folder import files
from nas.store.files.places import Places
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
        folder = self.own_root() / lease.folder
        folder.mkdir(parents=True, exist_ok=True)
        base = kind if step is None else f"{kind}-{step:08d}"
        taken = {file.name for file in folder.iterdir()}
        names = (f"{base}{f'-{n}' if n > 1 else ''}{suffix}" for n in range(1, len(taken) + 2))
        return folder / next(name for name in names if name not in taken)

    @again
    def add_artifact(self, lease: RowLease, kind: str, path: Path, *, step: int | None = None) -> Artifact:
        """Records a finished file with its hash and size."""
        root = self.own_root()
        if not is_inside(root / lease.folder, path) or not path.is_file():
            raise ValueError(f"not a file in the folder {lease.folder}: {path}")
        inner = path.relative_to(root).as_posix()
        values = {"kind": kind, "sha256": sha256(path), "size": path.stat().st_size, "step": step}
        c = t.artifacts.c
        this = _owned_by(lease) & (c.path == inner)
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
        path = self.artifact_root / artifact.path
        # What older versions trained lies in the folder of the job that trained it.
        may_be_its = artifact.supernet_id is not None or path.is_relative_to(self._folder_of(lease))
        if may_be_its and self.removable(path):
            path.unlink(missing_ok=True)
            crash_point("file deleted")

    @again
    def _forget(self, lease: RowLease, artifact: Artifact) -> None:
        c = t.artifacts.c
        this = (c.id == artifact.id) & _owned_by(lease)
        with lease.write() as connection:
            connection.execute(sa.delete(t.artifacts).where(this))

    def orphans(self) -> list[Path]:
        """The store's own files that no row names: left by a crash, or just being written by a live job. Of a
        folder that is not the store's there are none.
        """
        claim, root = self.claim(), self.artifact_root
        if claim is None:
            return []
        named = {root / path for path in (*(a.path for a in self.all_artifacts()), *claim.others)}
        return [file for file in files(root) if file not in named]

    def remove_orphans(self, lease: RowLease) -> None:
        """Deletes files in the holder's folder that no row names: a crash came while they were written.

        None in a folder that a store of an earlier schema may still write to.
        """
        lease.check()
        if self.is_shared():
            return
        for path in self.orphans():
            if path.is_relative_to(self._folder_of(lease)):
                path.unlink(missing_ok=True)

    def _folder_of(self, lease: RowLease) -> Path:
        return self.artifact_root / lease.folder


def _owned_by(lease: RowLease) -> sa.ColumnElement[bool]:
    return sa.and_(*(t.artifacts.c[name] == row_id for name, row_id in lease.owns.items()))

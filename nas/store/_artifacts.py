"""Files of jobs: `<artifact root>/job-<id>/<kind>...`, each named by a row that is written last."""

import re
from pathlib import Path

import sqlalchemy as sa

from nas.artifacts import is_inside, sha256
from nas.store import _tables as t
from nas.store._database import fetch
from nas.store._folder import files
from nas.store._lease import Lease
from nas.store._patience import again
from nas.store._places import Places
from nas.store._records import Artifact, Job
from nas.store._values import now
from search_spaces._errors import NotFoundError

_WORD = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_SUFFIX = re.compile(r"\.[a-z0-9]{1,15}")


class Artifacts(Places):
    """The files of the jobs."""

    def new_artifact_path(self, lease: Lease, kind: str, suffix: str, *, step: int | None = None) -> Path:
        """A path for a file of this job that does not exist yet; its folder does.

        Never an old path again: a crash between overwriting a file and its row would leave a row that lies.
        """
        if not _WORD.fullmatch(kind) or not _SUFFIX.fullmatch(suffix):
            raise ValueError(f"not a kind and a suffix of a file: {kind!r}, {suffix!r}")
        folder = self.own_root() / f"job-{lease.job.id}"
        folder.mkdir(parents=True, exist_ok=True)
        base = kind if step is None else f"{kind}-{step:08d}"
        taken = {file.name for file in folder.iterdir()}
        names = (f"{base}{f'-{n}' if n > 1 else ''}{suffix}" for n in range(1, len(taken) + 2))
        return folder / next(name for name in names if name not in taken)

    @again
    def add_artifact(self, lease: Lease, kind: str, path: Path, *, step: int | None = None) -> Artifact:
        """Records a finished file of the job with its hash and size."""
        root = self.own_root()
        if not is_inside(root / f"job-{lease.job.id}", path) or not path.is_file():
            raise ValueError(f"not a file in the folder of job {lease.job.id}: {path}")
        inner = path.relative_to(root).as_posix()
        values = {"kind": kind, "sha256": sha256(path), "size": path.stat().st_size, "step": step}
        c = t.artifacts.c
        this = (c.job_id == lease.job.id) & (c.path == inner)
        with lease.write() as connection:
            if connection.execute(sa.update(t.artifacts).where(this).values(values)).rowcount == 0:
                new = {"job_id": lease.job.id, "path": inner, "created_at": now(), **values}
                connection.execute(sa.insert(t.artifacts).values(new))
            return fetch(connection, Artifact, sa.select(t.artifacts).where(this))[0]

    @again
    def artifacts(self, job: Job, kind: str | None = None) -> list[Artifact]:
        """The job's files, the oldest first, of one kind or of all."""
        c = t.artifacts.c
        of_kind = sa.true() if kind is None else c.kind == kind
        query = sa.select(t.artifacts).where((c.job_id == job.id) & of_kind).order_by(c.id)
        with self.read() as connection:
            return fetch(connection, Artifact, query)

    @again
    def artifact(self, artifact_id: int) -> Artifact:
        """One file of any job by its id. Raises NotFoundError."""
        with self.read() as connection:
            found = fetch(connection, Artifact, sa.select(t.artifacts).where(t.artifacts.c.id == artifact_id))
        if not found:
            raise NotFoundError(f"There is no artifact {artifact_id}.")
        return found[0]

    def remove_artifact(self, lease: Lease, artifact: Artifact) -> None:
        """Forgets a file of the job, then deletes it: a row never names a missing file.

        A file that is not the store's own stays, whatever its row says.
        """
        self._forget(lease, artifact)
        path = self.artifact_root / artifact.path
        if path.is_relative_to(self._folder_of(lease)) and self.removable(path):
            path.unlink(missing_ok=True)

    @again
    def _forget(self, lease: Lease, artifact: Artifact) -> None:
        c = t.artifacts.c
        this = (c.id == artifact.id) & (c.job_id == lease.job.id)
        with lease.write() as connection:
            connection.execute(sa.delete(t.artifacts).where(this))

    def orphans(self) -> list[Path]:
        """The store's own files of jobs that no row names: left by a crash, or just being written by a live
        job. Of a folder that is not the store's there are none.
        """
        claim, root = self.claim(), self.artifact_root
        if claim is None:
            return []
        known = {root / path for path in (*(a.path for a in self.all_artifacts()), *claim.others)}
        return [file for file in files(root) if file not in known]

    def remove_orphans(self, lease: Lease) -> None:
        """Deletes files of the job that no row names: a crash came while they were written.

        None in a folder that a store of an earlier schema may still write to.
        """
        lease.check()
        if self.is_shared():
            return
        for path in self.orphans():
            if path.is_relative_to(self._folder_of(lease)):
                path.unlink(missing_ok=True)

    def _folder_of(self, lease: Lease) -> Path:
        return self.artifact_root / f"job-{lease.job.id}"

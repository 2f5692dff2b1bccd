"""The data of a job: whether they are those with which it began, and what is different if not."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nas.artifacts import verified, write_atomic
from nas.datasets import DataSet
from nas.stages._run import Run
from nas.store import Job, Lease, Store
from search_spaces._errors import JobFailedError

MANIFEST = "data"  # the kind of the file that lists the images
MOST_NAMED = 5


@dataclass(frozen=True)
class Differences:
    """Files that are gone, that came later, and whose contents changed: names by the split that used them.

    Files that came later, and those that were not used, are under "".
    """

    gone: dict[str, list[str]]
    changed: dict[str, list[str]]
    added: list[str]

    def __str__(self) -> str:
        parts = []
        for what, files in (("are gone", self.gone), ("have other contents", self.changed)):
            for split in filter(None, files):
                names = files[split]
                parts.append(f"{len(names)} of {split} {what} ({_some(names)})")
        parts += [f"{len(self.added)} were added ({_some(self.added)})"] if self.added else []
        return ", ".join(parts)

    def in_split(self, split: str) -> bool:
        """Whether images of the split are others."""
        return bool(self.gone.get(split) or self.changed.get(split))


def check_data(run: Run, data: DataSet) -> None:
    """Raises JobFailedError when the data are not those with which the job began."""
    job = run.lease.job
    stage = run.store.stage(job, "space")
    if stage is None or not stage.result or same_data(stage.told("data", "digest"), data):
        return
    hint = f"Restore the data, or go on with what is there: `nas resume {job.id} --accept-data`."
    otherwise = read_otherwise(stage.told("data", "digest"), data)
    if otherwise:
        raise JobFailedError(
            f"Job '{job.name}' began with a version that read its images differently: now {otherwise}.",
            f"`nas resume {job.id} --accept-data` goes on all the same.",
        )
    known = differences(run.store, job, data)
    told = f": {known}" if known is not None and str(known) else ""
    raise JobFailedError(
        f"The data set '{data.name}' is not what it was when job '{job.name}' began{told}.", hint
    )


def same_data(digest: str, data: DataSet) -> bool:
    """Whether a job that began with data of this digest, by whatever rule, sees the same inputs now."""
    former = getattr(data, "former_digest", None)
    return digest == data.digest or (digest == former and not getattr(data, "otherwise", ""))


def read_otherwise(digest: str, data: DataSet) -> str:
    """Why a job of an older rule with this digest saw other inputs in the same files; empty: it did not."""
    words: str = getattr(data, "otherwise", "") if digest == getattr(data, "former_digest", None) else ""
    return words


def write_manifest(store: Store, lease: Lease, data: DataSet) -> None:
    """Keeps with the job which files it uses, if its data set is made of files."""
    manifest = getattr(data, "manifest", None)
    if manifest is None:
        return
    rows, before = manifest(), store.artifacts(lease.job, MANIFEST)
    path = store.new_artifact_path(lease, MANIFEST, ".json")
    write_atomic(path, lambda partial: _write(partial, rows))
    store.add_artifact(lease, MANIFEST, path)
    for artifact in before:
        store.remove_artifact(lease, artifact)


def differences(store: Store, job: Job, data: DataSet) -> Differences | None:
    """What became of the job's files; None: it is not known which they were."""
    kept, manifest = store.artifacts(job, MANIFEST), getattr(data, "manifest", None)
    if not kept or manifest is None:
        return None
    before = json.loads(verified(store, kept[-1]).read_text())
    now = {name: (sha256, used) for name, sha256, _, used in manifest()}
    gone: dict[str, list[str]] = {}
    changed: dict[str, list[str]] = {}
    for name, sha256, split, used in before:
        if not used:
            continue
        if name not in now or not now[name][0]:
            gone.setdefault(split, []).append(name)
        elif now[name][0] != sha256:
            changed.setdefault(split, []).append(name)
    known = Counter(name for name, *_ in before)
    return Differences(gone, changed, sorted(name for name in now if name not in known))


def _write(path: Any, rows: Sequence[Any]) -> None:
    path.write_text(json.dumps(rows))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_NAMED])
    return f"{shown}, ..." if len(names) > MOST_NAMED else shown

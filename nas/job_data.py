"""The data of a job: whether they are those with which it began, and how it goes on if they are not."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas import datasets
from nas.artifacts import verified, write_atomic
from nas.config import JobConfig
from nas.config.components import stored_config
from nas.datasets import DataSet
from nas.errors import ConflictError, JobFailedError
from nas.job_run import Run
from nas.progress import Progress
from nas.spaces.job_space import data_sizes
from nas.store import Job, Lease, Stage, Store
from search_spaces.errors import UsageError
from supernet import tasks

MANIFEST = "data"  # the kind of the file that lists the images
MOST_NAMED = 5


@dataclass(frozen=True)
class Differences:
    """Files that are gone, that came later, and whose contents changed: names by the split that used them.

    Files that came later, and those that were not used, are under "".
    splits_anew: whether any of that has moved others from one split to another.
    """

    gone: dict[str, list[str]]
    changed: dict[str, list[str]]
    added: list[str]
    splits_anew: bool = False

    def __str__(self) -> str:
        parts = []
        for what, files in (("are gone", self.gone), ("have other contents", self.changed)):
            for split in filter(None, files):
                names = files[split]
                parts.append(f"{len(names)} of {split} {what} ({_some(names)})")
        parts += [f"{len(self.added)} were added ({_some(self.added)})"] if self.added else []
        return ", ".join(parts)

    def in_split(self, split: str) -> bool:
        """Whether examples of the split are others."""
        return self.splits_anew or bool(self.gone.get(split) or self.changed.get(split))


def check_data(run: Run, data: DataSet) -> None:
    """Raises JobFailedError when the data are not those with which the job began."""
    job = run.lease.job
    stage = run.store.stage(job, "space")
    if stage is None or not stage.result or same_data(stage.told("data", "digest"), data):
        return
    hint = f"Restore the data, or go on with what is there: `nas resume {job.id} --accept-data`."
    if datasets.moved(run.config.data.name, run.config.data.options, None) is None:
        hint = "Restore the data, or start a new job with what is there."
    otherwise = read_otherwise(stage.told("data", "digest"), data)
    if otherwise:
        raise JobFailedError(
            f"Job '{job.name}' began with a version that read its images differently: now {otherwise}.",
            f"`nas resume {job.id} --accept-data` goes on all the same.",
        )
    difference = differences(run.store, job, data)
    detail = f": {difference}" if difference is not None and str(difference) else ""
    raise JobFailedError(
        f"The data set '{data.name}' is not what it was when job '{job.name}' began{detail}.", hint
    )


def change_data(store: Store, job: Job, *, root: Path | None, accept: bool, progress: Progress) -> str:
    """Points a job to its data in another folder, and with `accept` lets it go on with data that changed.

    Images that are gone keep their places in the split and those that were added are not used, so that no
    image changes sides. What was evaluated on images that are others now is done again.
    Returns what was done and what that means. Raises UsageError for data that no job of this kind can go on
    with, ConflictError for a job that runs, for other data than the job's unless they are accepted, and for a
    finished one whose results they would change.
    """
    config = stored_config(job)
    options = _options_in(config, root, job)
    data = datasets.prepared(config.data.name, options, progress)
    stage = store.stage(job, "space")
    done = stage if stage is not None and stage.state == "done" else None
    if done is None or same_data(_digest(done), data):
        message = (
            f"The data of job '{job.name}' are as they were" if done else f"Job '{job.name}' has not begun"
        )
        return _with_data(store, job, options, data, f"{message}: it takes them from '{_place(options)}'.")
    _check_shape(job, done, data)
    difference = differences(store, job, data)
    detail = f" ({difference})" if difference is not None else ""
    if not accept:
        raise ConflictError(
            f"The data in '{_place(options)}' are not those of job '{job.name}'{detail}.",
            "Give the folder with the same files, or add --accept-data to go on with these.",
        )
    if difference is not None and not difference.splits_anew:
        options |= _left_out(options, difference)
        data = datasets.build(config.data.name, **options)
    forget = _to_be_done_again(job, difference)
    if job.state == "succeeded" and "search" in forget:
        raise ConflictError(
            f"Job '{job.name}' has finished, and {_examples(data)} that it all stands on are others{detail}.",
            "Its front belongs to the data as they were: restore them, or start a new job.",
        )
    what = _what_changed(job, difference, read_otherwise(_digest(done), data), _examples(data))
    message = f"{what} {_consequences(store, job, difference, forget, _examples(data))}"
    return _with_data(store, job, options, data, message, forget)


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
    names_before = Counter(name for name, *_ in before)
    added = sorted(name for name in now if name not in names_before)
    return Differences(gone, changed, added, getattr(data, "splits_anew", False))


def _options_in(config: JobConfig, root: Path | None, job: Job) -> dict[str, Any]:
    """The options of the job's data in another folder, or in the one where they were."""
    folder = None if root is None else root.expanduser().absolute()
    options = datasets.moved(config.data.name, config.data.options, folder)
    if options is None:
        raise UsageError(f"The data set '{config.data.name}' of job '{job.name}' is not in a folder.")
    return options


def _place(options: Mapping[str, Any]) -> str:
    where = options["root"] if "root" in options else options["files"]
    return ", ".join(map(str, where)) if isinstance(where, list | tuple) else str(where)


def _examples(data: DataSet) -> str:
    """What the data are made of, in words."""
    return "images" if datasets.task_name(data) == tasks.TASK else "documents"


def _with_data(
    store: Store,
    job: Job,
    options: dict[str, Any],
    data: DataSet,
    message: str,
    forget: tuple[str, ...] = (),
) -> str:
    config = {**job.config, "data": {**job.config["data"], **options}}
    with store.acquire(job) as lease:
        store.change_data(
            lease, config=config, described=datasets.described(data), message=message, forget=forget
        )
        write_manifest(store, lease, data)
        lease.give_back(replace(job, state="stopped") if forget else job)
    return message


def _digest(space: Stage) -> str:
    digest: str = space.told("data", "digest")
    return digest


def _check_shape(job: Job, space: Stage, data: DataSet) -> None:
    built = space.told("space", "options")
    for name, value in data_sizes(data).items():
        now = list(value) if isinstance(value, tuple) else value
        if name in built and built[name] != now:
            raise UsageError(
                f"Job '{job.name}' has {name} {built[name]}, its data now {now}.",
                "Start a new job with these data.",
            )


def _left_out(options: dict[str, Any], difference: Differences) -> dict[str, list[str]]:
    gone = [name for names in difference.gone.values() for name in names]
    lists = {"skipped": gone, "added": difference.added}
    return {option: sorted({*options.get(option, ()), *names}) for option, names in lists.items()}


def _to_be_done_again(job: Job, difference: Differences | None) -> tuple[str, ...]:
    """The splits whose evaluations do not count any more; finalists are chosen by the search split.

    A finished job's were chosen on images that were the same for all: that stands, whatever became of them.
    """
    search, report = (difference is None or difference.in_split(split) for split in ("search", "report"))
    if search and (report or job.state != "succeeded"):
        return ("search", "report")
    return ("report",) if report else ()


def _what_changed(job: Job, difference: Differences | None, otherwise: str, examples: str) -> str:
    if otherwise:
        return f"Job '{job.name}' began with a version that read its images differently: now {otherwise}."
    if difference is None or difference.splits_anew:
        which = f": {difference}" if difference else f", and it is not known which {examples}"
        some = "Some" if difference is None else f"Some {examples}"
        better = "accuracies too high" if examples == "images" else "qualities too good"
        return (
            f"The data of job '{job.name}' are others{which}. {some} that it was trained on may be held out "
            f"now, which makes {better}."
        )
    added = " Images that were added are not used." if difference.added else ""
    return f"The data of job '{job.name}' are others: {difference or 'files that it does not use'}.{added}"


def _consequences(
    store: Store, job: Job, difference: Differences | None, again: tuple[str, ...], examples: str
) -> str:
    trained = store.stage(job, "train")
    parts = []
    if difference is None or difference.in_split("train"):
        parts.append(
            f"The supernet was trained on the {examples} as they were and is kept."
            if trained is not None and trained.state == "done"
            else f"The training goes on with the {examples} as they are: nobody can repeat it bit for bit."
        )
    evaluated = len(store.evaluations(job, "search"))
    if "search" in again and evaluated:
        parts.append(
            f"The {evaluated} subnets that were evaluated are evaluated again: qualities on different "
            f"{examples} cannot be compared."
        )
    elif "report" in again:
        parts.append("The finalists are reported on again.")
    elif difference is not None and difference.in_split("search"):
        parts.append(f"The front was chosen on the {examples} as they were.")
    return " ".join(parts) or "Nothing that was found depends on them."


def _write(path: Any, rows: Sequence[Any]) -> None:
    path.write_text(json.dumps(rows))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_NAMED])
    return f"{shown}, ..." if len(names) > MOST_NAMED else shown

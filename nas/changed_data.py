"""A job whose data have moved to another folder, or are not all what they were: how it goes on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from nas import datasets
from nas.components import stored_config
from nas.datasets import DataSet
from nas.progress import Progress
from nas.spaces import data_sizes
from nas.stages._data import Differences, differences, read_otherwise, same_data, write_manifest
from nas.store import Job, Stage, Store
from search_spaces._errors import ConflictError, UsageError


def change_data(store: Store, job: Job, *, root: Path | None, accept: bool, progress: Progress) -> str:
    """Points a job to its data in another folder, and with `accept` lets it go on with data that changed.

    Images that are gone keep their places in the split and those that were added are not used, so that no
    image changes sides. What was evaluated on images that are others now is done again.
    Returns what was done and what that means. Raises UsageError for data that no job of this kind can go on
    with, ConflictError for a job that runs, for other data than the job's unless they are accepted, and for a
    finished one whose results they would change.
    """
    config = stored_config(job)
    options = config.data.options | ({} if root is None else {"root": str(root.expanduser().absolute())})
    if "root" not in options:
        raise UsageError(f"The data set '{config.data.name}' of job '{job.name}' is not in a folder.")
    data = datasets.prepared(config.data.name, options, progress)
    stage = store.stage(job, "space")
    done = stage if stage is not None and stage.state == "done" else None
    if done is None or same_data(_digest(done), data):
        message = (
            f"The data of job '{job.name}' are as they were" if done else f"Job '{job.name}' has not begun"
        )
        return _changed(store, job, options, data, f"{message}: it takes them from '{options['root']}'.")
    _check_shape(job, done, data)
    known = differences(store, job, data)
    if not accept:
        raise ConflictError(
            f"The data in '{options['root']}' are not those of job '{job.name}'{_told(known)}.",
            "Give the folder with the same files, or add --accept-data to go on with these.",
        )
    if known is not None:
        options |= _left_out(options, known)
        data = datasets.build(config.data.name, **options)
    forget = _to_be_done_again(job, known)
    if job.state == "succeeded" and "search" in forget:
        raise ConflictError(
            f"Job '{job.name}' has finished, and images that it all stands on are others{_told(known)}.",
            "Its front belongs to the data as they were: restore them, or start a new job.",
        )
    what = _what(job, known, read_otherwise(_digest(done), data))
    return _changed(store, job, options, data, f"{what} {_consequences(store, job, known, forget)}", forget)


def _changed(
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


def _left_out(options: dict[str, Any], known: Differences) -> dict[str, list[str]]:
    gone = [name for names in known.gone.values() for name in names]
    lists = {"skipped": gone, "added": known.added}
    return {option: sorted({*options.get(option, ()), *names}) for option, names in lists.items()}


def _to_be_done_again(job: Job, known: Differences | None) -> tuple[str, ...]:
    """The splits whose evaluations do not count any more; finalists are chosen by the search split.

    A finished job's were chosen on images that were the same for all: that stands, whatever became of them.
    """
    search, report = (known is None or known.in_split(split) for split in ("search", "report"))
    if search and (report or job.state != "succeeded"):
        return ("search", "report")
    return ("report",) if report else ()


def _told(known: Differences | None) -> str:
    return f" ({known})" if known is not None else ""


def _what(job: Job, known: Differences | None, otherwise: str) -> str:
    if otherwise:
        return f"Job '{job.name}' began with a version that read its images differently: now {otherwise}."
    if known is None:
        return (
            f"The data of job '{job.name}' are others, and it is not known which images. Some that it was "
            "trained on may be held out now, which makes accuracies too high."
        )
    added = " Images that were added are not used." if known.added else ""
    return f"The data of job '{job.name}' are others: {known or 'files that it does not use'}.{added}"


def _consequences(store: Store, job: Job, known: Differences | None, again: tuple[str, ...]) -> str:
    trained = store.stage(job, "train")
    parts = []
    if known is None or known.in_split("train"):
        parts.append(
            "The supernet was trained on the images as they were and is kept."
            if trained is not None and trained.state == "done"
            else "The training goes on with the images as they are: nobody can repeat it bit for bit."
        )
    evaluated = len(store.evaluations(job, "search"))
    if "search" in again and evaluated:
        parts.append(
            f"The {evaluated} subnets that were evaluated are evaluated again: qualities on different images "
            "cannot be compared."
        )
    elif "report" in again:
        parts.append("The finalists are reported on again.")
    elif known is not None and known.in_split("search"):
        parts.append("The front was chosen on the images as they were.")
    return " ".join(parts) or "Nothing that was found depends on them."

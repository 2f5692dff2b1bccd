"""`nas submit`: job files are checked, and queued for workers."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import AsJSON, Overrides, StoreURL, store_url
from nas.cli.output import emit, note
from nas.cli.queue.turns import emit_places
from nas.cli.stored import names

if TYPE_CHECKING:
    from nas.config import JobConfig
    from nas.store import Job, Store

ASK_SECONDS = 1.0
ENDED = ("succeeded", "failed", "stopped")
JobFiles = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Job files (YAML).")]


@dataclass(frozen=True)
class Asked:
    """What is to be queued, and how: the arguments and options of `nas submit`."""

    files: Sequence[Path]
    overrides: Sequence[str] = ()
    sweep: Sequence[str] = ()
    name: str | None = None
    priority: int = 0
    after: str | None = None
    needs: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class _Wanted:
    """A job to be queued: its file, its settings of the sweep, and the config that they make."""

    file: Path
    settings: tuple[str, ...]
    config: "JobConfig"


@dataclass(frozen=True)
class Passed:
    """Jobs that have passed every check, and the id of the one for which they wait."""

    wanted: "list[_Wanted]"
    after_id: int | None


def submit(
    ctx: typer.Context,
    files: JobFiles,
    overrides: Overrides = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep", metavar="KEY=a,b", help="A job for each value; several keys: for each combination."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What the job, or the sweep, is called.")
    ] = None,
    priority: Annotated[
        int, typer.Option("--priority", min=-1_000_000, max=1_000_000, help="The highest goes first.")
    ] = 0,
    after: Annotated[
        str | None,
        typer.Option(
            "--after", metavar="JOB", help="Wait until this job has succeeded.", autocompletion=names.jobs
        ),
    ] = None,
    needs: Annotated[
        str | None,
        typer.Option("--needs", metavar="X", help="Only for workers that were started with --needs X."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="K", help="The same key again queues nothing, and says where the job is."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the jobs have ended.")] = False,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Check job files and queue them for `nas worker`. One bad file, and nothing is queued.

    \b
    Examples:
      nas submit a.yaml b.yaml --priority 5
      nas submit a.yaml --sweep search.seed=0,1,2 --name seeds
      nas submit c.yaml --after a --needs gpu
    """
    from nas.store import Store

    asked = Asked(files, overrides or (), sweep or (), name, priority, after, needs, key)
    url = store_url(store)
    passed = checked_files(url, asked, quiet=ctx.obj.quiet)
    with Store.open(url) as opened:
        jobs = queued(opened, passed, asked)
        emit_places(opened, jobs, as_json=as_json)
        if not wait:
            note("`nas worker` runs what is queued; `nas ls` shows how far it is.", quiet=ctx.obj.quiet)
            return
        _wait(opened, jobs, as_json=as_json)


def checked_files(
    url: str, asked: Asked, *, quiet: bool, accept: "Callable[[JobConfig], None] | None" = None
) -> Passed:
    """The jobs of the files, each of which has passed every check. Creates nothing.

    accept: raises for what may not be submitted here, before anything that a job names is looked at.
    """
    wanted = _wanted(asked)
    _check_names(len(wanted), asked)
    if accept is not None:
        for one in wanted:
            accept(one.config)
    after_id = None if asked.after is None else _waited_for(url, asked.after)
    return Passed(_checked(wanted, url, quiet=quiet), after_id)


def _wanted(asked: Asked) -> list[_Wanted]:
    from nas.config import load_config
    from nas.queue.sweeps import settings_of

    return [
        _Wanted(file, settings, load_config(file, [*asked.overrides, *settings]))
        for file in asked.files
        for settings in settings_of(asked.sweep)
    ]


def _check_names(count: int, asked: Asked) -> None:
    """Raises UsageError for what is no name, and where one name, or one key, would stand for several jobs."""
    from nas.store.values import checked_name
    from search_spaces.errors import UsageError

    for text, what in ((asked.name or None, "job"), (asked.needs, "need"), (asked.key, "key")):
        if text is not None:
            checked_name(text, what=what)

    if count > 1 and asked.key is not None:
        raise UsageError(
            f"--key stands for one job, and {count} are to be queued.", "Submit them one by one."
        )
    if count > 1 and asked.name is not None and not asked.sweep:
        raise UsageError(
            f"--name stands for one job, and {count} are to be queued.", "Give `name:` in the job files."
        )


def _waited_for(url: str, after: str) -> int:
    """The id of the job of --after. Raises ConflictError for one that cannot succeed any more by itself."""
    from nas.errors import ConflictError
    from nas.store import Store

    with Store.open(url, read_only=True) as opened:
        job = opened.job(after)
    if job.state in ("failed", "stopped") and not job.paused:
        raise ConflictError(
            f"Job '{job.name}', for which it would wait, has {job.state}.",
            f"`nas resume {job.id}` goes on with it; then submit.",
        )
    return job.id


def _checked(wanted: list[_Wanted], url: str, *, quiet: bool) -> list[_Wanted]:
    """The same with configs that have passed every check; of several the error names the file."""
    from nas.cli.runs import checked
    from search_spaces.errors import NASError

    passed = []
    for one in wanted:
        try:
            passed.append(_Wanted(one.file, one.settings, checked(one.config, url, quiet=quiet)))
        except NASError as error:
            if len(wanted) > 1:
                where = " with ".join([f"'{one.file}'", *one.settings])
                raise type(error)(f"{where}: {error.message}", error.hint) from error
            raise
    return passed


def queued(opened: "Store", passed: Passed, asked: Asked) -> "list[Job]":
    """The jobs, queued all at once. Raises ConflictError where the key stands for another job."""
    from nas import jobs
    from nas.cli.runs import base_name
    from nas.errors import ConflictError
    from nas.store import NewJob, Submission, digest

    swept, name = bool(asked.sweep), asked.name
    submission = Submission(
        priority=asked.priority,
        needs=asked.needs,
        after_id=passed.after_id,
        sweep=(name or base_name(passed.wanted[0].file)) if swept else None,
        key=asked.key,
    )
    new, config = [], ""
    for one in passed.wanted:
        values = jobs.new_values(opened, one.config)
        config = digest(values["config"])
        values["provenance"] |= {"submission": {"config": config, "settings": list(one.settings)}}
        base = (name if swept else None) or one.config.name or base_name(one.file)
        new.append(NewJob(base, None if swept else name, values, submission))
    submitted = opened.submit(new)
    if submission.key is not None:
        (job,) = submitted
        if job.provenance.get("submission", {}).get("config") != config:
            raise ConflictError(
                f"Key {submission.key!r} stands for job '{job.name}' ({job.id}), which has other settings.",
                "Give another --key.",
            )
    return submitted


def _wait(opened: "Store", jobs: "list[Job]", *, as_json: bool) -> None:
    """Until all have ended. Raises JobFailedError unless all have succeeded."""
    from nas.errors import JobFailedError

    left = [job.id for job in jobs]
    while left:
        for job_id in list(left):
            job = opened.job(job_id)
            if job.state in ENDED and not job.paused:
                left.remove(job_id)
                line = f"Job '{job.name}' ({job.id}) has {job.state}{f': {job.error}' if job.error else '.'}"
                note(line) if as_json else emit(line)
        if left:
            time.sleep(ASK_SECONDS)
    bad = [job.name for job in map(opened.job, (job.id for job in jobs)) if job.state != "succeeded"]
    if bad:
        names = ", ".join(f"'{name}'" for name in bad)
        raise JobFailedError(f"Not all jobs have succeeded: {names}.", "`nas show JOB` tells more of each.")

"""`nas run`, `nas validate`, `nas resume`, `nas stop`: what changes a job."""

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli._options import AsJSON, Figure, JobFile, JobName, Overrides, StoreURL, store_url
from nas.cli._output import INTERRUPTED, emit, emit_json, end_process, note
from nas.cli._progress import shown_progress
from nas.cli.fronts import check_figure, default_figure, show_front

if TYPE_CHECKING:
    from nas.config import JobConfig
    from nas.store import Job, Store


def run(
    ctx: typer.Context,
    file: JobFile,
    overrides: Overrides = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What the job is called.")
    ] = None,
    figure: Figure = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Run a job from its file to its Pareto front. Prints the front."""
    from nas.config import load_config

    config = load_config(file, overrides or ())
    check_figure(figure)
    from nas import jobs
    from nas.store import Store

    told = _data_of(config, quiet=ctx.obj.quiet)
    _check(config, quiet=ctx.obj.quiet)
    note(told, quiet=ctx.obj.quiet)
    with Store.open(store_url(store)) as opened:
        job = jobs.create(opened, config, name=name, base=_base_name(file))
        _run_to_front(opened, job, figure=figure, as_json=as_json, quiet=ctx.obj.quiet)


def resume(
    ctx: typer.Context,
    job: JobName,
    data_root: Annotated[
        Path | None,
        typer.Option(
            "--data-root", metavar="FOLDER", help="Where the job's data are now, with the same files."
        ),
    ] = None,
    accept_data: Annotated[
        bool, typer.Option("--accept-data", help="Go on with data that changed; says what that means.")
    ] = False,
    figure: Figure = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Go on with a job where it stopped. Nothing that is finished is done again."""
    from nas.store import Store

    url = store_url(store)
    check_figure(figure)
    if data_root is not None or accept_data:
        _change_data(url, job, data_root, accept=accept_data, quiet=ctx.obj.quiet)
    with Store.open(url, read_only=True) as opened:
        found = opened.job(job)
        if found.state == "succeeded":
            note(f"Job '{found.name}' has finished already: nothing is left to do.", quiet=ctx.obj.quiet)
            show_front(opened, found, figure=figure, as_json=as_json, quiet=ctx.obj.quiet)
            return
    with Store.open(url) as opened:
        _run_to_front(opened, found, figure=figure, as_json=as_json, quiet=ctx.obj.quiet)


def stop(ctx: typer.Context, job: JobName, store: StoreURL = None) -> None:
    """Stop a running job after its current batch, or within 10 seconds. `nas resume` goes on."""
    from nas.store import Store
    from search_spaces._errors import ConflictError

    url = store_url(store)
    with Store.open(url, read_only=True) as opened:
        found = opened.job(job)
        if not opened.is_live(found):
            state = "interrupted" if found.state == "running" else found.state
            hint = f"`nas front {found.id}` prints what it found; `nas resume {found.id}` goes on with it."
            raise ConflictError(f"No process runs job '{found.name}' (state: {state}).", hint)
    with Store.open(url) as opened:
        opened.request_stop(found)
    note(f"Job '{found.name}' stops after its current batch, or within 10 seconds.", quiet=ctx.obj.quiet)


def validate(
    ctx: typer.Context,
    file: JobFile,
    overrides: Overrides = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Print the whole config of a job file. Or every problem in it, unreadable images included."""
    from nas import _yaml
    from nas.config import REMOTE, STORED, load_config, merged

    config = load_config(file, overrides or ())
    from nas.preprocessing import prepared

    told = _data_of(config, quiet=ctx.obj.quiet)
    _check(config, quiet=ctx.obj.quiet)
    note(told, quiet=ctx.obj.quiet)
    config = prepared(config)
    if any(device.backend in (REMOTE, STORED) for device in config.devices.values()):
        from nas.store import Store
        from nas.targets import resolved

        with Store.open(store_url(store), read_only=True) as opened:
            config = resolved(opened, config)
    data = merged(config)
    if as_json:
        emit_json(data)
    else:
        emit(_yaml.dump(data).rstrip())


def _data_of(config: "JobConfig", *, quiet: bool) -> str:
    """One line on the job's data, after every image has been looked at; and what is odd."""
    from nas import datasets

    with shown_progress(quiet=quiet) as progress:
        data = datasets.prepared(config.data.name, config.data.options, progress)
    told = datasets.described(data)
    return "\n".join([datasets.line(told), *told.get("notes", ())])


def _change_data(url: str, job: str, root: Path | None, *, accept: bool, quiet: bool) -> None:
    from nas.changed_data import change_data
    from nas.store import Store

    with Store.open(url) as opened, shown_progress(quiet=quiet) as progress:
        message = change_data(opened, opened.job(job), root=root, accept=accept, progress=progress)
    note(message, quiet=quiet)


def _check(config: "JobConfig", *, quiet: bool) -> None:
    """Raises what `jobs.check` raises; tells what the user should know of a job that can run."""
    from nas import jobs
    from nas.preprocessing import remarks

    jobs.check(config)
    for remark in remarks(config):
        note(f"warning: {remark}", quiet=quiet)


def _run_to_front(opened: "Store", job: "Job", *, figure: Path | None, as_json: bool, quiet: bool) -> None:
    from nas import pipeline
    from nas.store._engine import shown

    note(f"Job '{job.name}' ({job.id}) in {shown(opened.url)}", quiet=quiet)
    stopped_words = f"Job '{job.name}' has stopped; its state is saved. Go on with: nas resume {_word(job)}"
    try:
        with shown_progress(quiet=quiet) as progress:
            pipeline.run(opened, job, progress=progress, end=partial(end_process, stopped_words))
        stopped = opened.job(job.id).state == "stopped"
    except KeyboardInterrupt:
        stopped = True
    if stopped:
        note(stopped_words)
        raise typer.Exit(INTERRUPTED)
    _finish(opened, opened.job(job.id), figure=figure, as_json=as_json, quiet=quiet)


def _finish(opened: "Store", job: "Job", *, figure: Path | None, as_json: bool, quiet: bool) -> None:
    show_front(opened, job, figure=figure or default_figure(job), as_json=as_json, quiet=quiet)
    word = _word(job)
    follow = {
        f"nas front {word}": "this table again; --json, --csv, --where 'latency_ms<=5'",
        f"nas extract {word} --knee -o subnet": "a stand-alone checkpoint of the best compromise",
        f"nas finetune {word} --front": "its subnets trained further by themselves",
        "nas dashboard": "all jobs in the browser",
    }
    width = max(map(len, follow))
    lines = ["What to type next:", *(f"  {command:{width}}   {what}" for command, what in follow.items())]
    if as_json:
        note("\n".join(lines), quiet=quiet)
    elif not quiet:
        emit("\n".join(["", *lines]))


def _base_name(file: Path) -> str:
    base = "".join(character for character in file.stem if character.isprintable()).strip(" -")
    return base[:100] or "job"


def _word(job: "Job") -> str:
    """The job as it can be typed into a shell."""
    from nas.store._values import job_word

    return job_word(job.id, job.name) if re.fullmatch(r"[\w.-]+", job.name) else str(job.id)

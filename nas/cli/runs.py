"""`nas run`, `nas validate`, `nas resume`, `nas stop`: what changes a job."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli._options import AsJSON, Figure, JobFile, JobName, Overrides, StoreURL, store_url
from nas.cli._output import emit, emit_json, note
from nas.cli._progress import shown_progress
from nas.cli.fronts import check_figure, default_figure, show_front

if TYPE_CHECKING:
    from nas.config import JobConfig
    from nas.store import Job, Store

INTERRUPTED = 130


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

    _check(config, quiet=ctx.obj.quiet)
    with Store.open(store_url(store)) as opened:
        job = jobs.create(opened, config, name=name or (None if config.name else _free_name(opened, file)))
        _run_to_front(opened, job, figure=figure, as_json=as_json, quiet=ctx.obj.quiet)


def resume(
    ctx: typer.Context, job: JobName, figure: Figure = None, store: StoreURL = None, as_json: AsJSON = False
) -> None:
    """Go on with a job where it stopped. Nothing that is finished is done again."""
    from nas.store import Store

    url = store_url(store)
    check_figure(figure)
    with Store.open(url, read_only=True) as opened:
        found = opened.job(job)
        if found.state == "succeeded":
            note(f"Job '{found.name}' has finished already: nothing is left to do.", quiet=ctx.obj.quiet)
            show_front(opened, found, figure=figure, as_json=as_json, quiet=ctx.obj.quiet)
            return
    with Store.open(url) as opened:
        _run_to_front(opened, found, figure=figure, as_json=as_json, quiet=ctx.obj.quiet)


def stop(ctx: typer.Context, job: JobName, store: StoreURL = None) -> None:
    """Stop a running job after its current batch. `nas resume` goes on."""
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
    note(f"Job '{found.name}' stops after its current batch.", quiet=ctx.obj.quiet)


def validate(
    ctx: typer.Context,
    file: JobFile,
    overrides: Overrides = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Print the whole config of a job file. Or every problem in it."""
    from nas import _yaml
    from nas.config import REMOTE, STORED, load_config, merged

    config = load_config(file, overrides or ())
    from nas.preprocessing import prepared

    _check(config, quiet=ctx.obj.quiet)
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
    try:
        with shown_progress(quiet=quiet) as progress:
            pipeline.run(opened, job, progress=progress)
        stopped = opened.job(job.id).state == "stopped"
    except KeyboardInterrupt:
        stopped = True
    if stopped:
        note(f"Job '{job.name}' has stopped; its state is saved. Go on with: nas resume {_word(job)}")
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


def _free_name(opened: "Store", file: Path) -> str:
    base = "".join(character for character in file.stem if character.isprintable()).strip(" -")
    return opened.free_name(base[:100] or "job")


def _word(job: "Job") -> str:
    """The job as it can be typed into a shell."""
    return job.name if re.fullmatch(r"[\w.-]+", job.name) else str(job.id)

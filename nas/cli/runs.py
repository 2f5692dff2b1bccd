"""`nas run`, `nas train`, `nas validate`, `nas resume`, `nas stop`, `nas rm`: what changes a job."""

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.fronts import check_figure, default_figure, show_front
from nas.cli.options import AsJSON, Figure, JobFile, JobName, Overrides, StoreURL, store_url
from nas.cli.output import INTERRUPTED, amount, emit, emit_json, end_process, note
from nas.cli.queue.turns import queue_again, stop_job
from nas.cli.stored.supernets import show_supernet
from nas.cli.terminal.progress import shown_progress

TORCHRUN = "TORCHELASTIC_RUN_ID"  # a variable of the processes that it starts

if TYPE_CHECKING:
    from nas.config import JobConfig
    from nas.store import Job, Store
    from nas.store.files.removal import Removed


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
    """Run a job from its file to its Pareto front. Prints the front.

    \b
    Examples:
      nas run job.yaml
      nas run job.yaml --name fast --set 'constraints=[latency_ms<=8]'
    """
    from nas.config import load_config

    check_alone()
    config = load_config(file, overrides or ())
    check_figure(figure)
    base, quiet = base_name(file), ctx.obj.quiet
    run_config(config, name=name, base=base, figure=figure, store=store, as_json=as_json, quiet=quiet)


def run_config(
    config: "JobConfig",
    *,
    name: str | None = None,
    base: str,
    figure: Path | None = None,
    store: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Checks a job's config and runs it to its front, which is printed. base: its name, if none is given."""
    from nas import jobs
    from nas.store import Store

    config = checked(config, store, quiet=quiet)
    with Store.open(store_url(store)) as opened:
        job = jobs.create(opened, config, name=name, base=base)
        _run_to_front(opened, job, figure=figure, as_json=as_json, quiet=quiet)


def train(
    ctx: typer.Context,
    file: JobFile,
    overrides: Overrides = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What the job and its supernet are called.")
    ] = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Train the supernet of a job file and search nothing. Jobs that need the same find it trained.

    \b
    Examples:
      nas train job.yaml
      torchrun --nproc-per-node 2 --no-python nas train job.yaml
    """
    from nas.config import load_config

    if TORCHRUN in os.environ:
        _train_together(ctx, file, overrides or (), name=name, store=store, as_json=as_json)
        return
    config = load_config(file, overrides or ())
    from nas import jobs
    from nas.pipeline import TRAINED
    from nas.store import Store

    config = checked(config, store, quiet=ctx.obj.quiet)
    with Store.open(store_url(store)) as opened:
        job = jobs.create(opened, config, name=name, base=base_name(file), goal=TRAINED)
        _run_to_front(opened, job, figure=None, as_json=as_json, quiet=ctx.obj.quiet)


def _train_together(
    ctx: typer.Context,
    file: Path,
    overrides: Sequence[str],
    *,
    name: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """The same as one of the processes that `torchrun` has started."""
    from nas.config import load_config
    from nas.training.ranks import torchrun

    here = torchrun.place()
    assert here is not None, "only torchrun sets that variable"
    config = load_config(file, [*overrides, f"train.workers={here.workers}"])
    if here.rank:
        torchrun.follow(here)
        return
    from nas import jobs
    from nas.pipeline import TRAINED
    from nas.store import Store

    number = torchrun.job_begun(here)
    if number is None:
        config = checked(config, store, quiet=ctx.obj.quiet)
    with Store.open(store_url(store)) as opened, torchrun.leading(here):
        if number is None:
            job = jobs.create(opened, config, name=name, base=base_name(file), goal=TRAINED)
            torchrun.note_job(here, job.id)
        else:
            job = opened.job(number)
        _run_to_front(opened, job, figure=None, as_json=as_json, quiet=ctx.obj.quiet)


def check_alone() -> None:
    """Raises UsageError in a process that `torchrun` has started beside others."""
    from search_spaces.errors import UsageError

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and TORCHRUN in os.environ:
        raise UsageError(
            "torchrun starts several processes, and each would run the job.",
            "`torchrun --no-python ... nas train FILE` trains its supernet; `nas run FILE` finds it then.",
        )


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
    here: Annotated[
        bool, typer.Option("--here", help="Run a submitted job in this process, out of the queue.")
    ] = False,
    figure: Figure = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Go on with a job where it stopped; a submitted one is queued again. Nothing finished is done again.

    \b
    Examples:
      nas resume JOB
      nas resume JOB --data-root /where/the/images/are/now
    """
    from nas.store import Store

    check_alone()
    url = store_url(store)
    check_figure(figure)
    if data_root is not None or accept_data:
        _change_data(url, job, data_root, accept=accept_data, quiet=ctx.obj.quiet)
    with Store.open(url, read_only=True) as opened:
        stored = opened.job(job)
        if stored.state == "succeeded":
            note(f"Job '{stored.name}' has finished already: nothing is left to do.", quiet=ctx.obj.quiet)
            if stored.goal == "front":
                show_front(opened, stored, figure=figure, as_json=as_json, quiet=ctx.obj.quiet)
            else:
                show_supernet(opened, stored, as_json=as_json)
            return
    if stored.submitted_at is not None and not here:
        queue_again(url, stored, as_json=as_json)
        return
    with Store.open(url) as opened:
        _run_to_front(opened, stored, figure=figure, as_json=as_json, quiet=ctx.obj.quiet)


def stop(ctx: typer.Context, job: JobName, store: StoreURL = None) -> None:
    """Stop a running job after its current batch, or within 10 seconds; a queued one at once.

    \b
    Example:
      nas stop JOB
    """
    from nas.store import Store

    url = store_url(store)
    with Store.open(url, read_only=True) as opened:
        stored = opened.job(job)
    with Store.open(url) as opened:
        words = stop_job(opened, stored)
    note(words, quiet=ctx.obj.quiet)


def rm(
    ctx: typer.Context,
    job: JobName,
    keep_supernet: Annotated[
        bool, typer.Option("--keep-supernet", help="Keep what it trained, also when no other job uses it.")
    ] = False,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Delete a job that does not run, with its results and files. What others use stays, or is refused.

    \b
    Examples:
      nas rm JOB
      nas rm JOB --keep-supernet
    """
    from nas.store import Store, remove

    url = store_url(store)
    with Store.open(url, read_only=True) as opened:
        stored = opened.job(job)
    with Store.open(url) as opened:
        gone = remove(opened, stored, keep_supernet=keep_supernet)
    also = "".join(f"; so is supernet '{name}', which no other job uses" for name in gone.supernets)
    words = f"rows: {gone.rows:,}, files: {gone.files:,} ({amount(gone.size)}B)"
    note(f"Job '{stored.name}' is deleted{also}; {words}.", quiet=ctx.obj.quiet)
    if as_json:
        emit_json(removed(stored, gone))


def removed(job: "Job", gone: "Removed") -> dict[str, Any]:
    """What is gone with a job: the JSON of `nas rm`."""
    return {
        "id": job.id,
        "job": job.name,
        "supernets": list(gone.supernets),
        "rows": gone.rows,
        "files": gone.files,
        "bytes": gone.size,
    }


def validate(
    ctx: typer.Context,
    file: JobFile,
    overrides: Overrides = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Print the whole config of a job file. Or every problem in it, unreadable images included.

    \b
    Examples:
      nas validate job.yaml
      nas validate job.yaml --set search.evaluations=400 --json
    """
    from nas.config import REMOTE, STORED, load_config, merged, yaml

    config = load_config(file, overrides or ())
    from nas.spaces.preprocessing import prepared

    config = prepared(checked(config, store, quiet=ctx.obj.quiet))
    if any(device.backend in (REMOTE, STORED) for device in config.devices.values()):
        from nas.measuring.targets import resolved
        from nas.store import Store

        with Store.open(store_url(store), read_only=True) as opened:
            config = resolved(opened, config)
    data = merged(config)
    if as_json:
        emit_json(data)
    else:
        emit(yaml.dump(data).rstrip())


def _data_of(config: "JobConfig", *, quiet: bool) -> str:
    """One line on the job's data, after every image has been looked at; and what is odd."""
    from nas import datasets

    with shown_progress(quiet=quiet) as progress:
        data = datasets.prepared(config.data.name, config.data.options, progress)
    facts = datasets.described(data)
    return "\n".join([datasets.sentence(facts), *facts.get("notes", ())])


def _change_data(url: str, job: str, root: Path | None, *, accept: bool, quiet: bool) -> None:
    from nas.job_data import change_data
    from nas.store import Store

    with Store.open(url) as opened, shown_progress(quiet=quiet) as progress:
        message = change_data(opened, opened.job(job), root=root, accept=accept, progress=progress)
    note(message, quiet=quiet)


def checked(config: "JobConfig", store: str | None, *, quiet: bool) -> "JobConfig":
    """The config, with what a supernet that it uses was trained from; tells what the user should know.

    Raises what `jobs.check` raises, and `jobs.with_supernet`.
    """
    from nas import jobs
    from nas.spaces.preprocessing import remarks

    config, used = jobs.with_supernet(store_url(store), config)
    data_line = _data_of(config, quiet=quiet)
    jobs.check(config, used)
    for remark in remarks(config):
        note(f"warning: {remark}", quiet=quiet)
    note(data_line, quiet=quiet)
    return config


def _run_to_front(opened: "Store", job: "Job", *, figure: Path | None, as_json: bool, quiet: bool) -> None:
    from nas import pipeline
    from nas.store.connection.engine import shown

    note(f"Job '{job.name}' ({job.id}) in {shown(opened.url)}", quiet=quiet)
    stopped_words = f"Job '{job.name}' has stopped; its state is saved. Go on with: nas resume {_word(job)}"
    try:
        with shown_progress(quiet=quiet, whole=partial(_whole, opened, job)) as progress:
            pipeline.run(opened, job, progress=progress, end=partial(end_process, stopped_words))
        stopped = opened.job(job.id).state == "stopped"
    except KeyboardInterrupt:
        stopped = True
    if stopped:
        note(stopped_words)
        raise typer.Exit(INTERRUPTED)
    _finish(opened, opened.job(job.id), figure=figure, as_json=as_json, quiet=quiet)


def _whole(opened: "Store", job: "Job", of_stage: float | None) -> float | None:
    """Seconds that the job still takes; a store that does not answer now is not waited for."""
    from nas.errors import StoreError
    from nas.results.running.time_left import time_left

    try:
        with opened.waits.none():
            return time_left(opened, opened.job(job.id), of_stage)
    except StoreError:
        return None


def _finish(opened: "Store", job: "Job", *, figure: Path | None, as_json: bool, quiet: bool) -> None:
    if job.goal != "front":
        show_supernet(opened, job, as_json=as_json)
        return
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


def base_name(file: Path) -> str:
    base = "".join(character for character in file.stem if character.isprintable()).strip(" -")
    return base[:100] or "job"


def _word(job: "Job") -> str:
    """The job as it can be typed into a shell."""
    from nas.store.values import job_word

    return job_word(job.id, job.name) if re.fullmatch(r"[\w.-]+", job.name) else str(job.id)

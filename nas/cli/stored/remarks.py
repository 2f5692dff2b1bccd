"""`nas note`, `nas tag`: what people say about a job, for themselves and each other."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import AsJSON, JobName, StoreURL, store_url
from nas.cli.output import clean, emit, emit_json, note

if TYPE_CHECKING:
    from nas.store import Job


def note_job(
    ctx: typer.Context,
    job: JobName,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="A new note; without one it is printed.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the note.")] = False,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Write a note on a job, or print the one that it has. `nas show` and the dashboard's API tell it.

    \b
    Examples:
      nas note JOB 'with twice the steps'
      nas note JOB --clear
    """
    from nas.store import Store
    from search_spaces.errors import UsageError

    if clear and text is not None:
        raise UsageError("A note and --clear exclude each other.")
    url = store_url(store)
    with Store.open(url, read_only=True) as opened:
        stored = opened.job(job)
    if clear or text is not None:
        with Store.open(url) as opened:
            stored = opened.set_note(stored, text)
    if as_json:
        emit_json(remarks(stored))
    elif stored.note is not None:
        emit(clean(stored.note))
    else:
        note(f"Job '{stored.name}' has no note.", quiet=ctx.obj.quiet)


def tag_job(
    ctx: typer.Context,
    job: JobName,
    tags: Annotated[list[str] | None, typer.Argument(metavar="TAG...", help="Tags to add.")] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="TAG", help="A tag to remove; may be given several times."),
    ] = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Mark a job with tags, or print those that it has. `nas ls --tag TAG` lists the jobs of one.

    \b
    Examples:
      nas tag JOB good april
      nas tag JOB --remove april
    """
    from nas.store import Store

    url = store_url(store)
    with Store.open(url, read_only=True) as opened:
        stored = opened.job(job)
    if tags or remove:
        with Store.open(url) as opened:
            wanted = {*(opened.job(stored.id).tags or ()), *(tags or ())} - {*(remove or ())}
            stored = opened.set_tags(stored, wanted)
    if as_json:
        emit_json(remarks(stored))
    elif stored.tags:
        emit("\n".join(stored.tags))
    else:
        note(f"Job '{stored.name}' has no tags.", quiet=ctx.obj.quiet)


def remarks(job: "Job") -> dict[str, Any]:
    """The note and the tags of a job as plain data: the JSON of both verbs."""
    return {"id": job.id, "job": job.name, "note": job.note, "tags": job.tags or []}

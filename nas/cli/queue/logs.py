"""`nas logs`: what the process of a submitted job says."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import AsJSON, JobName, StoreURL, store_url
from nas.cli.output import clean, emit, emit_json, note

if TYPE_CHECKING:
    from nas.store import LogLine

ASK_SECONDS = 1.0
PENDING = ("queued", "running")


def logs(
    ctx: typer.Context,
    job: JobName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended; Ctrl-C ends only this.")
    ] = False,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Print what a submitted job has said, 2,000 lines at most: progress, warnings, a crash's traceback.

    \b
    Examples:
      nas logs JOB
      nas logs JOB -f
    """
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        stored = opened.job(job)
        lines = opened.log(stored)
        if as_json:
            emit_json(plain_lines(lines))
            return
        if not lines and not follow:
            note(f"Job '{stored.name}' has said nothing that a worker has heard.", quiet=ctx.obj.quiet)
        last = _emit_lines(lines, 0)
        while follow:
            is_over = opened.job(stored.id).state not in PENDING
            last = _emit_lines(opened.log(stored, after=last), last)
            if is_over:
                return
            time.sleep(ASK_SECONDS)


def _emit_lines(lines: "list[LogLine]", last: int) -> int:
    """Prints them; the id of the last line that was printed."""
    for line in lines:
        emit(f"{line.created_at:%Y-%m-%d %H:%M:%S} {line.attempt} {clean(line.text, newlines=False)}")
    return lines[-1].id if lines else last


def plain_lines(lines: "list[LogLine]") -> list[dict[str, object]]:
    """Lines as plain data: the JSON of `nas logs`."""
    return [
        {"id": line.id, "created_at": line.created_at, "attempt": line.attempt, "text": line.text}
        for line in lines
    ]

"""`nas report`: the main figures and tables of jobs in one file."""

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.options import JobNames, StoreURL, store_url
from nas.cli.output import note


def report(
    ctx: typer.Context,
    jobs: JobNames,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="The file to be written; it must not be there."),
    ],
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    store: StoreURL = None,
) -> None:
    """Write one HTML file, which opens without a network, with the figures and tables of one job or several.

    \b
    Examples:
      nas report JOB -o report.html
      nas report JOB OTHER -o both.html --force
    """
    from dashboards.report import report as written
    from nas.artifacts import write_atomic
    from nas.errors import ConflictError, JobFailedError
    from nas.store import Store
    from nas.store.values import now
    from search_spaces.errors import UsageError

    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"'{output}' is no file that can be written.", "Name one in a folder that is there.")
    if output.exists() and not force:
        raise ConflictError(f"'{output}' is there already.", "Name another file, or add --force.")
    with Store.open(store_url(store), read_only=True) as opened:
        chosen = list({job.id: job for job in map(opened.job, jobs)}.values())
        text = written(opened, chosen, now=now())

    def write(file: Path) -> None:
        file.write_text(text, encoding="utf-8")

    try:
        write_atomic(output.resolve(), write)
    except OSError as error:
        words = f"The report '{output}' cannot be written: {error.strerror or error}."
        raise JobFailedError(words, "Nothing else is touched by that.") from error
    note(f"{output}: {len(text.encode()) / 1e6:.1f} MB", quiet=ctx.obj.quiet)

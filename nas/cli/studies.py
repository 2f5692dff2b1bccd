"""`nas export-optuna`: a job's search for those who look at it with Optuna's tools."""

from typing import Annotated

import typer

from nas.cli._options import AsJSON, JobName, StoreURL, store_url
from nas.cli._output import emit, emit_json, note


def export_optuna(
    ctx: typer.Context,
    job: JobName,
    storage: Annotated[
        str,
        typer.Option("--storage", metavar="URL", help="An Optuna storage: sqlite:///FILE.db or a server's."),
    ],
    study: Annotated[
        str | None,
        typer.Option(
            "--study", metavar="NAME", help="Its name there. [default: the job's]", show_default=False
        ),
    ] = None,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Write a job's search as an Optuna study. Prints the study's name."""
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        found = opened.job(job)
        from nas import optuna_study

        made = optuna_study.export(opened, found, storage, study=study)
    if as_json:
        emit_json({"job": found.name, "study": made.study, "trials": made.trials})
        return
    emit(made.study)
    note(f"{made.trials} trials of job '{found.name}' are in the storage.", quiet=ctx.obj.quiet)

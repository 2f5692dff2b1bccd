"""`nas worker`, `nas workers`: what runs the queue, and what it is at."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import AsJSON, StoreURL, store_url
from nas.cli.output import INTERRUPTED, emit_json, emit_table, note, seconds

if TYPE_CHECKING:
    from nas.store import Store


def worker(
    ctx: typer.Context,
    once: Annotated[
        bool, typer.Option("--once", help="Run one job, or none if none waits, and end.")
    ] = False,
    idle_exit: Annotated[
        float | None,
        typer.Option("--idle-exit", metavar="S", min=0, help="End after so many seconds without a job."),
    ] = None,
    needs: Annotated[
        list[str] | None,
        typer.Option("--needs", metavar="X", help="Also take jobs that need X; may be given several times."),
    ] = None,
    slots: Annotated[int, typer.Option("--slots", min=1, max=64, help="Jobs at a time.")] = 1,
    store: StoreURL = None,
) -> None:
    """Run queued jobs, by priority, then age, until Ctrl-C or SIGTERM; a second one does not wait."""
    from nas.cli.queue.run_claimed import COMMAND
    from nas.queue.worker import Worker
    from nas.store import Store
    from nas.store.connection.engine import shown

    quiet = ctx.obj.quiet
    with Store.open(store_url(store)) as opened:
        note(f"Worker for {shown(opened.url)}; Ctrl-C ends it after the current batch.", quiet=quiet)
        work = Worker(
            opened,
            COMMAND,
            offers=needs or (),
            slots=slots,
            once=once,
            idle_exit=idle_exit,
            tell=lambda line: note(line, quiet=quiet),
        )
        if work.run():
            raise typer.Exit(INTERRUPTED)


def workers(store: StoreURL = None, as_json: AsJSON = False) -> None:
    """List what workers run now: the job, its attempt, and how long its lease lasts unless it is renewed."""
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        rows = worker_rows(opened)
    if as_json:
        emit_json(rows)
        return
    cells = [[*[*row.values()][:-1], seconds(row["lease_seconds"])] for row in rows]
    emit_table(("WORKER", "ID", "JOB", "ATTEMPT", "NEEDS", "LEASE"), cells, right=("ID", "ATTEMPT", "LEASE"))


def worker_rows(opened: "Store") -> list[dict[str, Any]]:
    """What workers run now, as plain data: the JSON of `nas workers`."""
    from nas.store.leases import whose

    return [
        {
            "worker": whose(job.owner),
            "id": job.id,
            "job": job.name,
            "attempt": job.attempt,
            "needs": job.needs,
            "lease_seconds": lasts,
        }
        for job, lasts in opened.taken()
    ]

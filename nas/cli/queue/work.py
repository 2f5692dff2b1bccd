"""`nas worker`, `nas workers`: what runs the queue, and what it is at."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import AsJSON, StoreURL, store_url
from nas.cli.output import INTERRUPTED, emit_json, emit_table, note, seconds

if TYPE_CHECKING:
    from nas.store import RunningWorker, Store


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
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", metavar="0,1", help="Give each job one of these GPUs; implies --needs gpu."),
    ] = None,
    slots: Annotated[
        int, typer.Option("--slots", min=1, max=64, help="Jobs at a time; with --gpus: on each.")
    ] = 1,
    store: StoreURL = None,
) -> None:
    """Run queued jobs, by priority, then age, until Ctrl-C or SIGTERM; a second one does not wait.

    \b
    Examples:
      nas worker
      nas worker --gpus 0,1
      nas worker --once
    """
    from nas.cli.queue.run_claimed import COMMAND
    from nas.queue.gpus import chosen_gpus
    from nas.queue.worker import Worker
    from nas.store import Store
    from nas.store.connection.engine import shown
    from nas.store.values import checked_name

    quiet = ctx.obj.quiet
    offers = [checked_name(need, what="need") for need in needs or ()]
    visible = {} if gpus is None else chosen_gpus(gpus)
    with Store.open(store_url(store)) as opened:
        note(f"Worker for {shown(opened.url)}; Ctrl-C ends it after the current batch.", quiet=quiet)
        work = Worker(
            opened,
            COMMAND,
            offers=offers,
            slots=slots,
            gpus=visible,
            once=once,
            idle_exit=idle_exit,
            tell=lambda line: note(line, quiet=quiet),
        )
        if work.run():
            raise typer.Exit(INTERRUPTED)


def workers(store: StoreURL = None, as_json: AsJSON = False) -> None:
    """List the workers: what each runs, its attempt, how long its lease lasts unless it is renewed.

    \b
    Examples:
      nas workers
      nas workers --json
    """
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        rows = worker_rows(opened)
    if as_json:
        emit_json(rows)
        return
    columns = {
        "WORKER": "worker",
        "ID": "id",
        "JOB": "job",
        "ATTEMPT": "attempt",
        "NEEDS": "needs",
        "LEASE": "lease_seconds",
        "OFFERS": "offers",
        "GPUS": "gpus",
        "SLOTS": "slots",
    }
    cells = [
        [_cell(row[key]) if key != "lease_seconds" else seconds(row[key]) for key in columns.values()]
        for row in rows
    ]
    emit_table([*columns], cells, right=("ID", "ATTEMPT", "LEASE", "SLOTS"))


def worker_rows(opened: "Store") -> list[dict[str, Any]]:
    """A row for each job that a worker runs, then one for each worker that runs none, as plain data.

    offers, gpus, slots: None of a worker that has not told them.
    """
    from nas.store.leases import same_process, whose

    all_workers, rows = opened.workers(), []
    idle = all_workers
    for job, lasts in opened.taken():
        its = next((one for one in all_workers if same_process(job.owner, one.owner)), None)
        idle = [one for one in idle if its is None or one.id != its.id]
        row = {"worker": whose(job.owner), "id": job.id, "job": job.name, "attempt": job.attempt}
        rows.append(row | {"needs": job.needs, "lease_seconds": lasts} | _told(its))
    for one in idle:
        nothing = dict.fromkeys(("id", "job", "attempt", "needs", "lease_seconds"))
        rows.append({"worker": whose(one.owner)} | nothing | _told(one))
    return rows


def _told(worker: "RunningWorker | None") -> dict[str, Any]:
    return {name: getattr(worker, name, None) for name in ("offers", "gpus", "slots")}


def _cell(value: object) -> object:
    return (", ".join(map(str, value)) or None) if isinstance(value, list) else value

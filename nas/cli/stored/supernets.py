"""`nas supernets`: what is trained, and who uses it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import AsJSON, StoreURL, store_url
from nas.cli.output import emit, emit_json, emit_pairs, emit_table, note, seconds
from nas.cli.stored import names

if TYPE_CHECKING:
    from nas.store import Job, Store, Supernet

app = typer.Typer(help="Trained supernets: list them, show one, delete one that no job uses.")
SupernetName = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A supernet's name, a job's name or number, or a key.",
        autocompletion=names.supernets,
    ),
]
SHOWN_KEY = 12  # characters of a key in a table
MEGABYTE = 1e6


@app.callback(invoke_without_command=True)
def _supernets(ctx: typer.Context, store: StoreURL = None, as_json: AsJSON = False) -> None:
    """List the supernets: family, data, steps, size and what uses them."""
    if ctx.invoked_subcommand is not None:
        return
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        rows = [described(opened, supernet) for supernet in opened.supernets()]
    if as_json:
        emit_json(rows)
        return
    cells = [
        (
            row["name"],
            row["family"] if row["finalists_of"] is None else f"{row['family']}, {_finalists(row)}",
            row["data"],
            row["state"],
            row["steps"],
            None if row["bytes"] is None else f"{row['bytes'] / MEGABYTE:.1f}",
            seconds(row["seconds"]),
            ", ".join(row["jobs"]),
            row["key"] and row["key"][:SHOWN_KEY],
        )
        for row in rows
    ]
    columns = ("SUPERNET", "FAMILY", "DATA", "STATE", "STEPS", "MB", "TRAINED IN", "USED BY", "KEY")
    emit_table(columns, cells, right=("STEPS", "MB", "TRAINED IN"))


@app.command("show")
def show(name: SupernetName, store: StoreURL = None, as_json: AsJSON = False) -> None:
    """Show one supernet. What it was trained from, on and how, and what uses it.

    \b
    Example:
      nas supernets show quickstart
    """
    from nas.store import Store

    with Store.open(store_url(store), read_only=True) as opened:
        row = described(opened, opened.supernet(name))
    if as_json:
        emit_json(row)
    else:
        _emit(row)


@app.command("rm")
def rm_supernet(ctx: typer.Context, name: SupernetName, store: StoreURL = None) -> None:
    """Delete a supernet that no job uses.

    \b
    Example:
      nas supernets rm NAME
    """
    from nas.store import Store, remove_supernet

    with Store.open(store_url(store)) as opened:
        supernet = opened.supernet(name)
        remove_supernet(opened, supernet)
    note(f"Supernet '{supernet.name}' is deleted.", quiet=ctx.obj.quiet)


def show_supernet(opened: "Store", job: "Job", *, as_json: bool) -> None:
    """Prints the supernet that a job has trained or found; of several one after the other, or a list."""
    rows = [described(opened, use.supernet) for use in opened.supernets_of(job)]
    if as_json and rows:
        emit_json(rows if len(rows) > 1 else rows[0])
        return
    for i, row in enumerate(rows):
        if i:
            emit("")
        _emit(row)


def described(opened: "Store", supernet: "Supernet") -> dict[str, Any]:
    """A supernet as plain data: the JSON of `nas supernets`."""
    jobs = {job.id: job.name for job in opened.jobs()}
    users = [jobs[use.job_id] for use in opened.supernet_uses() if use.supernet.id == supernet.id]
    files = [file for file in opened.all_artifacts() if file.supernet_id == supernet.id]
    recipe = supernet.settings.get("train", {})
    return {
        "name": supernet.name,
        "key": supernet.key,
        "state": supernet.state if supernet.is_trained or opened.is_held(supernet) else "interrupted",
        "family": supernet.space.get("family"),
        "subnets": supernet.space.get("size"),
        "finalists_of": supernet.settings.get("specialised", {}).get("of"),
        "data": supernet.data.get("name"),
        "steps": supernet.steps,
        "step": max((file.step or 0 for file in files), default=0),
        "bytes": sum(file.size for file in files) if files else None,
        "seconds": supernet.seconds,
        "cpu_seconds": supernet.cpu_seconds,
        "trainer": supernet.trainer,
        "jobs": users,
        "seed": supernet.settings.get("seed"),
        "recipe": recipe,
        "created_at": supernet.created_at,
        "finished_at": supernet.finished_at,
        "curve": supernet.curve,
    }


def _finalists(row: dict[str, Any]) -> str:
    return f"{row['subnets']} finalists of {row['finalists_of']}"


def _emit(row: dict[str, Any]) -> None:
    last = row["curve"][-1] if row["curve"] else {}
    size = "" if row["bytes"] is None else f", {row['bytes'] / MEGABYTE:.1f} MB"
    emit_pairs(
        {
            "supernet": row["name"],
            "state": f"{row['state']}, {row['step']} of {row['steps']} steps{size}",
            "family": f"{row['family']}, {row['subnets']} subnets"
            if row["finalists_of"] is None
            else f"{row['family']}, {_finalists(row)}, trained further",
            "data": row["data"],
            "seed": row["seed"],
            "time": f"{seconds(row['seconds'])} ({seconds(row['cpu_seconds'])} of CPU)",
            "loss": f"{last['loss']:.3f}" if isinstance(last.get("loss"), float) else None,
            "trained by": row["trainer"],
            "used by": ", ".join(row["jobs"]) or "no job",
            "key": row["key"],
        }
    )
    if row["key"] is None:
        emit("\nOther jobs find it by name only: an older version trained it, or a job with reuse: false.")

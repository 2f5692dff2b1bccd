"""`nas db`, `nas doctor`: the store's schema and health, and what is missing on this machine."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import AsJSON, StoreURL, store_url
from nas.cli.output import emit, emit_json, emit_table, note

if TYPE_CHECKING:
    from nas.store import Store

NEEDED = (
    *("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pandas", "safetensors", "optuna"),
    *("moocore", "ray", "sqlalchemy", "alembic", "dash", "plotly", "pydantic", "pyyaml", "typer", "rich"),
    *("fsspec", "platformdirs", "psutil", "waitress"),
)
OLDEST_PYTHON = (3, 11)
LEAST_MEMORY = 2 * 2**30
LEAST_DISK = 2**30

app = typer.Typer(help="The store's schema and health.")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that this machine has or lacks."""

    name: str
    ok: bool
    state: str


@app.callback(invoke_without_command=True)
def _db(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        emit(ctx.get_help())


@app.command("upgrade")
def upgrade(ctx: typer.Context, store: StoreURL = None) -> None:
    """Bring the store to this version's schema. A SQLite file is backed up first, PostgreSQL is not.

    \b
    Example:
      nas db upgrade
    """
    from nas.store import upgrade as upgrade_store

    old, new = upgrade_store(store_url(store))
    words = f"stays at schema {new}" if old == new else f"has schema {new} now (before: {old or 'none'})"
    note(f"The store {words}.", quiet=ctx.obj.quiet)


@app.command("adopt")
def adopt(ctx: typer.Context, store: StoreURL = None) -> None:
    """Take over the folder of artifact files after the store was moved. Its old place must be gone.

    \b
    Example:
      nas db adopt
    """
    from nas.store import adopt as adopt_folder

    note(f"The files in {adopt_folder(store_url(store))} are this store's.", quiet=ctx.obj.quiet)


@app.command("check")
def check(
    ctx: typer.Context,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also what rows say of each other, and each front made again.")
    ] = False,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Look for damage in the store and its files. Prints every problem.

    \b
    Examples:
      nas db check
      nas db check --deep
    """
    from nas.errors import StoreError
    from nas.store import check as check_store
    from nas.store import foreign_files

    problems = _deep_problems(store_url(store)) if deep else check_store(store_url(store))
    foreign = [] if problems else foreign_files(store_url(store))
    if as_json:
        more = {"foreign_files": foreign} if foreign else {}
        emit_json({"ok": not problems, "problems": problems, **more})
    elif problems:
        emit("\n".join(problems))
    else:
        note("The store and its files are whole.", quiet=ctx.obj.quiet)
        for path in foreign:
            note(f"'{path}' in its folder may be another store's and is left alone.", quiet=ctx.obj.quiet)
    if problems:
        raise typer.Exit(StoreError.exit_code)


def _deep_problems(url: str) -> list[str]:
    from nas.analysis.invariants import problems

    return problems(url)


@app.command("gc")
def gc(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be deleted, no more.")] = False,
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Delete what nothing refers to. Files that no row names, half-trained supernets that no job uses.

    \b
    Example:
      nas db gc --dry-run
    """
    from nas.store import Store, orphans_of_both_kinds, remove_orphans_of_both_kinds

    with Store.open(store_url(store)) as opened:
        orphans = orphans_of_both_kinds(opened)
        files = [f"{opened.artifact_root}/{inner}" for inner in orphans.files]
        if not dry_run:
            remove_orphans_of_both_kinds(opened, orphans)
    names = [supernet.name for supernet in orphans.supernets]
    if as_json:
        emit_json({"deleted": not dry_run, "files": files, "supernets": names})
        return
    emit_table(
        ("WHAT", "NAME"), [*(("file", file) for file in files), *(("supernet", name) for name in names)]
    )
    what = "would be deleted" if dry_run else "are deleted"
    note(f"{len(files)} files and {len(names)} supernets {what}.", quiet=ctx.obj.quiet)


@app.command("backup")
def backup(
    ctx: typer.Context,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="A file that does not exist yet.")],
    store: StoreURL = None,
) -> None:
    """Copy a store into a SQLite file, also while jobs run. Its artifact files are not part of it.

    \b
    Example:
      nas db backup before.db
    """
    from nas.store import backup as backup_store

    backup_store(store_url(store), target)
    note(f"The backup is in {target}", quiet=ctx.obj.quiet)


@app.command("move")
def move(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="FROM", help="The URL of a store.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The URL of a new file or an empty database.")],
) -> None:
    """Copy a whole store, files included, to another database: SQLite or PostgreSQL. The old one stays.

    \b
    Example:
      nas db move sqlite:///nas.db postgresql://nas@db.example/nas
    """
    from nas.store import move as move_store
    from nas.store.connection.engine import shown

    root = move_store(source, target)
    note(f"The store is in {shown(target)}, its files are in {root}", quiet=ctx.obj.quiet)


def doctor(
    store: StoreURL = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster to try, too: auto or HOST:PORT.")
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """Tell what this machine has and lacks. Exit code 1 when something needed is missing.

    \b
    Examples:
      nas doctor
      nas doctor --ray auto
    """
    checks = [_python(), *map(_package, NEEDED), *_machine(), *_store(store), *_ray(ray)]
    ok = all(check.ok for check in checks)
    if as_json:
        rows = [{"name": check.name, "ok": check.ok, "found": check.state} for check in checks]
        emit_json({"ok": ok, "checks": rows})
    else:
        emit_table(("", "WHAT", "FOUND"), [("ok" if c.ok else "MISSING", c.name, c.state) for c in checks])
    if not ok:
        raise typer.Exit(1)


def _python() -> Check:
    return Check("python", sys.version_info >= OLDEST_PYTHON, sys.version.split()[0])


def _package(name: str) -> Check:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, f"not installed: pip install {name}")


def _machine() -> list[Check]:
    import psutil

    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory()
    free = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    return [Check("cores", cores > 0, str(cores)), Check("memory", memory.total >= LEAST_MEMORY, free)]


def _store(given: str | None) -> list[Check]:
    """The store, and the disk under it. A store that is not there yet is no fault."""
    from search_spaces.errors import NASError

    try:
        from nas.store import Store
        from nas.store.connection.engine import shown, sqlite_file

        url = store_url(given)
        file = sqlite_file(url)
        folder = next(folder for folder in (file or Path.cwd()).parents if folder.is_dir())
        free = shutil.disk_usage(folder).free
        disk = Check("disk", free >= LEAST_DISK, f"{free / 2**30:.1f} GiB free in {folder}")
        if file is not None and not file.exists():
            writable = os.access(folder, os.W_OK)
            words = "`nas run` makes it" if writable else "and it cannot be made here"
            return [disk, Check("store", writable, f"{shown(url)} is not there yet: {words}")]
        with Store.open(url, read_only=True) as opened:
            checked = Check("store", True, f"{shown(url)}, {len(opened.jobs())} jobs")
            return [disk, checked, *([] if file is not None else [_files(opened)])]
    except NASError as error:
        return [Check("store", False, f"{error.message} {error.hint}".strip())]
    except ImportError as error:
        return [Check("store", False, f"cannot be opened: {error}")]


def _files(opened: "Store") -> Check:
    """Whether this machine sees the place in which a server's store has its files."""
    from search_spaces.errors import NASError

    try:
        opened.check_root()
        return Check("files", True, f"in '{opened.artifact_root}'")
    except NASError as error:
        return Check("files", False, f"{error.message} {error.hint}".strip())


def _ray(address: str | None) -> list[Check]:
    from nas.config.ray_address import check_cluster, is_cluster
    from search_spaces.errors import NASError, UsageError

    if address is None:
        return []
    if not is_cluster(address):
        raise UsageError(f"--ray must be auto or HOST:PORT, not '{address[:60]}'.")
    try:
        check_cluster(address)
    except NASError as error:
        return [Check("ray cluster", False, f"{error.message} {error.hint}")]
    return [Check("ray cluster", True, f"{address} answers")]

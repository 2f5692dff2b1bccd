"""The schema of a store: which revision it has, how it is upgraded, checked and backed up."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from nas.artifacts import write_atomic
from nas.errors import ConflictError, StoreError
from nas.store.connection.database import Database
from nas.store.connection.engine import check_local, connect_sqlite, shown, sqlite_file
from nas.store.connection.errors import os_words, store_error
from nas.store.connection.rows import copy_rows
from nas.store.values import now

MIGRATIONS = Path(__file__).parents[1] / "migrations"
ALEMBIC = threading.Lock()  # it keeps its state in modules
MIGRATION_LOCK = 7_031_964  # any number that nobody else uses for an advisory lock in the same database
OWN_TABLES = frozenset({"alembic_version", "jobs", "evaluations"})


def revisions() -> list[str]:
    """All revisions this code knows, oldest first: from the file names, so that alembic stays unimported."""
    return sorted(file.stem.removeprefix("rev_") for file in (MIGRATIONS / "versions").glob("rev_*.py"))


def stored_revision(connection: Connection, where: str) -> str | None:
    """The revision of the database, None for an empty one. Raises StoreError for somebody else's."""
    names = set(sa.inspect(connection).get_table_names())
    if not names:
        return None
    if not names >= OWN_TABLES:
        raise StoreError(f"The database {where} is not a store of this program.", "Name another one.")
    revision: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return revision


def refusal(revision: str | None, url: str) -> StoreError | None:
    """Why this code cannot work with a store of that revision; None when it can."""
    revisions_here, where = revisions(), shown(url)
    if revision == revisions_here[-1]:
        return None
    if revision is None:
        return StoreError(
            f"The database {where} is empty: it holds no store yet.", "`nas run FILE` makes one."
        )
    if revision in revisions_here:
        return StoreError(
            f"The store {where} has the older schema {revision}; this version needs {revisions_here[-1]}.",
            "Back it up with `pg_dump`, then run `nas db upgrade`."
            if sqlite_file(url) is None
            else "Run `nas db upgrade` (it makes a backup first).",
        )
    return StoreError(
        f"The store {where} was written by a newer version (schema {revision}, not {revisions_here[-1]}).",
        "Update this program, or name another store.",
    )


def prepare(url: str, *, read_only: bool) -> None:
    """Makes a store where there is none; raises StoreError when the one that is there cannot be used."""
    if (file := sqlite_file(url)) is not None:
        check_local(file)
    if read_only or _exists(url):
        revision = _revision(url)
        if revision is not None or read_only:
            if (refused := refusal(revision, url)) is not None:
                raise refused
            return
    _migrate(url)


def upgrade(url: str) -> tuple[str | None, str]:
    """Brings the store to this code's revision; returns (old, new).

    A SQLite file is backed up beside itself first. Killed at any moment it leaves the old schema or the new
    one: all of it is one transaction, in which it is found out, too, that nobody else was faster.
    """
    head = revisions()[-1]
    old = _revision(url) if _exists(url) else None
    if old is not None and old not in revisions():
        raise refusal(old, url) or AssertionError
    return (old if old == head else _migrate(url)), head


def backup(url: str, target: Path) -> None:
    """A consistent copy of a store as a SQLite file, also while it is written to, without its artifact files.

    Raises ConflictError when the target exists, StoreError for a store that cannot be read.
    """
    file = sqlite_file(url)
    if target.exists():
        raise ConflictError(f"The file '{target}' exists already.", "Name another one for the backup.")
    if file is None:
        prepare(url, read_only=True)
    elif not file.is_file():
        raise StoreError(f"There is no store {shown(url)}.")
    if not target.parent.is_dir():
        raise StoreError(f"The backup '{target}' cannot be written: there is no such folder.")
    try:
        if file is None:
            write_atomic(target, lambda partial: copy_store(url, f"sqlite:///{partial.absolute()}"))
        else:
            write_atomic(target, lambda partial: _copy(file, partial, url))
    except OSError as error:
        raise _no_backup(target, os_words(error)) from error
    except sqlite3.Error as error:
        raise _no_backup(target, str(error)) from error


def copy_store(source: str, target: str, *, identity: str | None = None) -> None:
    """Makes a store of an empty database, with all rows of another: one transaction.

    identity: of the new one; None: it is the same store.
    Raises ConflictError for a database that is not empty.
    """
    with Database(source, read_only=True) as database, database.read() as rows:
        _migrate(target, fill=lambda connection: copy_rows(rows, connection, identity))


def _copy(file: Path, partial: Path, url: str) -> None:
    """Copies the database. Raises StoreError for a fault of the store, sqlite3.Error for one of the copy."""
    try:
        with closing(connect_sqlite(file, read_only=True)) as source:
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
            with closing(sqlite3.connect(partial)) as copied:
                # An unfinished copy has no use, and its journal would stay when the disk is full.
                copied.execute("PRAGMA journal_mode=OFF")
                source.backup(copied)
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        # What fails for want of space, or in writing, is the copy: of the store nothing was written.
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
            raise
        raise store_error(error, shown(url)) from error


def _no_backup(target: Path, why: str) -> StoreError:
    return StoreError(
        f"The backup '{target}' cannot be written: {why}.",
        f"Make room in '{target.parent}', then try again: the store is as it was.",
    )


def database_problems(url: str) -> list[str]:
    """What is wrong with the database itself: damaged pages, broken references, another schema."""
    if not _exists(url):
        raise StoreError(f"There is no store {shown(url)}.", "`nas run FILE` makes one.")
    problems: list[str] = []
    try:
        with Database(url, read_only=True) as database, database.read() as connection:
            if sqlite_file(url) is not None:
                rows = connection.exec_driver_sql("PRAGMA integrity_check").scalars()
                problems += [f"damaged database: {row}" for row in rows if row != "ok"]
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                problems += [f"row {row[1]} of {row[0]} names a missing row of {row[2]}" for row in broken]
            refused = refusal(stored_revision(connection, shown(url)), url)
            problems += [refused.message] if refused else []
    except StoreError as error:
        problems.append(error.message)
    return problems


def is_empty(url: str) -> bool:
    """Whether there is no file, or nothing in the database. Raises StoreError for what is somebody else's."""
    return not _exists(url) or _revision(url) is None


def _exists(url: str) -> bool:
    file = sqlite_file(url)
    return file is None or file.exists()


def _revision(url: str) -> str | None:
    # Through a read-only handle: a database that turns out to be somebody else's must not be touched.
    file = sqlite_file(url)
    if file is not None and not file.is_file():
        what = "is a folder, not a file" if file.exists() else "does not exist"
        raise StoreError(f"The store {shown(url)} {what}.", "`nas run FILE` makes a store.")
    with Database(url, read_only=True) as database, database.read() as connection:
        return stored_revision(connection, shown(url))


def _migrate(url: str, *, fill: Callable[[Connection], None] | None = None) -> str | None:
    """Brings a store, or an empty database, to the newest revision; returns the one that it had.

    fill: puts rows into it, in the same transaction. Raises ConflictError then for one that is not empty.
    """
    from alembic import command  # noqa: PLC0415 - alembic is only needed when the schema changes
    from alembic.config import Config  # noqa: PLC0415

    file = sqlite_file(url)
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"The folder of {shown(url)} cannot be made: {error.strerror}.") from error
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with ALEMBIC, Database(url) as database, database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        old = stored_revision(connection, shown(url))
        if fill is not None and old is not None:
            raise not_empty(url)
        if old == revisions()[-1]:
            return old
        if file is not None and old is not None:
            # From here on nobody else writes, and who waits for the same finds it done.
            backup(url, file.with_name(f"{file.stem}.schema-{old}.{now():%Y%m%dT%H%M%S%f}{file.suffix}"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if fill is not None:
            fill(connection)
    return old


def not_empty(url: str) -> ConflictError:
    """The error of a database that a store cannot be copied into."""
    return ConflictError(f"{shown(url)} is not empty: it holds a store.", "Name a new file or database.")

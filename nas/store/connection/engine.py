"""How the store reaches its database: URLs, engines, SQLite's settings, what differs by dialect."""

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import platformdirs
import psutil
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from nas.errors import StoreError
from search_spaces.errors import UsageError

BUSY_SECONDS = 60.0
# A server whose machine is gone closes no connection: without these, libpq waits for hours. Its own words.
SERVER_ALIVE: Mapping[str, int] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
# As the kernel calls them.
NETWORKS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "orangefs"}
    | {"glusterfs", "fuse.glusterfs", "fuse.sshfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse"}
)
WRITES = "nas_writes"  # execution option of a connection that is going to write


class database_seconds(FunctionElement[float]):
    """Seconds since 1970 by the database's clock, so that one clock rules all leases."""

    type = sa.Double()
    inherit_cache = True


@compiles(database_seconds, "sqlite")
def _sqlite_seconds(_element: database_seconds, _compiler: SQLCompiler, **_options: object) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_seconds, "postgresql")
def _postgresql_seconds(_element: database_seconds, _compiler: SQLCompiler, **_options: object) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


def insert_missing(connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts the rows whose unique keys are not there yet; the others stay as they are."""
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(table).on_conflict_do_nothing(), list(rows))


def default_url() -> str:
    """NAS_STORE, or a SQLite file in the user's data folder."""
    named = os.environ.get("NAS_STORE")
    return named or f"sqlite:///{platformdirs.user_data_path('elastiform') / 'nas.db'}"


def parse_url(url: str) -> URL:
    """The URL, checked. Raises UsageError when it names no database that a store can live in."""
    hint = "Write sqlite:///FOLDER/nas.db or postgresql://USER@HOST/NAME."
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(f"The store '{url}' is not a database URL.", hint) from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise UsageError(f"A store cannot live in '{parsed.get_backend_name()}'.", hint)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise UsageError("A store needs a file: one in memory is gone with the process.", hint)
        if parsed.query or "\0" in str(parsed.database):
            raise UsageError(f"The store '{url}' names more than a file.", hint)
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def sqlite_file(url: str) -> Path | None:
    """The absolute path of a SQLite store; None for a database server."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    return Path(str(parsed.database)).expanduser().absolute()


def check_local(file: Path) -> None:
    """Raises StoreError for a SQLite file on a network's file system: its locks do not hold there, and two
    machines that write at once destroy it.
    """
    place = file.resolve()
    mounts = [one for one in psutil.disk_partitions(all=True) if place.is_relative_to(one.mountpoint)]
    mounts.sort(key=lambda one: len(Path(one.mountpoint).parts))  # of two at one place the last one is seen
    kind = mounts[-1].fstype if mounts else ""
    if kind in NETWORKS:
        raise StoreError(
            f"The store '{file}' is on a network's file system, {kind}: SQLite cannot lock it there.",
            "Use a disk of this machine, or PostgreSQL: copied to one, `nas db move` takes it to the other.",
        )


def shown(url: str) -> str:
    """How a store is called in messages: its file, or its URL without the password."""
    file = sqlite_file(url)
    return f"'{file}'" if file else f"'{parse_url(url).render_as_string(hide_password=True)}'"


def connect_sqlite(file: Path, *, read_only: bool) -> sqlite3.Connection:
    """A raw connection with the store's settings; transactions are begun by whoever uses it."""
    connection = sqlite3.connect(
        f"{file.as_uri()}?mode={'ro' if read_only else 'rwc'}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        if read_only:
            connection.execute("PRAGMA query_only=ON")
        else:
            _use_wal(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def identity_in_file(file: Path) -> str | None:
    """The identity that a SQLite file itself holds, past journals and caches; None where it tells none."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            row = connection.execute("SELECT uuid FROM store").fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])


def _use_wal(connection: sqlite3.Connection) -> None:
    # The switch to WAL mode does not wait for the busy timeout, and several may open a new store at once.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def make_engine(url: str, *, read_only: bool) -> Engine:
    """An engine that begins writing transactions with the write lock in hand.

    A transaction that reads first and then wants to write fails at once in WAL mode, whatever the busy
    timeout (sqlite.org/rescode.html#busy_snapshot); BEGIN IMMEDIATE waits instead.
    """
    file = sqlite_file(url)
    if file is None:
        try:
            server = parse_url(url)
            alive = {name: value for name, value in SERVER_ALIVE.items() if name not in server.query}
            engine = sa.create_engine(server, pool_pre_ping=True, connect_args=alive)
        except (ImportError, NoSuchModuleError) as error:
            raise StoreError(
                f"No driver for this store is installed: {error}.", "pip install 'psycopg[binary]'"
            ) from None
        return engine.execution_options(postgresql_readonly=True) if read_only else engine
    engine = sa.create_engine(
        "sqlite://", creator=lambda: connect_sqlite(file, read_only=read_only), poolclass=QueuePool
    )

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN DEFERRED")

    return engine

"""The connection to one store: transactions for reading, transactions for writing."""

import os
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import platformdirs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from nas.store._engine import WRITES, make_engine, shown, sqlite_file
from nas.store._errors import store_error
from search_spaces._errors import StoreError

Record = TypeVar("Record")
BEGIN_TRIES = 2


def artifact_root(url: str) -> Path:
    """Where the files of a store lie: beside a SQLite file; else NAS_ARTIFACTS or the user's data folder."""
    file = sqlite_file(url)
    if file is not None:
        return file.with_suffix(".artifacts")
    named = os.environ.get("NAS_ARTIFACTS")
    return Path(named).absolute() if named else platformdirs.user_data_path("elastiform") / "artifacts"


def fetch(connection: Connection, record: type[Record], query: sa.Select[Any]) -> list[Record]:
    """The rows of a query whose columns are the fields of `record`."""
    return [record(**row) for row in connection.execute(query).mappings()]


class Database:
    """An open store. Use one in each process; threads may share it."""

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self.url = url
        self.read_only = read_only
        self.artifact_root = artifact_root(url)
        self._engine: Engine = make_engine(url, read_only=read_only)
        weakref.finalize(self, self._engine.dispose)  # one that nobody closes ends with its last user

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the connections back."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads. Raises StoreError when the database fails."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its first moment: keep it short.

        Raises StoreError when the database fails or the store is open for reading only; sqlalchemy's
        IntegrityError passes.
        """
        if self.read_only:
            raise StoreError(f"The store {shown(self.url)} is open for reading only.")
        with self._transaction(writes=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        try:
            with (
                self._engine.connect().execution_options(**{WRITES: writes}) as connection,
                self._begun(connection),
            ):
                yield connection
        except IntegrityError:
            raise
        except (DBAPIError, sqlite3.Error) as error:
            raise store_error(error, shown(self.url)) from error

    @staticmethod
    def _begun(connection: Connection) -> sa.RootTransaction:
        # Nothing has been done yet, so that waiting a second time for the write lock is safe.
        for _ in range(BEGIN_TRIES - 1):
            try:
                return connection.begin()
            except DBAPIError as error:
                if "locked" not in str(error.orig):
                    raise
                connection.rollback()
        return connection.begin()

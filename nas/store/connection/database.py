"""The connection to one store: transactions for reading, transactions for writing."""

import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from nas.artifacts import crash_point
from nas.errors import StoreError
from nas.store import tables as t
from nas.store.connection.engine import WRITES, identity_in_file, make_engine, shown, sqlite_file
from nas.store.connection.errors import LostError, ReplacedError, is_lost, store_error
from nas.store.connection.patience import READER_SECONDS, Patience, Waits, again

Record = TypeVar("Record")
BEGIN_TRIES = 2
CHECKED = "nas_checked"  # of a connection to a server: which store it was found to lead to
PATIENCE_SECONDS = 600.0


def fetch(connection: Connection, record: type[Record], query: sa.Select[Any]) -> list[Record]:
    """The rows of a query whose columns are the fields of `record`."""
    return [record(**row) for row in connection.execute(query).mappings()]


class Database:
    """An open store. Use one in each process; threads may share it.

    waits: how long it is waited for when it has stopped answering; a server that has never answered is not.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self.url = url
        self.read_only = read_only
        self.waits = Waits()
        self.waits.patience = Patience(READER_SECONDS if read_only else PATIENCE_SECONDS)
        self._file = sqlite_file(url)
        self._engine: Engine = make_engine(url, read_only=read_only)
        self._answered = False
        self._identity: str | None = None
        self._inode: int | None = None
        self._written: tuple[int, int] | None = None
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

    @property
    def identity(self) -> str:
        """The store's own name, 32 hexadecimal digits; a copy of its database has the same."""
        if self._identity is None:
            inode = self._inode_now()
            with self.read() as connection:
                self._identity = connection.scalars(sa.select(t.store.c.uuid)).one()
            self._inode = inode
        return self._identity

    @again
    def check_same(self) -> None:
        """Raises ReplacedError when this is not the store that was opened; every transaction does so."""
        with self.read():
            pass

    @contextmanager
    def patient(self, patience: Patience) -> Iterator[None]:
        """Another patience for a while."""
        before, self.waits.patience = self.waits.patience, patience
        try:
            yield
        finally:
            self.waits.patience = before

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads. Raises StoreError when the database fails."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its first moment: keep it short.

        Raises StoreError when the database fails or the store is open for reading only; sqlalchemy's
        IntegrityError passes. When it returns the transaction is committed, also where a server's answer to
        that was cut off.
        """
        if self.read_only:
            raise StoreError(f"The store {shown(self.url)} is open for reading only.")
        with self._transaction(writes=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        try:
            with self._begun(writes) as (connection, transaction):
                self._check_same(connection)
                number = self._number(connection) if writes else None
                self._may_crash("rows begun", writes)
                yield connection
                self._may_crash("rows written", writes)
                self._commit(transaction, number)
                self._may_crash("rows committed", writes)
        except IntegrityError:
            raise
        except (DBAPIError, sqlite3.Error) as error:
            raise store_error(error, shown(self.url)) from error

    @staticmethod
    def _may_crash(point: str, writes: bool) -> None:
        if writes:
            crash_point(point)

    @contextmanager
    def _begun(self, writes: bool) -> Iterator[tuple[Connection, sa.RootTransaction]]:
        """A connection with a transaction in which nothing was done yet, so that waiting for it is safe."""
        with self.waits.one() as wait:
            while True:
                try:
                    connection = self._engine.connect().execution_options(**{WRITES: writes})
                    break
                except DBAPIError as error:
                    lost = store_error(error, shown(self.url))
                    if not self._answered or not isinstance(lost, LostError):
                        raise
                    wait.after(lost)
        with connection:
            transaction = self._begin(connection)
            self._answered, self.waits.ran_out = True, False
            yield connection, transaction

    @staticmethod
    def _begin(connection: Connection) -> sa.RootTransaction:
        # Nothing has been done yet, so that waiting a second time for the write lock is safe.
        for _ in range(BEGIN_TRIES - 1):
            try:
                return connection.begin()
            except DBAPIError as error:
                if "locked" not in str(error.orig):
                    raise
                connection.rollback()
        return connection.begin()

    def _number(self, connection: Connection) -> int | None:
        """The server's number of the transaction, by which its end can be looked up."""
        if self._file is not None:
            return None
        return int(connection.scalar(sa.text("SELECT txid_current()")) or 0)

    def _commit(self, transaction: sa.RootTransaction, number: int | None) -> None:
        try:
            transaction.commit()
        except DBAPIError as error:
            if number is None or not is_lost(error) or not self._is_committed(number):
                raise

    def _is_committed(self, number: int) -> bool:
        """How a transaction ended whose COMMIT had no answer. Waits until the server tells."""
        query = sa.text("SELECT txid_status(:number)").bindparams(number=number)
        with self.waits.one() as wait:
            while True:
                try:
                    with self._begun(writes=False) as (connection, _):
                        state = connection.scalar(query)
                    if state in ("committed", "aborted"):
                        return bool(state == "committed")
                    error = LostError(f"The store {shown(self.url)} does not tell how a transaction ended.")
                except DBAPIError as failed:
                    failure = store_error(failed, shown(self.url))
                    if not isinstance(failure, LostError):
                        raise
                    error = failure
                wait.after(error)

    def _inode_now(self) -> int | None:
        if self._file is None:
            return None
        try:
            return self._file.stat().st_ino
        except OSError:
            raise self._replaced("was deleted, or its folder cannot be reached") from None

    def _check_same(self, connection: Connection) -> None:
        """A copy over the file keeps its inode, another file keeps the open one: both are looked for."""
        if self._identity is None or connection.info.get(CHECKED) == self._identity:
            return
        if self._inode_now() != self._inode:
            raise self._replaced("was replaced by another file")
        self._check_content()
        try:
            identity = connection.scalar(sa.select(t.store.c.uuid))
        except DBAPIError as error:
            if is_lost(error) or "no such table" not in str(error.orig):
                raise
            identity = None
        if identity != self._identity:
            raise self._replaced("was replaced by another one")
        if self._file is None:
            connection.info[CHECKED] = identity

    def _check_content(self) -> None:
        """What an open connection has cached hides that another store was copied over the file."""
        if self._file is None:
            return
        try:
            stat = self._file.stat()
        except OSError:
            raise self._replaced("was deleted, or its folder cannot be reached") from None
        written = (stat.st_mtime_ns, stat.st_size)
        if written != self._written:
            if identity_in_file(self._file) not in (None, self._identity):
                raise self._replaced("was replaced by a copy of another one")
            self._written = written

    def _replaced(self, how: str) -> ReplacedError:
        return ReplacedError(f"The store {shown(self.url)} {how} while it was open.", "Open it again.")

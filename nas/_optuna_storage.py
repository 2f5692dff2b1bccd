"""Writing to an Optuna storage, a database that may or may not be there: all or nothing."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from search_spaces._errors import ConflictError, StoreError, UsageError


def parsed(storage: str) -> URL:
    """The URL, checked. Raises UsageError for none, or for one of a file that cannot be."""
    hint = "Write sqlite:///FILE.db or postgresql://USER@HOST/NAME."
    try:
        url = make_url(storage)
    except (ArgumentError, ValueError):
        raise UsageError(f"The storage '{storage[:200]}' is not a database URL.", hint) from None
    if url.get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:") or url.query:
            raise UsageError("The storage names no plain file.", hint)
        file = Path(str(url.database)).expanduser().absolute()
        if not file.parent.is_dir() or file.is_dir():
            raise UsageError(
                f"The storage '{file}' cannot be written.", "Name a file in a folder that exists."
            )
        return url.set(database=str(file))
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


@contextmanager
def written(url: URL) -> Iterator[Connection]:
    """A transaction in the tables of a storage; a new SQLite file gets its name when it is complete.

    Raises ConflictError for a database with the tables of something else, StoreError for one that cannot be
    written, is of another Optuna, or has no driver here.
    """
    if url.get_backend_name() != "sqlite" or Path(str(url.database)).exists():
        with _transaction(url, url) as connection:
            yield connection
        return
    file = Path(str(url.database))
    partial = file.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with _transaction(url.set(database=str(partial)), url) as connection:
            yield connection
        os.link(partial, file)
    except FileExistsError:
        raise ConflictError(f"Somebody has made {_shown(url)} meanwhile.", "Try again.") from None
    except OSError as error:
        raise _unusable(url, error) from None
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _transaction(url: URL, named: URL) -> Iterator[Connection]:
    """A transaction; `named` is the URL that messages tell."""
    storage = None
    try:
        storage = _storage(url, named)
        with storage.engine.begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise _unusable(named, error) from None
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


def _storage(url: URL, named: URL) -> RDBStorage:
    """The storage with its tables. Raises ConflictError for a database with the tables of something else."""
    try:
        engine = sa.create_engine(url)
    except (ImportError, NoSuchModuleError) as error:
        raise StoreError(
            f"No driver for this storage is installed: {error}.",
            "Install it, or export to sqlite:///FILE.db.",
        ) from None
    try:
        tables = sa.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if tables and models.VersionInfoModel.__tablename__ not in tables:
        raise ConflictError(
            f"The database {_shown(named)} holds tables that are not Optuna's.", "Name another database."
        )
    try:
        # Without a pool: a storage that cannot be made would leave its connections behind.
        return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs={"poolclass": NullPool})
    except RuntimeError:
        raise StoreError(
            f"The storage {_shown(named)} was made by another version of Optuna.",
            f"`optuna storage upgrade --storage {named.render_as_string()}` makes it this one's.",
        ) from None


def _shown(url: URL) -> str:
    file = url.get_backend_name() == "sqlite"
    return f"'{url.database if file else url.render_as_string(hide_password=True)}'"


def _unusable(url: URL, error: Exception) -> StoreError:
    cause = str(getattr(error, "orig", None) or error).strip()
    first_line = (cause.splitlines() or [type(error).__name__])[0].rstrip(".")
    return StoreError(
        f"The storage {_shown(url)} cannot be written: {first_line}.",
        "Check the path, the server, the rights.",
    )

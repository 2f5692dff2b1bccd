"""kill -9 in the middle of the migration that hands weights over to supernets, of every released store.

They are SQLite files; one of them is tried with its rows in a server's database, too.
"""

import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from nas.store import Store, check, upgrade
from nas.store.connection import schema
from nas.store.connection.engine import parse_url
from tests.nas import old_schema

STORES = Path(__file__).parents[1] / "released_stores"
SCHEMAS = ("0001", "0002", "0003", "0004")
NEWEST = max(path.stem for path in (schema.MIGRATIONS / "versions").glob("rev_*.py")).removeprefix("rev_")
# Ends the process before the database sees the statement with these words for the n-th time.
DIES = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from nas.store import upgrade
url, words, times = sys.argv[1], sys.argv[2], [int(sys.argv[3])]
@event.listens_for(Engine, "before_cursor_execute")
def ends(connection, cursor, statement, *_):
    if words in " ".join(statement.split()):
        times[0] -= 1
        if times[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
upgrade(url)
"""
MOMENTS = (
    ("CREATE TABLE supernets", 1),
    ("INSERT INTO job_supernets", 3),  # in the middle of the jobs
    ("UPDATE artifacts SET supernet_id", 1),
    ("UPDATE alembic_version SET version_num='0005'", 1),
    ("ALTER TABLE jobs ADD COLUMN last_attempt", 1),
    (f"UPDATE alembic_version SET version_num='{NEWEST}'", 1),
)
KEPT = (
    "jobs",
    "stages",
    "subnets",
    "evaluations",
    "measurements",
    "hits",
    "events",
    "artifacts",
    "predictors",
)


ON_SERVER = "0004"


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    """A transaction, whatever the schema is."""
    engine = sa.create_engine(parse_url(url))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def rows(url: str, sql: str) -> list[tuple[object, ...]]:
    with connected(url) as connection:
        return [tuple(row) for row in connection.exec_driver_sql(sql)]


def revision(url: str) -> object:
    return rows(url, "SELECT version_num FROM alembic_version")[0][0]


def tables_of(url: str) -> list[str]:
    with connected(url) as connection:
        return sa.inspect(connection).get_table_names()


def counts(url: str) -> dict[str, object]:
    there = tables_of(url)
    return {table: rows(url, f"SELECT count(*) FROM {table}")[0][0] for table in KEPT if table in there}


def copied_to_server(file: Path, revision: str, url: str) -> None:
    """The rows of a SQLite store in an empty database, both of an older schema."""
    with pytest.MonkeyPatch.context() as patch:
        old_schema.as_it_was(patch, file.parent, revision)
        schema.prepare(url, read_only=False)
    with connected(f"sqlite:///{file}") as source, connected(url) as target:
        metadata = sa.MetaData()
        metadata.reflect(target)
        for table in metadata.sorted_tables:
            if table.name == "alembic_version":
                continue
            target.execute(sa.delete(table))  # what the migrations have put there
            if found := [dict(row) for row in source.execute(sa.select(table)).mappings()]:
                target.execute(sa.insert(table), found)
                last = sa.select(sa.func.max(table.c.id)).scalar_subquery()
                target.execute(sa.select(sa.func.setval(f"{table.name}_id_seq", last)))


@pytest.fixture
def released(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """The URL of a store of an older schema, and which one."""
    database, revision = request.param
    with tarfile.open(STORES / f"{revision}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    file = tmp_path / "store.sqlite"
    if database == "SQLite":
        return f"sqlite:///{file}", revision
    url: str = request.getfixturevalue("postgresql_url")
    copied_to_server(file, revision, url)
    monkeypatch.setenv("NAS_ARTIFACTS", str(tmp_path / "artifacts"))
    ((identity,),) = rows(url, "SELECT uuid FROM store")
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "store.sqlite.artifacts").rename(tmp_path / "artifacts" / f"store-{identity}")
    return url, revision


CASES = [
    *((("SQLite", revision), moment) for revision in SCHEMAS for moment in MOMENTS),
    *((("server", ON_SERVER), MOMENTS[n]) for n in (1, -1)),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("released", "moment"),
    CASES,
    ids=[f"{database}-{revision}-{words}" for (database, revision), (words, _) in CASES],
    indirect=["released"],
)
def test_a_kill_leaves_the_old_schema_with_every_row(
    released: tuple[str, str], moment: tuple[str, int]
) -> None:
    url, schema = released
    before, tables = counts(url), tables_of(url)
    words, times = moment
    killed = subprocess.run([sys.executable, "-c", DIES, url, words, str(times)], check=False)
    assert killed.returncode == -signal.SIGKILL, "the statement is part of the migration"
    assert revision(url) == schema, "all of the way to the newest schema is one transaction"
    assert (counts(url), sorted(tables_of(url))) == (before, sorted(tables))
    upgrade(url)
    assert revision(url) == NEWEST
    assert {table: count for table, count in counts(url).items() if table in before} == before
    assert check(url) == []
    trained = rows(url, "SELECT DISTINCT supernet_id FROM artifacts WHERE kind = 'supernet'")
    with Store.open(url, read_only=True) as store:
        assert len(store.supernets()) == len(trained) >= 5
        assert all(one.is_trained for one in store.supernets())

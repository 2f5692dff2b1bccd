"""kill -9 in the middle of the migration that hands weights over to supernets, of every released store."""

import signal
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from nas.store import Store, check, upgrade
from nas.store.connection import schema

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


def rows(file: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(sql).fetchall()


def revision(file: Path) -> object:
    return rows(file, "SELECT version_num FROM alembic_version")[0][0]


def tables_of(file: Path) -> list[str]:
    return [str(name) for (name,) in rows(file, "SELECT name FROM sqlite_master WHERE type = 'table'")]


def counts(file: Path) -> dict[str, object]:
    there = tables_of(file)
    return {table: rows(file, f"SELECT count(*) FROM {table}")[0][0] for table in KEPT if table in there}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS, ids=[words for words, _ in MOMENTS])
@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_kill_leaves_the_old_schema_with_every_row(
    schema: str, moment: tuple[str, int], tmp_path: Path
) -> None:
    with tarfile.open(STORES / f"{schema}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    file = tmp_path / "store.sqlite"
    url, before, tables = f"sqlite:///{file}", counts(file), tables_of(file)
    words, times = moment
    killed = subprocess.run([sys.executable, "-c", DIES, url, words, str(times)], check=False)
    assert killed.returncode == -signal.SIGKILL, "the statement is part of the migration"
    assert revision(file) == schema, "all of the way to the newest schema is one transaction"
    assert (counts(file), sorted(tables_of(file))) == (before, sorted(tables))
    upgrade(url)
    assert revision(file) == NEWEST
    assert {table: count for table, count in counts(file).items() if table in before} == before
    assert check(url) == []
    trained = rows(file, "SELECT DISTINCT supernet_id FROM artifacts WHERE kind = 'supernet'")
    with Store.open(url, read_only=True) as store:
        assert len(store.supernets()) == len(trained) >= 5
        assert all(one.is_trained for one in store.supernets())

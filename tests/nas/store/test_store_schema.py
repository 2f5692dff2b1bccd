"""The schema: made, upgraded, refused.

Files that are no store, and references that a server keeps itself, are SQLite's.
"""

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from nas.errors import ConflictError, StoreError
from nas.store import NewEvaluation, NewEvent, NewSubnet, ReplacedError, Store, backup, check, tables, upgrade
from nas.store.connection import schema
from nas.store.connection.database import Database
from nas.store.connection.engine import database_seconds
from search_spaces.errors import NASError

NEWEST = max(path.stem for path in (schema.MIGRATIONS / "versions").glob("rev_*.py")).removeprefix("rev_")
MIGRATIONS = schema.MIGRATIONS
LATER = f"{int(NEWEST) + 1:04d}"
NEXT = f"""
import sqlalchemy as sa
from alembic import op
revision = "{LATER}"
down_revision = "{NEWEST}"
def upgrade():
    op.add_column("jobs", sa.Column("later", sa.Text()))
"""
BREAKS = NEXT + "    raise RuntimeError('half way')\n"
DIES = NEXT + "    import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "nas.db"


@pytest.fixture
def url(file):
    return f"sqlite:///{file}"


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request, tmp_path):
    """The URL of a store that does not exist yet, of each kind of database."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql_url")
    return f"sqlite:///{tmp_path / 'nas.db'}"


@pytest.fixture
def filled(url):
    """A closed store with a job in it."""
    return with_a_job(url)


@pytest.fixture
def any_filled(any_url):
    """The same, of each kind of database."""
    return with_a_job(any_url)


def with_a_job(url):
    with Store.open(url) as store:
        store.create_job("job", config={}, seed=0, provenance={})
    return url


def asked(url, sql):
    """Rows, whatever the schema is."""
    with Database(url, read_only=True) as database, database.read() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(sql)]


def ahead(monkeypatch, tmp_path, text):
    """The code as it will be one revision later."""
    folder = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / f"rev_{LATER}.py").write_text(text)
    monkeypatch.setattr(schema, "MIGRATIONS", folder)
    return folder


def as_it_was(monkeypatch, tmp_path, revision):
    """The code as it was when this revision was the newest."""
    folder = tmp_path / f"until-{revision}"
    shutil.copytree(schema.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (folder / "versions").glob("rev_*.py"):
        if file.stem.removeprefix("rev_") > revision:
            file.unlink()
    monkeypatch.setattr(schema, "MIGRATIONS", folder)


def revision(file):
    return revision_of(f"sqlite:///{file}")


def revision_of(url):
    return asked(url, "SELECT version_num FROM alembic_version")[0][0]


def test_the_migrations_build_the_tables_of_the_metadata(any_filled):
    with Store.open(any_filled) as store, store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        names = {
            table: sa.inspect(connection).get_unique_constraints(table) for table in tables.metadata.tables
        }
    assert {c["name"] for c in names["evaluations"]} == {"uq_evaluations_subnet_id_split_weights_metric"}


def test_the_file_names_are_the_revisions():
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert [script.revision for script in scripts.walk_revisions()][::-1] == schema.revisions()


def test_the_tables_and_statements_are_valid_for_postgresql():
    dialect = postgresql.dialect()
    for table in tables.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
    assert "clock_timestamp()" in str(sa.select(database_seconds() + 30.0).compile(dialect=dialect))


def test_a_new_store_is_made_with_its_folder(tmp_path):
    file = tmp_path / "new" / "a b#c?d%e.db"
    with Store.open(sa.URL.create("sqlite", database=str(file)).render_as_string()) as store:
        assert store.jobs() == []
        assert store.artifact_root.path == file.with_name(f"{file.name}.artifacts")
    assert file.is_file()


def test_an_empty_file_becomes_a_store_but_not_for_a_reader(file, url):
    file.touch()
    with pytest.raises(StoreError, match="holds no store"):
        Store.open(url, read_only=True)
    Store.open(url).close()
    assert check(url) == []


def test_reading_a_store_that_does_not_exist_creates_nothing(tmp_path):
    with pytest.raises(StoreError, match="does not exist") as caught:
        Store.open(f"sqlite:///{tmp_path / 'folder' / 'nas.db'}", read_only=True)
    assert caught.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_and_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        Store.open(f"sqlite:///{tmp_path / 'file' / 'nas.db'}")
    with pytest.raises(StoreError, match="is a folder"):
        Store.open(f"sqlite:///{tmp_path}")


def test_a_newer_store_is_refused(filled, file):
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    for act in (Store.open, upgrade, lambda url: Store.open(url, read_only=True)):
        with pytest.raises(StoreError, match="written by a newer version"):
            act(filled)
    assert revision(file) == "9999"
    assert len(check(filled)) == 1


def test_an_older_store_asks_for_the_upgrade_which_keeps_its_rows(any_filled, tmp_path, monkeypatch):
    ahead(monkeypatch, tmp_path, NEXT)
    for read_only in (True, False):
        with pytest.raises(StoreError) as caught:
            Store.open(any_filled, read_only=read_only)
        assert "nas db upgrade" in caught.value.hint
    assert "older schema" in check(any_filled)[0]
    assert upgrade(any_filled) == (NEWEST, LATER)
    assert upgrade(any_filled) == (LATER, LATER)
    assert asked(any_filled, "SELECT name, later FROM jobs") == [("job", None)]
    copies = list(tmp_path.glob(f"nas.schema-{NEWEST}.*.db"))  # `pg_dump` makes a server's
    assert [revision(copy) for copy in copies] == ([NEWEST] if any_filled.startswith("sqlite") else [])


def test_a_filled_store_of_the_first_schema_is_upgraded(url, file, tmp_path, monkeypatch):
    as_it_was(monkeypatch, tmp_path, "0001")
    schema.prepare(url, read_only=False)
    fill_first_schema(file)
    monkeypatch.undo()
    assert "older schema" in check(url)[0]
    assert upgrade(url) == ("0001", NEWEST)
    assert check(url) == []
    (copy,) = tmp_path.glob("nas.schema-0001.*.db")
    assert revision(copy) == "0001"
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM measurements").fetchone() == (1_202,)
    with Store.open(url) as store:
        found = store.measurements(store.job("old"))
        assert len(found) == 1_202
        results = [m.result for m in found]
        assert {(r.latency_ms, r.spread_ms, r.rounds) for r in results} == {(2.0, 0.1, 2)}
        assert store.failures(store.job("old")) == []
        assert results[0].raw == [
            [0, None, 0.002, None, 0.001, None, 0.0011, None, 1],
            [1, None, 0.003, None, 0.0012, None, None, None, 1],
        ]
        assert results[-2].raw == [[0, None, 1201.0, None, 1.0, None, 1.0, None, 1]]
        assert results[-1].raw == {"ms": [1.0]}
        assert [r.stderr_ms for r in results[:2]] == [None, None]
        (device,) = store.devices()
        assert (device.name, device.options, device.reference_ms) == ("cpu", None, None)
        assert (store.agents(), store.requests(store.job("old"))) == ([], [])


def fill_first_schema(file):
    raw = {1: "[[0.002, 0.001, 0.0011], [0.003, 0.0012, null]]", 1202: '{"ms": [1.0]}'}
    numbers = range(1, 1_203)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(
            "INSERT INTO jobs"
            " (id, name, state, config, provenance, seed, created_at, stop_requested, attempt)"
            " VALUES (1, 'old', 'succeeded', '{}', '{}', 0, '2026-01-01 00:00:00', 0, 1)"
        )
        connection.execute("INSERT INTO devices VALUES (1, 'cpu', 'd', '{}', '2026-01-01 00:00:00')")
        connection.executemany(
            "INSERT INTO subnets VALUES (?, 1, ?, '{}', 1, 1)", [(n, f"k{n}") for n in numbers]
        )
        connection.executemany(
            "INSERT INTO measurements VALUES"
            " (?, 1, ?, 1, 'sample', 2.0, 0.1, 1.0, 2, ?, '2026-01-01 00:00:00')",
            [(n, n, raw.get(n, f"[[{n}.0, 1.0, 1.0]]")) for n in numbers],
        )


def test_an_upgrade_that_fails_half_way_leaves_the_old_schema(any_filled, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        ahead(patch, tmp_path, BREAKS)
        with pytest.raises(RuntimeError, match="half way"):
            upgrade(any_filled)
    assert revision_of(any_filled) == NEWEST
    assert check(any_filled) == []


def test_an_upgrade_that_is_killed_leaves_the_old_schema(any_filled, tmp_path, monkeypatch):
    folder = ahead(monkeypatch, tmp_path, DIES)
    code = (
        "import sys, pathlib; from nas.store import upgrade\n"
        "from nas.store.connection import schema\n"
        "schema.MIGRATIONS = pathlib.Path(sys.argv[2]); upgrade(sys.argv[1])"
    )
    killed = subprocess.run([sys.executable, "-c", code, any_filled, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    monkeypatch.setattr(schema, "MIGRATIONS", MIGRATIONS)
    assert check(any_filled) == []
    assert revision_of(any_filled) == NEWEST


def test_what_is_no_store_is_refused_and_left_alone(file, url):
    file.write_text("a shopping list\n" * 100)
    before = file.read_bytes()
    for act in (Store.open, upgrade, lambda url: backup(url, file.with_name("copy.db"))):
        with pytest.raises(StoreError, match="no SQLite file"):
            act(url)
    assert "no SQLite file" in check(url)[0]
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["nas.db"]


def test_the_database_of_another_program_is_left_alone(file, url):
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    before = file.read_bytes()
    for act in (Store.open, upgrade):
        with pytest.raises(StoreError, match="not a store of this program"):
            act(url)
    assert file.read_bytes() == before


def test_a_backup_is_a_store_of_its_own(any_filled, tmp_path):
    copy = tmp_path / "copy.db"
    with Store.open(any_filled) as store, store.acquire(store.job("job")) as lease:
        store.add_evaluations(lease, [NewEvaluation(NewSubnet("k", {}, 1, 1), 0.5)])
        backup(any_filled, copy)
        store.add_evaluations(lease, [NewEvaluation(NewSubnet("l", {}, 1, 1), 0.5)])
    assert {path.name for path in tmp_path.iterdir()} - {"nas.db"} == {"copy.db"}
    with Store.open(f"sqlite:///{copy}") as store:
        assert len(store.evaluations(store.job("job"))) == 1
    assert check(f"sqlite:///{copy}") == []


def test_a_backup_overwrites_nothing_and_reads_only_what_is_there(any_filled, tmp_path):
    (tmp_path / "copy.db").write_text("precious")
    with pytest.raises(ConflictError, match="exists already"):
        backup(any_filled, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "precious"
    with pytest.raises(StoreError, match="cannot be written"):
        backup(any_filled, tmp_path / "none" / "copy.db")
    with pytest.raises(StoreError, match="no store"):
        backup(f"sqlite:///{tmp_path / 'none.db'}", tmp_path / "other.db")
    with pytest.raises(StoreError, match="does not answer") as caught:
        backup("postgresql://me:secret@localhost:1/nas", tmp_path / "other.db")
    assert "secret" not in caught.value.message
    assert not (tmp_path / "other.db").exists()


def test_check_names_broken_references_and_a_missing_store(filled, file, tmp_path):
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO subnets VALUES (1, 99, 'k', '{}', 1, 1, NULL)")
    connection.close()
    assert check(filled) == ["row 1 of subnets names a missing row of jobs"]
    with pytest.raises(NASError, match="no store"):
        check(f"sqlite:///{tmp_path / 'none.db'}")


def test_four_upgrades_at_once_are_one(new_url, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        as_it_was(patch, tmp_path, "0003")
        schema.prepare(new_url, read_only=False)
    code = "import sys; from nas.store import upgrade; print(*upgrade(sys.argv[1]))"
    command = [sys.executable, "-c", code, new_url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    told = sorted(process.communicate(timeout=120)[0] for process in running)
    head = schema.revisions()[-1]
    assert told[0] == f"0003 {head}\n"
    assert set(told) <= {f"0003 {head}\n", f"{head} {head}\n"}
    assert told.count(f"0003 {head}\n") == 1
    copies = list(tmp_path.glob("nas.schema-0003.*.db"))
    assert len(copies) == int(new_url.startswith("sqlite"))
    assert check(new_url) == []


def test_a_disk_that_is_full_is_that_of_the_backup_and_nothing_of_it_stays(filled, file, tmp_path):
    with Store.open(filled) as store, store.acquire(store.job("job")) as lease:
        store.add_events(lease, [NewEvent("log", {"text": "x" * 1000}) for _ in range(300)])
    code = (
        "import resource, signal, sys; from pathlib import Path; from nas.store import backup\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "backup(sys.argv[1], Path(sys.argv[2]))\n"
    )
    target = tmp_path / "backups" / "copy.db"
    target.parent.mkdir()
    command = [sys.executable, "-c", code, filled, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"StoreError: The backup '{target}' cannot be written" in done.stderr.splitlines()[-1]
    assert list(target.parent.iterdir()) == []
    assert check(filled) == []


@pytest.mark.parametrize("way", ["deleted", "moved over", "copied over"])
@pytest.mark.parametrize("read_only", [True, False])
def test_a_store_that_is_another_one_by_now_is_noticed(filled, file, tmp_path, way, read_only):
    other = tmp_path / "other.db"
    Store.open(f"sqlite:///{other}").close()
    with Store.open(filled, read_only=read_only) as store:
        assert len(store.jobs()) == 1
        store.check_same()
        if way == "deleted":
            file.unlink()
        elif way == "moved over":
            other.replace(file)
        else:
            shutil.copyfile(other, file)
            for name in ("nas.db-wal", "nas.db-shm"):
                (tmp_path / name).unlink(missing_ok=True)
        for act in (store.check_same, store.jobs):
            with pytest.raises(ReplacedError, match=r"deleted|replaced") as caught:
                act()
        assert caught.value.exit_code == 5
    if way == "deleted":
        assert not file.exists()


def test_the_identity_is_made_once_and_a_copy_has_it(any_filled, tmp_path):
    with Store.open(any_filled) as store:
        identity = store.identity
    copy = tmp_path / "copy.db"
    backup(any_filled, copy)
    with Store.open(f"sqlite:///{copy}", read_only=True) as store:
        assert store.identity == identity
    with Store.open(f"sqlite:///{tmp_path / 'new.db'}") as store:
        assert store.identity != identity

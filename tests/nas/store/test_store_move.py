"""A store that goes from one database to another: all of it, or nothing that could be taken for a store."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from filled_store import finished_job, measured_job

from nas.cli import main
from nas.errors import ConflictError, StoreError
from nas.store import NewJob, Store, Submission, backup, check, move
from nas.store import tables as t
from nas.store.connection.rows import ROOT
from nas.store.connection.schema import is_empty

MOVES = "import sys; from nas.store import move; move(*sys.argv[1:])"


def fill(url: str) -> None:
    """Two finished jobs, one that waits, a file, and what a log and a request are."""
    with Store.open(url) as store:
        finished_job(store, "first")
        measured_job(store, "second <b>")
        values = {"config": {"a": [1, 0.1, None, "ä"]}, "seed": 2**40, "provenance": {}}
        (job,) = store.submit([NewJob("job", None, values, Submission(priority=3, key="k"))])
        store.add_log(job, ["one line", "another"])
        with store.acquire(store.job("first")) as lease:
            path = store.new_artifact_path(lease, "supernet", ".bin")
            path.write_bytes(b"weights" * 1000)
            store.add_artifact(lease, "supernet", path, step=3)
            store.add_request(lease, "agent", {"n": 1})
            lease.finish("succeeded")


def content(url: str) -> dict[str, list[object]]:
    """Every row of every table but for what is the store's own: its identity, its token."""
    rows = {}
    with Store.open(url, read_only=True) as store, store.read() as connection:
        for table in t.metadata.sorted_tables:
            kept = table.c.kind != ROOT if table is t.artifacts else sa.true()
            query = sa.select(table).where(kept).order_by(table.c.id)
            rows[table.name] = [tuple(row) for row in connection.execute(query)]
    return {name: found for name, found in rows.items() if name != "store"}


@pytest.fixture
def url(store_url: str) -> str:
    fill(store_url)
    return store_url


def test_to_a_server_and_back(url: str, postgresql_url: str, tmp_path: Path) -> None:
    before = content(url)
    assert main(["db", "move", url, postgresql_url]) == 0
    assert content(postgresql_url) == before
    assert [check(url), check(postgresql_url)] == [[], []]
    back = f"sqlite:///{tmp_path / 'back' / 'nas.db'}"
    with Store.open(postgresql_url) as store:
        identity = store.identity
        fresh = store.create_job("fresh", config={}, seed=0, provenance={})
        assert fresh.id == len(store.jobs())  # ids go on behind those that have come
        assert store.take_job().job.name == "job"
        with store.write() as connection:
            connection.execute(sa.update(t.jobs).values(owner=None, lease_until=None))
    (tmp_path / "back").mkdir()
    root = move(postgresql_url, back)
    assert root.path == tmp_path / "back" / "nas.db.artifacts"
    assert content(back) == content(postgresql_url)
    assert check(back) == []
    with Store.open(back) as store, Store.open(url, read_only=True) as first:
        assert len({store.identity, first.identity, identity}) == 3
        assert store.job("job").config == {"a": [1, 0.1, None, "ä"]}


def test_a_target_that_is_not_empty_stays_as_it_is(url: str, any_url: str, tmp_path: Path) -> None:
    before = content(any_url)
    with pytest.raises(ConflictError, match="is not empty"):
        move(url, any_url)
    assert content(any_url) == before
    assert main(["db", "move", url, any_url]) == 4
    assert main(["db", "move", url, "mysql://a/b"]) == 2
    assert main(["db", "move", f"sqlite:///{tmp_path}/none.db", any_url]) == 5


def test_a_folder_that_is_somebody_elses_stays_as_it_is(url: str, tmp_path: Path) -> None:
    (tmp_path / "new.db.artifacts").mkdir()
    (tmp_path / "new.db.artifacts" / "mine.txt").write_text("mine")
    with pytest.raises(ConflictError, match="is there already"):
        move(url, f"sqlite:///{tmp_path / 'new.db'}")
    assert (tmp_path / "new.db.artifacts" / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "new.db").exists()


def test_a_store_at_which_somebody_works_is_not_moved(url: str, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path / 'new.db'}"
    with Store.open(url) as store, store.acquire(store.job("first")) as lease:
        with pytest.raises(ConflictError, match="A process is at work at job 'first'"):
            move(url, target)
        lease.finish("succeeded")
    move(url, target)
    assert check(target) == []


def test_a_file_that_is_not_whole_is_named_and_nothing_is_left(
    url: str, postgresql_url: str, tmp_path: Path
) -> None:
    (file,) = tmp_path.glob("*.artifacts/job-1/*")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match="was cut or changed"):
        move(url, postgresql_url)
    assert is_empty(postgresql_url)


@pytest.mark.parametrize("point", ["file written:1", "rows begun:1", "rows written:1", "file synced:1"])
def test_a_kill_leaves_nothing_that_is_taken_for_a_store(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    new = tmp_path / "new.db"
    command = [sys.executable, "-c", MOVES, url, f"sqlite:///{new}"]
    with monkeypatch.context() as patch:
        patch.setenv("NAS_CRASH_AT", point)
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not new.exists()
    move(url, f"sqlite:///{new}")
    assert content(f"sqlite:///{new}") == content(url)
    assert check(f"sqlite:///{new}") == []


@pytest.mark.slow
@pytest.mark.parametrize("point", ["rows begun:1", "rows written:1"])
def test_a_kill_leaves_a_servers_database_empty(
    url: str, postgresql_url: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    command = [sys.executable, "-c", MOVES, url, postgresql_url]
    with monkeypatch.context() as patch:
        patch.setenv("NAS_CRASH_AT", point)
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert is_empty(postgresql_url)
    move(url, postgresql_url)
    assert content(postgresql_url) == content(url)
    assert check(postgresql_url) == []


def test_a_backup_of_a_server_is_a_file_that_can_be_moved_back(
    url: str, postgresql_url: str, tmp_path: Path
) -> None:
    root = move(url, postgresql_url)
    with Store.open(postgresql_url) as store, store.acquire(store.job("second <b>")):
        backup(postgresql_url, tmp_path / "backup.db")  # also while somebody works
        saved = content(postgresql_url)
        identity = store.identity
    copy = f"sqlite:///{tmp_path / 'backup.db'}"
    assert content(copy) == saved
    with Store.open(copy, read_only=True) as store:
        assert store.identity == identity
    assert any("is missing" in problem for problem in check(copy))  # files are no part of it
    root.path.rename(tmp_path / "backup.db.artifacts")
    with Store.open(copy) as store, store.write() as connection:
        connection.execute(sa.update(t.jobs).values(lease_until=1.0).where(t.jobs.c.owner.is_not(None)))
    move(copy, f"sqlite:///{tmp_path / 'restored.db'}")
    assert check(f"sqlite:///{tmp_path / 'restored.db'}") == []
    with pytest.raises(ConflictError, match="exists already"):
        backup(postgresql_url, tmp_path / "backup.db")

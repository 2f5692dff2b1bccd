"""Databases that are damaged, full, locked away: SQLite files, whose pages and rights a server guards itself.

What a server can be asked to do to a store, it is asked below and in `test_store_postgresql.py`.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from nas.errors import StoreError
from nas.store import NewEvent, Store, check, upgrade
from nas.store.connection import engine


@pytest.fixture
def file(tmp_path):
    return tmp_path / "nas.db"


@pytest.fixture
def filled(file):
    """The URL of a closed store with a job in it."""
    with Store.open(f"sqlite:///{file}") as store:
        store.create_job("job", config={}, seed=0, provenance={})
    return f"sqlite:///{file}"


def test_a_damaged_store_is_one_sentence(filled, file):
    with Store.open(filled) as store, store.acquire(store.job("job")) as lease:
        store.add_events(lease, [NewEvent("log", {"text": "x" * 500}) for _ in range(400)])
    data = bytearray(file.read_bytes())
    pages = range(4096, len(data), 4096)
    for start in pages[len(pages) // 2 :]:
        data[start : start + 64] = b"\xff" * 64
    file.write_bytes(data)
    assert any("damaged" in problem for problem in check(filled))

    def use():
        with Store.open(filled) as store:
            store.events(store.job("job"))

    with pytest.raises(StoreError, match="is damaged") as caught:
        use()
    assert "backup" in caught.value.hint


def test_a_truncated_store_is_one_sentence(filled, file):
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(StoreError):
        Store.open(filled).jobs()
    assert check(filled)


def test_no_space_is_one_sentence_and_harms_nothing(filled):
    code = (
        "import resource, signal, sys; from nas.store import Store, NewEvent\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = Store.open(sys.argv[1]); lease = store.acquire(store.job('job'))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))\n"
        "for n in range(1000): store.add_events(lease, [NewEvent('log', {'text': 'x' * 2000}, step=n)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, filled], capture_output=True, text=True, check=False)
    assert "StoreError" in done.stderr.splitlines()[-1]
    assert check(filled) == []
    with Store.open(filled) as store:
        steps = [event.step for event in store.events(store.job("job"))]
        assert steps == list(range(len(steps)))
        assert steps


def test_a_killed_writer_leaves_every_row_it_committed_for_a_reader(any_url):
    with Store.open(any_url) as store:
        store.create_job("job", config={}, seed=0, provenance={})
    code = (
        "import sys; from nas.store import Store, NewEvent\n"
        "store = Store.open(sys.argv[1]); lease = store.acquire(store.job('job')); n = 0\n"
        "while True: store.add_events(lease, [NewEvent('log', {}, step=n)]); print(n, flush=True); n += 1\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, any_url], stdout=subprocess.PIPE, text=True)
    told = [int(writer.stdout.readline()) for _ in range(20)]
    writer.kill()
    told += [int(line) for line in writer.stdout.read().split("\n") if line]
    writer.stdout.close()
    writer.wait()
    with Store.open(any_url, read_only=True) as store:
        steps = [event.step for event in store.events(store.job("job"))]
    assert set(told) <= set(steps) == set(range(len(steps)))


def mounted(fstype, folder):
    """A file system as psutil tells it; the others are the machine's own."""
    partition = type(psutil.disk_partitions(all=True)[0])
    return [*psutil.disk_partitions(all=True), partition(f"server:/{fstype}", str(folder), fstype, "rw")]


@pytest.mark.parametrize("fstype", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_file_of_a_network_is_refused_with_the_reason(file, filled, tmp_path, monkeypatch, fstype):
    mounts = mounted(fstype, tmp_path)
    monkeypatch.setattr(engine.psutil, "disk_partitions", lambda all: mounts)
    for url in (filled, f"sqlite:///{tmp_path / 'deeper' / 'new.db'}"):
        for read_only in (False, True):
            with pytest.raises(StoreError, match="network's file system") as caught:
                Store.open(url, read_only=read_only)
            assert fstype in caught.value.message
            assert "PostgreSQL" in caught.value.hint
    assert not (tmp_path / "deeper").exists()


def test_a_disk_below_the_mount_of_a_network_is_none(filled, tmp_path, monkeypatch):
    mounts = [*mounted("nfs4", tmp_path.parent), *mounted("ext4", tmp_path)[-1:]]
    monkeypatch.setattr(engine.psutil, "disk_partitions", lambda all: mounts)
    with Store.open(filled) as store:
        assert len(store.jobs()) == 1


@contextmanager
def somebody_else():
    """Root may write anything; as nobody the process may only read what is root's."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_file_without_rights_is_one_sentence():
    folder = Path(tempfile.mkdtemp(prefix="nas-rights-"))  # pytest's own folder is root's alone
    file = folder / "nas.db"
    Store.open(f"sqlite:///{file}").close()
    file.chmod(0o444)
    folder.chmod(0o555)

    def write():
        with Store.open(f"sqlite:///{file}") as store:
            store.create_job("job", config={}, seed=0, provenance={})

    try:
        with somebody_else(), pytest.raises(StoreError) as caught:
            write()
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert "it is read-only" in caught.value.message
    assert "rights" in caught.value.hint


def test_a_servers_database_of_another_program_is_left_alone(postgresql_url):
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    for act in (Store.open, upgrade, lambda url: Store.open(url, read_only=True)):
        with pytest.raises(StoreError, match="is not a store of this program"):
            act(postgresql_url)


@pytest.mark.parametrize(("revision", "words"), [("9999", "newer version"), ("0006", "older schema")])
def test_a_servers_store_of_another_version_is_refused(postgresql_url, revision, words):
    Store.open(postgresql_url).close()
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"UPDATE alembic_version SET version_num = '{revision}'")
    for read_only in (False, True):
        with pytest.raises(StoreError, match=words) as caught:
            Store.open(postgresql_url, read_only=read_only)
        assert caught.value.hint


def test_a_server_that_only_reads_is_one_sentence(postgresql_url):
    """A standby, or a user who may not write."""
    Store.open(postgresql_url).close()
    name = postgresql_url.rpartition("/")[2]
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with Store.open(postgresql_url) as store:
        assert store.jobs() == []
        with pytest.raises(StoreError, match="the server is read-only") as caught:
            store.create_job("job", config={}, seed=0, provenance={})
    assert "primary" in caught.value.hint

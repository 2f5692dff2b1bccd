"""What only a database server can do: vanish, come back, lose the answer to a COMMIT."""

import shutil
import threading
import time

import psycopg
import pytest
import sqlalchemy as sa

from nas.errors import ConflictError, StoreError
from nas.store import NewEvent, NewJob, Patience, Store, Submission, backup, check, leases, upgrade
from nas.store import tables as t
from nas.store.connection import schema


def new_job(store, name="job"):
    return store.create_job(name, config={}, seed=0, provenance={})


@pytest.fixture
def store(postgresql_url):
    with Store.open(postgresql_url) as opened:
        yield opened


def kill_sessions(url):
    """As an administrator does it, or a proxy: every other connection to the database ends."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


class Cut:
    """Ends all connections right before or right after the next COMMIT."""

    def __init__(self, store, monkeypatch, *, after):
        self.url, self.after, self.times = store.url, after, 0
        real = sa.engine.RootTransaction.commit

        def commit(transaction):
            if self.times == 0:
                self.times = 1
                if self.after:
                    transaction.connection.connection.dbapi_connection.commit()
                kill_sessions(self.url)
            real(transaction)

        monkeypatch.setattr(sa.engine.RootTransaction, "commit", commit)


@pytest.mark.parametrize("after", [False, True], ids=["not committed", "committed"])
@pytest.mark.parametrize(
    "act",
    [
        lambda store, lease: store.add_events(lease, [NewEvent("log", {})]),
        lambda store, lease: new_job(store, "second"),
        lambda store, lease: store.begin_stage(lease, "train", "key"),
        lambda store, lease: store.acquire(store.job("third")),
        lambda store, lease: lease.finish("succeeded"),
    ],
    ids=["event", "job", "stage", "acquire", "finish"],
)
def test_a_commit_whose_answer_is_lost_is_done_once(store, monkeypatch, act, after):
    job = new_job(store)
    new_job(store, "third")
    lease = store.acquire(job)
    with monkeypatch.context() as patch:
        cut = Cut(store, patch, after=after)
        act(store, lease)
        assert cut.times == 1
    told = [len(store.events(job)), len(store.jobs()) - 2, len(store.stages(job))]
    told += [sum(found.attempt for found in store.jobs()) - 1, int(store.job(job.id).state == "succeeded")]
    assert max(told) == 1


def test_transactions_wait_for_a_server_that_was_restarted(store, postgresql):
    told = []
    with store.patient(Patience(60.0, tell=told.append)), store.acquire(new_job(store)) as lease:
        store.add_events(lease, (NewEvent("log", {"n": n}) for n in range(3)))  # a generator is read once
        postgresql.crash()
        back = threading.Timer(1.0, postgresql.start)
        back.start()
        store.add_events(lease, (NewEvent("log", {"n": n}) for n in range(3)))
        back.join()
        assert [event.data["n"] for event in store.events(lease.job)] == [0, 1, 2] * 2
    assert store.job("job").state == "stopped"
    assert len(told) == 1
    assert "does not answer" in told[0]


def test_patience_has_an_end_and_a_stop_ends_it_at_once(store, postgresql):
    stop = threading.Event()
    job = new_job(store)
    postgresql.stop()
    try:
        began = time.monotonic()
        with store.patient(Patience(0.5)), pytest.raises(StoreError, match="does not answer") as caught:
            store.add_events(store.acquire(job), [NewEvent("log", {})])
        assert caught.value.exit_code == 5
        assert 0.5 <= time.monotonic() - began < 60.0
        threading.Timer(0.3, stop.set).start()
        with store.patient(Patience(600.0, stop)), pytest.raises(StoreError):
            store.jobs()
        assert time.monotonic() - began < 120.0
        with pytest.raises(StoreError, match="does not answer"):  # one that has never answered
            Store.open(store.url)
        assert time.monotonic() - began < 180.0
    finally:
        postgresql.start()
    assert store.jobs() == [job]


def test_a_lease_that_was_lost_meanwhile_is_a_conflict(store, postgresql, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.1)
    lease = store.acquire(new_job(store))
    postgresql.stop()
    postgresql.start()
    with Store.open(store.url) as other:
        with other.write() as connection:
            connection.execute(sa.update(t.jobs).values(owner=None, lease_until=None))
        other.acquire(other.job("job"))
        with pytest.raises(ConflictError):
            store.add_events(lease, [NewEvent("log", {})])
    assert store.events(store.job("job")) == []


def test_the_heartbeat_survives_a_restart(store, postgresql, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.1)
    with store.acquire(new_job(store)) as lease:
        postgresql.stop()
        time.sleep(0.5)
        postgresql.start()
        before = store.job("job").lease_until
        deadline = time.monotonic() + 20
        while store.job("job").lease_until == before:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        lease.check_held()


def test_two_transactions_in_each_others_way_are_both_done(store):
    """A deadlock: the server ends one of them."""
    jobs = [new_job(store, name) for name in ("a", "b")]
    meet = threading.Barrier(2)
    waits = [True, True]

    def both(first, second, turn):
        with store.write() as connection:
            connection.execute(sa.update(t.jobs).where(t.jobs.c.id == first).values(seed=first))
            if waits[turn]:
                waits[turn] = False
                meet.wait(10)
            connection.execute(sa.update(t.jobs).where(t.jobs.c.id == second).values(error="both"))

    from nas.store.connection.patience import again  # noqa: PLC0415

    ids = [job.id for job in jobs]
    calls = [again(lambda _, n=n: both(ids[n], ids[1 - n], n)) for n in (0, 1)]
    threads = [threading.Thread(target=call, args=(store,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [job.error for job in store.jobs()] == ["both", "both"]


def filled(url):
    with Store.open(url) as store, store.acquire(new_job(store)) as lease:
        path = store.new_artifact_path(lease, "supernet", ".bin")
        path.write_bytes(b"weights")
        store.add_artifact(lease, "supernet", path)
        return path


def resumed(url):
    with Store.open(url) as store, store.acquire(store.job("job")) as lease:
        store.remove_orphans(lease)
        return store.new_artifact_path(lease, "supernet", ".bin")


def test_databases_of_a_server_have_folders_of_their_own(postgresql, postgresql_url, tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_ARTIFACTS", str(tmp_path))
    second = postgresql.create("second")
    try:
        one, two = filled(postgresql_url), filled(second)
        assert resumed(second).parent == two.parent != one.parent
        assert [check(postgresql_url), check(second)] == [[], []]
    finally:
        postgresql.drop("second")


def test_a_copied_database_leaves_the_originals_files(postgresql, postgresql_url, tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_ARTIFACTS", str(tmp_path))
    file = filled(postgresql_url)
    (file.parent / "unfinished.bin").write_bytes(b"being written")
    copy = postgresql.create("copy", postgresql_url.rpartition("/")[2])
    try:
        with pytest.raises(StoreError, match="is a copy of") as caught:
            resumed(copy)
        assert "NAS_ARTIFACTS" in caught.value.hint
        assert (file.parent / "unfinished.bin").exists()
        monkeypatch.setenv("NAS_ARTIFACTS", str(tmp_path / "other"))
        assert resumed(copy).is_relative_to(tmp_path / "other")
    finally:
        postgresql.drop("copy")


AS_IN_0003 = """
DELETE FROM artifacts WHERE kind = 'root';
ALTER TABLE hits DROP COLUMN supernet_id, DROP COLUMN data, DROP COLUMN precision;
ALTER TABLE artifacts DROP COLUMN supernet_id;
ALTER TABLE jobs DROP COLUMN goal, DROP COLUMN submitted_at, DROP COLUMN priority, DROP COLUMN needs;
ALTER TABLE jobs DROP COLUMN after_id, DROP COLUMN last_attempt, DROP COLUMN paused, DROP COLUMN sweep;
ALTER TABLE jobs DROP COLUMN key, DROP COLUMN note, DROP COLUMN tags, DROP COLUMN refusal;
ALTER TABLE evaluations DROP COLUMN reused;
ALTER TABLE measurements DROP COLUMN reused, DROP COLUMN network;
DROP INDEX ix_subnets_key;
DROP INDEX ix_evaluations_job_id_split_weights;
CREATE INDEX ix_evaluations_job_id ON evaluations (job_id);
ALTER TABLE subnets DROP COLUMN own_key;
DROP TABLE job_supernets, supernets, store, log_lines, workers, device_qualities;
UPDATE alembic_version SET version_num = '0003';
"""


def test_an_old_database_keeps_the_shared_folder_if_its_files_are_there(
    postgresql_url, tmp_path, monkeypatch
):
    monkeypatch.setenv("NAS_ARTIFACTS", str(tmp_path))
    file = filled(postgresql_url)
    shared = tmp_path / "job-1" / file.name
    shared.parent.mkdir()
    file.rename(shared)
    shutil.rmtree(file.parent.parent)
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(AS_IN_0003)
    with pytest.raises(StoreError, match="older schema") as caught:
        Store.open(postgresql_url)
    assert "pg_dump" in caught.value.hint
    assert "makes a backup" not in caught.value.hint
    assert upgrade(postgresql_url) == ("0003", schema.revisions()[-1])
    resumed(postgresql_url)
    assert shared.exists()
    assert (tmp_path / "store.json").exists()
    assert check(postgresql_url) == []
    backup(postgresql_url, tmp_path / "copy.db")
    with Store.open(f"sqlite:///{tmp_path / 'copy.db'}", read_only=True) as copy:
        assert [job.name for job in copy.jobs()] == ["job"]


def test_what_the_server_refuses_is_one_sentence(postgresql, postgresql_url):
    for url in (
        postgresql.url("there_is_none"),
        postgresql_url.replace("elastiform@", "nobody@"),
        "postgresql://127.0.0.1:1/nas",
    ):
        with pytest.raises(StoreError) as caught:
            Store.open(url)
        assert "\n" not in caught.value.message
        assert caught.value.hint


def submit(url):
    with Store.open(url) as store:
        return store.submit([NewJob("job", None, {"config": {}, "seed": 0, "provenance": {}}, Submission())])


def test_who_sees_another_folder_than_the_others_is_refused(postgresql_url, tmp_path, monkeypatch):
    """Two machines: the second one's folder is not the first one's, until it is mounted there, too."""
    monkeypatch.setenv("NAS_ARTIFACTS", str(tmp_path / "one"))
    (job,) = submit(postgresql_url)
    with Store.open(postgresql_url) as store:
        store.take_job().give_back()
    assert check(postgresql_url) == []
    monkeypatch.setenv("NAS_ARTIFACTS", str(tmp_path / "two"))
    with Store.open(postgresql_url) as store:
        for act in (
            store.take_job,
            lambda: submit(postgresql_url),
            lambda: store.acquire(job),
            lambda: new_job(store, "second"),
        ):
            with pytest.raises(StoreError, match="is not the one that holds the files of") as caught:
                act()
            assert "NAS_ARTIFACTS" in caught.value.hint
    assert not (tmp_path / "two").exists()
    missing, reason = check(postgresql_url)
    assert missing.endswith("is missing")
    assert "is not the one that holds" in reason
    (tmp_path / "two").symlink_to(tmp_path / "one")
    with Store.open(postgresql_url) as store:
        assert store.take_job() is not None


def test_two_machines_that_begin_at_once_agree_on_one_folder(postgresql_url, tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_ARTIFACTS", str(tmp_path / "one"))
    with Store.open(postgresql_url) as first, Store.open(postgresql_url) as second:
        real = first._put_token

        def late():
            with monkeypatch.context() as patch:
                patch.setenv("NAS_ARTIFACTS", str(tmp_path / "two"))
                second.check_root()
            real()

        monkeypatch.setattr(first, "_put_token", late)
        with pytest.raises(StoreError, match="is not the one that holds the files of"):
            first.check_root()
        assert not list((tmp_path / "one").glob("*/token-*"))
        second_root = tmp_path / "two" / f"store-{second.identity}"
        assert len(list(second_root.glob("token-*"))) == 1


def test_a_token_that_was_changed_is_another_folders(store):
    store.check_root()
    (token,) = store.artifact_root.path.glob("token-*")
    token.write_text("another one of the same length..\n")
    with pytest.raises(StoreError, match="is not the one that holds"):
        store.check_root()

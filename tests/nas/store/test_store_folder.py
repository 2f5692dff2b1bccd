"""Whose the folder of a store's files is, and what may be deleted in it.

Names beside each other, links and copies of files are those of SQLite's; of databases on a server
`test_store_postgresql.py` has the same.
"""

import hashlib
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import old_schema
import pytest
import sqlalchemy as sa

from nas.artifacts import verified
from nas.errors import StoreError
from nas.store import Store, adopt, check, foreign_files, upgrade
from nas.store import tables as t
from nas.store.connection import schema
from nas.store.connection.rows import ROOT
from nas.store.values import now


@pytest.fixture
def url(any_url, tmp_path, monkeypatch):
    """An empty store of each kind, whose files are in the test's folder."""
    monkeypatch.setenv("NAS_ARTIFACTS", str(tmp_path / "artifacts"))
    return any_url


def root_of(url):
    """The folder of its files."""
    with Store.open(url, read_only=True) as store:
        return store.artifact_root.path


def filled(url, *, job="job", content=b"weights"):
    """A store with a job that has one file; the file."""
    with (
        Store.open(url) as store,
        store.acquire(store.create_job(job, config={}, seed=0, provenance={})) as lease,
    ):
        path = store.new_artifact_path(lease, "supernet", ".bin", step=1)
        path.write_bytes(content)
        store.add_artifact(lease, "supernet", path, step=1)
        return path


def made(store, job):
    return store.create_job(job, config={}, seed=0, provenance={})


def resumed(url, job="job"):
    """What a training does with files when it begins."""
    with Store.open(url) as store, store.acquire(store.job(job)) as lease:
        store.remove_orphans(lease)
        return store.new_artifact_path(lease, "supernet", ".bin", step=2)


def whole(url):
    with Store.open(url, read_only=True) as store:
        files = [artifact for artifact in store.all_artifacts() if artifact.kind != ROOT]
        return [verified(store, artifact).read_bytes() for artifact in files]


def old_store(file, tmp_path, revision, content, *, name="supernet-00000001.bin", root=None):
    """A closed store of an older schema, with a job that has one file in the folder that they share."""
    old_schema.make(file, revision, tmp_path)
    root, sha = root or file.with_suffix(".artifacts"), hashlib.sha256(content).hexdigest()
    (root / "job-1").mkdir(parents=True, exist_ok=True)
    (root / "job-1" / name).write_bytes(content)
    old_schema.change(
        file,
        "INSERT INTO jobs (id, name, state, config, provenance, seed, created_at, stop_requested, attempt)"
        " VALUES (1, 'job', 'stopped', '{}', '{}', 0, '2026-01-01 00:00:00', 0, 1)",
        "INSERT INTO artifacts (job_id, kind, path, sha256, size, step, created_at) VALUES (1, 'supernet',"
        f" 'job-1/{name}', '{sha}', {len(content)}, 1, '2026-01-01 00:00:00')",
    )
    return f"sqlite:///{file}"


def test_stores_beside_each_other_have_folders_of_their_own(tmp_path):
    urls = [f"sqlite:///{tmp_path / name}" for name in ("nas.db", "nas.sqlite", "nas")]
    files = [filled(url, content=url.encode()) for url in urls]
    assert len({file.parent for file in files}) == 3
    for url in urls:
        resumed(url)
    assert [whole(url) for url in urls] == [[url.encode()] for url in urls]
    assert [check(url) for url in urls] == [[], [], []]


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
def test_an_old_store_keeps_its_folder_and_the_next_one_gets_its_files_out_of_it(tmp_path, revision):
    one = old_store(tmp_path / "nas.db", tmp_path, revision, b"one")
    two = old_store(tmp_path / "nas.sqlite", tmp_path, revision, b"two", name="supernet-00000002.bin")
    assert [upgrade(url)[0] for url in (one, two)] == [revision, revision]
    for url in (one, two):
        resumed(url)
    assert (whole(one), whole(two)) == ([b"one"], [b"two"])
    with Store.open(one) as store:
        assert store.artifact_root.path == tmp_path / "nas.artifacts"
    with Store.open(two) as store:
        assert store.artifact_root.path == tmp_path / "nas.sqlite.artifacts"
    assert check(two) == []
    assert check(one) == []
    assert foreign_files(one) == ["job-1/supernet-00000002.bin"]


def test_the_store_whose_files_are_gone_leaves_the_folder_to_the_other(tmp_path):
    one = old_store(tmp_path / "nas.db", tmp_path, "0003", b"one")
    two = old_store(tmp_path / "nas.sqlite", tmp_path, "0003", b"other")  # of the same name, over the first
    upgrade(one)
    upgrade(two)
    assert whole(two) == [b"other"]
    resumed(one)
    assert whole(two) == [b"other"]
    with Store.open(one) as store:
        assert store.artifact_root.path == tmp_path / "nas.db.artifacts"


def test_a_row_cannot_make_the_store_delete_what_is_not_its_own(tmp_path):
    one = old_store(tmp_path / "nas.db", tmp_path, "0003", b"one")
    old_store(tmp_path / "nas.sqlite", tmp_path, "0003", b"two", name="checkpoint-00000002.bin")
    # The first names the second's file, too, as it was before that one was written over it.
    old_schema.change(
        tmp_path / "nas.db",
        "INSERT INTO artifacts (job_id, kind, path, sha256, size, created_at) VALUES"
        f" (1, 'checkpoint', 'job-1/checkpoint-00000002.bin', '{'0' * 64}', 3, '2026-01-01 00:00:00')",
        "INSERT INTO artifacts (job_id, kind, path, sha256, size, created_at) VALUES"
        f" (1, 'secret', '../secret', '{'0' * 64}', 3, '2026-01-01 00:00:00')",
    )
    (tmp_path / "secret").write_text("x")
    upgrade(one)
    with Store.open(one) as store, store.acquire(store.job("job")) as lease:
        for artifact in store.artifacts(lease.job)[1:]:
            store.remove_artifact(lease, artifact)
    assert (tmp_path / "nas.artifacts" / "job-1" / "checkpoint-00000002.bin").read_bytes() == b"two"
    assert (tmp_path / "secret").exists()


def test_a_row_cannot_make_the_store_delete_what_is_elsewhere(url, tmp_path):
    file, secret = filled(url), tmp_path / "secret"
    secret.write_text("x")
    outside = os.path.relpath(secret, file.parent.parent)
    names = [outside, f"job-1/../{outside}", str(secret), "store.json"]
    rows = [
        {"job_id": 1, "kind": "checkpoint", "path": name, "sha256": "0" * 64, "size": 1, "created_at": now()}
        for name in names
    ]
    with Store.open(url) as store:
        with store.write() as connection:
            connection.execute(sa.insert(t.artifacts), rows)
        with store.acquire(store.job("job")) as lease:
            for artifact in store.artifacts(lease.job, "checkpoint"):
                store.remove_artifact(lease, artifact)
        assert [artifact.kind for artifact in store.artifacts(store.job("job"))] == ["supernet"]
    assert secret.read_text() == "x"
    assert (file.parent.parent / "store.json").exists()
    assert whole(url) == [b"weights"]


def test_the_folder_of_a_store_that_is_gone_is_refused_before_a_job_is_made(tmp_path):
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    file = filled(url)
    (tmp_path / "nas.db").unlink()
    with Store.open(url) as store:
        with pytest.raises(StoreError, match="holds the files of another store") as caught:
            store.create_job("job", config={}, seed=0, provenance={})
        assert "Move it away" in caught.value.hint
        assert store.jobs() == []
        assert store.orphans() == []
    assert "holds the files of another store" in check(url)[0]
    assert file.read_bytes() == b"weights"
    (tmp_path / "nas.db.artifacts").rename(tmp_path / "away")
    filled(url)
    assert check(url) == []


def test_a_copied_database_has_a_folder_of_its_own_and_leaves_the_originals_files(tmp_path):
    url, copy = (f"sqlite:///{tmp_path / name}" for name in ("nas.db", "other.db"))
    file = filled(url)
    shutil.copyfile(tmp_path / "nas.db", tmp_path / "other.db")
    assert resumed(copy).parent.parent == tmp_path / "other.db.artifacts"
    assert file.exists()
    assert "is missing" in check(copy)[0]
    assert check(url) == []


def test_a_copy_with_its_folder_is_whole_and_so_is_a_moved_store(tmp_path):
    url, copy, moved = (f"sqlite:///{tmp_path / name}" for name in ("nas.db", "other.db", "moved.db"))
    filled(url)
    shutil.copyfile(tmp_path / "nas.db", tmp_path / "other.db")
    shutil.copytree(tmp_path / "nas.db.artifacts", tmp_path / "other.db.artifacts")
    resumed(copy)
    (tmp_path / "nas.db").rename(tmp_path / "moved.db")
    (tmp_path / "nas.db.artifacts").rename(tmp_path / "moved.db.artifacts")
    resumed(moved)
    assert [check(copy), check(moved)] == [[], []]
    assert (whole(copy), whole(moved)) == ([b"weights"], [b"weights"])


def test_a_copy_that_shares_the_folder_by_a_link_is_refused_until_the_original_is_gone(tmp_path):
    url, copy = (f"sqlite:///{tmp_path / name}" for name in ("nas.db", "other.db"))
    file = filled(url)
    shutil.copyfile(tmp_path / "nas.db", tmp_path / "other.db")
    (tmp_path / "other.db.artifacts").symlink_to("nas.db.artifacts")
    (file.parent / "unfinished.bin").write_bytes(b"being written")
    with pytest.raises(StoreError, match="is a copy of") as caught:
        resumed(copy)
    assert "remove the link" in caught.value.hint
    assert (file.parent / "unfinished.bin").exists()
    assert whole(copy) == [b"weights"]  # reading is harmless
    adopt(copy)
    resumed(copy)
    with pytest.raises(StoreError, match="is a copy of"):
        resumed(url)


def test_a_folder_that_is_a_link_and_one_that_was_deleted(tmp_path):
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    (tmp_path / "big").mkdir()
    (tmp_path / "nas.db.artifacts").symlink_to("big")
    filled(url)
    resumed(url)
    assert (tmp_path / "big" / "store.json").exists()
    assert check(url) == []
    shutil.rmtree(tmp_path / "big")
    (tmp_path / "nas.db.artifacts").unlink()
    assert check(url) == ["the file 'job-1/supernet-00000001.bin' is missing"]
    assert not (tmp_path / "nas.db.artifacts").exists()
    resumed(url)
    assert (tmp_path / "nas.db.artifacts" / "store.json").exists()


def test_a_store_that_is_reached_by_a_link_has_one_folder(tmp_path):
    (tmp_path / "link.db").symlink_to("nas.db")
    file = filled(f"sqlite:///{tmp_path / 'nas.db'}")
    assert resumed(f"sqlite:///{tmp_path / 'link.db'}").parent == file.parent


def test_a_job_folder_that_leads_elsewhere_is_not_cleaned(url, tmp_path):
    folder = filled(url).parent
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.bin").write_bytes(b"x")
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path / "other")
    with Store.open(url) as store, store.acquire(store.job("job")) as lease:
        store.remove_orphans(lease)
    assert (tmp_path / "other" / "precious.bin").exists()


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"store": 1}', "\x00", "[" * 100_000])
def test_a_marker_that_says_nothing_is_one_sentence(url, text):
    filled(url)
    (root_of(url) / "store.json").write_text(text)
    with pytest.raises(StoreError, match="does not say whose"):
        resumed(url)


@pytest.mark.parametrize(
    "text",
    [
        '{"store": "a", "database": "file:nas.db", "folder": 1e999, "others": []}',
        '{"store": null, "database": "file:nas.db", "folder": 1, "others": []}',
        '{"store": "a", "database": "file:nas.db", "folder": 1, "others": "job-1"}',
        '{"store": "a", "database": "file:nas.db", "folder": 1, "others": [1]}',
        '{"store": "a", "database": ["file:nas.db"], "folder": 1, "others": []}',
        '{"store": "a", "database": "file:nas.db", "folder": ' + "1" * 5000 + "}",
        " " * 16_000_001,
        "\ufeff{}",
    ],
)
def test_a_marker_that_no_store_has_written_is_one_sentence(url, text):
    file = filled(url)
    (root_of(url) / "store.json").write_text(text)
    with pytest.raises(StoreError, match="does not say whose"):
        resumed(url)
    assert "does not say whose" in check(url)[0]
    assert file.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("kind", ["pipe", "folder", "link to itself"])
def test_a_marker_that_is_no_file_is_one_sentence_and_is_not_waited_for(url, kind):
    filled(url)
    marker = root_of(url) / "store.json"
    marker.unlink()
    if kind == "pipe":
        os.mkfifo(marker)
    elif kind == "folder":
        marker.mkdir()
    else:
        marker.symlink_to(marker)
    with pytest.raises(StoreError, match="does not say whose"):
        resumed(url)


def test_what_an_old_store_still_writes_to_the_shared_folder_stays(tmp_path):
    one = old_store(tmp_path / "nas.db", tmp_path, "0003", b"one")
    two = old_store(tmp_path / "nas.sqlite", tmp_path, "0003", b"two", name="supernet-00000002.bin")
    upgrade(one)
    late = tmp_path / "nas.artifacts" / "job-1" / "supernet-00000003.bin"
    late.write_bytes(b"late")
    sha = hashlib.sha256(b"late").hexdigest()
    old_schema.change(
        tmp_path / "nas.sqlite",
        "INSERT INTO artifacts (job_id, kind, path, sha256, size, step, created_at) VALUES (1, 'supernet',"
        f" 'job-1/{late.name}', '{sha}', 4, 3, '2026-01-01 00:00:00')",
    )
    resumed(one)
    assert check(one) == []
    assert foreign_files(one) == ["job-1/supernet-00000002.bin", "job-1/supernet-00000003.bin"]
    upgrade(two)
    assert whole(two) == [b"two", b"late"]
    resumed(one)  # all are upgraded: what no row names now was left by a crash
    assert not late.exists()
    assert (whole(one), whole(two)) == ([b"one"], [b"two", b"late"])


def test_what_a_killed_process_left_of_its_copy_goes(tmp_path):
    one = old_store(tmp_path / "nas.db", tmp_path, "0003", b"one")
    two = old_store(tmp_path / "nas.sqlite", tmp_path, "0003", b"two", name="supernet-00000002.bin")
    (tmp_path / f".nas.sqlite.artifacts.{'a' * 32}" / "job-1").mkdir(parents=True)
    (tmp_path / ".nas.sqlite.artifacts.mine").mkdir()
    for url in (one, two):
        upgrade(url)
    assert [path.name for path in tmp_path.glob(".nas*")] == [".nas.sqlite.artifacts.mine"]


def test_two_stores_that_claim_one_folder_at_once(tmp_path):
    urls = [
        old_store(tmp_path / f"nas.{end}", tmp_path, "0003", end.encode(), name=f"{end}.bin")
        for end in ("db", "sqlite", "store", "data")
    ]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(schema.upgrade, urls))
        list(pool.map(resumed, urls))
    assert [whole(url) for url in urls] == [[b"db"], [b"sqlite"], [b"store"], [b"data"]]
    assert not list(tmp_path.glob(".*"))


def test_reading_leaves_the_folder_as_it_is(url, tmp_path):
    filled(url)

    def names():
        return sorted(path.name for path in tmp_path.rglob("*") if "-" not in path.suffix)

    before = names()
    assert whole(url) == [b"weights"]
    assert check(url) == []
    assert names() == before


def test_reading_before_a_folder_is_claimed_changes_nothing(tmp_path):
    url = old_store(tmp_path / "nas.db", tmp_path, "0003", b"one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "own_root", lambda self: None)  # as if killed after the migration
        upgrade(url)

    def names():
        return sorted(path.name for path in tmp_path.rglob("*") if "-" not in path.suffix)

    before = names()
    assert whole(url) == [b"one"]
    assert check(url) == []
    assert names() == before
    resumed(url)
    assert (tmp_path / "nas.artifacts" / "store.json").exists()


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_one_sentence(url):
    filled(url)
    root_of(url).chmod(0o500)
    with pytest.raises(StoreError, match="cannot be written"):
        resumed(url)


def test_a_folder_that_is_a_file_is_one_sentence(url):
    root = root_of(url)
    root.parent.mkdir(exist_ok=True)
    root.write_text("x")
    with pytest.raises(StoreError, match="cannot be written"):
        filled(url)

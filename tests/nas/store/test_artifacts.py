import os
import signal
import subprocess
import sys

import pytest

from nas import artifacts
from nas.artifacts import sha256, verified, write_atomic
from nas.errors import ConflictError, JobFailedError
from nas.store import Store, check
from search_spaces.errors import NotFoundError

DIE = """
import os, signal, sys
from pathlib import Path
from nas.artifacts import write_atomic
def write(path):
    path.write_bytes(b"new" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
write_atomic(Path(sys.argv[1]), write)
"""


@pytest.fixture
def url(any_url):
    return any_url


@pytest.fixture
def store(url):
    with Store.open(url) as opened:
        yield opened


@pytest.fixture
def lease(store):
    with store.acquire(store.create_job("../../x", config={}, seed=0, provenance={})) as held:
        yield held


@pytest.fixture
def artifact(store, lease):
    path = store.new_artifact_path(lease, "checkpoint", ".safetensors", step=200)
    write_atomic(path, lambda partial: partial.write_bytes(b"weights" * 100))
    return store.add_artifact(lease, "checkpoint", path, step=200)


def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "a.bin"
    write_atomic(path, lambda partial: partial.write_bytes(b"one"))
    write_atomic(path, lambda partial: partial.write_bytes(b"two"))
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def no_space(partial):
        partial.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, no_space)
    with pytest.raises(FileNotFoundError):
        write_atomic(path, lambda partial: None)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", DIE, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_the_data_is_synced_before_the_file_gets_its_name_and_the_folder_after(tmp_path, monkeypatch):
    path, synced = tmp_path / "a.bin", []

    def sync(descriptor):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), path.exists()))

    monkeypatch.setattr(artifacts.os, "fsync", sync)
    write_atomic(path, lambda partial: partial.write_bytes(b"one"))
    (first, before), second = synced
    assert first.startswith(str(tmp_path / artifacts.PARTIAL))
    assert not before
    assert second == (str(tmp_path), True)


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_artifact_is_recorded_and_verified(store, lease, artifact, url):
    assert artifact.path == f"job-{lease.job.id}/checkpoint-00000200.safetensors"
    assert (artifact.size, artifact.step, artifact.kind) == (700, 200, "checkpoint")
    assert store.artifacts(lease.job) == store.artifacts(lease.job, "checkpoint") == [artifact]
    assert store.artifacts(lease.job, "figure") == []
    assert store.artifact(artifact.id) == artifact
    assert verified(store, artifact) == store.artifact_root / artifact.path
    assert check(url) == []
    with pytest.raises(NotFoundError):
        store.artifact(99)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:350])


def replace_by_link(path):
    copy = path.with_name("elsewhere")
    path.rename(copy)
    path.symlink_to(copy)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (flip, "is damaged: its SHA-256"),
        (cut, "has 350 bytes, not 700"),
        (lambda path: path.unlink(), "is missing"),
        (replace_by_link, "lies outside"),
    ],
)
def test_a_harmed_file_is_refused_and_named(store, artifact, url, harm, words):
    harm(store.artifact_root / artifact.path)
    with pytest.raises(JobFailedError, match=words) as caught:
        verified(store, artifact)
    assert artifact.path in caught.value.message
    assert any(artifact.path in problem and words in problem for problem in check(url))


def test_a_path_in_a_row_cannot_leave_the_folder(store, artifact, tmp_path):
    (tmp_path / "secret").write_text("x")
    for path in ("../secret", "/etc/passwd", "job-1/../../secret"):
        row = type(artifact)(**{**vars(artifact), "path": path})
        with pytest.raises(JobFailedError, match="lies outside"):
            verified(store, row)


def test_only_finished_files_of_the_own_job_are_recorded(store, lease, tmp_path):
    inside = store.new_artifact_path(lease, "figure", ".svg")
    (tmp_path / "x.svg").write_text("x")
    for path in (inside, tmp_path / "x.svg", inside.parent / ".." / ".." / "x.svg", inside.parent):
        with pytest.raises(ValueError, match="not a file in the folder"):
            store.add_artifact(lease, "figure", path)
    for kind, suffix in (("../x", ".svg"), ("figure", "/../x"), ("", ".svg"), ("figure", "svg")):
        with pytest.raises(ValueError, match="not a kind"):
            store.new_artifact_path(lease, kind, suffix)


def test_no_path_is_given_out_twice(store, lease, artifact):
    second = store.new_artifact_path(lease, "checkpoint", ".safetensors", step=200)
    assert second.name == "checkpoint-00000200-2.safetensors"
    second.write_bytes(b"x")
    third = store.new_artifact_path(lease, "checkpoint", ".safetensors", step=200)
    assert third.name == "checkpoint-00000200-3.safetensors"


def test_a_crash_before_the_row_leaves_an_orphan_that_check_lists(store, lease, artifact, url):
    orphan = store.new_artifact_path(lease, "checkpoint", ".safetensors", step=300)
    orphan.write_bytes(b"x")
    assert store.orphans() == [f"job-{lease.job.id}/{orphan.name}"]
    assert check(url) == [f"no row names the file 'job-{lease.job.id}/{orphan.name}'"]


def test_a_removed_artifact_is_gone_with_its_file(store, lease, artifact, url):
    store.remove_artifact(lease, artifact)
    assert store.artifacts(lease.job) == []
    assert not (store.artifact_root / artifact.path).exists()
    assert check(url) == []


def test_a_late_owner_records_and_removes_nothing(store, artifact, lease):
    path = store.new_artifact_path(lease, "figure", ".svg")
    path.write_text("x")
    lease.finish("stopped")
    with pytest.raises(ConflictError):
        store.add_artifact(lease, "figure", path)
    with pytest.raises(ConflictError):
        store.remove_artifact(lease, artifact)
    assert store.artifacts(lease.job) == [artifact]
    assert verified(store, artifact)

"""Files of a store on a server behind an fsspec URL: `memory://`, and `file://` for other processes."""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from nas.artifacts import is_whole, verified, write_atomic
from nas.cli import main
from nas.errors import ConflictError, DamagedError, NoSpaceError, StoreError
from nas.store import (
    Artifact,
    Lease,
    NewJob,
    Patience,
    Store,
    Submission,
    backup,
    check,
    move,
    orphans_of_both_kinds,
    remove,
)
from nas.store.files import cache
from search_spaces.errors import UsageError

pytestmark = pytest.mark.parametrize("any_url", ["postgresql"], indirect=True)
CONTENT = b"weights" * 1000
GET = """
import sys
from nas.artifacts import verified
from nas.store import Store
with Store.open(sys.argv[1], read_only=True) as store:
    print(*(verified(store, one).read_bytes().decode() for one in store.all_artifacts() if one.step))
"""


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where artifacts are to lie."""
    where = tmp_path / "shared" if request.param == "file" else uuid.uuid4().hex
    monkeypatch.setenv("NAS_ARTIFACTS", f"{request.param}://{where}")
    return f"{request.param}://{where}"


@pytest.fixture
def url(any_url: str, place: str) -> str:
    return any_url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


@pytest.fixture
def lease(store: Store) -> Iterator[Lease]:
    with store.acquire(store.create_job("job", config={}, seed=0, provenance={})) as held:
        yield held


def added(store: Store, lease: Lease, content: bytes = CONTENT, step: int = 200) -> Artifact:
    path = store.new_artifact_path(lease, "checkpoint", ".safetensors", step=step)
    write_atomic(path, lambda partial: partial.write_bytes(content))
    return store.add_artifact(lease, "checkpoint", path, step=step)


def listed(place: str) -> list[str]:
    """What lies there, by its path below the store's root, without the token."""
    system, root = fsspec.core.url_to_fs(place)
    inner = [path.removeprefix(f"{root}/").partition("/")[2] for path in system.find(root)]
    return sorted(path for path in inner if not path.startswith("token-"))


def there(place: str, store: Store, artifact: Artifact) -> tuple[Any, str]:
    """The file system and the path of a file in it."""
    system, root = fsspec.core.url_to_fs(place)
    return system, f"{root}/store-{store.identity}/{artifact.path}"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """From then on this is a machine that has fetched nothing yet."""
    return lambda: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / uuid.uuid4().hex))


def test_a_file_is_sent_recorded_fetched_once_and_removed(
    store: Store, lease: Lease, place: str, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = added(store, lease)
    assert artifact.path == f"job-{lease.job.id}/checkpoint-00000200.safetensors"
    assert listed(place) == [artifact.path, "store.json"]
    assert verified(store, artifact).read_bytes() == CONTENT
    system, path = there(place, store, artifact)
    assert system.cat_file(path) == CONTENT
    assert check(store.url) == []
    elsewhere()
    fetched, real = [], type(system).get_file

    def get_file(self: Any, source: str, *rest: Any, **options: Any) -> Any:
        fetched.append(source)
        return real(self, source, *rest, **options)

    monkeypatch.setattr(type(system), "get_file", get_file)
    assert {verified(store, artifact).read_bytes() for _ in range(3)} == {CONTENT}
    assert len(fetched) == 1
    second = added(store, lease)
    assert second.path.endswith("checkpoint-00000200-2.safetensors")
    store.remove_artifact(lease, artifact)
    assert listed(place) == [second.path, "store.json"]
    assert check(store.url) == []


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda content: content[:-1], "has 6999 bytes, not 7000"),
        (lambda content: content[:-1] + b"x", "is damaged: its SHA-256"),
        (lambda content: None, "is missing"),
    ],
    ids=["cut", "flipped", "gone"],
)
def test_a_harmed_file_is_named_and_not_used(
    store: Store, lease: Lease, place: str, elsewhere: Callable[[], None], harm: Any, words: str
) -> None:
    artifact = added(store, lease)
    system, path = there(place, store, artifact)
    content = harm(system.cat_file(path))
    system.rm_file(path)
    if content is not None:
        system.pipe_file(path, content)
    assert any(artifact.path in problem and words in problem for problem in check(store.url))
    assert verified(store, artifact).read_bytes() == CONTENT, "what was fetched before is what was recorded"
    elsewhere()
    assert not is_whole(store, artifact)
    with pytest.raises(DamagedError, match=words) as caught:
        verified(store, artifact)
    assert artifact.path in caught.value.message
    assert [file for file in cache.folder().rglob("*") if file.is_file() and file.name != cache.LOCK] == []


def test_a_fetched_file_that_was_harmed_is_fetched_again(store: Store, lease: Lease) -> None:
    artifact = added(store, lease)
    verified(store, artifact).write_bytes(b"x" * len(CONTENT))
    assert verified(store, artifact).read_bytes() == CONTENT


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "job-1/../../secret", "job-1//x", "./x"])
def test_a_path_in_a_row_cannot_leave_the_place(store: Store, lease: Lease, path: str) -> None:
    row = type(artifact := added(store, lease))(**{**vars(artifact), "path": path})
    with pytest.raises(DamagedError, match="lies outside"):
        type(store.artifact_root).copy(store.artifact_root, row, Path("never"))
    assert store.artifact_root.damage(row) == "lies outside of the store's folder"
    assert store.removable([path]) == []


def test_a_row_without_a_hash_names_no_file_of_this_machine(store: Store, lease: Lease) -> None:
    row = type(artifact := added(store, lease))(**{**vars(artifact), "sha256": "../../secret"})
    with pytest.raises(DamagedError, match="without a SHA-256"):
        verified(store, row)


def test_what_a_crash_has_left_is_found_and_deleted(url: str, place: str) -> None:
    with Store.open(url) as store:
        job = store.create_job("job", config={}, seed=0, provenance={})
        with store.acquire(job) as lease:
            artifact = added(store, lease)
            system, path = there(place, store, artifact)
            for left in (f"{path}.left", path.replace("checkpoint", ".partial-1-checkpoint")):
                system.pipe_file(left, b"left by a crash")
            assert orphans_of_both_kinds(store).files == []  # it may be just being written
        assert len(check(url)) == 2
        assert main(["db", "gc", "--store", url]) == 0
        assert check(url) == []
        assert listed(place) == [artifact.path, "store.json"]
        assert remove(store, store.job("job")).files == 1
        assert listed(place) == ["store.json"]


def half(times: list[int], error: Exception | None) -> Callable[..., None]:
    """Sends half of a file, as often as is said, and then fails or not; afterwards all of it."""

    def put_file(self: Any, source: str, target: str, **options: Any) -> None:
        content = Path(source).read_bytes()
        times[0] -= 1
        self.pipe_file(target, content[: len(content) // 2] if times[0] >= 0 else content)
        if times[0] >= 0 and error is not None:
            raise error

    return put_file


@pytest.mark.parametrize("error", [None, ConnectionError("cut off"), TimeoutError()])
def test_what_has_arrived_in_part_is_sent_again(
    store: Store, lease: Lease, place: str, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    system, _ = fsspec.core.url_to_fs(place)
    told: list[str] = []
    monkeypatch.setattr(type(system), "put_file", half([1], error))
    with store.patient(Patience(60.0, tell=told.append)):
        artifact = added(store, lease)
    assert len(told) == 1
    assert "Trying again" in told[0]
    assert listed(place) == [artifact.path, "store.json"]
    assert check(store.url) == []


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (None, StoreError, "3500 of 7000 bytes have arrived"),
        (ConnectionError("cut off"), StoreError, "cannot be written: cut off"),
        (PermissionError(13, "Permission denied"), StoreError, "cannot be written: Permission denied"),
        (OSError(28, "No space left on device"), NoSpaceError, "no space left"),
        (RuntimeError("a driver's own\nsecond line"), StoreError, "cannot be written: a driver's own."),
    ],
)
def test_what_does_not_arrive_has_no_row(
    store: Store, lease: Lease, place: str, monkeypatch: pytest.MonkeyPatch, error: Any, kind: Any, words: str
) -> None:
    system, _ = fsspec.core.url_to_fs(place)
    with monkeypatch.context() as patch, store.patient(Patience(0.0)):
        patch.setattr(type(system), "put_file", half([9], error))
        with pytest.raises(kind, match=words) as caught:
            added(store, lease)
        assert "\n" not in caught.value.message
    assert store.artifacts(lease.job) == []
    store.remove_orphans(lease)
    assert listed(place) == ["store.json"]
    added(store, lease)
    assert check(store.url) == []


def test_a_late_owner_records_and_removes_nothing(store: Store, lease: Lease, place: str) -> None:
    artifact = added(store, lease)
    path = store.new_artifact_path(lease, "figure", ".svg")
    path.write_text("x")
    lease.finish("stopped")
    with pytest.raises(ConflictError):
        store.add_artifact(lease, "figure", path)
    with pytest.raises(ConflictError):
        store.remove_artifact(lease, artifact)
    assert store.artifacts(lease.job) == [artifact]
    assert listed(place) == [artifact.path, "store.json"]


def test_who_sees_another_place_than_the_others_is_refused(
    url: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"config": {}, "seed": 0, "provenance": {}}
    with Store.open(url) as store:
        store.submit([NewJob("job", None, values, Submission())])
    monkeypatch.setenv("NAS_ARTIFACTS", "memory://another")
    with Store.open(url) as store:
        for act in (store.take_job, store.check_root, lambda: store.create_job("b", **values)):
            with pytest.raises(StoreError, match="is not the one that holds the files of") as caught:
                act()
            assert "NAS_ARTIFACTS" in caught.value.hint
    assert listed("memory://another") == []
    assert main(["doctor", "--store", url]) == 1
    monkeypatch.setenv("NAS_ARTIFACTS", place)
    with Store.open(url) as store:
        assert store.take_job() is not None


def test_a_copied_database_leaves_the_originals_files(
    postgresql: Any, url: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Store.open(url) as store,
        store.acquire(store.create_job("job", config={}, seed=0, provenance={})) as held,
    ):
        added(store, held)
    before = listed(place)
    copy = postgresql.create(f"copy_{uuid.uuid4().hex}", url.rpartition("/")[2])
    with Store.open(copy) as store, pytest.raises(StoreError, match="is a copy of"):
        store.acquire(store.job("job"))
    assert listed(place) == before
    assert main(["db", "adopt", "--store", copy]) == 0  # the original is gone, say
    with Store.open(copy) as store, store.acquire(store.job("job")) as held:
        assert verified(store, store.artifacts(held.job)[0]).read_bytes() == CONTENT
    with Store.open(url) as store, pytest.raises(StoreError, match="is a copy of"):
        store.acquire(store.job("job"))
    postgresql.drop(copy.rpartition("/")[2])


@pytest.mark.parametrize("text", ["", "[]", "\x00", " " * 16_000_001])
def test_a_marker_that_no_store_has_written_is_one_sentence(
    store: Store, lease: Lease, place: str, text: str
) -> None:
    system, path = there(place, store, added(store, lease))
    system.pipe_file(f"{path.rpartition('/job-')[0]}/store.json", text.encode())
    with pytest.raises(StoreError, match="does not say whose"):
        added(store, lease)


def test_readers_at_once_get_the_same(
    store: Store, lease: Lease, place: str, elsewhere: Callable[[], None]
) -> None:
    artifact = added(store, lease)
    elsewhere()
    # All readers of a file in fsspec's memory have one position in it; no other place has such files.
    with ThreadPoolExecutor(1 if place.startswith("memory:") else 8) as pool:
        files = list(pool.map(lambda _: verified(store, artifact), range(16)))
    assert {file.read_bytes() for file in files} == {CONTENT}
    assert len(set(files)) == 1


def test_moved_to_a_file_and_back_with_all_files(url: str, place: str, tmp_path: Path) -> None:
    with Store.open(url) as store:
        with store.acquire(store.create_job("job", config={}, seed=0, provenance={})) as held:
            artifact = added(store, held)
            backup(url, tmp_path / "backup.db")  # also while somebody works
        identity = store.identity
    folder = move(url, f"sqlite:///{tmp_path / 'moved.db'}")
    assert (folder.path / artifact.path).read_bytes() == CONTENT
    assert check(f"sqlite:///{tmp_path / 'moved.db'}") == []
    assert check(url) == []
    with Store.open(f"sqlite:///{tmp_path / 'backup.db'}", read_only=True) as saved:
        assert saved.identity == identity


def test_a_move_to_a_url_that_is_killed_is_done_by_the_next_try(
    store_url: str, any_url: str, postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = f"file://{tmp_path / 'shared'}"
    with Store.open(store_url) as store, store.acquire(made(store)) as held:
        artifacts = [added(store, held, step=step) for step in (1, 2)]
    monkeypatch.setenv("NAS_ARTIFACTS", shared)
    command = [sys.executable, "-c", "import sys; from nas.store import move; move(*sys.argv[1:])"]
    for point in ("file sent:1", "file sent:2", "rows written:1"):
        killed = subprocess.run(
            [*command, store_url, postgresql_url], check=False, env=os.environ | {"NAS_CRASH_AT": point}
        )
        assert killed.returncode == -9, point
    root = move(store_url, postgresql_url)
    assert str(root).startswith(shared)
    assert listed(shared) == [*(one.path for one in artifacts), "store.json"]
    assert check(postgresql_url) == []


def made(store: Store, name: str = "job") -> Any:
    return store.create_job(name, config={}, seed=0, provenance={})


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_another_process_fetches_what_this_one_has_written(
    url: str, place: str, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    with Store.open(url) as store, store.acquire(made(store)) as held:
        added(store, held)
    elsewhere()
    told = subprocess.run([sys.executable, "-c", GET, url], capture_output=True, text=True, check=True)
    assert told.stdout == f"{CONTENT.decode()}\n"
    shutil.rmtree(tmp_path / "shared")
    told = subprocess.run([sys.executable, "-c", GET, url], capture_output=True, text=True, check=True)
    assert told.stdout == f"{CONTENT.decode()}\n", "it was kept"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_a_finished_job_behind_a_url_is_checked_and_extracted(
    tiny_copy: str, postgresql_url: str, any_url: str, place: str, tmp_path: Path
) -> None:
    assert main(["db", "move", tiny_copy, postgresql_url]) == 0
    words = ("--store", postgresql_url)
    assert main(["db", "check", "--deep", *words]) == 0
    assert main(["extract", "1", "--knee", "-o", str(tmp_path / "subnet"), *words]) == 0
    assert (tmp_path / "subnet" / "model.safetensors").exists()
    assert main(["supernets", *words]) == 0
    assert main(["doctor", *words]) == 0


def test_a_url_that_nothing_here_can_read_is_one_sentence(
    any_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as where it is not installed
    for named, kind, words in (
        ("s3://bucket/nas", StoreError, "pip install s3fs"),
        ("nowhere://bucket/nas", UsageError, "Protocol not known: nowhere"),
    ):
        monkeypatch.setenv("NAS_ARTIFACTS", named)
        with Store.open(any_url) as store:
            assert store.jobs() == []  # rows are there all the same
            with pytest.raises(kind) as caught:
                made(store)
        assert words in f"{caught.value.message} {caught.value.hint}"
        assert named in caught.value.message
        assert caught.value.exit_code == (5 if kind is StoreError else 2)
        capsys.readouterr()
        assert main(["doctor", "--store", any_url]) == 1
        assert words in capsys.readouterr().out.replace("\n", " ")


def test_no_password_is_told(any_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_ARTIFACTS", "nowhere://me:secret@host/nas?key=secret")
    with Store.open(any_url) as store, pytest.raises(UsageError) as caught:
        made(store)
    assert "secret" not in f"{caught.value.message}{caught.value.hint}{store.artifact_root}"
    assert "nowhere://me@host/nas" in caught.value.message

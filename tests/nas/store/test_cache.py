"""What is fetched stays here up to a size; what a process uses stays, and no half of a file does."""

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from nas.errors import NoSpaceError, StoreError
from nas.store.files import cache
from search_spaces.errors import UsageError

HOLDS = """
import sys
from nas.store.files import cache
from tests.nas.store.test_cache import File
print(cache.local(File(sys.argv[1].encode()), None), cache.drafts(), flush=True)
sys.stdin.read()
"""
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class File:
    """As a row tells it."""

    content: bytes
    path: str = "job-1/x"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def size(self) -> int:
        return len(self.content)


def lies(file: File, age: float = 0.0) -> Path:
    """It was fetched by a process that has ended."""
    path = cache.folder() / file.sha256
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.content)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def fetched(file: File) -> Path:
    return cache.local(file, lambda path: path.write_bytes(file.content))


def test_the_least_used_goes_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SIZE, "3e-6")  # 3,000 bytes
    old, older, oldest = (lies(File(bytes([n]) * 900), age=n) for n in range(3))
    assert fetched(File(bytes([2]) * 900)) == oldest  # used again, by this process
    new = fetched(File(b"new" * 400))
    assert [path.exists() for path in (old, older, oldest, new)] == [True, False, True, True]
    monkeypatch.setenv(cache.SIZE, "0")
    last = fetched(File(b"last"))
    assert [path.exists() for path in (old, oldest, new, last)] == [False, True, True, True]


def test_what_another_process_uses_stays_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    path = lies(File(b"used"))
    command = [sys.executable, "-c", HOLDS, "used"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        told, drafts = map(Path, process.stdout.readline().split())
        monkeypatch.setenv(cache.SIZE, "0")
        fetched(File(b"another"))
        assert told == path
        assert path.exists()
        (drafts / "half of a file").touch()
        assert cache.drafts().parent == drafts.parent
        assert drafts.exists()
        process.kill()
        process.communicate()
    fetched(File(b"one more"))
    assert not path.exists()
    cache._drafts.cache_clear()
    cache.drafts()
    assert not drafts.exists()


def test_what_is_fetched_otherwise_is_not_kept() -> None:
    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise StoreError("cut off")

    with pytest.raises(StoreError, match="cut off"):
        cache.local(File(b"whole"), broken)
    assert [path.name for path in cache.folder().rglob("*") if path.is_file()] == [cache.LOCK]


def test_no_space_here_is_one_sentence() -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(NoSpaceError, match="cannot be kept in") as caught:
        cache.local(File(b"whole"), full)
    assert cache.SIZE in caught.value.hint


@pytest.mark.parametrize("named", ["much", "-1", "nan", "inf"])
def test_a_size_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv(cache.SIZE, named)
    with pytest.raises(UsageError, match=cache.SIZE):
        fetched(File(b"x"))

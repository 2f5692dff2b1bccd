"""Files of roots that are no folder, on this machine: by their SHA-256, so many bytes in all.

What a process has got stays until it ends, whatever it is read by: it holds a lock on it.
"""

import atexit
import fcntl
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import platformdirs

from nas.artifacts import Recorded, damaged, difference, sha256
from nas.errors import NoSpaceError, StoreError
from nas.store.connection.errors import no_space, os_words
from search_spaces.errors import UsageError

SIZE = "NAS_CACHE_GB"
DEFAULT_GB = 20.0
DRAFTS = "drafts"
LOCK = "lock"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_held: dict[str, int] = {}  # open and locked, for as long as this process lives
_one = threading.Lock()  # of the threads that add to it


def folder() -> Path:
    """Where the files are."""
    return platformdirs.user_cache_path("elastiform") / "artifacts"


def most_bytes() -> float:
    """How many bytes stay. Raises UsageError for a number that is none."""
    named = os.environ.get(SIZE)
    try:
        size = DEFAULT_GB if not named else float(named)
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise UsageError(
            f"{SIZE} is '{named}', which is no number of gigabytes.", f"As {SIZE}={DEFAULT_GB:g}."
        )
    return size * 1e9


def local(artifact: Recorded, fetch: Callable[[Path], None]) -> Path:
    """The file with the artifact's content, which `fetch` puts into a path if it is not there yet.

    Raises what `fetch` raises, StoreError where files cannot be kept, NoSpaceError where the disk is full.
    """
    if not _DIGEST.fullmatch(artifact.sha256):
        raise damaged(artifact, "has a row without a SHA-256")
    path = folder() / artifact.sha256
    if _is_whole(artifact, path):
        return path
    _make_room(artifact.size)
    partial = drafts() / uuid.uuid4().hex
    try:
        fetch(partial)
        if _is_whole(artifact, path):  # another process was faster, and holds what it has put there
            return path
        descriptor = os.open(partial, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # before anybody else sees it
        partial.replace(path)
    except OSError as error:
        raise _unwritten(error) from error
    finally:
        partial.unlink(missing_ok=True)
    with _one:
        _hold_open(path, descriptor)
    return path


def keep(file: Path, digest: str) -> None:
    """Takes a file of `drafts`, which has this SHA-256, over; whoever needs it next need not fetch it."""
    _make_room(file.stat().st_size)
    with suppress(OSError):  # it is there already, and held by others; or it is fetched when it is needed
        os.link(file, folder() / digest)
    file.unlink(missing_ok=True)


def drafts() -> Path:
    """A folder of this process's own for files to be; those of processes that have ended go.

    Raises StoreError where it cannot be made.
    """
    return _drafts(folder() / DRAFTS, os.getpid())


@lru_cache
def _drafts(place: Path, process: int) -> Path:
    try:
        place.mkdir(parents=True, exist_ok=True)
        for other in place.iterdir():
            if _is_left(other):
                shutil.rmtree(other, ignore_errors=True)
        mine = place / f"{process}-{uuid.uuid4().hex}"
        mine.mkdir()
        descriptor = os.open(mine / "unlocked", os.O_CREAT | os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        (mine / "unlocked").rename(mine / LOCK)
    except OSError as error:
        raise _unwritten(error) from error
    _held[str(mine)] = descriptor
    atexit.register(_leave, mine, process)
    return mine


def _leave(drafts_of_one: Path, process: int) -> None:
    if os.getpid() == process:  # and not one that it has forked
        shutil.rmtree(drafts_of_one, ignore_errors=True)


def _is_left(drafts_of_one: Path) -> bool:
    """Whether the process is gone that had made the folder."""
    try:
        descriptor = os.open(drafts_of_one / LOCK, os.O_RDWR)
    except OSError:
        return False  # it is just being made, or just goes
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _is_whole(artifact: Recorded, path: Path) -> bool:
    """Whether the file is there with the artifact's content; it then stays as long as this process lives."""
    return _hold(path) and difference(artifact, path.stat().st_size, lambda: sha256(path)) is None


def _hold(path: Path) -> bool:
    """Whether the file is there; it stays as long as this process lives."""
    with _one:
        before = _held.get(str(path))
        if before is not None and _is_open(before, path):
            return True
        descriptor = _locked(path)
        if descriptor is not None:
            _hold_open(path, descriptor)
        return descriptor is not None


def _hold_open(path: Path, descriptor: int) -> None:
    before = _held.pop(str(path), None)
    if before is not None:
        os.close(before)
    _held[str(path)] = descriptor


def _locked(path: Path) -> int | None:
    """The file, open and locked against deletion; None where it is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if _is_open(descriptor, path):
        return descriptor
    os.close(descriptor)  # it went before it was locked
    return None


def _is_open(descriptor: int, path: Path) -> bool:
    """Whether it is the file that is there now; that is then the one that was used last."""
    try:
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            return False
        os.utime(path)
    except OSError:
        return False
    return True


def _make_room(size: int) -> None:
    """Deletes what was not used for longest, as far as no process has it, until so many bytes more fit."""
    left, sizes = most_bytes() - size, dict[Path, os.stat_result]()
    for path in folder().glob("*"):
        with suppress(OSError):
            if path.is_file():
                sizes[path] = path.stat()
    total = sum(stat.st_size for stat in sizes.values())
    for path in sorted(sizes, key=lambda path: sizes[path].st_mtime):
        if total <= left:
            return
        if _delete(path):
            total -= sizes[path].st_size


def _delete(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _unwritten(error: OSError) -> StoreError | NoSpaceError:
    kind = NoSpaceError if no_space(error) else StoreError
    return kind(
        f"The files of jobs cannot be kept in '{folder()}': {os_words(error)}.",
        f"Make room there, or see to its rights. It holds at most {SIZE} gigabytes.",
    )

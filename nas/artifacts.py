"""Files that survive a crash and betray damage: written whole or not at all, checked by hash before use."""

import hashlib
import os
import signal
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from nas.errors import DamagedError

NOT_REGULAR = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
PARTIAL = ".partial-"
# Where a process can be told to die, by NAS_CRASH_AT: the moments between which a result is half stored.
CRASH_POINTS = (
    *("file begun", "file written", "file synced", "file named", "file sent", "file deleted"),
    *("rows begun", "rows written", "rows committed"),
)
_passed: dict[str, int] = {}


class Recorded(Protocol):
    """The row of an artifact."""

    @property
    def path(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def size(self) -> int: ...


class Files(Protocol):
    """The files of a store, wherever they lie."""

    def damage(self, artifact: Recorded) -> str | None:
        """What is wrong with the artifact's file, or None."""

    def local(self, artifact: Recorded) -> Path:
        """A file of this machine with its content. Raises DamagedError where there is no such content."""


class Rooted(Protocol):
    """A store, as far as this module is concerned."""

    @property
    def artifact_root(self) -> Files: ...


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a temporary file beside `path`, then puts it in place.

    After a crash at any moment `path` holds the old content or the new one; on an error the temporary file is
    removed and the error passes.
    """
    partial = path.with_name(f"{PARTIAL}{uuid.uuid4().hex}{path.suffix}")
    try:
        crash_point("file begun")
        write(partial)
        crash_point("file written")
        _sync(partial)
        crash_point("file synced")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    crash_point("file named")
    _sync(path.parent)


def crash_point(name: str) -> None:
    """Kills this process where NAS_CRASH_AT is `NAME:N` and the point NAME is passed for the Nth time.

    For tests of what a crash leaves: without that variable it does nothing.
    """
    asked = os.environ.get("NAS_CRASH_AT")
    if asked is None:
        return
    assert name in CRASH_POINTS, name
    _passed[name] = _passed.get(name, 0) + 1
    if asked == f"{name}:{_passed[name]}":
        os.kill(os.getpid(), signal.SIGKILL)


def sha256(path: Path) -> str:
    """SHA-256 of the file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verified(store: Rooted, artifact: Recorded) -> Path:
    """A file of this machine with the artifact's content, safe to load: the only way to one.

    Raises DamagedError when it is missing, truncated or changed.
    """
    return store.artifact_root.local(artifact)


def is_whole(store: Rooted, artifact: Recorded) -> bool:
    """Whether `verified` has a file of the artifact."""
    try:
        verified(store, artifact)
    except DamagedError:
        return False
    return True


def difference(artifact: Recorded, size: int | None, digest: Callable[[], str]) -> str | None:
    """In what a file is not the recorded one, or None. size: None where there is no file.

    digest: its SHA-256, asked for last.
    """
    if size is None:
        return "is missing"
    if size != artifact.size:
        return f"has {size} bytes, not {artifact.size}: it was cut or changed"
    if digest() != artifact.sha256:
        return "is damaged: its SHA-256 is not the recorded one"
    return None


def damaged(artifact: Recorded, problem: str) -> DamagedError:
    """The error of a file with a problem, as `damage` words it."""
    return DamagedError(f"The file '{artifact.path}' {problem}.", "`nas db check` lists all damaged files.")


def is_inside(root: Path, path: Path) -> bool:
    """Whether the path stays under the root, without a symbolic link on the way."""
    try:
        inner = path.relative_to(root)
    except ValueError:
        return False
    return path.resolve() == root.resolve() / inner


def open_regular(path: Path) -> BinaryIO:
    """The file, to be read. Raises OSError as `open` does, and for what is no regular file.

    A pipe that a user names would be waited for without end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(f"it is {NOT_REGULAR.get(stat.S_IFMT(mode), 'something else')} and no regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

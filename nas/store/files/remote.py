"""What an fsspec URL names (`s3://bucket/folder`, `sftp://host/folder`, ...) with the files of a store.

A file is written on this machine first, and sent when it is finished; to be read it comes into `cache`.
"""

import hashlib
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from nas.artifacts import PARTIAL, Recorded, crash_point, damaged, difference, sha256
from nas.errors import DamagedError, NoSpaceError, StoreError
from nas.store.connection.errors import LostError, no_space, os_words
from nas.store.connection.patience import Waits, again
from nas.store.files import cache
from nas.store.files.roots import LONGEST_MARKER, MARKER, OF_ROWS, Root, free_name, unreadable_marker
from nas.store.records import Artifact
from search_spaces.errors import NASError, UsageError

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
BLOCK_BYTES = 2**20
# What is no better a moment later; an error of a driver's own may be anything.
_FINAL = (PermissionError, NotADirectoryError, IsADirectoryError, NotImplementedError, ValueError, TypeError)
READ, WRITTEN = "read", "written"


def is_url(named: str) -> bool:
    """Whether that is a URL and no folder."""
    return _URL.match(named) is not None


@dataclass(eq=True)
class Remote:
    """A place behind a URL as the root of a store.

    waits: how long it is waited for when it has stopped answering; one that has never answered is not.
    """

    url: str = field(repr=False)  # it may hold a password
    waits: Waits = field(default_factory=Waits, compare=False)
    number: int = field(default=0, init=False, compare=False)
    _answered: bool = field(default=False, init=False, compare=False)
    _opened: tuple[Any, str] | None = field(default=None, init=False, compare=False)

    def __str__(self) -> str:
        """Without a password, and without what may be one."""
        parts = urlsplit(self.url)
        user, at, host = parts.netloc.rpartition("@")
        return urlunsplit((parts.scheme, f"{user.partition(':')[0]}{at}{host}", parts.path, "", ""))

    @property
    def called(self) -> str:
        """It in a sentence."""
        return f"place '{self}'"

    @again
    def exists(self) -> bool:
        """Whether anything is in it but parts of files."""
        with self._reached(READ) as (system, root):
            return not all(map(_is_part, _listed(system, root)))

    @again
    def make(self) -> None:
        """Makes it, if need be."""
        with self._reached(WRITTEN) as (system, root):
            system.makedirs(root, exist_ok=True)

    @again
    def clear(self) -> None:
        """Deletes it with all that it holds."""
        with self._reached(WRITTEN) as (system, root):
            system.rm(root, recursive=True)

    @again
    def files(self) -> list[str]:
        """The files of jobs and supernets, in order."""
        with self._reached(READ) as (system, root):
            paths = [str(path).removeprefix(f"{root}/") for path in _listed(system, root)]
        return sorted(path for path in paths if path.startswith(OF_ROWS) and "/" in path)

    @again
    def size(self, inner: str) -> int | None:
        """Bytes of a file, None where there is none."""
        with self._reached(READ) as (system, root):
            return _size(system, f"{root}/{inner}")

    def holds(self, inner: str) -> bool:
        """Whether a path leads to no other place."""
        path = PurePosixPath(inner)
        return not path.is_absolute() and ".." not in path.parts and path.as_posix() == inner

    @again
    def damage(self, artifact: Recorded) -> str | None:
        """What is wrong with the artifact's file where it lies, or None: all of it is read."""
        if not self.holds(artifact.path):
            return "lies outside of the store's folder"
        with self._reached(READ) as (system, root):
            path = f"{root}/{artifact.path}"
            return difference(artifact, _size(system, path), lambda: _digest(system, path))

    @again
    def local(self, artifact: Recorded) -> Path:
        """A file of this machine with the artifact's content. Raises DamagedError where there is none."""
        return cache.local(artifact, lambda path: self.copy(artifact, path))

    @again
    def copy(self, artifact: Recorded, target: Path) -> None:
        """Fetches the artifact's file. Raises DamagedError where it is not as it was recorded, and OSError
        where this machine has no space.
        """
        if not self.holds(artifact.path):
            raise damaged(artifact, "lies outside of the store's folder")
        with self._reached(READ) as (system, root):
            path = f"{root}/{artifact.path}"
            problem = difference(artifact, _size(system, path), lambda: artifact.sha256)
            if problem is None:
                system.get_file(path, str(target))
                problem = difference(artifact, target.stat().st_size, lambda: sha256(target))
        if problem is not None:
            raise damaged(artifact, problem)

    def draft(self, folder: str, base: str, suffix: str) -> Path:
        """A file of this machine that does not exist yet, to be written and then put into its place."""
        place = cache.drafts() / folder
        place.mkdir(parents=True, exist_ok=True)
        return place / free_name(
            base, suffix, {*self._names(folder), *(file.name for file in place.iterdir())}
        )

    def inner(self, draft: Path) -> str:
        """The path in the place of a draft. Raises ValueError for any other file."""
        if not draft.is_relative_to(cache.drafts()) or ".." in draft.parts:
            raise ValueError(f"not a file in the folder {cache.drafts()}: {draft}")
        return draft.relative_to(cache.drafts()).as_posix()

    @again
    def put(self, draft: Path, inner: str) -> None:
        """Sends the finished file; what arrives in part no row names."""
        size = draft.stat().st_size
        with self._reached(WRITTEN) as (system, root):
            target = f"{root}/{inner}"
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            _in_one_step(system, target, lambda sent: system.put_file(str(draft), sent))
            system.invalidate_cache()
            arrived = _size(system, target)
        if arrived != size:
            raise LostError(f"Of '{inner}' {arrived or 0} of {size} bytes have arrived in '{self}'.")

    def settle(self, draft: Path, digest: str) -> None:
        """The draft is what who needs the file next would fetch."""
        cache.keep(draft, digest)

    @again
    def remove(self, inner: str) -> None:
        """Deletes a file, if it is there."""
        with self._reached(WRITTEN) as (system, root), suppress(FileNotFoundError):
            system.rm_file(f"{root}/{inner}")

    def tidy(self, folder: str) -> None:
        """Where folders are but parts of names, none is left."""

    @again
    def write(self, name: str, text: str) -> None:
        """A file with this text."""
        with self._reached(WRITTEN) as (system, root):
            _in_one_step(system, f"{root}/{name}", lambda sent: system.pipe_file(sent, text.encode()))

    @again
    def marker(self) -> str | None:
        """The text of the marker, None where there is none."""
        with self._reached(READ) as (system, root):
            path = f"{root}/{MARKER}"
            size = _size(system, path)
            if size is None:
                return None
            if size > LONGEST_MARKER:
                raise unreadable_marker(self, f"it has {size:,} bytes")
            content = bytes(system.cat_file(path))
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise unreadable_marker(self, error) from None

    @again
    def mark(self, text: str, *, replace: bool) -> bool:
        """Writes the marker; False when there is one and it is not to be replaced.

        Of two processes at the same moment the later one's stays. They are of one store, since each has a
        place of its own, or of one and its copy: then the token that is recorded tells them apart.
        """
        if not replace and self.marker() is not None:
            return False
        self.write(MARKER, text)
        return True

    def receive(self, source: Root, artifacts: Sequence[Artifact], marker: Callable[[int], str]) -> bool:
        """Copies of another root's files. The marker comes first: what is cut off can be told by it."""
        self.make()
        self._clear_parts()
        if not self.mark(marker(self.number), replace=False):
            return False
        for artifact in artifacts:
            draft = cache.drafts() / uuid.uuid4().hex
            with suppress(DamagedError):
                source.copy(artifact, draft)
                self.put(draft, artifact.path)
            draft.unlink(missing_ok=True)
        return True

    @again
    def _clear_parts(self) -> None:
        with self._reached(WRITTEN) as (system, root):
            for path in filter(_is_part, _listed(system, root)):
                system.rm_file(path)

    @again
    def _names(self, folder: str) -> list[str]:
        """The names of the files in a folder."""
        with self._reached(READ) as (system, root):
            return [str(path).rpartition("/")[2] for path in _listed(system, f"{root}/{folder}")]

    @contextmanager
    def _reached(self, how: str) -> Iterator[tuple[Any, str]]:
        """The file system and the path of the place in it; what goes wrong is one sentence.

        Raises LostError where that may pass, NoSpaceError for what cannot be sent for want of space; OSError
        for what cannot be fetched for want of space here.
        """
        try:
            self._opened = self._opened or _file_system(self)
            self._opened[0].invalidate_cache()
            yield self._opened
            self._answered = True
        except NASError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and no_space(error):
                if how == READ:
                    raise
                raise NoSpaceError(f"'{self}' has no space left.", "Make room there.") from error
            words = (os_words(error) if isinstance(error, OSError) else str(error)) or type(error).__name__
            kind = LostError if self._answered and not isinstance(error, _FINAL) else StoreError
            raise kind(
                f"The place of the store's files, '{self}', cannot be {how}: {words.splitlines()[0]}.",
                "Check NAS_ARTIFACTS, the network and your rights there.",
            ) from error


def _file_system(root: Remote) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it. Raises StoreError or UsageError if it has none."""
    from fsspec.core import url_to_fs  # noqa: PLC0415 - only where files lie behind a URL

    try:
        system, path = url_to_fs(root.url)
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or root.url.partition(":")[0]
        raise StoreError(
            f"NAS_ARTIFACTS is '{root}', and what reaches it is not installed: {error}.",
            f"pip install {package}",
        ) from error
    except ValueError as error:
        raise UsageError(
            f"NAS_ARTIFACTS is '{root}', which fsspec cannot read: {error}.",
            "Name a folder, or a URL as s3://BUCKET/FOLDER or sftp://HOST/FOLDER.",
        ) from error
    return system, str(path).rstrip("/")


def _listed(system: Any, root: str) -> list[str]:
    """All files in a folder; of an object store one that is not there may be an error."""
    with suppress(FileNotFoundError):
        return list(system.find(root))
    return []


def _is_part(path: str) -> bool:
    """Whether it is what a killed process had not sent to its end."""
    return path.rpartition("/")[2].startswith(PARTIAL)


def _size(system: Any, path: str) -> int | None:
    try:
        info = system.info(path)
    except FileNotFoundError:
        return None
    return int(info["size"]) if info["type"] == "file" else None


def _digest(system: Any, path: str) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with system.open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _in_one_step(system: Any, target: str, send: Callable[[str], None]) -> None:
    """Sends a file to its path, under another name first where files can be renamed. Cut off, it leaves none
    of this name, or a part of it where neither that is possible nor the place itself sees to it.
    """
    folder, _, name = target.rpartition("/")
    sent = f"{folder}/{PARTIAL}{uuid.uuid4().hex}-{name}" if _renames(system) else target
    try:
        send(sent)
        crash_point("file sent")
        if sent != target:
            system.mv(sent, target)
    except Exception:
        with suppress(Exception):
            system.rm_file(sent)
        raise


def _renames(system: Any) -> bool:
    """Whether a file gets another name in one step: fsspec's own way is to copy it."""
    from fsspec import AbstractFileSystem  # noqa: PLC0415

    return type(system).mv is not AbstractFileSystem.mv

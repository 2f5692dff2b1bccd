"""A folder with the files of a store: of this machine, or one that several see."""

import glob
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nas.artifacts import Recorded, damaged, difference, is_inside, open_regular, sha256, write_atomic
from nas.errors import DamagedError, StoreError
from nas.store.connection.errors import os_words
from nas.store.files.roots import LONGEST_MARKER, MARKER, OF_ROWS, Root, free_name, unreadable_marker
from nas.store.records import Artifact


@dataclass(frozen=True)
class Folder:
    """A folder as the root of a store; `folder / inner` is the path of a file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, inner: str) -> Path:
        return self.path / inner

    @property
    def called(self) -> str:
        """It in a sentence."""
        return f"folder '{self}'"

    @property
    def number(self) -> int:
        """Its inode."""
        return self.path.stat().st_ino

    def exists(self) -> bool:
        """Whether there is such a folder."""
        return self.path.exists()

    def make(self) -> None:
        """Makes it, if need be."""
        with self._written():
            self.path.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Deletes it with all that it holds."""
        shutil.rmtree(self.path)

    def files(self) -> list[str]:
        """The files of jobs and supernets, in order; what a symbolic link leads to is none."""
        below = (path for kind in OF_ROWS for path in self.path.glob(f"{kind}*/**/*"))
        paths = sorted(path for path in below if path.is_symlink() or not path.is_dir())
        return [path.relative_to(self.path).as_posix() for path in paths if is_inside(self.path, path.parent)]

    def size(self, inner: str) -> int | None:
        """Bytes of a file, None where there is none."""
        try:
            status = (self / inner).stat()
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def holds(self, inner: str) -> bool:
        """Whether a path leads to no other place."""
        path = self / inner
        return is_inside(self.path, path.parent) and path.is_relative_to(self.path)

    def damage(self, artifact: Recorded) -> str | None:
        """What is wrong with the artifact's file, or None."""
        path = self / artifact.path
        if not is_inside(self.path, path):
            return "lies outside of the store's folder"
        size = path.stat().st_size if path.is_file() else None
        return difference(artifact, size, lambda: sha256(path))

    def local(self, artifact: Recorded) -> Path:
        """The artifact's file. Raises DamagedError when it is not as it was recorded."""
        if (problem := self.damage(artifact)) is not None:
            raise damaged(artifact, problem)
        return self / artifact.path

    def copy(self, artifact: Recorded, target: Path) -> None:
        """A hard link where that is possible: a finished file is never written to again."""
        _link(self.local(artifact), target)

    def draft(self, folder: str, base: str, suffix: str) -> Path:
        """A file that does not exist yet, to be written at its place."""
        place = self / folder
        place.mkdir(parents=True, exist_ok=True)
        return place / free_name(base, suffix, {file.name for file in place.iterdir()})

    def inner(self, draft: Path) -> str:
        """The path in the folder of a file in it. Raises ValueError for any other."""
        if not is_inside(self.path, draft):
            raise ValueError(f"not a file in the folder {self}: {draft}")
        return draft.relative_to(self.path).as_posix()

    def put(self, draft: Path, inner: str) -> None:
        """A draft is at its place."""

    def settle(self, draft: Path, digest: str) -> None:
        """A draft stays where it is."""

    def remove(self, inner: str) -> None:
        """Deletes a file, if it is there."""
        (self / inner).unlink(missing_ok=True)

    def tidy(self, folder: str) -> None:
        """Deletes a folder in it that is empty."""
        with suppress(OSError):  # there is none, or something in it is not the store's
            (self / folder).rmdir()

    def write(self, name: str, text: str) -> None:
        """A file with this text."""
        with self._written():
            write_atomic(self / name, lambda partial: _write_text(partial, text))

    def marker(self) -> str | None:
        """The text of the marker, None where there is none."""
        try:
            with open_regular(self / MARKER) as opened:
                return opened.read(LONGEST_MARKER + 1).decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            why = os_words(error) if isinstance(error, OSError) and error.errno else error
            raise unreadable_marker(self, why) from None

    def mark(self, text: str, *, replace: bool) -> bool:
        """Writes the marker whole or not at all; False when there is one and it is not to be replaced."""
        with self._written():
            return self._mark(text, replace=replace)

    def receive(self, source: Root, artifacts: Sequence[Artifact], marker: Callable[[int], str]) -> bool:
        """All of the files as a new folder, or nothing; False where another process was faster."""
        partial = Folder(self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}"))
        try:
            partial.path.mkdir(parents=True)
            for artifact in artifacts:
                (partial / artifact.path).parent.mkdir(parents=True, exist_ok=True)
                with suppress(DamagedError):
                    source.copy(artifact, partial / artifact.path)
            partial._mark(marker(partial.number), replace=False)
            os.rename(partial.path, self.path)
            for left in self.path.parent.glob(f".{glob.escape(self.path.name)}.{'[0-9a-f]' * 32}"):
                shutil.rmtree(left, ignore_errors=True)  # of a killed process, or of one that was too late
            return True
        except OSError as error:
            if self.exists():  # another process was faster
                return False
            raise self._unusable(error) from error
        finally:
            shutil.rmtree(partial.path, ignore_errors=True)

    def _mark(self, text: str, *, replace: bool) -> bool:
        partial = self / f".{uuid.uuid4().hex}.partial"
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                partial.replace(self / MARKER)
            else:
                os.link(partial, self / MARKER)
        except FileExistsError:
            return False
        finally:
            partial.unlink(missing_ok=True)
        return True

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Raises StoreError where the folder cannot be written."""
        try:
            yield
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> StoreError:
        return StoreError(
            f"The folder of the store's files, '{self}', cannot be written: {error.strerror or error}.",
            "Check its rights, and that there is space.",
        )


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

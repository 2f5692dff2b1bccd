"""What a place for the files of a store has to offer: a folder does, and what an fsspec URL names."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from nas.artifacts import Files, Recorded
from nas.errors import StoreError
from nas.store.records import Artifact

MARKER = "store.json"
LONGEST_MARKER = 16_000_000  # bytes; its list of other files may be long
OF_ROWS = ("job-", "supernet-")  # how the folders of jobs and supernets begin


class Root(Files, Protocol):
    """Files of jobs and supernets by their paths in it (`job-1/checkpoint-00000200.safetensors`), and a
    marker that says whose they are.

    Raises StoreError for a place that cannot be read or written.
    """

    @property
    def called(self) -> str:
        """It in a sentence: `folder '/shared/nas'`."""

    @property
    def number(self) -> int:
        """By this a copy of the place is told from it; 0 where that cannot be."""

    def exists(self) -> bool:
        """Whether anything is in it, or it is there without."""

    def make(self) -> None:
        """Makes it, if need be."""

    def clear(self) -> None:
        """Deletes it with all that it holds."""

    def files(self) -> list[str]:
        """The files of jobs and supernets, in order; what a symbolic link leads to is none."""

    def size(self, inner: str) -> int | None:
        """Bytes of a file, None where there is none."""

    def holds(self, inner: str) -> bool:
        """Whether a path leads to no other place."""

    def copy(self, artifact: Recorded, target: Path) -> None:
        """A new file of this machine with the artifact's content. Raises DamagedError as `local` does."""

    def draft(self, folder: str, base: str, suffix: str) -> Path:
        """A file that does not exist yet, to be written; its folder does. Its name is BASE, BASE-2, ..."""

    def inner(self, draft: Path) -> str:
        """The path of such a file in the root. Raises ValueError for any other."""

    def put(self, draft: Path, inner: str) -> None:
        """Has the finished file in the root before its row is written."""

    def settle(self, draft: Path, digest: str) -> None:
        """What becomes of the draft when its row is written."""

    def remove(self, inner: str) -> None:
        """Deletes a file, if it is there."""

    def tidy(self, folder: str) -> None:
        """Deletes a folder in it that is empty."""

    def write(self, name: str, text: str) -> None:
        """A file with this text."""

    def marker(self) -> str | None:
        """The text of the marker, None where there is none."""

    def mark(self, text: str, *, replace: bool) -> bool:
        """Writes the marker whole or not at all; False when there is one and it is not to be replaced."""

    def receive(self, source: "Root", artifacts: Sequence[Artifact], marker: Callable[[int], str]) -> bool:
        """Has copies of another root's files, as far as they are whole; False where another process has just
        made it. Cut off, it leaves nothing, or what bears the marker.

        marker: its text, given `number`.
        """


def unreadable_marker(root: Root, why: object) -> StoreError:
    """The error of a marker that cannot be read."""
    return StoreError(
        f"'{root}/{MARKER}' does not say whose the files beside it are: {why}.",
        "Restore it from a backup, or move the folder away.",
    )


def free_name(base: str, suffix: str, taken: Collection[str]) -> str:
    """The first of BASE, BASE-2, BASE-3, ... that is not taken, with the suffix."""
    names = (f"{base}{f'-{n}' if n > 1 else ''}{suffix}" for n in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)

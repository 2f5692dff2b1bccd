"""Temporary folders that go with the process, also when it is ended in the middle of something."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_there: set[Path] = set()


@contextmanager
def passing_folder(prefix: str = "nas-") -> Iterator[Path]:
    """A new temporary folder, for as long as the context lasts."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    _there.add(folder)
    try:
        yield folder
    finally:
        _remove(folder)


def remove_passing_folders() -> None:
    """Those of contexts that will not be left any more: the process ends."""
    for folder in list(_there):
        _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _there.discard(folder)

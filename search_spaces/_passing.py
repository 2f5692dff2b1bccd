"""Temporary folders that go with the process, also when it is ended in the middle of something."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRIES, TRY_SECONDS = 5, 0.1
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
    for _ in range(TRIES):  # processes that are just ending may still write into it
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        time.sleep(TRY_SECONDS)
    _there.discard(folder)

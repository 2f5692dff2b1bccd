"""Temporary folders that go with the process, also when it is ended in the middle of something."""

import atexit
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRIES, TRY_SECONDS = 20, 0.1
SETTLED = 4  # looks in turn that do not find it, where processes may make it anew
_open: set[Path] = set()  # folders whose contexts last
_shared: set[Path] = set()  # also of contexts that are over


@contextmanager
def passing_folder(prefix: str = "nas-", *, shared: bool = False) -> Iterator[Path]:
    """A new temporary folder, for as long as the context lasts.

    shared: with a library and processes that may still be ending when it is left, and make it anew.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    _open.add(folder)
    if shared:
        _shared.add(folder)
    try:
        yield folder
    finally:
        _remove(folder)


def remove_passing_folders() -> None:
    """Those of contexts that will not be left any more: the process ends."""
    for folder in list(_open):
        _remove(folder)


# This module is imported before such libraries, so that their exit functions have run by then.
@atexit.register
def _remove_again() -> None:
    for folder in _shared:
        shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path) -> None:
    absent, wanted = 0, SETTLED if folder in _shared else 1
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        absent = 0 if folder.exists() else absent + 1
        if absent >= wanted:
            break
        time.sleep(TRY_SECONDS)
    _open.discard(folder)

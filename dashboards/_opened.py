"""The store that the dashboard shows: noticed when its file is gone or another one has taken its place."""

import os
import threading

import sqlalchemy as sa

from nas.store import Store
from nas.store._engine import shown, sqlite_file
from search_spaces._errors import StoreError


class OpenedStore:
    """A store open for reading, opened again when another file has its name. Threads may share it."""

    def __init__(self, url: str) -> None:
        """Raises what `Store.open` raises."""
        self._url, self._file = url, sqlite_file(url)
        self._lock = threading.Lock()
        self._store = Store.open(url, read_only=True)
        self._identity = self._found()

    def get(self) -> Store:
        """The store as it is now. Raises StoreError when its file is not there, or holds no store."""
        with self._lock:
            found = self._found()
            if found != self._identity:
                opened = Store.open(self._url, read_only=True)
                self._store.close()
                self._store, self._identity = opened, found
            return self._store

    def identity(self) -> str:
        """Another text for another store. Raises StoreError when the store cannot be read."""
        with self.get().read() as connection:
            connection.execute(sa.select(1))
        return self._identity

    def _found(self) -> str:
        if self._file is None:
            return self._url
        try:
            status = os.stat(self._file)
        except OSError as error:
            raise StoreError(
                f"The store {shown(self._url)} is not there: {error.strerror}.",
                "Put it back, or start the dashboard with another --store.",
            ) from None
        return f"{status.st_dev}:{status.st_ino}"

"""The store that the dashboard shows: noticed when its file is gone or another one has taken its place."""

import threading

from nas.errors import StoreError
from nas.store import ReplacedError, Store
from nas.store.connection.engine import shown, sqlite_file


class OpenedStore:
    """A store open for reading, opened again when another one is in its place. Threads may share it."""

    def __init__(self, url: str) -> None:
        """Raises what `Store.open` raises."""
        self._url = url
        self._lock = threading.Lock()
        self._store = Store.open(url, read_only=True)

    def get(self) -> Store:
        """The store as it is now. Raises StoreError when its file is not there, or holds no store."""
        with self._lock:
            try:
                self._store.check_same()
            except ReplacedError:
                opened = self._open_again()
                self._store.close()
                self._store = opened
            return self._store

    def identity(self) -> str:
        """Another text for another store. Raises StoreError when the store cannot be read."""
        return self.get().identity

    def _open_again(self) -> Store:
        file = sqlite_file(self._url)
        if file is not None and not file.exists():
            raise StoreError(
                f"The store {shown(self._url)} is not there.",
                "Put it back, or start the dashboard with another --store.",
            )
        return Store.open(self._url, read_only=True)

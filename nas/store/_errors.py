"""What goes wrong below SQLAlchemy, as one sentence that a user can act on."""

import sqlite3

from sqlalchemy.exc import DBAPIError

from search_spaces._errors import StoreError

_CAUSES = (
    ("not a database", "is not a store: it is no SQLite file", "Name another file, or restore a backup."),
    ("malformed", "is damaged", "Restore a backup (`nas db backup` makes them), then run `nas db check`."),
    ("is full", "cannot grow: no space is left on the disk", "Free some space, then run `nas resume`."),
    ("locked", "is locked by another process", "End the process that holds it, then try again."),
    ("readonly", "cannot be written: it is read-only", "Check the rights of the file and of its folder."),
    ("unable to open", "cannot be opened", "Check the path and the rights of the file and of its folder."),
    (
        "disk i/o",
        "cannot be read or written: the disk reports an error",
        "Check the disk, then restore a backup.",
    ),
)


def store_error(error: DBAPIError | sqlite3.Error, where: str) -> StoreError:
    """The error of a database driver as a StoreError about the store `where`."""
    cause = str(error.orig if isinstance(error, DBAPIError) else error).strip()
    for words, sentence, hint in _CAUSES:
        if words in cause.lower():
            return StoreError(f"The store {where} {sentence}.", hint)
    first_line = (cause.splitlines() or [type(error).__name__])[0]
    return StoreError(f"The store {where} cannot be used: {first_line}.", "Run `nas db check`.")

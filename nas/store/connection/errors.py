"""What goes wrong below SQLAlchemy, as one sentence that a user can act on."""

import errno
import os
import sqlite3

from sqlalchemy.exc import DBAPIError

from nas.errors import StoreError

FULL = ("cannot grow: no space is left on the disk", "Free some space, then run `nas resume`.")
_CAUSES = (
    ("not a database", "is not a store: it is no SQLite file", "Name another file, or restore a backup."),
    ("malformed", "is damaged", "Restore a backup (`nas db backup` makes them), then run `nas db check`."),
    ("is full", *FULL),
    ("locked", "is locked by another process", "End the process that holds it, then try again."),
    ("readonly", "cannot be written: it is read-only", "Check the rights of the file and of its folder."),
    ("unable to open", "cannot be opened", "Check the path and the rights of the file and of its folder."),
    (
        "disk i/o",
        "cannot be read or written: the disk reports an error",
        "Check the disk, then restore a backup.",
    ),
)
# By PostgreSQL's SQLSTATE: what a server says that does answer.
_STATES = {
    "42501": ("does not let this user do that", "Grant the rights to its tables and its schema."),
    "53100": FULL,
    "25006": ("cannot be written: the server is read-only", "Name the primary server."),
}
FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # or the user's share of the disk is
UNREACHABLE = "Check the address and the password, and that the server runs."
# The server or the way to it is gone, or has no place left; or two transactions were in each other's way.
_LOST_STATES = ("08", "57P01", "57P02", "57P03", "53300", "40001", "40P01")


class LostError(StoreError):
    """The transaction was cut off and left nothing; as a whole it may be tried again."""


class ReplacedError(StoreError):
    """The store is no longer the one that was opened: it was deleted, or another is in its place."""


def is_lost(error: DBAPIError | sqlite3.Error) -> bool:
    """Whether a server's transaction ended with its connection, or had to give way to another one."""
    if not isinstance(error, DBAPIError) or isinstance(error.orig, sqlite3.Error):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return error.connection_invalidated or str(state).startswith(_LOST_STATES)
    names = {kind.__name__ for kind in type(error.orig).__mro__}
    return error.connection_invalidated or "OperationalError" in names


def store_error(error: DBAPIError | sqlite3.Error, where: str) -> StoreError:
    """The error of a database driver as a StoreError about the store `where`; a LostError where it is one."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    first_line = (str(cause).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(cause, sqlite3.Error):
        sentence, hint = _sqlite_words(cause) or (f"cannot be used: {first_line}", "Run `nas db check`.")
        return StoreError(f"The store {where} {sentence}.", hint)
    if is_lost(error):
        return LostError(f"The store {where} does not answer: {first_line}.", UNREACHABLE)
    words = _STATES.get(str(getattr(cause, "sqlstate", None)))
    sentence, hint = words or (f"cannot be used: {first_line}", "Run `nas db check`.")
    return StoreError(f"The store {where} {sentence}.", hint)


def no_space(error: sqlite3.Error | OSError) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    if isinstance(error, OSError):
        return error.errno in FULL_ERRORS
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def os_words(error: OSError) -> str:
    """An operating system's error without the name of a temporary file."""
    return error.strerror or (os.strerror(error.errno) if error.errno else str(error))


def _sqlite_words(error: sqlite3.Error) -> tuple[str, str] | None:
    text = str(error).lower()
    return next(((sentence, hint) for words, sentence, hint in _CAUSES if words in text), None)

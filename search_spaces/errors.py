"""The errors that a user can cause, as far as all packages raise them: a sentence, a hint, an exit code.

`nas.errors` draws the whole tree.
"""

import difflib
from collections.abc import Iterable


class NASError(Exception):
    """Base of every error that is reported without a traceback; `hint` says what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(NASError, ValueError):
    """A wrong option, file or value."""

    exit_code = 2


class NotHereError(UsageError):
    """Data or weights that this machine does not have; another one may."""


class NotFoundError(NASError, LookupError):
    """Something that was named does not exist."""

    exit_code = 3


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """A hint that names the closest of the words, or else all of them."""
    choices = sorted(words)
    close = difflib.get_close_matches(word, choices, n=1)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(choices)}." if choices else ""

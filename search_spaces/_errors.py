"""The errors a user can cause: one sentence, one hint, one exit code.

NASError
├── JobFailedError   1   the job ran and could not finish
│   └── DivergedError    the numbers of a training are none any more
├── UsageError       2   an option, a file or a value is wrong
├── NotFoundError    3   no such job, subnet, device, space
├── ConflictError    4   the name is taken, the job is running elsewhere
└── StoreError       5   the store cannot be read or written
"""

import difflib
from collections.abc import Iterable

LONGEST = 40  # characters of a name in a table


def shortened(text: str, longest: int = LONGEST) -> str:
    """A name as it fits into a table: of a longer one its beginning and its end."""
    if len(text) <= longest:
        return text
    end = (longest - 1) // 3
    return f"{text[: longest - 1 - end]}…{text[-end:]}"


class NASError(Exception):
    """Base of every error that is reported without a traceback; `hint` says what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class JobFailedError(NASError):
    """A job that started and could not finish."""

    exit_code = 1


class DivergedError(JobFailedError):
    """A training whose loss is not a number, or infinite."""


class UsageError(NASError, ValueError):
    """A wrong option, file or value."""

    exit_code = 2


class NotFoundError(NASError, LookupError):
    """Something that was named does not exist."""

    exit_code = 3


class ConflictError(NASError):
    """Something is in the way: a name that is taken, a job that runs elsewhere."""

    exit_code = 4


class StoreError(NASError):
    """The store cannot be reached, read or written as it is."""

    exit_code = 5


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the closest known word, or else all of them."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(choices)}." if choices else ""

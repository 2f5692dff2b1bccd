"""A database server that goes away for a while: whole transactions are tried again until it is back."""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from nas.errors import StoreError
from nas.store.connection.errors import LostError

P = ParamSpec("P")
R = TypeVar("R")

READER_SECONDS = 5.0  # who only looks would rather be told
FIRST_SECONDS, LONGEST_SECONDS = 0.2, 10.0  # between two tries


@dataclass(frozen=True)
class Patience:
    """How long an open store is waited for when it has stopped answering.

    stop: set, nothing is waited for any more.  tell: told once for every wait.
    """

    seconds: float
    stop: threading.Event = field(default_factory=threading.Event)
    tell: Callable[[str], None] | None = None


class Wait:
    """One call that waits, for all its tries together."""

    def __init__(self, patience: Patience, waits: "Waits") -> None:
        self._patience, self._waits, self._pause = patience, waits, FIRST_SECONDS
        self._deadline: float | None = None

    def after(self, error: LostError) -> None:
        """Waits before the next try. Raises StoreError when patience has run out."""
        if self._deadline is None:
            seconds = 0.0 if self._waits.ran_out else self._patience.seconds
            self._deadline = time.monotonic() + seconds
            if self._patience.tell is not None and seconds > 0:
                self._patience.tell(f"{error.message} Trying again for {seconds:.0f} s.")
        left = self._deadline - time.monotonic()
        self._waits.ran_out |= left <= 0 < self._patience.seconds
        if left <= 0 or self._patience.stop.wait(min(self._pause, left)):
            raise StoreError(error.message, error.hint) from error
        self._pause = min(2 * self._pause, LONGEST_SECONDS)


class Waits:
    """The wait of each thread; calls within a call share it.

    ran_out: the database was waited for in vain; until it answers nobody waits for it once more.
    """

    def __init__(self) -> None:
        self.patience = Patience(0.0)
        self.ran_out = False
        self._threads = threading.local()

    @contextmanager
    def one(self) -> Iterator[Wait]:
        """The wait of the call that this is a part of, or a new one."""
        outer: Wait | None = getattr(self._threads, "wait", None)
        if outer is not None:
            yield outer
            return
        self._threads.wait = Wait(self.patience, self)
        try:
            yield self._threads.wait
        finally:
            self._threads.wait = None

    @contextmanager
    def none(self) -> Iterator[None]:
        """Nothing in this thread is waited for meanwhile."""
        before, self._threads.wait = getattr(self._threads, "wait", None), Wait(Patience(0.0), self)
        try:
            yield
        finally:
            self._threads.wait = before


class Waiting(Protocol):
    """Something with a database."""

    @property
    def waits(self) -> Waits: ...


Owner = TypeVar("Owner", bound=Waiting)


def again(call: Callable[Concatenate[Owner, P], R]) -> Callable[Concatenate[Owner, P], R]:
    """A method of one transaction, or of several that may be repeated, is done again when it was cut off.

    What was cut off has left nothing: a COMMIT without an answer is looked up by the transaction's number.
    """

    @functools.wraps(call)
    def patient(owner: Owner, /, *args: P.args, **options: P.kwargs) -> R:
        kept = [list(arg) if isinstance(arg, Iterator) else arg for arg in args]  # to be read once more
        with owner.waits.one() as wait:
            while True:
                try:
                    return call(owner, *kept, **options)  # type: ignore[arg-type]
                except LostError as error:
                    wait.after(error)

    return patient

"""Who sees to it that a job ends when it is told to, and that nothing it waits for lasts for ever.

A thread beside the main one: it hears signals that the main thread is too busy to hear, interrupts what does
not end, and is the one who ends the process when not even that helps.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import psutil

from nas.errors import JobFailedError
from predictors.temporary_folders import remove_passing_folders
from search_spaces.errors import NASError

GRACE_SECONDS = 3.0  # after a stop, until what still runs is interrupted
LAST_SECONDS = 6.0  # after a stop, until the process is ended
RETURN_SECONDS = 10.0  # that what has passed its deadline has to come back when it is interrupted
LEAVE_SECONDS = 1.5  # for the last words to the store
NOTE_SECONDS = 10.0  # the same where nobody waits for the end
ASK_SECONDS = 1.0  # between two questions whether a stop was asked for
TICK_SECONDS = 0.1
JOIN_SECONDS = 1.0  # a thread that asks a store that does not answer is left behind
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal was closed
INTERRUPT = signal.SIGURG  # ours: nobody sends it, and by default it is ignored

Leave = Callable[[NASError | None], None]


def _ignores_hangup(number: signal.Signals) -> bool:
    """Whether `nohup` has started this process, which then outlives its terminal."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


class OverdueError(KeyboardInterrupt):
    """A stop was asked for, and what runs did not end by itself."""


class HungError(JobFailedError):
    """Something did not come back and cannot be interrupted; `about`: what `within` was told of it."""

    def __init__(self, message: str, hint: str, about: Mapping[str, Any]) -> None:
        super().__init__(message, hint)
        self.about = dict(about)


@dataclass
class _Timed:
    """Something that has to be over after so many seconds; `spent` of them, and since it was interrupted."""

    what: str
    seconds: float
    about: Mapping[str, Any]
    spent: float = 0.0
    late: float | None = None


class Watchdog:
    """Watches the main thread. asked, leave, end, at_once: as of `graceful_stop`."""

    def __init__(
        self,
        stop: threading.Event,
        *,
        asked: Callable[[], bool],
        leave: Leave,
        end: Leave | None,
        at_once: bool,
    ) -> None:
        self._stop, self._asked, self._leave, self._end = stop, asked, leave, end
        self._at_once = at_once
        self._signals, self._patient = 0, 0
        self._stopped_by_store = self._interrupted = self._ended = False
        self._stopped_at: float | None = None
        self._timed: _Timed | None = None
        self._over = threading.Event()
        self._main = threading.main_thread().ident or 0
        self._ears, self._mouth = os.pipe()
        for end_of_pipe in (self._ears, self._mouth):
            os.set_blocking(end_of_pipe, False)
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._watch, self._ask)]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Its handlers and threads are there for as long as the context lasts."""
        heard = [number for number in STOPS if not _ignores_hangup(number)]
        handlers = dict.fromkeys(heard, self._heard) | {INTERRUPT: self._overdue}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        ears = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            signal.set_wakeup_fd(ears)
            for number, handler in before.items():
                signal.signal(number, handler)
            for thread in self._threads:
                thread.join(JOIN_SECONDS)
            os.close(self._mouth)
            os.close(self._ears)

    @contextmanager
    def timed(self, what: str, seconds: float, about: Mapping[str, Any]) -> Iterator[None]:
        """TimeoutError inside, if it lasts longer."""
        self._timed = _Timed(what, seconds, about)
        try:
            yield
        finally:
            self._timed = None

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Nothing inside is interrupted for being late; the process ends as late as otherwise."""
        self._patient += 1
        try:
            yield
        finally:
            self._patient -= 1

    def _heard(self, number: int, frame: FrameType | None) -> None:
        """In the main thread: the first signal asks to stop, the second interrupts at once."""
        self._signals += 1
        if self._signals > 1 or self._stopped_by_store:
            raise KeyboardInterrupt
        self._stop.set()
        if self._at_once:
            self._interrupted = True
            raise OverdueError

    def _overdue(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, which alone can raise what ends the thing that it is at."""
        stopped_at = self._stopped_at
        late = stopped_at is not None and time.monotonic() - stopped_at >= GRACE_SECONDS
        if late and not self._interrupted and not self._patient:
            self._interrupted = True
            raise OverdueError
        timed = self._timed
        if timed is not None and timed.late is not None:
            raise TimeoutError(f"it did not come back within {timed.seconds:g} s")

    def _ask(self) -> None:
        """Asks the store, in a thread of its own: it may not answer for a while."""
        while not self._over.wait(ASK_SECONDS) and not self._stop.is_set():
            with suppress(NASError):
                if self._asked():
                    self._stopped_by_store = True
                    self._stop.set()

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._over.is_set():
            heard, _, _ = select.select([self._ears], [], [], TICK_SECONDS)
            if heard and set(os.read(self._ears, 512)) & set(STOPS):
                self._stop.set()  # the main thread may be where it hears no signal
            now = time.monotonic()
            # A process that was itself suspended has not waited.
            self._check_timed(min(now - before, 2 * TICK_SECONDS))
            before = now
            if self._stop.is_set():
                self._check_stop(now)

    def _check_stop(self, now: float) -> None:
        self._stopped_at = now if self._stopped_at is None else self._stopped_at
        late = now - self._stopped_at
        if late >= GRACE_SECONDS and not self._interrupted:
            self._interrupt()
        if late >= LAST_SECONDS:
            self._end_process(None)

    def _check_timed(self, tick: float) -> None:
        timed = self._timed
        if timed is None:
            return
        timed.spent += tick
        if timed.late is not None:
            timed.late += tick
        elif timed.spent >= timed.seconds:
            timed.late = 0.0
            self._interrupt()
        if timed.late is not None and timed.late >= RETURN_SECONDS and self._timed is timed:
            self._end_process(
                HungError(
                    f"{timed.what} did not come back within {timed.seconds:g} s, and cannot be interrupted.",
                    "What was finished is saved: mend what hangs, and go on; a job does with `nas resume`.",
                    timed.about,
                )
            )

    def _interrupt(self) -> None:
        signal.pthread_kill(self._main, INTERRUPT)

    def _end_process(self, error: NASError | None) -> None:
        """Ends the process and all that it has started, if whoever runs it allows that."""
        if self._end is None or self._ended or self._over.is_set():
            return
        self._ended = True
        leaving = threading.Thread(target=self._last_words, args=(error,), daemon=True)
        leaving.start()
        leaving.join(LEAVE_SECONDS if error is None else NOTE_SECONDS)
        if self._over.is_set():
            return  # the main thread has come back meanwhile, and what it starts now is not ours to end
        children = _suspended_children()
        remove_passing_folders()
        for child in children:  # at once: Ray aborts this process when it misses one of them
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._end(error)

    def _last_words(self, error: NASError | None) -> None:
        with suppress(NASError):  # it is another's by now, or the store does not answer
            self._leave(error)


def _suspended_children() -> list[int]:
    """The ids of all that this process has started, none of which starts anything any more."""
    suspended: list[int] = []
    seen: set[int] = set()
    while new := [child for child in psutil.Process().children(recursive=True) if child.pid not in seen]:
        seen.update(child.pid for child in new)
        for child in new:
            with suppress(psutil.Error):
                # The tracker of resources tidies up when all others are gone.
                if "resource_tracker" not in " ".join(child.cmdline()):
                    child.suspend()
                    suspended.append(child.pid)
    return suspended


_watchdog: Watchdog | None = None


@contextmanager
def graceful_stop(
    *,
    asked: Callable[[], bool] = lambda: False,
    leave: Leave = lambda error: None,
    end: Leave | None = None,
    at_once: bool = False,
) -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM, or what `asked` answers, sets the event, so that the stage saves what it
    has; what does not end within GRACE_SECONDS is interrupted. The second signal interrupts at once.

    leave: writes how it ended when the main thread no longer can: with an error, or stopped by request.
    end: has to end the process then, with this error; None: it is not ours to end.
    at_once: nobody looks at the event, so that the first signal interrupts.
    """
    global _watchdog
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before, _watchdog = _watchdog, Watchdog(stop, asked=asked, leave=leave, end=end, at_once=at_once)
    try:
        with _watchdog.watching():
            yield stop
    finally:
        _watchdog = before


@contextmanager
def within(what: str, seconds: float, **about: Any) -> Iterator[None]:
    """TimeoutError inside if it lasts longer: in the main thread under a `graceful_stop`; else no limit.

    Where even that does not end it, as in a library that never returns, the process is ended with a
    HungError. about: what that carries.
    """
    if _watchdog is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    with _watchdog.timed(what, seconds, about):
        yield


@contextmanager
def patient() -> Iterator[None]:
    """What is saved inside is not interrupted for being late; a second signal of the user does interrupt."""
    if _watchdog is None:
        yield
        return
    with _watchdog.patient():
        yield


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started meanwhile hear no Ctrl-C, from their first instruction on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

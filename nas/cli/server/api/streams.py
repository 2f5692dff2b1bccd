"""Server-sent events: how far a job is, as it changes. Each stream holds a thread, so that few are open."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

from dashboards.opened import OpenedStore
from nas.cli.jobs import progress
from nas.cli.output import json_text
from nas.cli.server.children import BusyError
from search_spaces.errors import NASError

MOST_STREAMS = 8
LONGEST_SECONDS = 900.0  # a browser opens it again by itself
TICK_SECONDS = 1.0
TOLD_SECONDS = 10.0  # after which it is told again although nothing has changed
ENDED = ("succeeded", "failed", "stopped")
PASSING = ("seconds_left", "now")  # what changes with the clock


class Streams:
    """The open streams of a server."""

    def __init__(self, most: int = MOST_STREAMS) -> None:
        self._room = threading.BoundedSemaphore(most)
        self._closing = threading.Event()

    def open(self, opened: OpenedStore, job_id: int) -> "Stream":
        """A stream about a job. Raises BusyError where there are too many."""
        if not self._room.acquire(blocking=False):
            raise BusyError(
                "Too many streams of events are open.", "Ask for the job itself, every few seconds."
            )
        return Stream(_events(opened, job_id, self._closing), self._room)

    def end(self) -> None:
        """Ends all of them, within a tick."""
        self._closing.set()


class Stream:
    """The bytes of a stream; whoever has asked for it closes it, also before the first."""

    def __init__(self, events: Iterator[bytes], room: threading.BoundedSemaphore) -> None:
        self._events, self._room, self._is_open = events, room, True

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def close(self) -> None:
        """Gives its place to another one."""
        if self._is_open:
            self._is_open = False
            self._room.release()


def _events(opened: OpenedStore, job_id: int, closing: threading.Event) -> Iterator[bytes]:
    """`progress` with a document whenever it is another one, `end` with the last, `error`."""
    begun = told_at = time.monotonic()
    last: dict[str, Any] | None = None
    while not closing.is_set() and time.monotonic() - begun < LONGEST_SECONDS:
        try:
            store = opened.get()
            job = store.job(job_id)
            document = progress(store, job)
        except NASError as error:
            yield _event("error", {"error": error.message, "hint": error.hint})
            return
        if job.state in ENDED and not document["live"]:
            yield _event("end", document)
            return
        lasting = {name: value for name, value in document.items() if name not in PASSING}
        lasting["words"] = document["now"] and document["now"]["words"]
        if lasting != last or time.monotonic() - told_at >= TOLD_SECONDS:
            yield _event("progress", document)
            last, told_at = lasting, time.monotonic()
        closing.wait(TICK_SECONDS)


def _event(kind: str, document: dict[str, Any]) -> bytes:
    text = json.dumps(json.loads(json_text(document)))
    return f"event: {kind}\ndata: {text}\n\n".encode()

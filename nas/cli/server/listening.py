"""The server that listens: waitress, which reads requests in one thread and answers them in some others."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from flask import Flask
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

from dashboards.app import bound_socket
from dashboards.requests import LARGEST_REQUEST
from nas.cli.server.api.streams import MOST_STREAMS

THREADS = 2 * MOST_STREAMS
MOST_CONNECTIONS = 500
REQUEST_SECONDS = 60  # in which a request has to be there, and after which an idle connection is closed
LARGEST_HEADERS = 32 * 1024  # bytes
LARGEST_ANSWER = 128 * 1024**2  # bytes in memory; not all files that waitress makes for more are closed
ENDING_SECONDS = 5  # that what is being answered has when the server ends


class Channel(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """A connection whose request has to be there in time: what drips in does not count as being active."""

    last_activity: float

    def handle_read(self) -> None:
        """As the base class, but for the time by which the connection is judged."""
        begun: float | None = self.last_activity if self.request is not None else None
        super().handle_read()
        if begun is not None and self.request is not None:
            self.last_activity = begun


class Server:
    """A server that has its port; `run` answers. Port 0 takes any free one (`port` tells which)."""

    def __init__(
        self,
        app: Flask,
        host: str,
        port: int,
        prefix: str = "",
        *,
        request_seconds: int = REQUEST_SECONDS,
    ) -> None:
        """Raises ConflictError for a port that is taken."""
        bound = bound_socket(host, port)
        settings = Adjustments(
            sockets=[bound],
            threads=THREADS,
            url_prefix=prefix,
            ident="",
            connection_limit=MOST_CONNECTIONS,
            channel_timeout=request_seconds,
            cleanup_interval=min(request_seconds, 10),
            channel_request_lookahead=1,  # so that a stream whose reader has gone is noticed
            max_request_body_size=LARGEST_REQUEST,
            max_request_header_size=LARGEST_HEADERS,
            outbuf_overflow=LARGEST_ANSWER,
            clear_untrusted_proxy_headers=False,  # X-Forwarded-Proto decides over one flag of a cookie alone
            log_socket_errors=False,
        )
        self.port = int(bound.getsockname()[1])
        self._address = f"http://{f'[{host}]' if ':' in host else host}:{self.port}{prefix}/"
        self._connections: dict[int, Any] = {}
        self._dispatcher = ThreadedTaskDispatcher()
        self._dispatcher.set_thread_count(settings.threads)
        self._server = TcpWSGIServer(
            app,
            self._connections,
            True,
            bound,
            dispatcher=self._dispatcher,
            adj=settings,
            bind_socket=False,
            sockinfo=(bound.family, bound.type, bound.proto, bound.getsockname()),
        )
        self._server.channel_class = Channel

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return self._address

    def run(self, end: Callable[[], None], ready: Callable[[], None] = lambda: None) -> None:
        """Answers until Ctrl-C, SIGTERM or `stop`.

        end: ends what would go on, before the answers that are being made are waited for.
        ready: called when signals are heard.
        """
        with _raised_by_sigterm(), suppress(KeyboardInterrupt, SystemExit):
            ready()
            wasyncore.loop(timeout=1, map=self._connections, use_poll=True)
        end()
        self._dispatcher.shutdown(timeout=ENDING_SECONDS)
        wasyncore.close_all(self._connections)

    def stop(self) -> None:
        """Ends `run`, which is in another thread."""
        self._server.trigger.pull_trigger(lambda: wasyncore.close_all(self._connections))


@contextmanager
def _raised_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what is inside; signals are heard in a process's main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""A server on a loopback port, in threads of this process, over a store that looks like a used one."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dashboards.opened import OpenedStore
from nas.cli.server.access import host_check
from nas.cli.server.api.service import Service
from nas.cli.server.app import application
from nas.cli.server.listening import Server
from nas.cli.server.tokens import Tokens
from nas.store import NewJob, Store, Submission

READ, WRITE = "read-" + "r" * 30, "write-" + "w" * 30
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What a server has answered."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    @property
    def document(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Served:
    """A server that answers, and how to ask it."""

    url: str
    port: int
    service: Service
    prefix: str = ""

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        token: str | None = None,
        body: Any = None,
        **headers: str,
    ) -> Answer:
        """One request. body: bytes, or what becomes JSON.  headers: with _ for -."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        if body is not None and not isinstance(body, bytes):
            body, given = json.dumps(body).encode(), {"Content-Type": "application/json", **given}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, f"{self.prefix}{path}", body, given)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.headers), answer.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any = None, *, token: str | None = WRITE, **headers: str) -> Answer:
        """A change, by the token that allows it."""
        return self.ask(path, method="POST", token=token, body=body, **headers)


@contextmanager
def served(url: str, tokens: Tokens, *, prefix: str = "", **how: Any) -> Iterator[Served]:
    """A server over the store, for a while. how: folders of the service; request_seconds."""
    seconds = how.pop("request_seconds", 60)
    service = Service(url, OpenedStore(url), **how)
    app = application(service, tokens, is_allowed=host_check("127.0.0.1", ["nas.example"]), prefix=prefix)
    server = Server(app, "127.0.0.1", 0, prefix, request_seconds=seconds)
    thread = threading.Thread(target=server.run, args=[service.end])
    thread.start()
    try:
        yield Served(url, server.port, service, prefix)
    finally:
        server.stop()
        thread.join(PATIENCE_SECONDS)
        service.opened.get().close()
    assert not thread.is_alive()


def submit(store: Store, *names: str, **submission: Any) -> None:
    values = {"config": {}, "seed": 0, "provenance": {}}
    store.submit([NewJob(name, name, values, Submission(**submission)) for name in names])

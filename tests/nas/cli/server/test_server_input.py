"""Requests that nobody sends who means well: none costs the server anything, none is a traceback."""

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from serving import PATIENCE_SECONDS, READ, WRITE, Served, served

from nas.cli.server.api import streams
from nas.cli.server.api.routes import ROUTES
from nas.cli.server.listening import Server
from nas.cli.server.tokens import Tokens
from nas.store import Store

DEEP: Any = "x"
for _ in range(300):
    DEEP = [DEEP]
ODD = [None, True, 1, 1.5, 10**30, "x", "\ud800", "a\0b", "x" * 5000, [], [1], [DEEP], {}, {"a": 1}, DEEP]
FIELDS = [
    (route, name)
    for route in ROUTES
    if route.body is not None
    for name in (*route.body.model_fields, "unknown", "__class__")
]


@pytest.mark.parametrize(("route", "name"), FIELDS, ids=[f"{route.name}.{name}" for route, name in FIELDS])
def test_fields_of_wrong_types_are_400(route: Any, name: str, quiet_team: Served) -> None:
    """Of a job that is not there: what passes the checks of the body is 404, and nothing is changed."""
    path = route.path.replace("<job>", "999").replace("<int:job>", "999")
    for odd in ODD:
        body = {"file": "data: [1", "knee": False} if route.name in ("submit", "extract") else {}
        body = {key: value for key, value in body.items() if key in route.body.model_fields}
        status = quiet_team.post(path, {**body, name: odd}).status
        assert status in (400, 404, 503), (name, odd)
        if name in ("unknown", "__class__"):
            assert status == 400


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_a_body_of_another_type_is_400(value: Any, quiet_team: Served) -> None:
    assert quiet_team.post("/api/jobs/1/priority", value).status == 400


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "application/json"),
        (b"\xff\xfe{}", "application/json"),
        (b'{"priority": NaN}', "application/json"),
        (b'{"priority": 1e999}', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"priority": ' + b"1" * 10_000 + b"}", "application/json"),
        (b'{"a":' * 20_000, "application/json"),
        (b'{"priority": 1}', "text/plain"),
        (b"priority=1", "application/x-www-form-urlencoded"),
    ],
)
def test_a_body_that_is_no_json_is_400(content: bytes, kind: str, quiet_team: Served) -> None:
    answer = quiet_team.post("/api/jobs/first/priority", content, Content_Type=kind)
    assert answer.status == 400
    assert answer.document["error"].startswith("The body ") or "priority" in answer.document["error"]


def test_a_huge_body_is_413(quiet_team: Served) -> None:
    answer = quiet_team.post("/api/jobs", {"file": "x" * 300_000})
    assert answer.status == 413
    assert quiet_team.post("/login", b"token=" + b"x" * 300_000, token=None).status == 413


def test_a_body_that_is_only_said_to_be_huge_is_413_at_once(quiet_team: Served) -> None:
    with closing(
        socket.create_connection(("127.0.0.1", quiet_team.port), timeout=PATIENCE_SECONDS)
    ) as client:
        client.sendall(b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "query",
    ["?where=", "?where=x", "?device=nobody", "?device=%00", "?unknown=1", "?device=a&device=b",
     "?device=%ff", "?where=" + "x" * 600, "&".join(["?where=params<=1"] * 30).replace("<", "%3C")],
)  # fmt: skip
def test_a_wrong_query_is_400_or_404(query: str, quiet_team: Served) -> None:
    answer = quiet_team.ask(f"/api/jobs/1/front{query}", token=READ)
    assert answer.status in (400, 404)
    assert answer.document["error"].isprintable()


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "99999999999", "%D9%A3", ""])
def test_a_wrong_number_is_400(after: str, quiet_team: Served) -> None:
    assert quiet_team.ask(f"/api/jobs/first/log?after={after}", token=READ).status == 400


RAW_PATHS = [
    "/api/jobs/../../../etc/passwd",
    "/api/jobs/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/api/jobs/..%5c..%5cetc",
    "/assets/../app.py",
    "/assets/..%2fapp.py",
    "/assets//etc/passwd",
    "/_dash-component-suites/dash/../../../etc/passwd",
    "//etc/passwd",
    "/api/jobs/1/../../../../etc/passwd",
    "/api/jobs/%00",
    "/api/jobs/%ff%fe",
    "/api/jobs/" + "x" * 5000,
    "/api/jobs/1%0d%0aSet-Cookie:%20x=1",
]


@pytest.mark.parametrize("path", RAW_PATHS, ids=lambda path: path[:40])
def test_a_path_leads_to_no_file(path: str, quiet_team: Served) -> None:
    """Sent as it stands: clients would resolve it."""
    with closing(
        socket.create_connection(("127.0.0.1", quiet_team.port), timeout=PATIENCE_SECONDS)
    ) as client:
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {READ}",
            "Connection: close",
        ]
        client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        text = b"".join(iter(lambda: client.recv(65536), b""))
    status = int(text.split()[1])
    assert status < 500
    assert b"root:" not in text
    assert b"def create_app" not in text
    assert b"\r\nSet-Cookie" not in text
    if path.startswith("/api"):
        assert status == 404


@pytest.mark.parametrize(
    "content",
    [b"\0\0\0\0\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n",
     b"x" * 100_000,
     b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
     b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
)  # fmt: skip
def test_what_is_no_request_hurts_nobody(content: bytes, quiet_team: Served) -> None:
    with closing(
        socket.create_connection(("127.0.0.1", quiet_team.port), timeout=PATIENCE_SECONDS)
    ) as client:
        client.sendall(content)
        assert quiet_team.ask("/healthz").status == 200


def test_clients_that_never_end_their_requests_keep_nobody_waiting(quiet_team: Served) -> None:
    with ExitStack() as stack:
        for begin in (
            b"",
            b"GET /api/jobs HTTP/1.1\r\nHost: local",
            b"POST /login HTTP/1.1\r\nContent-Length: 9\r\n\r\nx",
        ):
            for _ in range(20):
                client = socket.create_connection(("127.0.0.1", quiet_team.port), timeout=PATIENCE_SECONDS)
                stack.enter_context(closing(client))
                client.sendall(begin)
        assert quiet_team.ask("/api/jobs", token=READ).status == 200


def test_a_request_that_drips_in_is_cut_off(used_url: str) -> None:
    """A byte now and then does not count as being active."""
    with served(used_url, Tokens(), request_seconds=1) as one:
        with closing(socket.create_connection(("127.0.0.1", one.port), timeout=0.2)) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
            deadline = time.monotonic() + PATIENCE_SECONDS
            is_open = True
            while is_open:
                assert time.monotonic() < deadline, "it is still open"
                try:
                    client.sendall(b"x")
                    is_open = client.recv(100) != b""
                except TimeoutError:
                    continue
                except OSError:
                    is_open = False
        assert one.ask("/healthz").status == 200


# -- streams of events --


def events(stream: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    """The events of a stream until it ends."""
    kind = ""
    while line := stream.readline().decode():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ").strip()
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


class Listener:
    """A client that has opened a stream."""

    def __init__(self, team: Served, job: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", team.port, timeout=PATIENCE_SECONDS)
        self.connection.request("GET", f"/api/jobs/{job}/events", headers={"Authorization": f"Bearer {READ}"})
        self.stream = self.connection.getresponse()

    def close(self) -> None:
        self.stream.close()
        self.connection.close()


def test_a_stream_tells_a_job_until_it_has_ended(team: Served) -> None:
    with closing(Listener(team, "first")) as listener:
        assert listener.stream.headers["Content-Type"].startswith("text/event-stream")
        told = events(listener.stream)
        kind, document = next(told)
        assert (kind, document["state"], document["queue"]["position"]) == ("progress", "queued", 1)
        assert document == team.ask("/api/jobs/first/progress", token=READ).document
        team.post("/api/jobs/first/priority", {"priority": -5})
        kind, document = next(told)
        assert (kind, document["queue"]["position"], document["queue"]["priority"]) == ("progress", 2, -5)
        team.post("/api/jobs/first/stop")
        kind, document = next(told)
        assert (kind, document["state"]) == ("end", "stopped")
        assert next(told, None) is None


def test_a_stream_of_a_deleted_job_ends_with_an_error(team: Served) -> None:
    with closing(Listener(team, "first")) as listener:
        told = events(listener.stream)
        assert next(told)[0] == "progress"
        with Store.open(team.url) as store, store.write() as connection:
            for table in ("log_lines", "jobs"):
                column = "job_id" if table == "log_lines" else "id"
                connection.exec_driver_sql(f"DELETE FROM {table} WHERE {column} = 5")
        kind, document = next(told)
        assert (kind, document["error"]) == ("error", "There is no job '5'.")
        assert next(told, None) is None


def test_so_many_streams_and_no_more(team: Served) -> None:
    with ExitStack() as stack:
        for _ in range(streams.MOST_STREAMS):
            listener = stack.enter_context(closing(Listener(team, "first")))
            assert listener.stream.status == 200
        refused = team.ask("/api/jobs/first/events", token=READ)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        assert team.ask("/api/jobs", token=READ).status == 200
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:  # those whose readers have gone give their places back
        with closing(Listener(team, "first")) as listener:
            if listener.stream.status == 200:
                return
        assert time.monotonic() < deadline, "the places are still taken"
        time.sleep(0.2)


def test_a_question_for_the_head_of_a_stream_takes_no_place(team: Served) -> None:
    for _ in range(2 * streams.MOST_STREAMS):
        assert team.ask("/api/jobs/first/events", method="HEAD", token=READ).status == 200


def nameless_files() -> set[str]:
    """Files that this process has open and that no folder holds."""
    links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    return {os.readlink(link) for link in links if link.is_symlink() and "(deleted)" in os.readlink(link)}


def test_an_answer_that_is_not_fetched_leaves_no_file_behind() -> None:
    """Several megabytes, as plotly.js has, of which the client reads the first ones and goes on living."""
    before, app = nameless_files(), Flask(__name__)
    app.add_url_rule("/", view_func=lambda: "x" * 8_000_000)
    server = Server(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=[lambda: None])
    thread.start()
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(64).startswith(b"HTTP/1.1 200")
        during = nameless_files()
        server.stop()
        thread.join(PATIENCE_SECONDS)
    assert during == before


def test_a_server_that_ends_ends_its_streams(used_url: str) -> None:
    with served(used_url, Tokens(READ, WRITE)) as one:
        listener = Listener(one, "first")
        assert next(events(listener.stream))[0] == "progress"
    listener.close()

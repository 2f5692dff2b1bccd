"""Who is told that a job has ended, what is said, and what becomes of it when nobody listens."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nas import notifications, pipeline
from nas.config import JobConfig, checked_config
from nas.config.components import COMMANDS, allow_named
from nas.notifications import notify_of_end, without_urls
from nas.progress import Silent
from nas.queue.worker import Worker
from nas.store import Job, NewJob, Store, Submission
from search_spaces.errors import UsageError

SECRET = "s3cret"


class Hook:
    """A server of this machine that remembers what it was sent. answers: by the number of the request."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], Any]] = []
        self.answers: Callable[[int], int] = lambda number: 204
        self.waits = threading.Event()
        self.waits.set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.got.append((self.path, dict(self.headers), json.loads(body)))
                hook.waits.wait(60)
                self.send_response(hook.answers(len(hook.got)))
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?{SECRET}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    listening = Hook()
    yield listening
    listening.waits.set()
    listening.server.shutdown()
    listening.server.server_close()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store.open(store_url) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "PAUSE_SECONDS", 0.001)


def ended(store: Store, state: str = "succeeded", error: str | None = None, **notify: Any) -> Job:
    job = store.create_job("job", config={"notify": notify}, seed=0, provenance={})
    with store.acquire(job) as lease:
        lease.finish(state, error)
    return store.job(job.id)


def log(store: Store) -> list[str]:
    return [line.text for line in store.log(store.jobs()[0])]


def test_the_end_of_a_job_is_sent(store: Store, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_TOKEN", SECRET)
    error = f"No postgresql+psycopg://me:{SECRET}@db/nas answers, nor https://me:{SECRET}@host/x."
    notify_of_end(store, ended(store, "failed", error, url=hook.url))
    ((path, headers, body),) = hook.got
    assert path == f"/hook?{SECRET}"
    assert headers["Content-Type"] == "application/json"
    assert (body["job"], body["id"], body["state"]) == ("job", 1, "failed")
    assert body["error"] == "No (a store) answers, nor https://host/x."
    assert body["evaluations"] == 0
    assert body["finished_at"]
    assert SECRET not in json.dumps([headers, body])
    assert store.url not in json.dumps([headers, body])
    assert log(store) == []


def test_a_job_that_has_not_ended_or_names_nobody_is_not_told_of(store: Store, hook: Hook) -> None:
    queued = store.create_job("queued", config={"notify": {"url": hook.url}}, seed=0, provenance={})
    notify_of_end(store, queued)
    notify_of_end(store, store.create_job("silent", config={}, seed=0, provenance={}))
    values = {"config": {"notify": {"url": hook.url}}, "seed": 0, "provenance": {}}
    (paused,) = store.submit([NewJob("paused", None, values)])
    store.cancel(paused, pause=True)
    notify_of_end(store, paused)
    assert hook.got == []


def test_three_tries_and_then_the_log(store: Store, hook: Hook) -> None:
    hook.answers = lambda number: 500 if number < 3 else 200
    job = ended(store, url=hook.url)
    notify_of_end(store, job)
    assert (len(hook.got), log(store)) == (3, [])
    hook.answers = lambda number: 503
    told: list[str] = []
    notify_of_end(store, job, tell=told.append)
    assert len(hook.got) == 6
    (line,) = log(store)
    assert line == "The notification of '127.0.0.1' failed 3 times: it answered with status 503."
    assert told == [line]
    assert store.job(job.id) == job


def test_nobody_else_is_told_where_an_answer_sends_elsewhere(store: Store, hook: Hook) -> None:
    hook.answers = lambda number: 307
    notify_of_end(store, ended(store, url=hook.url))
    assert {path for path, *_ in hook.got} == {f"/hook?{SECRET}"}
    assert "failed 3 times: it answered with status 307" in log(store)[0]


def test_a_server_that_does_not_answer_is_not_waited_for(
    store: Store, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "TRY_SECONDS", 0.2)
    hook.waits.clear()
    notify_of_end(store, ended(store, url=hook.url))
    assert "failed 3 times" in log(store)[0]
    hook.server.server_close()
    notify_of_end(store, ended_again(store))
    assert len(log(store)) == 2


def ended_again(store: Store) -> Job:
    return store.jobs()[0]


READS = "import json, os, sys; json.dump([json.load(sys.stdin), dict(os.environ)], open(sys.argv[1], 'w'))"


def test_a_command_reads_it_and_sees_nothing_of_the_environment(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_STORE", f"postgresql://me:{SECRET}@db/nas")
    monkeypatch.setenv("PGPASSWORD", SECRET)
    monkeypatch.setenv(COMMANDS, sys.executable)
    command = [sys.executable, "-c", READS, str(tmp_path / "read")]
    notify_of_end(store, ended(store, command=command))
    body, environment = json.loads((tmp_path / "read").read_text())
    assert body["state"] == "succeeded"
    assert SECRET not in json.dumps(environment)
    assert not {name for name in environment if name.startswith("NAS_")}
    assert log(store) == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(3)", "it ended with exit code 3"),
        ("import time; time.sleep(600)", "seconds"),
    ],
)
def test_a_command_that_fails(store: Store, monkeypatch: pytest.MonkeyPatch, code: str, said: str) -> None:
    monkeypatch.setenv(COMMANDS, sys.executable)
    monkeypatch.setattr(notifications, "TRY_SECONDS", 0.3 if "sleep" in code else 60.0)
    notify_of_end(store, ended(store, command=[sys.executable, "-c", code]))
    assert said in log(store)[0]


def test_a_command_out_of_a_store_is_not_run_unless_it_was_allowed(store: Store, tmp_path: Path) -> None:
    notify_of_end(store, ended(store, command=["touch", str(tmp_path / "ran")]))
    assert not (tmp_path / "ran").exists()
    assert "notify.command names the program 'touch', which was not allowed here" in log(store)[0]
    assert f"{COMMANDS}=touch" in log(store)[0]


def test_what_the_author_of_a_job_names_is_allowed_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMANDS, "mail")
    allow_named(checked_config({"notify": {"command": ["touch", "x"]}}, where="here"))
    assert os.environ[COMMANDS] == "mail,touch"


@pytest.mark.parametrize("notify", [3, {"url": "http://example.org"}, {"command": 3}, {"else": 1}, {}])
def test_a_notification_that_somebody_spoilt_in_the_store_is_told(store: Store, notify: Any) -> None:
    job = store.create_job("job", config={"notify": notify}, seed=0, provenance={})
    with store.acquire(job) as lease:
        lease.finish("succeeded")
    notify_of_end(store, job)
    assert log(store) == ["Nobody was notified: ValidationError."]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/hook",
        "http://127.0.0.1.example.org/",
        "http://169.254.169.254/",
        "http://0.0.0.0/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "https://",
        "https:///x",
        "https://me:pw@example.org/",
        "https://exa mple.org/",
        "https://example.org/\n",
        "https://[::1",
        "https://example.org:x/",
        "https://example.org/" + "x" * 10_000,
        "https://exämple.org/",
        "",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"notify\.url"):
        checked_config({"notify": {"url": url}}, where="here")


@pytest.mark.parametrize("notify", [{}, {"command": []}, {"command": "mail me"}, {"urls": ["x"]}, "x", []])
def test_sections_that_are_refused(notify: Any) -> None:
    with pytest.raises(UsageError, match="notify"):
        checked_config({"notify": notify}, where="here")


@pytest.mark.parametrize(
    "url", ["https://example.org/hook", "http://localhost:8/x", "http://127.9.9.9", "http://[::1]:80/"]
)
def test_urls_that_are_taken(url: str) -> None:
    config = checked_config({"notify": {"url": url}}, where="here")
    assert JobConfig.model_validate(config.model_dump(mode="json"), strict=False) == config


def test_urls_are_taken_out_of_errors() -> None:
    assert without_urls("See sqlite:////home/me/nas.db and more.") == "See (a store) and more."


def test_a_job_that_runs_here_is_told_of_by_its_own_process(
    store: Store, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.create_job("job", config={"notify": {"url": hook.url}}, seed=0, provenance={})

    def fails(store: Store, job: Job, **_: Any) -> None:
        with store.acquire(job):
            raise ValueError("boom")

    monkeypatch.setattr(pipeline, "_run", fails)
    with pytest.raises(ValueError, match="boom"):
        pipeline.run(store, job, progress=Silent())
    assert [(body["state"], body["error"]) for *_, body in hook.got] == [("failed", "ValueError: boom")]
    with pytest.raises(ValueError, match="boom"):
        pipeline.run(store, job, progress=Silent(), owner="a worker's")
    assert len(hook.got) == 1  # a worker tells of its jobs itself


ENDS = """
import json, os, sys
from nas.store import Store
claimed = json.loads(sys.stdin.readline())
with Store.open(claimed["store"]) as store:
    job = store.job(claimed["job"])
    with store.join_claim(job, claimed["owner"]) as lease:
        if job.name == "dies":
            os.abort()
        lease.finish(job.name)
"""


def test_a_worker_tells_of_every_end(store: Store, hook: Hook) -> None:
    def submit(name: str, **submission: Any) -> Job:
        values = {"config": {"notify": {"url": hook.url}}, "seed": 0, "provenance": {}}
        return store.submit([NewJob(name, None, values, Submission(**submission))])[0]

    submit("succeeded")
    submit("vain", after_id=submit("dies").id)
    told: list[str] = []
    Worker(store, (sys.executable, "-c", ENDS), idle_exit=0.0, tell=told.append).run()
    states = {body["job"]: (body["state"], body["attempt"]) for *_, body in hook.got}
    assert states == {"succeeded": ("succeeded", 1), "dies": ("failed", 3), "vain": ("stopped", 0)}
    assert len(hook.got) == 3

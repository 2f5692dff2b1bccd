"""Two folders that play two machines, with homes of their own, one PostgreSQL and one URL for artifacts.

What docs/team.md tells a new user to type: submitted on one, run on the other, watched on the first, in the
terminal and through `nas serve`, and extracted there.
"""

import json
import os
import re
import secrets
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from nas_process import JOB, NAS, SECONDS, STARTED, Ran, ended

from supernet.pretrained.subnet_folders import load_folder


@dataclass(frozen=True)
class Machine:
    """A folder with a home in it, from which the store is reached."""

    folder: Path
    store: str
    artifacts: str

    def start(self, *words: object) -> "subprocess.Popen[str]":
        """`nas` as it is typed there."""
        self.folder.mkdir(exist_ok=True)
        kinds = ("CACHE", "CONFIG", "DATA", "STATE")
        names = ["HOME", "TMPDIR", *(f"XDG_{kind}_HOME" for kind in kinds)]
        homes = {name: str(self.folder / name.lower()) for name in names}
        for home in homes.values():
            Path(home).mkdir(exist_ok=True)
        process = subprocess.Popen(
            [str(NAS), *map(str, words)],
            cwd=self.folder,
            env=os.environ | homes | {"NAS_STORE": self.store, "NAS_ARTIFACTS": self.artifacts},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        STARTED.append(process)
        return process

    def nas(self, *words: object) -> Ran:
        """The same, until it ends."""
        return ended(self.start(*words))


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any]]]:
    """A URL of this machine, and what is sent there."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook", got
    server.shutdown()
    server.server_close()


@contextmanager
def served(machine: Machine) -> Iterator[Callable[[str], str]]:
    """What a browser or a program gets from `nas serve` on the machine, by its token, at a path."""
    token = machine.folder / "read.token"
    token.touch(0o600)
    token.write_text(secrets.token_urlsafe(32))
    server = machine.start("serve", "--token-file", token.name, "--port", 0)
    assert server.stderr is not None
    found = re.search(r"http://\S+/", server.stderr.readline())
    assert found is not None

    def ask(path: str) -> str:
        request = Request(f"{found[0]}{path}", headers={"Authorization": f"Bearer {token.read_text()}"})
        with urlopen(request, timeout=SECONDS) as answer:
            text: str = answer.read().decode()
            return text

    with pytest.raises(HTTPError, match="401"):
        urlopen(f"{found[0]}api/jobs", timeout=SECONDS)
    yield ask
    server.send_signal(signal.SIGTERM)  # SIGINT is ignored by what a shell has started with &
    assert ended(server).code in (0, 128 + signal.SIGTERM)


def watch(machine: Machine, start: Callable[[], "subprocess.Popen[str]"]) -> None:
    """Watches the job that a worker is started for, through the server and in the terminal, to its end."""
    with served(machine) as ask, ThreadPoolExecutor() as pool:
        assert "Elastiform" in ask("job/job")
        events = pool.submit(ask, "api/jobs/job/events")
        worker = start()
        watched = machine.nas("watch", "job")
        sent = events.result(SECONDS)
        assert "event: progress\n" in sent
        assert sent.rpartition("event: ")[2].startswith("end\n")
        assert json.loads(ask("api/jobs/job/front"))["front"]
    assert (watched.code, watched.errors) == (0, [])
    lines = watched.out.splitlines()
    assert lines[0].startswith("Job 'job' (1)")
    assert any(": search, " in line for line in lines)
    assert lines[-1] == "Job 'job' (1) has succeeded."
    assert ended(worker).code == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_goes_from_one_machine_to_the_other_and_comes_back_as_a_subnet(
    postgresql_url: str, tmp_path: Path, hook: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, got = hook
    shared = f"file://{tmp_path / 'shared'}"
    monkeypatch.setenv("NAS_ARTIFACTS", shared)  # for who looks at the store afterwards
    mine = Machine(tmp_path / "mine", postgresql_url, shared)
    other = Machine(tmp_path / "other", postgresql_url, shared)
    mine.folder.mkdir()
    (mine.folder / "job.yaml").write_text(f"{JOB}notify: {{url: '{url}'}}\n")

    submitted = mine.nas("submit", "job.yaml", "--needs", "lab")
    assert submitted.out == "Job 'job' (1) is queued at position 1, for a worker with 'lab'.\n"
    assert json.loads(mine.nas("ls", "--json").out)[0]["reason"] == "no worker runs"

    assert "No job waits that this worker may take." in other.nas("worker", "--once").err
    watch(mine, lambda: other.start("worker", "--needs", "lab", "--once"))
    assert [(body["job"], body["state"], body["error"]) for body in got] == [("job", "succeeded", None)]
    assert got[0]["best"]["metric"] == "accuracy"
    assert postgresql_url not in json.dumps(got)

    members = json.loads(mine.nas("front", "job", "--json").out)["front"]
    extracted = mine.nas("extract", "job", "--knee", "-o", "subnet")
    assert (extracted.code, extracted.errors) == (0, [])
    config = json.loads((mine.folder / "subnet" / "config.json").read_text())
    assert load_folder(mine.folder / "subnet") is not None
    assert members
    assert config["elastiform"]
    assert not list(other.folder.rglob("*.safetensors"))
    assert mine.nas("db", "check").code == other.nas("db", "check").code == 0

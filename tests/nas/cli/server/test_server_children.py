"""What the server leaves to processes of its own: submissions, downloads; and what hangs or breaks down."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from serving import PATIENCE_SECONDS, READ, WRITE, served

from nas.cli import main
from nas.cli.server import children
from nas.cli.server.children import BusyError, Children, LateError
from nas.cli.server.tokens import Tokens
from nas.errors import ConflictError, JobFailedError
from nas.store import Store

JOB = """
name: sent
data: digits
supernet: {space: {embed_dim: [4, 8], depth: [1, 2], num_heads: [1, 2]}}
train: {steps: 4, batch_size: 16, warmup: 2, threads: 1}
devices: {cpu: {batch: 4}}
predictor: {samples: 12, rounds: 2, max_rounds: 2}
search: {evaluations: 4, batch: 4, population: 4, finalists: 2}
execution: {workers: 1}
"""
TOKENS = Tokens(READ, WRITE)


def child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """In place of the real one: a few lines, which have read the request."""
    begin = "import json, os, sys, time; request = json.loads(sys.stdin.readline())\n"
    monkeypatch.setattr(children, "COMMAND", (sys.executable, "-c", begin + code))


def test_a_child_is_told_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "print(json.dumps({'answer': [request, 'x' * 100_000]}))")
    assert Children().ask({"verb": "x"}) == [{"verb": "x"}, "x" * 100_000]


def test_an_error_of_a_child_is_that_of_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "print(json.dumps({'error': 'No.', 'hint': 'Do.', 'exit_code': 4}))")
    with pytest.raises(ConflictError) as caught:
        Children().ask({})
    assert (caught.value.message, caught.value.hint) == ("No.", "Do.")


def test_what_a_child_leaves_behind_ends_with_its_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It holds the pipes of a child that is over."""
    file = tmp_path / "pid"
    leave = "import subprocess; p = subprocess.Popen(['sleep', '600']); "
    child(monkeypatch, f"{leave}open({str(file)!r}, 'w').write(str(p.pid)); print(1, flush=True)")
    ended_late(file)
    gone([int(file.read_text())])


@pytest.mark.parametrize("code", ["raise ValueError('secret')", "os.abort()", "sys.exit(3)"])
def test_a_child_that_breaks_down_is_an_error_and_frees_its_place(
    code: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    child(monkeypatch, code)
    room = Children()
    for _ in range(children.MOST_AT_ONCE + 1):
        with pytest.raises(JobFailedError, match="broke down") as caught:
            room.ask({})
        assert "secret" not in caught.value.message
    assert "A child of the server broke down" in capfd.readouterr().err


def test_a_child_that_hangs_is_ended_with_all_that_it_has_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "pids"
    hang = "import subprocess; p = subprocess.Popen(['sleep', '600']); "
    child(monkeypatch, f"{hang}open({str(file)!r}, 'w').write(f'{{os.getpid()}} {{p.pid}}'); time.sleep(600)")
    room = ended_late(file)
    pids = [int(word) for word in file.read_text().split()]
    assert len(pids) == 2
    gone(pids)
    assert room._running == set()


def ended_late(file: Path) -> Children:
    """Whose child was ended; with more time where it had not even written the file, on a busy machine."""
    for seconds in (2.0, 8.0, 32.0, 128.0):
        room = Children(seconds=seconds)
        with pytest.raises(LateError, match=f"more than {seconds:g} seconds"):
            room.ask({})
        if file.exists() and file.read_text():
            return room
    raise AssertionError("the child has written nothing")


def gone(pids: list[int]) -> None:
    """Waits until no such process runs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        assert time.monotonic() < deadline, "they are still there"
        time.sleep(0.1)


def test_so_many_children_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "time.sleep(600)")
    room, threads = Children(), []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            room.ask({})
        except JobFailedError as error:
            errors.append(error)

    for _ in range(children.MOST_AT_ONCE):
        threads.append(threading.Thread(target=ask))
        threads[-1].start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(room._running) < children.MOST_AT_ONCE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(BusyError):
        room.ask({})
    room.end()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert len(errors) == children.MOST_AT_ONCE


STAYS = """
import json, os, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request.get("crash"):
        sys.exit("secret")
    time.sleep(request.get("sleep", 0))
    answer = json.dumps({"answer": [os.getpid(), request["n"], "ä" * 100_000]})
    print(len(answer), answer, sep="\\n", end="", flush=True)
"""


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    monkeypatch.setattr(children, "RESIDENT", (sys.executable, "-c", STAYS))
    child(monkeypatch, "print(json.dumps({'answer': [os.getpid(), request['n'], 'alone']}))")
    opened = Children(seconds=60.0)
    yield opened
    opened.end()


def question(number: int, **more: Any) -> dict[str, Any]:
    return {"verb": "what-if", "n": number, **more}


def test_one_process_answers_what_only_reads(room: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = room.ask(question(1)), room.ask(question(2))
    assert (first[0], first[1], second[1], second[2]) == (second[0], 1, 2, "ä" * 100_000)
    assert room.ask({"verb": "submit", "n": 3})[2] == "alone"
    monkeypatch.setattr(children, "MOST_ANSWERS", 3)
    assert room.ask(question(4))[0] == first[0]
    gone([first[0]])
    assert room.ask(question(5))[0] != first[0]
    room.end()
    with pytest.raises(JobFailedError):
        room.ask(question(6))


def test_the_one_that_stays_is_replaced_when_it_breaks_down_or_is_late(
    room: Children, capfd: pytest.CaptureFixture[str]
) -> None:
    pid = room.ask(question(1))[0]
    with pytest.raises(JobFailedError, match="exit code"):
        room.ask(question(2, crash=True))
    assert "secret" in capfd.readouterr().err
    after = room.ask(question(3))[0]
    assert after != pid
    room.seconds = 0.5
    with pytest.raises(LateError):
        room.ask(question(4, sleep=600))
    gone([pid, after])
    room.seconds = 60.0
    assert room.ask(question(5))[1] == 5


def test_who_finds_it_busy_gets_a_process_of_his_own(room: Children) -> None:
    room.ask(question(1))
    busy = threading.Thread(target=room.ask, args=[question(2, sleep=2)])
    busy.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not room._resident._lock.locked():
        assert time.monotonic() < deadline
    assert room.ask(question(3))[2] == "alone"
    busy.join(PATIENCE_SECONDS)


# -- the real ones --


@pytest.mark.slow
def test_a_job_file_is_submitted(store_url: str) -> None:
    Store.open(store_url).close()
    with served(store_url, TOKENS) as team:
        (first,) = team.post("/api/jobs", {"file": JOB, "priority": 4, "key": "k"}).document
        assert (first["job"], first["state"], first["position"], first["priority"]) == (
            "sent",
            "queued",
            1,
            4,
        )
        (again,) = team.post("/api/jobs", {"file": JOB, "priority": 4, "key": "k"}).document
        assert again["id"] == first["id"]
        other = team.post("/api/jobs", {"file": JOB, "key": "k", "sweep": ["search.seed=3"]})
        assert (other.status, "stands for job 'sent'" in other.document["error"]) == (409, True)
        swept = team.post("/api/jobs", {"file": JOB, "sweep": ["search.seed=1,2"], "after": "sent"}).document
        assert [(one["job"], one["sweep"], one["after"]) for one in swept] == [
            *(("sent-2", "job", first["id"]), ("sent-3", "job", first["id"])),
        ]
        for file, message in {
            "data: nothing": "job.yaml: data.name: 'nothing' is unknown",
            "- 1": "holds no settings",
            "a: [": "job.yaml, line 1",
            "data: os.path": "would run as code",
            "data: {name: image_folder, root: /etc}": "in no folder that this server may read",
        }.items():
            refused = team.post("/api/jobs", {"file": file})
            assert refused.status == 400
            assert message in refused.document["error"]
            assert "/tmp" not in refused.document["error"]
        refused = team.post("/api/jobs", {"file": JOB, "sweep": ["data.name=os.path"]})
        assert (refused.status, "would run as code" in refused.document["error"]) == (400, True)
        assert team.post("/api/jobs", {"file": JOB, "after": "nobody"}).status == 404
        with Store.open(store_url, read_only=True) as store:
            assert [job.name for job in store.jobs()] == ["sent", "sent-2", "sent-3"]


@pytest.mark.slow
def test_files_may_be_where_the_server_says(store_url: str, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    text = "".join(f"Document {number} tells of {number} things.\n---\n" for number in range(400))
    (tmp_path / "texts" / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text(text)
    job = JOB.replace("digits", "{{name: text, files: [{}], separator: '---', context: 16}}").partition(
        "\nsupernet"
    )
    small = "\nsupernet: {family: matlm, space: {embed_dim: [16]}}\nsearch: {evaluations: 2, batch: 2}\n"
    Store.open(store_url).close()
    with served(store_url, TOKENS, folders=(str(tmp_path / "texts"),)) as team:
        inside = team.post("/api/jobs", {"file": job[0].format(tmp_path / "texts" / "a.txt") + small})
        outside = team.post("/api/jobs", {"file": job[0].format(tmp_path / "b.txt") + small})
        assert "in no folder" not in inside.text
        assert (outside.status, "in no folder" in outside.document["error"]) == (400, True)


@pytest.mark.slow
def test_a_subnet_is_downloaded_as_it_is_extracted(tiny_copy: str, tmp_path: Path) -> None:
    assert main(["extract", "1", "--knee", "-o", str(tmp_path / "net"), "--store", tiny_copy]) == 0
    with served(tiny_copy, TOKENS) as team:
        answer = team.post("/api/jobs/1/extract", {"knee": True})
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/zip")
        packed = unpacked(answer.content)
        (stem,) = {name.partition("/")[0] for name in packed}
        assert answer.headers["Content-Disposition"] == f"attachment; filename={stem}.zip"
        written = {
            f"{stem}/{file.relative_to(tmp_path / 'net').as_posix()}": file.read_bytes()
            for file in (tmp_path / "net").rglob("*")
            if file.is_file()
        }
        assert {name: digest(content) for name, content in packed.items()} == {
            name: digest(content) for name, content in written.items()
        }
        assert f"{stem}/model.safetensors" in packed
        key = stem.rpartition("-")[2]
        assert unpacked(team.post("/api/jobs/1/extract", {"subnet": key}).content) == packed
        assert team.post("/api/jobs/1/extract", {"subnet": "../../x"}).status == 404
        assert team.post("/api/jobs/1/extract", {"knee": True, "weights": "no/such"}).status == 404
        assert team.post("/api/jobs/1/extract", {"knee": True, "subnet": key}).status == 400
        assert team.post("/api/jobs/1/extract", {}).status == 400
        assert team.post("/api/jobs/tiny/extract", {"knee": True}).status == 404  # by its id alone


@pytest.mark.slow
def test_formats_and_the_front_are_downloaded_as_they_are_extracted(tiny_copy: str) -> None:
    with served(tiny_copy, TOKENS) as team:

        def answer(**body: Any) -> tuple[int, Any]:
            made = team.post("/api/jobs/1/extract", body)
            return made.status, unpacked(made.content) if made.status == 200 else made.document["error"]

        status, packed = answer(knee=True, format="safetensors,torch_export", precision="bf16")
        files = {tuple(name.split("/")[1:]) for name in packed}
        assert status == 200
        assert files >= {("safetensors", "model.safetensors"), ("torch_export", "model.pt2")}
        assert all(b"| precision | bf16 |" in packed[name] for name in packed if name.endswith("README.md"))
        status, packed = answer(elastic=True)
        assert status == 200
        assert {"job-1-elastic/elastic.py", "job-1-elastic/elastic.json"} <= packed.keys()
        for body, sentence in (
            ({"knee": True, "format": "onyx"}, "There is no 'onyx' in nas.exporters."),
            ({"knee": True, "precision": "int8"}, "The format 'safetensors' has no precision 'int8'."),
            (
                {"knee": True, "format": "os.path"},
                "The module 'os.path' would run as code, and here only what",
            ),
            ({"elastic": True, "knee": True}, "elastic takes the whole front, in one format."),
            ({"elastic": True, "format": "onnx"}, "elastic takes the whole front, in one format."),
        ):
            status, error = answer(**body)
            assert (status, error[: len(sentence)]) == (400, sentence)


def unpacked(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.slow
def test_the_verb_serves_until_sigterm_and_leaves_nobody(used_url: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(WRITE)
    (tmp_path / "token").chmod(0o600)
    code = "import sys; from nas.cli import main; sys.exit(main())"
    words = ["serve", "--port", "0", "--store", used_url, "--write-token-file", str(tmp_path / "token")]
    server: Any = subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True, env=os.environ
    )
    with server:
        line = server.stderr.readline()
        assert line.startswith("The server is at http://127.0.0.1:")
        assert WRITE not in line
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_SECONDS) == 0
        assert server.stderr.read() == ""

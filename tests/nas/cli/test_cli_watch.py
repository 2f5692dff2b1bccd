"""`nas watch`: in a terminal, in a pipe, of one moment."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import Nas

from nas.cli.queue import watch
from nas.results.running.front_so_far import front_so_far
from nas.store import NewEvaluation, NewJob, NewSubnet, Store, Submission

MARKUP = "[red] <b> %{x}"


@pytest.fixture
def store(any_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NAS_STORE", any_url)
    with Store.open(any_url) as opened:
        yield opened


def submit(store: Store, name: str, **submission: Any) -> Any:
    config = {"search": {"evaluations": 20}, "objectives": ["accuracy", "latency_ms"]}
    values = {"config": config, "seed": 0, "provenance": {}}
    return store.submit([NewJob(name, None, values, Submission(**submission))])[0]


def evaluate(store: Store, lease: Any, *points: tuple[float, float]) -> None:
    """Subnets a, b, ... of these accuracies and latencies."""
    keyed = zip("abcdef", points, strict=False)
    rows = [
        NewEvaluation(
            NewSubnet(key, {"depth": place}, 1, 1),
            accuracy,
            stderr=0.01,
            batch=0,
            position=place,
            objectives={"accuracy": accuracy, "latency_ms": latency},
        )
        for place, (key, (accuracy, latency)) in enumerate(keyed)
    ]
    store.add_evaluations(lease, rows)


def sleeping(monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], object]) -> None:
    """Instead of waiting the watch does the next of these, and after the last is interrupted."""
    left = list(acts)

    def sleep(_: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    monkeypatch.setattr(watch.time, "sleep", sleep)


def test_one_moment_of_the_queue_is_a_document(run_nas: Nas, store: Store) -> None:
    first, second = submit(store, "first"), submit(store, "second", needs="gpu")
    assert store.take_job() is not None
    store.note_worker("elsewhere:7:0.0:x")
    view = json.loads(run_nas("watch", "--json").out)
    assert [row["job"] for row in view["running"]] == [first.name]
    assert view["running"][0]["live"]
    (waiting,) = view["waiting"]
    assert (waiting["id"], waiting["position"]) == (second.id, 1)
    assert waiting["reason"] == "no worker that runs has 'gpu'"
    assert [row["job"] for row in view["workers"]] == ["first", None]
    assert run_nas("watch", "none").code == 3


def test_in_a_pipe_what_changes_is_a_line(
    run_nas: Nas, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims: list[Any] = []
    submit(store, "first")
    submit(store, MARKUP, priority=-1)
    sleeping(monkeypatch, lambda: claims.append(store.take_job()), lambda: claims[0].fail("boom"))
    ran = run_nas("watch")
    assert ran.code == 130
    lines = ran.out.splitlines()
    assert lines[0] == "Job 'first' (1) waits at position 1: no worker runs"
    assert "[red]" in lines[1]
    assert "Job 'first' (1): begins" in lines
    assert "Jobs that workers run: 1; workers that run none: 0" in lines
    assert lines[-1] == "Jobs that workers run: 0; workers that run none: 0"
    assert len(lines) == len(set(lines)) + 1  # that no worker runs anything is told before and after


def test_a_job_is_watched_until_it_ends(run_nas: Nas, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(store, "first")
    store.add_log(job, [f"line {number}" for number in range(50)])
    claim = store.take_job()
    assert claim is not None
    with store.join_claim(job, claim.owner) as lease:
        store.begin_stage(lease, "search", "k")
        sleeping(
            monkeypatch,
            lambda: evaluate(store, lease, (0.5, 1.0), (0.9, 2.0), (0.4, 3.0)),
            lambda: store.add_log(job, ["two \x1b[31m"]),
            lambda: lease.finish("failed", "boom"),
        )
        ran = run_nas("watch", "first")
    assert (ran.code, ran.err.splitlines()[0]) == (1, "Error: Job 'first' (1) has failed: boom.")
    lines = ran.out.splitlines()
    assert lines[0] == "Job 'first' (1): search, 0 of 20 subnets"
    assert lines[1 : 1 + watch.TAIL] == [f"line {number}" for number in range(50 - watch.TAIL, 50)]
    assert "two ?[31m" in lines
    assert lines[-3:-1] == ["a  50.0 ± 1.0 %  1", "b  90.0 ± 1.0 %  2"]
    assert lines[-1] == "Job 'first' (1) has failed."
    (best, _) = front_so_far(store, store.job("first"))
    assert best == {
        "subnet": "a",
        "split": "search",
        "metric": "accuracy",
        "value": 0.5,
        "stderr": 0.01,
        "latency_ms": 1.0,
    }


def test_a_paused_job_is_waited_for_and_one_that_succeeded_ends_with_0(
    run_nas: Nas, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(store, "first")
    store.cancel(job, pause=True)

    def succeeds() -> None:
        claim = store.take_job()
        assert claim is not None
        with store.join_claim(claim.job, claim.owner) as lease:
            lease.finish("succeeded")

    sleeping(monkeypatch, lambda: store.requeue(job), succeeds)
    monkeypatch.setattr("nas.results.running.front_so_far.front_so_far", lambda *_: [])
    ran = run_nas("watch", "first")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "Job 'first' (1): paused",
        "Job 'first' (1): queued at position 1",
        "Job 'first' (1): no worker runs",
        "Job 'first' (1): succeeded",
        "Job 'first' (1) has succeeded.",
    ]


def test_the_front_of_a_finished_job_is_that_of_nas_front(run_nas: Nas, filled: str) -> None:
    view = json.loads(run_nas("watch", "first", "--json").out)
    members = json.loads(run_nas("front", "first", "--json").out)["front"]
    assert [row["subnet"] for row in view["front"]] == [
        one["subnet"] for one in members if not one.get("beaten_by")
    ]
    assert view["ended"]


def _hears_ctrl_c() -> None:
    """Also where the tests run in the background of a shell, which has its processes ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Terminal:
    """`nas` in a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.end, inner = pty.openpty()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TERM": "xterm",
            "COLUMNS": "100",
        }
        code = "import sys; from nas.cli import main; sys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=environment,
            start_new_session=True,
            preexec_fn=_hears_ctrl_c,
        )
        os.close(inner)
        self.seen = ""

    def until(self, text: str) -> None:
        deadline = time.monotonic() + 120
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.end], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.end, 65536).decode(errors="replace")
                except OSError:  # it has ended
                    assert text in self.seen
                    return


def test_ctrl_c_leaves_a_terminal_as_it_was(store: Store, tmp_path: Path) -> None:
    submit(store, "first [red]")
    terminal = Terminal("watch")
    terminal.until("WORKERS")
    assert "first [red]" in terminal.seen
    assert "no worker runs" in terminal.seen
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("\x1b[?25h")  # the cursor is there again
    assert terminal.process.wait(60) == 130
    assert "Traceback" not in terminal.seen


def test_a_job_in_a_terminal(store: Store) -> None:
    job = submit(store, "first")
    store.add_log(job, ["hello \x1b[2J there"])
    claim = store.take_job()
    assert claim is not None
    with store.join_claim(job, claim.owner) as lease:
        store.begin_stage(lease, "search", "k")
        evaluate(store, lease, (0.5, 1.0))
        terminal = Terminal("watch", "first")
        terminal.until("FRONT SO FAR, evaluations: 1")
        lease.finish("failed", "boom")
    terminal.until("has failed: boom.")
    assert terminal.process.wait(60) == 1
    assert "hello ?[2J there" in terminal.seen
    assert "50.0 ± 1.0 %" in terminal.seen

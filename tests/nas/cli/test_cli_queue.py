"""The verbs about the queue, on both databases, with the checks of a job replaced by quick ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from running import Nas, Ran

from nas.config import JobConfig, merged
from nas.queue.sweeps import settings_of
from nas.store import JobClaim, Store
from nas.store import tables as t
from search_spaces.errors import UsageError

Queue = Callable[..., Ran]


def check(config: JobConfig, used: object) -> None:
    """Stands in for `nas.jobs.check`."""
    if config.seed == 13:
        raise UsageError("No subnet keeps the limit.", "Relax it.")


def new_values(store: Store, config: JobConfig) -> dict[str, Any]:
    """Stands in for `nas.jobs.new_values`."""
    return {"config": merged(config), "seed": config.seed, "provenance": {}}


@pytest.fixture
def queue(
    run_nas: Nas,
    stand_in: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    any_url: str,
) -> Queue:
    """`nas` in a folder with `a.yaml` and `b.yaml`, on an empty store."""
    stand_in("jobs", check=check, new_values=new_values, with_supernet=lambda url, config: (config, {}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_STORE", any_url)
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("data: digits\nsearch: {evaluations: 20}\n")
    return run_nas


@pytest.fixture
def store(any_url: str) -> Any:
    with Store.open(any_url) as opened:
        yield opened


def finish(store: Store, state: str, error: str | None = None) -> None:
    """As a worker does."""
    finish_claim(store, store.take_job(), state, error)


def finish_claim(
    store: Store, claim: JobClaim | None, state: str = "succeeded", error: str | None = None
) -> None:
    assert claim is not None
    with store.join_claim(claim.job, claim.owner) as lease:
        lease.finish(state, error)


def test_files_are_queued_by_priority(queue: Queue, store: Store) -> None:
    ran = queue("submit", "a.yaml", "b.yaml")
    assert (ran.code, ran.out) == (
        0,
        "Job 'a' (1) is queued at position 1.\nJob 'b' (2) is queued at position 2.\n",
    )
    ran = queue("submit", "a.yaml", "--priority", 5, "--needs", "gpu", "--name", "first", "--after", "b")
    assert ran.out == "Job 'first' (3) is queued at position 1, after job 2, for a worker with 'gpu'.\n"
    (told,) = json.loads(queue("submit", "a.yaml", "--json").out)
    assert (told["id"], told["job"], told["position"], told["attempts_left"]) == (4, "a-2", 4, 3)
    assert [job.name for job in store.waiting()] == ["first", "a", "b", "a-2"]


def test_one_bad_file_and_nothing_is_queued(queue: Queue, store: Store, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("data: digits\nsede: 3")
    (tmp_path / "impossible.yaml").write_text("data: digits\nseed: 13")
    for bad in ("bad.yaml", "impossible.yaml", "none.yaml"):
        ran = queue("submit", "a.yaml", bad)
        assert (ran.code, ran.out) == (2 if bad != "none.yaml" else ran.code, "")
        assert bad in ran.err
    assert queue("submit", "a.yaml", "--sweep", "seed=1,13").code == 2
    assert store.jobs() == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["a.yaml", "b.yaml", "--name", "x"], 2, "--name stands for one job"),
        (["a.yaml", "b.yaml", "--key", "x"], 2, "--key stands for one job"),
        (["a.yaml", "--sweep", "seed"], 2, "not of the form KEY=a,b"),
        (["a.yaml", "--sweep", "seed=1,1"], 2, "a value twice"),
        (["a.yaml", "--sweep", "seed="], 2, "no values"),
        (["a.yaml", "--sweep", "seed=1", "--sweep", "seed=2"], 2, "twice"),
        (["a.yaml", "--after", "none"], 3, "no job 'none'"),
        (["a.yaml", "--needs", "g\tpu"], 2, "name of a need"),
        (["a.yaml", "--name", "x" * 10_000], 2, "name of a job"),
        (["a.yaml", "--priority", "high"], 2, "priority"),
        (["a.yaml", "--name", "taken"], 4, "a job 'taken' already"),
    ],
)
def test_what_cannot_be_queued(queue: Queue, store: Store, words: list[str], code: int, said: str) -> None:
    queue("submit", "a.yaml", "--name", "taken")
    ran = queue("submit", *words)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert len(store.jobs()) == 1


def test_a_sweep_is_the_product_under_one_name(queue: Queue, store: Store) -> None:
    ran = queue("submit", "a.yaml", "--sweep", "seed=1,2", "--sweep", "search.evaluations=20,30")
    assert ran.out.count("is queued") == 4
    jobs = store.jobs()
    pairs = [(job.seed, job.config["search"]["evaluations"]) for job in jobs]
    assert pairs == [(1, 20), (1, 30), (2, 20), (2, 30)]
    assert {job.sweep for job in jobs} == {"a"}
    assert jobs[3].provenance["submission"]["settings"] == ["seed=2", "search.evaluations=30"]
    queue("submit", "a.yaml", "--sweep", "seed=1,2", "--name", "seeds")
    assert [(job.name, job.sweep) for job in store.jobs()[4:]] == [("seeds", "seeds"), ("seeds-2", "seeds")]


def test_the_values_of_a_sweep_are_yaml() -> None:
    assert settings_of([]) == [()]
    assert settings_of(["a=x, 1e-3", "b=[1, 2],null"]) == [
        ('a="x"', "b=[1, 2]"),
        ('a="x"', "b=null"),
        ("a=0.001", "b=[1, 2]"),
        ("a=0.001", "b=null"),
    ]
    with pytest.raises(UsageError, match="1,024 jobs"):
        settings_of([f"{key}=1,2" for key in "abcdefghij"])


def test_the_same_key_queues_nothing_more(queue: Queue, store: Store) -> None:
    first = queue("submit", "a.yaml", "--key", "k")
    assert queue("submit", "a.yaml", "--key", "k").out == first.out
    other = queue("submit", "a.yaml", "--key", "k", "--set", "seed=5")
    assert (other.code, other.out) == (4, "")
    assert "which has other settings" in other.err
    assert len(store.jobs()) == 1


def test_a_job_may_not_wait_for_one_that_has_failed(queue: Queue, store: Store) -> None:
    queue("submit", "a.yaml")
    finish(store, "failed", "boom")
    ran = queue("submit", "b.yaml", "--after", "a")
    assert (ran.code, "has failed" in ran.err, "nas resume 1" in ran.err) == (4, True, True)


def test_wait_tells_the_end(queue: Queue, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = [("succeeded", None), ("failed", "boom")]
    monkeypatch.setattr("nas.cli.queue.submit.time.sleep", lambda seconds: finish(store, *ends.pop(0)))
    ran = queue("submit", "a.yaml", "b.yaml", "--wait")
    assert ran.code == 1
    assert ran.out.splitlines()[2:] == ["Job 'a' (1) has succeeded.", "Job 'b' (2) has failed: boom"]
    assert "Not all jobs have succeeded: 'b'." in ran.err


def test_a_queued_job_stops_at_once_and_is_queued_again(queue: Queue, store: Store) -> None:
    queue("submit", "a.yaml", "b.yaml")
    ran = queue("stop", "a")
    assert (ran.code, ran.err) == (0, "Job 'a' has stopped: it is out of the queue.\n")
    assert store.job("a").state == "stopped"
    assert queue("stop", "a").code == 4
    ran = queue("resume", "a")
    assert (ran.code, ran.out) == (0, "Job 'a' (1) is queued at position 1.\n")
    assert queue("resume", "a").out == ran.out


def test_a_paused_job_keeps_those_that_wait_for_it(queue: Queue, store: Store) -> None:
    queue("submit", "a.yaml")
    queue("submit", "b.yaml", "--after", "a")
    assert "out of the queue until `nas resume`" in queue("pause", "a").err
    assert store.take_job() is None
    assert store.job("b").state == "queued"
    assert "paused" in queue("ls").out
    assert queue("pause", "a").code == 4
    assert queue("stop", "a").code == 0
    assert store.take_job() is None
    assert store.job("b").state == "stopped"


def test_a_running_job_is_told_to_stop_by_pause(queue: Queue, store: Store) -> None:
    queue("submit", "a.yaml")
    claim = store.take_job()
    assert claim is not None
    assert "after its current batch" in queue("pause", "a").err
    claim.give_back()
    job = store.job("a")
    assert (job.state, job.paused) == ("stopped", True)


def test_what_was_not_submitted_cannot_be_paused_or_moved(queue: Queue, store: Store) -> None:
    store.create_job("by hand", config={}, seed=0, provenance={})
    assert queue("pause", "by hand").code == 4
    assert queue("priority", "by hand", 3).code == 4
    assert queue("stop", "by hand").code == 4


def test_priority(queue: Queue) -> None:
    queue("submit", "a.yaml", "b.yaml")
    assert queue("priority", "b", 1).out == "Job 'b' (2) is queued at position 1.\n"
    assert queue("priority", "b", "--", -1).out == "Job 'b' (2) is queued at position 2.\n"


def test_ls_show_and_workers_tell_who_is_at_what(queue: Queue, store: Store) -> None:
    store.create_job("by hand", config={}, seed=0, provenance={})
    assert "POSITION" not in queue("ls").out
    queue("submit", "a.yaml", "--priority", 2)
    queue("submit", "b.yaml", "--needs", "gpu", "--after", "a")
    claim = store.take_job()
    assert claim is not None
    header, b, a, by_hand = queue("ls").out.splitlines()
    assert header.split()[:7] == ["ID", "JOB", "STATE", "POSITION", "PRIORITY", "ATTEMPT", "WORKER"]
    assert "queued, after job 2, needs gpu" in b
    assert "pid" in a
    assert by_hand.split()[3:8] == ["queued", "–", "–", "–", "–"]
    rows = json.loads(queue("ls", "--json").out)
    assert [row.get("queue", {}).get("position") for row in rows] == [1, None, None]
    assert "queue" not in rows[2]
    shown = json.loads(queue("show", "a", "--json").out)["queue"]
    assert (shown["attempt"], shown["attempts_left"], shown["priority"]) == (1, 2, 2)
    assert "attempt:" in queue("show", "a").out
    (row,) = json.loads(queue("workers", "--json").out)
    assert (row["id"], row["job"], row["attempt"]) == (2, "a", 1)
    assert 0 < row["lease_seconds"] <= 30
    finish_claim(store, claim)
    assert "queued, needs gpu" in queue("ls").out
    claim = store.take_job(["gpu"])
    assert queue("workers").out.splitlines()[0].split()[:3] == ["WORKER", "ID", "JOB"]
    with store.write() as connection:
        connection.execute(sa.update(t.jobs).values(lease_until=1.0))
    assert json.loads(queue("workers", "--json").out) == []


def test_logs(queue: Queue, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    queue("submit", "a.yaml")
    job = store.job("a")
    ran = queue("logs", "a")
    assert (ran.code, ran.out, "has said nothing" in ran.err) == (0, "", True)
    store.add_log(job, ["one", "two \x1b[31m"])
    lines = queue("logs", "a").out.splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["0 one", "0 two ?[31m"]
    assert [row["text"] for row in json.loads(queue("logs", "a", "--json").out)] == ["one", "two \x1b[31m"]

    def ends(seconds: float) -> None:
        store.add_log(job, ["three"])
        finish(store, "failed", "boom")

    monkeypatch.setattr("nas.cli.queue.logs.time.sleep", ends)
    ran = queue("logs", "a", "-f")
    assert [line.split()[3] for line in ran.out.splitlines()] == ["one", "two", "three"]
    assert queue("logs", "none").code == 3


def test_ls_and_show_tell_what_a_job_waits_for(queue: Queue, store: Store) -> None:
    queue("submit", "a.yaml", "--needs", "gpu")
    queue("submit", "b.yaml", "--after", "a")
    assert "no worker runs" in queue("ls").out
    store.note_worker("elsewhere:7:0.0:x", offers=["tpu"], gpus=[0], slots=2)
    rows = {row["name"]: row for row in json.loads(queue("ls", "--json").out)}
    assert rows["a"]["reason"] == rows["a"]["queue"]["reason"] == "no worker that runs has 'gpu'"
    assert rows["b"]["reason"] == "waits for job 'a' (1)"
    assert json.loads(queue("show", "a", "--json").out)["reason"] == "no worker that runs has 'gpu'"
    assert "waits:       no worker that runs has 'gpu'" in queue("show", "a").out
    assert "WAITS" in queue("ls").out.splitlines()[0]
    (idle,) = json.loads(queue("workers", "--json").out)
    assert (idle["worker"], idle["job"], idle["offers"], idle["gpus"], idle["slots"]) == (
        "pid 7 on elsewhere",
        None,
        ["tpu"],
        [0],
        2,
    )
    finish_claim(store, store.take_job(["gpu"]))
    assert {row["name"]: row["reason"] for row in json.loads(queue("ls", "--json").out)} == {
        "a": None,
        "b": None,
    }
    assert "WAITS" not in queue("ls").out


def test_gpus_that_are_none_are_refused(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.queue.gpus.gpu_count", lambda: 1)
    ran = queue("worker", "--once", "--gpus", "1")
    assert (ran.code, ran.out) == (2, "")
    assert "there is no GPU 1" in ran.err
    assert queue("worker", "--once", "--gpus", "0").code == 0


def test_a_queued_job_that_is_stopped_is_told_of(
    queue: Queue, store: Store, stand_in: Callable[..., Any]
) -> None:
    told: list[str] = []
    queue("submit", "a.yaml", "--set", "notify.url=https://example.org/hook")
    stand_in("notifications", notify_of_end=lambda opened, job, tell: told.append(opened.job(job.id).state))
    assert queue("stop", "a").code == 0
    assert told == ["stopped"]
    queue("submit", "b.yaml")
    assert queue("stop", "b").code == 0
    assert told == ["stopped"]


CONTROLS = ["a\x1b[2Jb", "a\x00b", "a\nb", "\ud800", " a", "", "x" * 10_000]
VERBS = [
    ("show",),
    ("logs",),
    ("logs", "-f"),
    ("watch",),
    ("stop",),
    ("pause",),
    ("resume",),
    ("rm",),
    ("submit", "a.yaml", "--after"),
]


@pytest.mark.parametrize("word", [*CONTROLS, "[red]<script>", "9" * 30], ids=ascii)
def test_no_verb_of_the_queue_trips_over_a_word_that_names_no_job(
    queue: Queue, store: Store, word: str
) -> None:
    for verb in [*VERBS, ("priority",)]:
        words = [*verb, word, "3"] if verb == ("priority",) else [*verb, word]
        ran = queue(*words)
        assert (ran.code, ran.out) == (3, ""), words
        assert ran.err.startswith("Error: There is no job "), words
        assert not set("\x1b\x00") & set(ran.err), words
        assert len(ran.err) < 1_000, words
    assert store.jobs() == []


@pytest.mark.parametrize("word", CONTROLS, ids=ascii)
def test_no_name_need_or_key_is_taken_that_a_table_cannot_show(queue: Queue, store: Store, word: str) -> None:
    for option in ("--name", "--needs", "--key"):
        ran = queue("submit", "a.yaml", option, word)
        if option == "--name" and word == "":
            continue  # as if it were not given
        assert (ran.code, ran.out) == (2, ""), option
        assert "cannot be the name of a" in ran.err
    ran = queue("submit", "a.yaml", "--sweep", "seed=1,2", "--name", word)
    assert ran.code == 2 or word == ""
    ran = queue("worker", "--once", "--needs", word)
    assert (ran.code, ran.out) == (2, "")
    assert "cannot be the name of a need" in ran.err
    assert not [job for job in store.jobs() if job.name == word or job.needs or job.key]


MARKUP = "[bold red]<img src=x>%{x}</b> 'co' \u202e\U0001f600"


def test_markup_in_names_is_shown_as_it_is(queue: Queue, store: Store) -> None:
    assert queue("submit", "a.yaml", "--name", MARKUP, "--needs", MARKUP, "--key", MARKUP).code == 0
    job = store.job(MARKUP)
    assert (job.needs, job.key) == (MARKUP, MARKUP)
    (row,) = json.loads(queue("ls", "--json").out)
    assert (row["name"], row["queue"]["needs"]) == (MARKUP, MARKUP)
    claim = store.take_job([MARKUP])
    assert claim is not None
    store.add_log(job, [MARKUP])
    store.note_worker(claim.owner, offers=[MARKUP])
    for words in (("ls",), ("workers",), ("watch", "--json"), ("show", MARKUP), ("logs", MARKUP)):
        assert "[bold red]<img" in queue(*words).out, words
    assert json.loads(queue("watch", MARKUP, "--json").out)["log"][0]["text"] == MARKUP
    assert queue("stop", MARKUP).code == 0


def test_the_same_key_says_where_the_job_is_whatever_became_of_it(queue: Queue, store: Store) -> None:
    first = json.loads(queue("submit", "a.yaml", "--key", "k", "--json").out)
    claim = store.take_job()
    running = json.loads(queue("submit", "a.yaml", "--key", "k", "--json").out)
    finish_claim(store, claim, "failed", "boom")
    failed = json.loads(queue("submit", "a.yaml", "--key", "k", "--json").out)
    assert [row["id"] for row in (*first, *running, *failed)] == [1, 1, 1]
    assert [row["state"] for row in (*first, *running, *failed)] == ["queued", "running", "failed"]
    assert queue("submit", "a.yaml", "--key", "k", "--wait").code == 1
    other = queue("submit", "a.yaml", "--key", "k", "--set", "seed=3")
    assert (other.code, other.out) == (4, "")
    assert queue("rm", "a").code == 0
    (again,) = json.loads(queue("submit", "a.yaml", "--key", "k", "--json").out)
    assert (again["state"], again["attempt"]) == ("queued", 0)
    assert len(store.jobs()) == 1

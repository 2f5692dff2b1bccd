"""Workers over real jobs: kill -9, SIGTERM, two at once; nothing is lost, nothing is done twice.

On both kinds of store, or on one of them where tests of the queue's rows, of `nas/queue/` and storms are on
both; files that are refused reach none.
"""

import json
import signal

import psutil
import pytest
from nas_process import (
    SERVER,
    SLOWLY,
    SQLITE,
    Place,
    Ran,
    ended,
    make_place,
    searched,
    trained_to,
    wait_for,
)
from outcomes import assert_kept, assert_once, outcome, rows

from nas.store import Store, check


def ended_with_its_jobs(place: Place, process: "psutil.Popen", number: signal.Signals) -> Ran:
    """The worker gets the signal; the process of its job, and what that has started, must be gone with it."""
    children = psutil.Process(process.pid).children(recursive=True)
    assert children, "a job runs"
    process.send_signal(number)
    ran = ended(process)
    _, left = psutil.wait_procs(children, timeout=120)
    assert left == []
    return ran


def lease_until(place: Place, seconds: float) -> None:
    """Instead of waiting for half a minute."""
    place.change(f"UPDATE jobs SET lease_until = {seconds} WHERE owner IS NOT NULL")


@pytest.mark.parametrize("place", [SQLITE, SLOWLY], indirect=True)
def test_another_worker_goes_on_where_a_killed_one_was(finished: Place, place: Place) -> None:
    assert place.nas("submit", "job.yaml").out == "Job 'job' (1) is queued at position 1.\n"
    process = place.start("worker")
    wait_for(process, trained_to(place, 40))
    before = rows(place)
    assert ended_with_its_jobs(place, process, signal.SIGKILL).code == -signal.SIGKILL
    assert place.state() == ("running", None)
    lease_until(place, 9e9)
    assert "begins, attempt" not in place.nas("worker", "--once").err
    lease_until(place, 1.0)
    ran = place.nas("worker", "--once")
    assert (ran.code, ran.out, ran.errors) == (0, "", [])
    assert "Job 'job' (1) begins, attempt 2." in ran.err
    assert place.state() == ("succeeded", None)
    assert_kept(before, place)
    assert_once(place)
    assert outcome(place) == outcome(finished)
    assert place.nas("db", "check").code == 0


def test_sigterm_gives_the_job_back_and_another_worker_goes_on(finished: Place, place: Place) -> None:
    place.nas("submit", "job.yaml")
    process = place.start("worker")
    wait_for(process, searched(place, 2))
    before = rows(place)
    ran = ended_with_its_jobs(place, process, signal.SIGTERM)
    assert (ran.code, ran.errors) == (0, [])
    assert place.query("SELECT state, error, owner, last_attempt - attempt FROM jobs") == [
        ("queued", None, None, 3)
    ]
    assert_kept(before, place)
    assert place.nas("worker", "--once").code == 0
    assert place.state() == ("succeeded", None)
    assert_kept(before, place)
    assert_once(place)
    assert outcome(place) == outcome(finished)


def test_a_running_job_stops_and_is_queued_again_on_request(place: Place) -> None:
    place.nas("submit", "job.yaml", "--set", "train.steps=1000000")
    place.nas("submit", "job.yaml", "--name", "second", "--after", "job")
    process = place.start("worker")
    wait_for(process, trained_to(place, 20))
    assert place.nas("pause", "job").code == 0
    wait_for(process, lambda: place.state()[0] == "stopped")
    resumed = place.nas("resume", "job")
    assert (resumed.code, resumed.out.startswith("Job 'job' (1) ")) == (0, True)
    wait_for(process, lambda: place.query("SELECT 1 FROM jobs WHERE id = 1 AND attempt = 2"))
    assert place.state(2) == ("queued", None)
    assert place.nas("stop", "job").code == 0
    wait_for(process, lambda: place.state(2)[0] == "stopped")
    assert place.state(1) == ("stopped", None)
    assert place.state(2)[1] == "Job 'job' (1), for which it waited, has stopped."
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", [SERVER], indirect=True)
def test_two_workers_run_six_jobs_once_each_and_by_priority(place: Place) -> None:
    submitted = [
        place.nas("submit", *["job.yaml"] * 3, "--priority", priority).out.count("is queued at position")
        for priority in (0, 1)
    ]
    assert submitted == [3, 3]
    workers = [place.start("worker", "--idle-exit", 2) for _ in range(2)]
    ran = [ended(process) for process in workers]
    assert [(one.code, one.errors) for one in ran] == [(0, []), (0, [])]
    assert set(place.query("SELECT state, attempt, error FROM jobs")) == {("succeeded", 1, None)}
    begun = place.query("SELECT priority, id FROM jobs ORDER BY started_at")
    assert begun == sorted(begun, key=lambda row: (-row[0], row[1]))
    evaluated = place.query("SELECT job_id, count(*) FROM evaluations WHERE split = 'search' GROUP BY job_id")
    assert [count for _, count in evaluated] == [20] * 6
    assert len(place.query("SELECT id FROM supernets")) == 1
    assert place.nas("db", "check").code == 0


def test_a_bad_file_among_good_ones_and_nothing_is_queued(place: Place) -> None:
    make_place(place.folder / "bad", "data: digits\ntrain: {steps: x}\n")
    ran = place.nas("submit", "job.yaml", "bad/job.yaml")
    assert (ran.code, ran.out, len(ran.errors)) == (2, "", 1)
    assert "bad/job.yaml" in ran.errors[0]
    assert not place.file.exists()


@pytest.mark.parametrize("place", [SQLITE, SLOWLY], indirect=True)
def test_a_job_whose_data_the_workers_machine_lacks_waits_and_says_so(place: Place) -> None:
    place.nas("submit", "job.yaml")
    gone = place.folder / "images"
    ((config,),) = place.query("SELECT config FROM jobs")
    changed = json.loads(config) | {"data": {"name": "image_folder", "root": str(gone)}}
    place.change(f"UPDATE jobs SET config = '{json.dumps(changed)}'")
    assert place.nas("worker", "--once").code == 0
    assert place.state() == ("queued", None)
    assert place.query("SELECT last_attempt - attempt, owner FROM jobs") == [(3, None)]
    (row,) = json.loads(place.nas("ls", "--json").out)
    assert row["reason"] == "no worker runs"
    ((refusal,),) = place.query("SELECT refusal FROM jobs")
    assert str(gone) in refusal


@pytest.mark.slow
@pytest.mark.parametrize("place", [SERVER], indirect=True)
def test_a_job_whose_process_is_killed_goes_on_in_the_same_worker(finished: Place, place: Place) -> None:
    place.nas("submit", "job.yaml")
    process = place.start("worker", "--idle-exit", 1)
    wait_for(process, trained_to(place, 40))
    before = rows(place)
    (job_process,) = psutil.Process(process.pid).children()
    job_process.kill()
    ran = ended(process)
    assert (ran.code, ran.errors) == (0, [])
    assert "is queued again: Its process was killed by SIGKILL; its last words: " in ran.err
    assert place.query("SELECT state, error, attempt FROM jobs") == [("succeeded", None, 2)]
    assert_kept(before, place)
    assert_once(place)
    assert outcome(place) == outcome(finished)


@pytest.mark.slow
def test_a_server_that_crashes_under_a_worker_costs_nothing(
    place: Place, finished: Place, postgresql
) -> None:
    url = postgresql.create("crashing-queue")
    try:
        assert place.nas("submit", "job.yaml", "--store", url).code == 0
        process = place.start("worker", "--once", "--store", url)

        def trained() -> bool:
            with Store.open(url, read_only=True) as opened:
                return any((artifact.step or 0) >= 40 for artifact in opened.all_artifacts())

        wait_for(process, trained)
        postgresql.crash()
        postgresql.start()
        ran = ended(process)
        assert (ran.code, ran.errors) == (0, []), ran.err
        with Store.open(url, read_only=True) as opened, finished.opened() as undisturbed:
            job = opened.job(1)
            assert (job.state, job.attempt) == ("succeeded", 1)
            assert [(e.subnet.key, e.value) for e in opened.evaluations(job, "search")] == [
                (e.subnet.key, e.value) for e in undisturbed.evaluations(undisturbed.job(1), "search")
            ]
        assert check(url) == []
    finally:
        postgresql.drop("crashing-queue")

"""Workers over jobs whose process is a few lines: who runs what, and what becomes of it."""

import os
import signal
import sys
import threading
import time

import psutil
import pytest
import sqlalchemy as sa

from nas.queue.worker import Worker
from nas.store import NewJob, Store, Submission, leases
from nas.store import tables as t

# What the job's process does, by the first word of the job's name.
SCRIPT = """
import json, os, signal, subprocess, sys, time
from nas.store import Store
claimed = json.loads(sys.stdin.readline())
with Store.open(claimed["store"]) as store:
    job = store.job(claimed["job"])
    what = job.name.split("-")[0]
    with store.join_claim(job, claimed["owner"]) as lease:
        if what == "abort":
            print("about to abort", file=sys.stderr, flush=True)
            os.abort()
        elif what == "fail":
            raise ValueError("a fault of the job")
        elif what == "meet":
            while sum(other.state != "queued" for other in store.jobs()) < 2:
                time.sleep(0.05)
        elif what != "ok":
            stopped = []
            signal.signal(signal.SIGTERM, lambda *_: stopped.append(1) if what == "obey" else None)
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            print("waits", child.pid, file=sys.stderr, flush=True)
            while not stopped:
                time.sleep(0.05)
            lease.finish("stopped")
            sys.exit(130)
        lease.finish("succeeded")
"""
COMMAND = (sys.executable, "-c", SCRIPT)


@pytest.fixture
def store(any_url):
    with Store.open(any_url) as opened:
        yield opened


def submit(store, *names, **submission):
    values = {"config": {}, "seed": 0, "provenance": {}}
    return store.submit([NewJob(name, None, values, Submission(**submission)) for name in names])


class Told(list):
    """What a worker tells; `act` is called with the words that begin with `waits`, in a thread of its own."""

    def __init__(self, act=lambda: None):
        super().__init__()
        self.act = act

    def __call__(self, line):
        self.append(line)
        if ": waits " in line:
            threading.Thread(target=self.act).start()

    @property
    def begun(self):
        return [line.split("'")[1] for line in self if " begins, attempt " in line]

    @property
    def grandchild(self):
        return next(int(line.split()[-1]) for line in self if ": waits " in line)


def work(store, told=None, **options):
    told = Told() if told is None else told
    options = {"idle_exit": 0.0, **options}
    return Worker(store, COMMAND, tell=told, **options).run(), told


def send(number):
    return lambda: os.kill(os.getpid(), number)


def is_gone(pid):
    deadline = time.monotonic() + 120
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_jobs_are_run_by_priority_until_none_is_left(store):
    submit(store, "ok-a", "ok-b")
    submit(store, "ok-first", priority=1)
    submit(store, "ok-gpu", needs="gpu")
    ended_at_once, told = work(store)
    assert not ended_at_once
    assert told.begun == ["ok-first", "ok-a", "ok-b"]
    assert [job.state for job in store.jobs()] == ["succeeded"] * 3 + ["queued"]
    assert work(store, offers=["gpu"])[1].begun == ["ok-gpu"]


def test_once_is_one_job_and_none_where_none_waits(store):
    submit(store, "ok-a", "ok-b")
    assert work(store, once=True, idle_exit=None)[1].begun == ["ok-a"]
    assert work(store, once=True, idle_exit=None)[1].begun == ["ok-b"]
    assert work(store, once=True, idle_exit=None)[1] == ["No job waits that this worker may take."]


def test_slots_are_filled_at_the_same_time(store):
    submit(store, "meet-a", "meet-b")
    work(store, slots=2)
    assert [job.state for job in store.jobs()] == ["succeeded"] * 2


def test_a_job_that_fails_has_failed_and_one_whose_process_dies_is_tried_again(store):
    fails, aborts, ok = submit(store, "fail", "abort", "ok")
    _, told = work(store)
    assert told.begun == ["fail", "abort", "abort", "abort", "ok"]
    assert [store.job(job.id).state for job in (fails, aborts, ok)] == ["failed", "failed", "succeeded"]
    assert store.job(fails.id).error == "ValueError: a fault of the job"
    error = "Its process was killed by SIGABRT; its last words: about to abort"
    assert store.job(aborts.id).error == error
    log = [(line.attempt, line.text) for line in store.log(store.job(aborts.id))]
    assert log == [(attempt, "about to abort") for attempt in (1, 2, 3)]
    traceback = [line.text for line in store.log(store.job(fails.id))]
    assert (traceback[0], traceback[-1]) == (
        "Traceback (most recent call last):",
        "ValueError: a fault of the job",
    )
    assert [store.job(job.id).attempt for job in (fails, aborts, ok)] == [1, 3, 1]


def test_the_first_signal_gives_running_jobs_back(store):
    (job, _) = submit(store, "obey", "ok")
    ended_at_once, told = work(store, Told(send(signal.SIGTERM)), idle_exit=None)
    assert not ended_at_once
    assert told.begun == ["obey"]
    job = store.job(job.id)
    assert (job.state, job.owner, job.error, job.last_attempt - job.attempt) == ("queued", None, None, 3)
    assert is_gone(told.grandchild)


def test_the_second_signal_ends_what_does_not_obey(store):
    def twice():
        send(signal.SIGTERM)()
        time.sleep(0.5)
        send(signal.SIGINT)()

    (job,) = submit(store, "defy")
    ended_at_once, told = work(store, Told(twice), idle_exit=None)
    assert ended_at_once
    job = store.job(job.id)
    assert (job.state, job.owner, job.last_attempt - job.attempt) == ("queued", None, 3)
    assert is_gone(told.grandchild)


def test_a_job_whose_lease_is_lost_is_ended_and_left_to_the_other(store, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.1)

    def taken_over():
        with store.write() as connection:
            connection.execute(sa.update(t.jobs).values(owner="other:1:0.0:x", lease_until=9e9))

    (job,) = submit(store, "defy")
    _, told = work(store, Told(taken_over), once=True)
    job = store.job(job.id)
    assert (job.state, job.owner, job.error) == ("running", "other:1:0.0:x", None)
    assert is_gone(told.grandchild)


def test_a_worker_that_cannot_start_a_process_gives_the_job_back(store):
    (job,) = submit(store, "ok")
    with pytest.raises(FileNotFoundError):
        Worker(store, ["/nowhere/nas"], tell=Told()).run()
    job = store.job(job.id)
    assert (job.state, job.owner, job.last_attempt - job.attempt) == ("queued", None, 3)

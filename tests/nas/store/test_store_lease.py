import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import sqlalchemy as sa

from nas.errors import ConflictError, JobFailedError, StoreError
from nas.store import NewEvent, Store, leases
from nas.store import tables as t
from nas.store.connection import engine

HOLD = """
import sys, time
from nas.store import Store
store = Store.open(sys.argv[1])
lease = store.acquire(store.job("job"))
print("held", flush=True)
time.sleep(60)
"""

WRITE = """
import sys
from nas.store import NewEvent, NewEvaluation, NewSubnet, Store
url, name = sys.argv[1:]
with Store.open(url) as store:
    job = store.create_job(name, config={}, seed=0, provenance={})
    with store.acquire(job) as lease:
        for n in range(40):
            subnet = NewSubnet(f"{n}", {"n": n}, 1, 1)
            store.add_evaluations(lease, [NewEvaluation(subnet, 0.5, position=n)])
            store.add_events(lease, [NewEvent("train", {"loss": n}, step=n)])
        lease.finish("succeeded")
"""


@pytest.fixture
def url(any_url):
    return any_url


@pytest.fixture
def store(url):
    with Store.open(url) as opened:
        yield opened


@pytest.fixture
def job(store):
    return store.create_job("job", config={}, seed=0, provenance={})


def update(store, **values):
    with store.write() as connection:
        connection.execute(sa.update(t.jobs).values(**values))


def held_elsewhere(url):
    process = subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_lease_is_a_row_of_the_job(store, job):
    before = time.time()
    with store.acquire(job) as lease:
        row = store.job(job.id)
        assert (row.state, row.owner, row.attempt) == ("running", lease.owner, 1)
        assert before + 30 <= row.lease_until <= time.time() + 30
        assert store.is_live(row)
        lease.finish("succeeded")
    row = store.job(job.id)
    assert (row.state, row.owner, row.lease_until, row.error) == ("succeeded", None, None, None)
    assert row.finished_at >= row.started_at
    assert not store.is_live(row)


def test_a_second_owner_is_refused_while_the_first_lives(store, job):
    with store.acquire(job) as first:
        with pytest.raises(ConflictError, match=f"pid {os.getpid()}"):
            store.acquire(job)
        assert store.job(job.id).owner == first.owner


def test_a_lease_that_ran_out_is_taken_over_and_the_late_owner_is_fenced(store, job):
    late = store.acquire(job)
    update(store, lease_until=0.0)
    assert not store.is_live(job)
    with store.acquire(job) as lease:
        assert lease.attempt == 2
        with pytest.raises(ConflictError, match="lost the lease"):
            store.add_events(late, [NewEvent("train", {"loss": 1.0}, step=1)])
        with pytest.raises(ConflictError, match="lost the lease"):
            late.finish("failed")
        assert late.stop_requested()
        assert store.events(job) == []
        store.add_events(lease, [NewEvent("train", {"loss": 2.0}, step=1)])
    assert [event.data for event in store.events(job)] == [{"loss": 2.0}]


def test_every_fenced_write_renews_the_lease(store, job):
    with store.acquire(job) as lease:
        update(store, lease_until=1.0)
        store.begin_stage(lease, "train", "k")
        assert store.job(job.id).lease_until > time.time()


def test_the_fence_rolls_back_what_its_transaction_wrote(store, job):
    late = store.acquire(job)
    update(store, owner="other:1:0.0:x")

    def write_then_fence():
        with store.write() as connection:
            connection.execute(sa.update(t.jobs).values(error="written too late"))
            late.fence(connection)

    with pytest.raises(ConflictError):
        write_then_fence()
    assert store.job(job.id).error is None


def test_a_dead_process_is_replaced_at_once(store, job, url):
    holder = held_elsewhere(url)
    try:
        with pytest.raises(ConflictError, match=f"pid {holder.pid}"):
            store.acquire(job)
        assert store.is_live(job)
        holder.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not store.is_live(job)  # a zombie, not reaped yet
        with store.acquire(job) as lease:
            assert lease.attempt == 2
    finally:
        end(holder)


def test_the_pid_of_a_dead_process_may_be_in_use_again():
    host, pid, started, tail = leases.new_owner().rsplit(":", 3)
    assert not leases.is_dead(f"{host}:{pid}:{started}:{tail}")
    assert leases.is_dead(f"{host}:{pid}:{float(started) - 100:.2f}:{tail}")
    assert not leases.is_dead(f"elsewhere:{pid}:0.0:{tail}")


def test_the_heart_beats_and_notices_that_the_job_was_taken(store, job, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    lease = store.acquire(job)

    def lose_it():
        with lease:
            update(store, lease_until=1.0)
            deadline = time.monotonic() + 10
            while store.job(job.id).lease_until < 2.0 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert store.job(job.id).lease_until > 2.0
            update(store, owner="other:1:0.0:x")
            lease._heart.join(timeout=10)
            assert not lease._heart.is_alive()

    with pytest.raises(ConflictError, match="lost the lease"):
        lose_it()


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (KeyboardInterrupt(), "stopped", None),
        (JobFailedError("the loss is NaN"), "failed", "the loss is NaN"),
        (RuntimeError("a\0b"), "failed", "RuntimeError: a\\0b"),
    ],
)
def test_a_job_that_is_left_ends_by_how_it_was_left(store, job, error, state, message):
    with pytest.raises(type(error)), store.acquire(job):
        raise error
    row = store.job(job.id)
    assert (row.state, row.error, row.owner) == (state, message, None)
    with store.acquire(job):
        assert store.job(job.id).error is None
    assert store.job(job.id).state == "stopped"


def test_four_processes_write_to_one_new_file_at_once(url):
    command = [sys.executable, "-c", WRITE, url]
    writers = [subprocess.Popen([*command, f"w{n}"], stderr=subprocess.PIPE, text=True) for n in range(4)]
    errors = [writer.communicate(timeout=120)[1] for writer in writers]
    assert errors == ["", "", "", ""]
    with Store.open(url, read_only=True) as store:
        for job in store.jobs():
            assert job.state == "succeeded"
            assert [evaluation.position for evaluation in store.evaluations(job)] == list(range(40))
            assert [event.step for event in store.events(job)] == list(range(40))
        assert len(store.jobs()) == 4


@pytest.mark.parametrize("any_url", ["sqlite"], indirect=True)
def test_a_writing_transaction_holds_the_lock_from_its_first_moment(store, job, url, monkeypatch):
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.05)
    with Store.open(url) as other, store.write() as connection:
        connection.execute(sa.select(t.jobs)).all()
        with pytest.raises(StoreError, match="locked by another process"), other.write():
            pass
        assert len(other.jobs()) == 1

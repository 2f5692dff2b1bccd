import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from nas.errors import ConflictError, StoreError
from nas.store import NewEvent, NewJob, Store, Submission, remove
from nas.store import tables as t
from nas.store.queue import logs
from search_spaces.errors import UsageError

TAKE = """
import sys
from nas.store import Store
with Store.open(sys.argv[1]) as store:
    while (claim := store.take_job()) is not None:
        with claim:
            print(claim.job.name, flush=True)
            with store.join_claim(claim.job, claim.owner) as lease:
                lease.finish("succeeded")
"""


@pytest.fixture
def url(any_url):
    return any_url


@pytest.fixture
def store(url):
    with Store.open(url) as opened:
        yield opened


def submit(store, name="job", **submission):
    values = {"config": {}, "seed": 0, "provenance": {}}
    return store.submit([NewJob(name, None, values, Submission(**submission))])[0]


def change(store, **values):
    with store.write() as connection:
        connection.execute(sa.update(t.jobs).values(**values))


def run_out(store):
    """Every lease has run out."""
    change(store, lease_until=1.0)


def finish(store, claim, state="succeeded", error=None):
    with store.join_claim(claim.job, claim.owner) as lease:
        lease.finish(state, error)


def names(store, *offers):
    """The jobs as a worker takes them, each of which succeeds."""
    taken = []
    while (claim := store.take_job(offers)) is not None:
        taken.append(claim.job.name)
        finish(store, claim)
    return taken


def test_jobs_are_taken_by_priority_then_age(store):
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)):
        submit(store, name, priority=priority)
    assert [job.name for job in store.waiting()] == ["b", "d", "a", "c", "e"]
    store.set_priority(store.job("e"), 9)
    assert names(store) == ["e", "b", "d", "a", "c"]
    assert store.take_job() is None
    with pytest.raises(ConflictError, match="does not wait"):
        store.set_priority(store.job("e"), 1)


def test_a_job_that_was_not_submitted_is_no_workers(store):
    job = store.create_job("by hand", config={}, seed=0, provenance={})
    assert store.take_job() is None
    store.acquire(job)
    run_out(store)
    assert store.take_job() is None
    assert store.waiting() == []


def test_a_claim_is_a_lease_that_the_jobs_process_joins(store):
    submit(store)
    claim = store.take_job()
    assert (claim.job.state, claim.job.attempt, claim.job.owner) == ("running", 1, claim.owner)
    assert store.take_job() is None
    assert store.is_live(claim.job)
    with claim, store.join_claim(claim.job, claim.owner) as lease:
        store.add_events(lease, [NewEvent("log", {"message": "m"})])
        assert lease.attempt == 1
        lease.finish("succeeded")
    job = store.job("job")
    assert (job.state, job.owner, job.lease_until) == ("succeeded", None, None)
    with pytest.raises(ConflictError):
        store.join_claim(job, claim.owner)


def test_the_owners_of_one_process_differ(store):
    submit(store, "a")
    submit(store, "b")
    assert store.take_job().owner != store.take_job().owner


def test_a_lease_that_ran_out_is_taken_over_and_the_late_one_is_fenced(store):
    submit(store)
    late = store.take_job()
    lease = store.join_claim(late.job, late.owner)
    run_out(store)
    claim = store.take_job()
    assert (claim.job.id, claim.job.attempt) == (late.job.id, 2)
    for act in (
        late.give_back,
        lambda: late.died("late"),
        late.check,
        lambda: lease.finish("failed", "late"),
        lambda: lease.finish("stopped"),
        lambda: store.add_events(lease, [NewEvent("log", {"message": "m"})]),
    ):
        with pytest.raises(ConflictError):
            act()
    assert (late.is_lost, claim.is_lost) == (True, False)
    assert (store.job("job").owner, store.job("job").error) == (claim.owner, None)


def test_attempts_run_out_with_the_last_error(store):
    submit(store)
    for attempt in (1, 2, 3):
        claim = store.take_job()
        assert claim.job.attempt == attempt
        claim.died(f"killed {attempt}")
        assert store.job("job").error == f"killed {attempt}"
        assert store.job("job").state == ("failed" if attempt == 3 else "queued")
    assert store.job("job").finished_at is not None
    assert store.take_job() is None


def test_attempts_run_out_when_whole_workers_die(store):
    submit(store)
    for _ in range(3):
        assert store.take_job() is not None
        run_out(store)
    assert store.take_job() is None
    job = store.job("job")
    assert (job.state, job.owner) == ("failed", None)
    assert "each was gone" in job.error


def test_giving_back_uses_up_no_attempt(store):
    submit(store)
    for _ in range(5):
        store.take_job().give_back()
    claim = store.take_job()
    assert claim.job.attempt == 6  # an attempt is known by its number, so that none has that of another
    with store.join_claim(claim.job, claim.owner) as lease:
        lease.finish("stopped")  # as a process does that was told to end
    job = store.job("job")
    assert (job.state, job.finished_at, job.last_attempt) == ("queued", None, 9)


def test_a_worker_that_fails_itself_gives_its_job_back(store):
    submit(store)
    with pytest.raises(RuntimeError), store.take_job():
        raise RuntimeError
    assert (store.job("job").state, store.job("job").last_attempt) == ("queued", 4)


def test_a_job_told_to_stop_stops_instead_of_being_given_back(store):
    for how in ("give_back", "finish", "died", "gone"):
        submit(store, how)
        claim = store.take_job()
        store.request_stop(claim.job)
        if how == "give_back":
            claim.give_back()
        elif how == "finish":
            finish(store, claim, "stopped")
        elif how == "died":
            claim.died("killed")
        else:
            run_out(store)
        assert store.take_job() is None
        assert (store.job(how).state, store.job(how).owner) == ("stopped", None)


def test_needs(store):
    submit(store, "gpu", needs="gpu", priority=9)
    submit(store, "any")
    submit(store, "big", needs="big")
    assert names(store) == ["any"]
    assert names(store, "tpu") == []
    assert names(store, "gpu", "big") == ["gpu", "big"]
    with pytest.raises(UsageError, match="name of a need"):
        submit(store, "bad", needs="a\nb")


def test_a_job_waits_for_another_ones_success(store):
    first = submit(store, "first")
    second = submit(store, "second", after_id=first.id, priority=9)
    submit(store, "third", after_id=second.id)
    claim = store.take_job()
    assert claim.job.name == "first"
    assert store.take_job() is None
    finish(store, claim)
    assert names(store) == ["second", "third"]


@pytest.mark.parametrize("how", ["failed", "stopped", "deleted"])
def test_a_job_that_waits_in_vain_is_stopped_with_the_reason(store, how):
    first = submit(store, "first")
    second = submit(store, "second", after_id=first.id)
    submit(store, "third", after_id=second.id)
    if how == "failed":
        finish(store, store.take_job(), "failed", "boom")
    elif how == "stopped":
        assert store.cancel(first)
    else:
        with store.write() as connection:
            connection.execute(sa.delete(t.jobs).where(t.jobs.c.id == first.id))
    assert store.take_job() is None
    assert store.take_job() is None
    said = {"deleted": "Job 1, for which it waited, was deleted."}
    reason = said.get(how, f"Job 'first' (1), for which it waited, has {how}.")
    assert (store.job("second").state, store.job("second").error) == ("stopped", reason)
    assert store.job("third").error == "Job 'second' (2), for which it waited, has stopped."


def test_jobs_go_on_waiting_for_one_that_is_paused(store):
    first = submit(store, "first")
    submit(store, "second", after_id=first.id)
    assert store.cancel(first, pause=True)
    assert (store.job("first").state, store.job("first").paused) == ("stopped", True)
    assert store.take_job() is None
    assert store.job("second").state == "queued"
    store.requeue(first)
    assert names(store) == ["first", "second"]


def test_only_what_nobody_runs_is_cancelled_at_once(store):
    job = submit(store)
    claim = store.take_job()
    assert not store.cancel(job)
    run_out(store)
    assert store.cancel(job)
    assert (store.job("job").state, store.job("job").owner) == ("stopped", None)
    with pytest.raises(ConflictError):
        claim.check()
    assert not store.cancel(store.create_job("by hand", config={}, seed=0, provenance={}))


def test_what_is_queued_again_has_all_its_attempts(store):
    submit(store)
    for _ in range(3):
        store.take_job().died("killed")
    job = store.requeue(store.job("job"))
    assert (job.state, job.error, job.finished_at, job.last_attempt) == ("queued", None, None, 6)
    assert store.take_job().job.attempt == 4
    assert store.requeue(job).state == "running"


def test_a_process_that_takes_a_job_by_itself_takes_it_out_of_the_queue(store):
    job = submit(store)
    store.acquire(job)
    run_out(store)
    assert store.take_job() is None
    assert store.job("job").submitted_at is None


def test_all_of_a_submission_is_queued_or_nothing(store):
    submit(store, "taken")
    values = {"config": {}, "seed": 0, "provenance": {}}
    with pytest.raises(ConflictError, match="'taken'"):
        store.submit([NewJob("new", None, values), NewJob("new", "taken", values)])
    assert [job.name for job in store.jobs()] == ["taken"]
    jobs = store.submit([NewJob("taken", None, values), NewJob("taken", None, values)])
    assert [job.name for job in jobs] == ["taken-2", "taken-3"]


def test_the_same_key_is_queued_once(url, store):
    def again(number):
        with Store.open(url) as other:
            return submit(other, f"job-{number}", key="k").id

    with ThreadPoolExecutor(6) as pool:
        ids = set(pool.map(again, range(6)))
    assert len(ids) == len(store.jobs()) == 1
    assert ids == {job.id for job in store.jobs()}


def test_two_processes_take_every_job_once(url, store):
    jobs = [submit(store, f"{n:02d}") for n in range(20)]
    command = [sys.executable, "-c", TAKE, url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    taken = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sorted([*taken[0], *taken[1]]) == [job.name for job in jobs]
    assert all(part == sorted(part) for part in taken)
    assert {(job.state, job.attempt) for job in store.jobs()} == {("succeeded", 1)}


def test_the_last_lines_of_a_log_are_kept(store, monkeypatch):
    monkeypatch.setattr(logs, "MOST_LINES", 5)
    job, other = submit(store, "a"), submit(store, "b")
    store.add_log(other, ["of another"])
    store.add_log(job, [f"{n}" for n in range(3)])
    store.add_log(job, [])
    store.add_log(job, [f"{n}" for n in range(3, 10)])
    store.add_log(job, ["x" * 10_000, "with \0"])
    lines = store.log(job)
    assert [line.text for line in lines] == ["7", "8", "9", "x" * 500, "with \\0"]
    assert [line.text for line in store.log(job, after=lines[-2].id)] == ["with \\0"]
    assert [line.text for line in store.log(other)] == ["of another"]


def test_a_log_goes_with_its_job(store):
    job = submit(store)
    store.add_log(job, ["a line"])
    remove(store, job)
    store.add_log(job, ["a late line"])
    assert store.log(job) == []


@pytest.mark.parametrize(
    ("error", "state", "left"),
    [
        (StoreError("The server was gone."), "queued", 2),
        (ValueError("a fault"), "failed", 2),
        (KeyboardInterrupt(), "queued", 3),
    ],
    ids=["the store's fault", "the job's fault", "interrupted"],
)
def test_how_a_jobs_process_leaves(store, error, state, left):
    submit(store)
    claim = store.take_job()
    with pytest.raises(type(error)), store.join_claim(claim.job, claim.owner):
        raise error
    job = store.job("job")
    assert (job.state, job.owner, job.last_attempt - job.attempt) == (state, None, left)
    message = {"queued": "The server was gone.", "failed": "ValueError: a fault"}
    assert job.error == (None if isinstance(error, KeyboardInterrupt) else message[state])


def test_who_only_borrows_a_job_leaves_it_in_the_queue(store):
    job = submit(store)
    store.acquire(job).give_back(job)
    assert store.job("job").submitted_at == job.submitted_at
    assert store.take_job() is not None

"""A job on PostgreSQL whose server crashes in the training and in the search ends as if nothing had been."""

import time

import pytest
from nas_process import Place, ended, wait_for

from nas.store import Store, check


def count(url: str, what: str) -> int:
    with Store.open(url, read_only=True) as store:
        jobs = store.jobs()
        time.sleep(0.05)
        if not jobs:
            return 0
        return len(store.artifacts(jobs[0])) if what == "files" else len(store.evaluations(jobs[0], "search"))


@pytest.mark.slow
def test_a_job_goes_on_when_its_server_crashes_twice(
    place: Place, finished: Place, postgresql, tmp_path
) -> None:
    url = postgresql.create("crashing")
    Store.open(url).close()
    process = place.start("run", "job.yaml", "--store", url)
    try:
        for what, least in (("files", 1), ("evaluations", 4)):
            wait_for(process, lambda what=what, least=least: count(url, what) >= least)
            postgresql.crash()
            time.sleep(1.0)
            postgresql.start()
        ran = ended(process)
        assert (ran.code, ran.errors) == (0, []), ran.err
        assert "Trying again" in ran.err
        with Store.open(url, read_only=True) as store, finished.opened() as undisturbed:
            for found in (store, undisturbed):
                assert found.job(1).state == "succeeded"
            told = [(e.subnet.key, e.position, e.value) for e in store.evaluations(store.job(1), "search")]
            job = undisturbed.job(1)
            assert told == [
                (e.subnet.key, e.position, e.value) for e in undisturbed.evaluations(job, "search")
            ]
            steps = [event.step for event in store.events(store.job(1), "train")]
            assert steps == sorted(set(steps))
            assert [a.kind for a in store.artifacts(store.job(1))] == ["supernet"]
        assert check(url) == []
    finally:
        postgresql.drop("crashing")


@pytest.mark.slow
def test_a_job_goes_on_when_its_connections_are_cut(
    place: Place, finished: Place, postgresql, postgresql_url: str
) -> None:
    """Again and again, in the middle of whatever its process is at."""
    Store.open(postgresql_url).close()
    process = place.start("run", "job.yaml", "--store", postgresql_url)
    cuts = 0
    for what, least in (("files", 1), ("files", 2), ("evaluations", 2), ("evaluations", 10)):
        wait_for(process, lambda what=what, least=least: count(postgresql_url, what) >= least)
        postgresql.cut_connections(postgresql_url)
        cuts += 1
    ran = ended(process)
    assert (ran.code, ran.errors, cuts) == (0, [], 4), ran.err
    with Store.open(postgresql_url, read_only=True) as store, finished.opened() as undisturbed:
        assert [(e.subnet.key, e.position, e.value) for e in store.evaluations(store.job(1), "search")] == [
            (e.subnet.key, e.position, e.value) for e in undisturbed.evaluations(undisturbed.job(1), "search")
        ]
        assert store.job(1).attempt == 1

"""Deleting a job: everything that is its own goes, everything else stays, and what is used is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from filled_store import finished_job, measured_job

from nas.errors import ConflictError, StoreError
from nas.store import Removed, Store, check, remove
from nas.store import tables as t
from nas.store.files import removal
from search_spaces.errors import NotFoundError


@pytest.fixture
def store(any_url: str) -> Iterator[Store]:
    with Store.open(any_url) as opened:
        yield opened


def add_file(store: Store, name: str, text: str) -> Path:
    with store.acquire(store.job(name)) as lease:
        path = store.new_artifact_path(lease, "supernet", ".safetensors")
        path.write_text(text)
        store.add_artifact(lease, "supernet", path)
        lease.finish("succeeded")
    return path


def rows_of(store: Store) -> dict[str, list[Any]]:
    """All rows of all tables but the store's own."""
    tables = [table for table in t.metadata.sorted_tables if table.name != "store"]
    with store.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(sa.select(table).order_by(table.c.id))]
            for table in tables
        }


def test_a_job_goes_with_all_that_is_its_own(any_url: str) -> None:
    with Store.open(any_url) as store:
        finished_job(store, "stays", count=20)
        kept_file, before = add_file(store, "stays", "weights"), rows_of(store)
        measured_job(store, "goes")
        file = add_file(store, "goes", "others")
        stray = file.with_name("stray.partial")
        stray.write_text("left by a crash")
        devices = rows_of(store)["devices"]
        total = sum(map(len, rows_of(store).values()))
        gone = remove(store, store.job("goes"))
        after = rows_of(store)
        with pytest.raises(NotFoundError):
            store.job("goes")
    assert {**after, "devices": [], "agents": []} == {**before, "devices": [], "agents": []}
    assert after["devices"] == devices  # a device belongs to no job
    assert gone == Removed(total - sum(map(len, after.values())), 2, len("others") + len("left by a crash"))
    assert (kept_file.exists(), file.parent.exists()) == (True, False)
    assert [problem for problem in check(any_url) if "job-" in problem] == []


def test_a_job_that_was_never_run_goes(store: Store) -> None:
    job = store.create_job("new", config={}, seed=0, provenance={})
    assert remove(store, job) == Removed(1, 0, 0)
    assert store.jobs() == []


def test_a_running_job_stays(store: Store) -> None:
    finished_job(store, "a", count=20)
    with store.acquire(store.job("a")) as lease:
        before = rows_of(store)
        with pytest.raises(ConflictError, match="runs in another process"):
            remove(store, store.job("a"))
        assert {**rows_of(store), "jobs": []} == {**before, "jobs": []}
        lease.finish("succeeded")


def test_a_job_that_another_one_names_stays(store: Store) -> None:
    finished_job(store, "a", count=20)
    job = store.job("a")
    for number, source in enumerate(("a", str(job.id))):
        name = f"user{number}"
        store.create_job(name, config={"predictor": {"source": source}}, seed=0, provenance={})
        with pytest.raises(ConflictError, match=f"that of '{name}' begins"):
            remove(store, job)
        remove(store, store.job(name))
    assert store.job("a") == job
    store.create_job("free", config={"predictor": {"source": "nobody"}}, seed=0, provenance={})
    remove(store, job)


def test_a_removal_that_fails_leaves_the_job_as_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_job(store, "a", count=20)
    file, before = add_file(store, "a", "weights"), rows_of(store)

    def broken(_: object) -> int:
        raise StoreError("The disk is full.")

    monkeypatch.setattr(removal, "_delete", broken)
    with pytest.raises(StoreError, match="disk is full"):
        remove(store, store.job("a"))
    assert (file.read_text(), store.job("a").state) == ("weights", "succeeded")
    assert {**rows_of(store), "jobs": []} == {**before, "jobs": []}

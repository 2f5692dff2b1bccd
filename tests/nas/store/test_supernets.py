"""Whose turn it is to train a supernet, what is found by its key, and what may be deleted."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from nas.errors import ConflictError
from nas.store import (
    Artifact,
    EvaluationBasis,
    Job,
    Lease,
    NewEvaluation,
    NewEvent,
    NewSubnet,
    NewSupernet,
    Store,
    check,
    orphans_of_both_kinds,
    remove,
    remove_orphans_of_both_kinds,
    remove_supernet,
)
from nas.store.connection.rows import ROOT
from nas.store.values import now
from predictors.measurement.labels import Measurement
from search_spaces.errors import NotFoundError

WANTED = NewSupernet("first", "k" * 64, {"family": "matformer"}, {"name": "digits"}, {"seed": 0}, 10)
HITS = np.array([True, False, True, True])
HOLDS = """
import sys, time
from nas.store import Store
from nas.store.supernets import NewSupernet
store = Store.open(sys.argv[1])
lease = store.acquire(store.job("first")).__enter__()
held = store.acquire_supernet(lease, store.supernet("first")).__enter__()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def store(any_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("NAS_ARTIFACTS", str(tmp_path / "files"))
    with Store.open(any_url) as opened:
        for name in ("first", "second"):
            opened.create_job(name, config={}, seed=0, provenance={})
        yield opened


@pytest.fixture
def first(store: Store) -> Iterator[Lease]:
    with store.acquire(store.job("first")) as held:
        yield held


@pytest.fixture
def second(store: Store) -> Iterator[Lease]:
    with store.acquire(store.job("second")) as held:
        yield held


def trained(store: Store, lease: Lease) -> None:
    """Makes the supernet and its weights."""
    use = store.use_supernet(lease, WANTED)
    taken = store.acquire_supernet(lease, use.supernet)
    assert taken is not None
    with taken:
        path = store.new_artifact_path(taken, "supernet", ".bin", step=10)
        path.write_bytes(b"weights")
        store.add_artifact(taken, "supernet", path, step=10)
        taken.took(seconds=3.0, cpu_seconds=2.0)
        taken.finish()


def measured(milliseconds: float) -> Measurement:
    return Measurement(
        latency_ms=milliseconds,
        spread_ms=0.1,
        reference_ms=1.0,
        stderr_ms=None,
        contention=None,
        energy_mj=None,
        rounds=3,
        raw=[[0, None, 0.002, None, 0.001, None, 0.001, None, 1]],
        peak_memory_bytes=None,
    )


def test_equal_keys_are_one_supernet_which_one_process_trains_and_all_jobs_have(
    store: Store, first: Lease, second: Lease
) -> None:
    one, other = (store.use_supernet(lease, WANTED).supernet for lease in (first, second))
    [kept] = [supernet for supernet in store.supernets() if supernet.key == WANTED.key]
    assert one == other == kept
    taken = store.acquire_supernet(first, one)
    assert taken is not None
    with taken:
        assert store.acquire_supernet(second, one) is None
        assert store.is_held(one)
    assert not store.is_held(one)
    trained(store, first)
    after = store.supernet("first")
    assert (after.state, after.trainer, after.seconds, after.cpu_seconds) == ("trained", "first", 3.0, 2.0)
    assert store.acquire_supernet(second, one) is None
    (file,) = store.artifacts(second.job, "supernet")
    assert file.path == f"supernet-{one.id}/supernet-00000010.bin"
    assert (file.job_id, file.supernet_id) == (None, one.id)
    assert store.artifacts(first.job) == [file]
    assert check(store.url) == []


def test_four_jobs_at_once_make_one_supernet(store: Store) -> None:
    jobs = [store.create_job(f"job {number}", config={}, seed=0, provenance={}) for number in range(4)]
    together = Barrier(len(jobs))

    def use(job: Job) -> int:
        with Store.open(store.url) as mine, mine.acquire(job) as lease:
            together.wait()
            return mine.use_supernet(lease, WANTED).supernet.id

    with ThreadPoolExecutor(len(jobs)) as pool:
        assert len(set(pool.map(use, jobs))) == 1
    (supernet,) = store.supernets()
    assert len(store.supernet_uses()) == len(jobs)
    assert supernet.name == "first"


def test_the_next_one_trains_when_the_lease_has_run_out_or_its_process_is_dead(
    store: Store, second: Lease
) -> None:
    with store.acquire(store.job("first")) as lease:
        store.use_supernet(lease, WANTED)
    supernet = store.use_supernet(second, WANTED).supernet
    command = [sys.executable, "-c", HOLDS, store.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert store.acquire_supernet(second, supernet) is None
    process.kill()
    process.wait()
    process.stdout.close()
    taken = store.acquire_supernet(second, supernet)
    assert taken is not None
    with taken:
        pass


def test_who_has_lost_the_lease_writes_nothing(store: Store, first: Lease, second: Lease) -> None:
    supernet = store.use_supernet(first, WANTED).supernet
    late = store.acquire_supernet(first, supernet)
    assert late is not None
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE supernets SET lease_until = 0")
    taken = store.acquire_supernet(second, supernet)
    assert taken is not None
    for act in (late.finish, lambda: late.took(seconds=1.0, cpu_seconds=1.0)):
        with pytest.raises(ConflictError, match="Another process trains supernet 'first'"):
            act()
    assert store.supernet("first").state == "training"


def test_the_curve_is_of_all_who_had_a_part_in_the_training(
    store: Store, first: Lease, second: Lease
) -> None:
    for lease, steps in ((first, (5, 10)), (second, (10, 15))):
        store.use_supernet(lease, WANTED)
        events = [NewEvent("train", {"step": s, "loss": 1.0 / s}, stage="train", step=s) for s in steps]
        store.add_events(lease, [*events, NewEvent("train", {"step": 1}, stage="anchor-0", step=1)])
    trained(store, second)
    assert [point["step"] for point in store.supernet("first").curve] == [5, 10, 15]


def test_a_supernet_is_named_by_itself_by_its_jobs_and_by_its_key(
    store: Store, first: Lease, second: Lease
) -> None:
    mine = store.use_supernet(first, WANTED).supernet
    own = store.use_supernet(second, replace(WANTED, key=None)).supernet
    assert (mine.name, own.name) == ("first", "first-2")
    named = {word: store.supernet(word).name for word in ("first", "first-2", "second", "kkkkkk")}
    assert named == {"first": "first", "first-2": "first-2", "second": "first-2", "kkkkkk": "first"}
    assert store.supernet(str(second.job.id)) == own
    for word in ("kkkkk", "frist", "99", "\0"):
        with pytest.raises(NotFoundError, match="no supernet"):
            store.supernet(word)
    use = store.supernet_of(second.job)
    assert use is not None
    assert use.supernet == own
    assert [one.job_id for one in store.supernet_uses()] == [first.job.id, second.job.id]


def files_left(store: Store) -> list[Artifact]:
    """All but the token by which machines know that they see the folder of a store on a server."""
    return [file for file in store.all_artifacts() if file.kind != ROOT]


def test_what_is_used_is_not_deleted_and_the_last_job_takes_it_along(store: Store) -> None:
    with store.acquire(store.job("first")) as lease:
        trained(store, lease)
        rows = [NewEvaluation(NewSubnet("a", {}, 1, 1), 0.5)]
        store.add_evaluations(lease, rows, {"a": HITS})
        store.add_events(lease, [NewEvent("log", {"message": "x"})])
    with store.acquire(store.job("second")) as lease:
        store.use_supernet(lease, WANTED, reused=True)
    supernet = store.supernet("first")
    with pytest.raises(ConflictError, match="is used by 2 jobs: 'first', 'second'"):
        remove_supernet(store, supernet)
    assert remove(store, store.job("first")).supernets == ()
    assert [job.name for job in store.jobs()] == ["second"]
    assert check(store.url) == []
    (file,) = store.artifacts(store.job("second"), "supernet")
    path = store.artifact_root / file.path
    assert path.read_bytes() == b"weights"
    with pytest.raises(ConflictError, match="is used by job 'second'"):
        remove_supernet(store, supernet)
    assert remove(store, store.job("second")).supernets == ("first",)
    assert store.jobs() == store.supernets() == files_left(store) == []
    assert not path.exists()
    assert check(store.url) == []


def test_a_supernet_can_be_kept_and_then_deleted(store: Store) -> None:
    with store.acquire(store.job("first")) as lease:
        trained(store, lease)
    assert remove(store, store.job("first"), keep_supernet=True).supernets == ()
    supernet = store.supernet("first")
    assert orphans_of_both_kinds(store).supernets == []
    job = store.create_job("third", config={}, seed=0, provenance={}, uses={"": supernet})
    use = store.supernet_of(job)
    assert use is not None
    assert use.reused
    remove(store, job, keep_supernet=True)
    remove_supernet(store, supernet)
    assert files_left(store) == []
    with pytest.raises(NotFoundError, match="was removed meanwhile"):
        store.create_job("late", config={}, seed=0, provenance={}, uses={"": supernet})
    assert [one.name for one in store.jobs()] == ["second"]


def test_a_job_that_runs_elsewhere_is_not_deleted(store: Store, first: Lease) -> None:
    with pytest.raises(ConflictError, match="runs in another process"):
        remove(store, first.job)
    assert len(store.jobs()) == 2


def test_orphans_of_both_kinds_are_found_and_deleted(store: Store) -> None:
    with store.acquire(store.job("first")) as lease:
        store.use_supernet(lease, WANTED)
        path = store.new_artifact_path(lease, "checkpoint", ".bin")
        path.write_bytes(b"left by a crash")
        assert orphans_of_both_kinds(store).files == []  # it may be just being written
    inner = f"job-1/{path.name}"
    assert orphans_of_both_kinds(store).files == [inner]
    with store.write() as connection:
        connection.exec_driver_sql("DELETE FROM job_supernets")
    orphans = orphans_of_both_kinds(store)
    assert (orphans.files, [one.name for one in orphans.supernets]) == ([inner], ["first"])
    remove_orphans_of_both_kinds(store, orphans)
    assert not path.exists()
    assert store.supernets() == []
    after = orphans_of_both_kinds(store)
    assert (after.files, after.supernets) == ([], [])


def about(store: Store, lease: Lease, **changes: Any) -> EvaluationBasis:
    basis = EvaluationBasis(store.use_supernet(lease, WANTED).supernet.id, "d" * 64, "fp32")
    return replace(basis, **changes)


def evaluated(store: Store, lease: Lease, key: str, hits: Any, *, weights: str = "inherited") -> None:
    rows = [NewEvaluation(NewSubnet(key, {}, 1, 1), 0.5, weights=weights)]
    store.add_evaluations(lease, rows, {key: hits})


def test_hits_are_found_by_all_that_they_depend_on(store: Store, first: Lease, second: Lease) -> None:
    basis = about(store, first)
    first.bases = second.bases = {"": basis}
    evaluated(store, first, "a", HITS[:2])
    evaluated(store, second, "a", HITS)
    evaluated(store, first, "b", HITS[:3])
    evaluated(store, first, "c", HITS, weights="finetuned")
    store.keep_hits(second, "report", {"a": HITS[1:]})
    other = store.use_supernet(second, replace(WANTED, key="o" * 64)).supernet
    stored = store.stored_hits(basis, "search", ["a", "b", "c", "d"])
    assert {key: hits.tolist() for key, hits in stored.items()} == {
        "a": HITS.tolist(),
        "b": HITS[:3].tolist(),
    }
    assert store.stored_hits(basis, "report", ["a"])["a"].tolist() == HITS[1:].tolist()
    changes: list[dict[str, Any]] = [{"supernet_id": other.id}, {"data": "e" * 64}, {"precision": "bf16"}]
    for change in changes:
        assert store.stored_hits(replace(basis, **change), "search", ["a", "b"]) == {}


def test_what_is_found_for_a_batch_is_one_question_that_reads_no_whole_table(
    store: Store, first: Lease
) -> None:
    """What that costs in a store of a million is a figure of `benchmarks/store.py`."""
    basis = about(store, first)
    first.bases = {"": basis}
    subnets = [NewSubnet(f"s{number}", {}, 1, 1) for number in range(64)]
    store.add_evaluations(
        first, [NewEvaluation(subnet, 0.5) for subnet in subnets], {subnet.key: HITS for subnet in subnets}
    )
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        asked.append((statement, parameters))

    sa.event.listen(store._engine, "before_cursor_execute", note)
    try:
        assert len(store.stored_hits(basis, "search", [f"s{number}" for number in range(0, 64, 4)])) == 16
    finally:
        sa.event.remove(store._engine, "before_cursor_execute", note)
    [(statement, parameters)] = [one for one in asked if "hits" in one[0]]
    if store.url.startswith("sqlite"):  # PostgreSQL reads small tables whole, and is right
        with store.read() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
        assert any("SEARCH" in row.detail for row in plan)
        assert not any(row.detail.startswith("SCAN") for row in plan), plan


def test_measurements_are_found_by_network_device_purpose_and_age(
    store: Store, first: Lease, second: Lease
) -> None:
    device = store.register_device("cpu", {"backend": "torch_cpu"})
    other = store.register_device("gpu", {"backend": "torch_cuda"})
    subnet = NewSubnet("a", {}, 1, 1)

    def add(lease: Lease, milliseconds: float, **options: Any) -> None:
        options = {"device_id": device.id, "purpose": "sample", "networks": {"a": "net"}} | options
        store.add_measurements(lease, [(subnet, measured(milliseconds))], **options)

    add(first, 1.0)
    add(first, 2.0, purpose="finalist")
    add(first, 3.0, device_id=other.id)
    long_ago = now() - timedelta(days=2)
    add(second, 4.0, reused={"a": long_ago})

    def of(purpose: str, device_id: int, days: float) -> list[float]:
        since = now() - timedelta(days=days)
        stored = store.measurements_of({"net", "none"}, device_id, purpose=purpose, since=since)
        return [one.result.latency_ms for one in stored.values()]

    assert of("sample", device.id, 1) == [1.0]
    assert of("finalist", device.id, 1) == [2.0]
    assert of("sample", other.id, 1) == [3.0]
    assert of("search", device.id, 1) == []
    assert of("sample", device.id, 0) == []
    (row,) = store.measurements(second.job)
    assert (row.reused, row.created_at) == (True, long_ago)
    assert {one.reused for one in store.measurements(first.job)} == {False}


def test_a_job_knows_its_goal(store: Store) -> None:
    job: Job = store.create_job("train", config={}, seed=0, provenance={}, goal="supernet")
    assert (job.goal, store.job("first").goal) == ("supernet", "front")

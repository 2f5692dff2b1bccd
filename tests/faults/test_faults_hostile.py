"""Weights that mean harm, clocks that jump, a store that somebody else locks, a disk that is full."""

import ast
import pickle
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
import torch
from safetensors.torch import save_file

from nas import checkpoints
from nas.artifacts import sha256
from nas.errors import JobFailedError, NoSpaceError
from nas.results import extraction
from nas.store import NewEvent, NewJob, Store, Submission, check, leases
from nas.store import tables as t

ROOT = Path(__file__).parents[2]
PACKAGES = ("nas", "supernet", "predictors", "search_spaces", "dashboards")
DAY = 86_400.0
# What runs code out of a file. Ray pickles by itself: docs/security.md says where.
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


class Harm:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


def bomb(file: Path) -> None:
    """A header that claims to have 2**60 bytes."""
    file.write_bytes(struct.pack("<Q", 2**60) + b"{}")


def replace(url: str, store: Store, content: bytes) -> None:
    """Other weights of the supernet, and a row that vouches for them."""
    (artifact,) = [one for one in store.all_artifacts() if one.kind == "supernet"]
    file = store.artifact_root / artifact.path
    file.write_bytes(content)
    with Store.open(url) as writing, writing.write() as connection:
        values = {"sha256": sha256(file), "size": file.stat().st_size}
        connection.execute(sa.update(t.artifacts).where(t.artifacts.c.id == artifact.id).values(values))


def made(kind: str, marker: Path, folder: Path) -> bytes:
    file = folder / "made"
    match kind:
        case "pickle":
            file.write_bytes(pickle.dumps(Harm(marker)))
        case "torch":
            torch.save(Harm(marker), file)
        case "bomb":
            bomb(file)
        case "empty":
            file.write_bytes(b"")
        case "extra key":
            save_file({"a.weight": torch.zeros(2)}, file)
    return file.read_bytes()


@pytest.mark.parametrize("kind", ["pickle", "torch", "bomb", "empty", "extra key"])
def test_weights_that_mean_harm_run_nothing(tiny_copy: str, tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "harm was done"
    with Store.open(tiny_copy, read_only=True) as store:
        replace(tiny_copy, store, made(kind, marker, tmp_path))
        with pytest.raises((JobFailedError, RuntimeError)):
            extraction.load_supernet(store, store.job(1))
    assert not marker.exists()


def test_weights_of_other_shapes_are_refused(tiny_copy: str, tmp_path: Path) -> None:
    with Store.open(tiny_copy, read_only=True) as store:
        (artifact,) = [one for one in store.all_artifacts() if one.kind == "supernet"]
        tensors = checkpoints.load(store, artifact)
        name = next(iter(tensors))
        save_file(tensors | {name: torch.zeros(3, 3)}, tmp_path / "made")
        replace(tiny_copy, store, (tmp_path / "made").read_bytes())
        with pytest.raises(RuntimeError, match=name.rpartition(".")[2]):
            extraction.load_supernet(store, store.job(1))


def unsafe(tree: ast.AST) -> Iterator[str]:
    """What in a file of ours would run what it reads."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names if name.name.partition(".")[0] in UNSAFE)
            case ast.ImportFrom(module=str(module), names=names) if module.partition(".")[0] in UNSAFE:
                yield from (name.name for name in names if not name.name.endswith("Error"))
            case ast.keyword(arg="weights_only", value=ast.Constant(value=False)):
                yield "weights_only=False"
            case ast.Attribute(value=ast.Name(id="yaml"), attr="load" | "unsafe_load" | "full_load" as name):
                yield f"yaml.{name}"
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                yield name


def test_nothing_of_ours_unpickles_or_evaluates() -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    broken = {str(file.relative_to(ROOT)): [*unsafe(ast.parse(file.read_text()))] for file in files}
    assert {file: what for file, what in broken.items() if what} == {}
    made_up = "import pickle\nimport torch\ntorch.load(x, weights_only=False)\nyaml.load(x)\neval(x)"
    assert len([*unsafe(ast.parse(made_up))]) == 4


def new_job(store: Store, name: str = "job"):
    return store.create_job(name, config={}, seed=0, provenance={})


@pytest.mark.parametrize("jump", [-DAY, DAY])
def test_a_clock_that_jumps_changes_no_lease(
    any_url: str, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """The worker's clock: of leases the database's alone counts."""
    with Store.open(any_url) as store, store.acquire(new_job(store)) as lease:
        real = time.time
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: real() + jump)
            store.add_events(lease, [NewEvent("log", {})])
            held = store.job("job").lease_until
            assert store.is_live(lease.job)
            assert store.take_job() is None
        lease.check()
        assert abs(store.job("job").lease_until - held) < DAY / 2
        lease.finish("succeeded")
        job = store.job("job")
        assert job.started_at <= job.finished_at


def test_a_store_that_somebody_else_locks_is_waited_for(
    any_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As long as a heart beats many times; then the lease is there as before."""
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    with Store.open(any_url) as store, store.acquire(new_job(store)) as lease:
        if any_url.startswith("sqlite"):
            other, lock = sqlite3.connect(tmp_path / "nas.db", isolation_level=None), "BEGIN EXCLUSIVE"
        else:
            other, lock = psycopg.connect(any_url), "LOCK TABLE jobs, events IN ACCESS EXCLUSIVE MODE"
        with closing(other):
            other.execute(lock)
            writes = threading.Thread(target=store.add_events, args=(lease, [NewEvent("log", {})]))
            writes.start()
            writes.join(1.5)
            assert writes.is_alive()
            other.execute("COMMIT")
        writes.join(60)
        assert not writes.is_alive()
        lease.check_held()
        assert len(store.events(lease.job)) == 1
        assert store.job("job").state == "running"


def test_a_full_disk_is_no_fault_of_a_queued_job(any_url: str) -> None:
    """Its attempt counts, and when there is space again it goes on; after the last one it has failed."""
    with Store.open(any_url) as store:
        values = {"config": {}, "seed": 0, "provenance": {}}
        store.submit([NewJob("job", None, values, Submission())])

        def attempt() -> None:
            with store.take_job() as claim, store.join_claim(claim.job, claim.owner):
                raise NoSpaceError("The checkpoint cannot be written: no space.")

        for number in (1, 2, 3):
            with pytest.raises(NoSpaceError):
                attempt()
            job = store.job("job")
            assert (job.attempt, job.state) == (number, "queued" if number < 3 else "failed")
            assert "no space" in str(job.error)
        assert store.take_job() is None
    assert check(any_url) == []

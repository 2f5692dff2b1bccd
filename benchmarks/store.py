"""What a large store costs those who read it: `nas front`, `nas what-if`, `nas ls`, and a search's look-ups.

    python benchmarks/store.py                                     # SQLite, 1,000,000 evaluations
    python benchmarks/store.py --postgresql postgresql://USER@HOST/EMPTY_DATABASE
    python benchmarks/store.py --keep FOLDER                       # the SQLite store is made once and stays

The rows are made up and written in bulk: one job with 120,000 evaluations, others with 10,000 each, over nine
supernets; subnets are drawn from 200,000, so that several jobs have looked at most of them. CPU seconds are
those of the client process, user and system, the least of several runs; a server's own are not in them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

import search_spaces
from nas.store import EvaluationBasis, Job, NewEvent, NewSupernet, Store
from nas.store import tables as t
from nas.store.values import now
from predictors.latency import roofline

LARGE, SMALL = 120_000, 10_000  # evaluations of a job
POOL = 200_000  # subnets that jobs draw from
SUPERNETS, FIRST_USERS = 9, 3
IMAGES, BATCH, FINALISTS, CHUNK = 1800, 16, 16, 20_000
RUNS, LOOKUPS = 3, 200
OTHERS = 100_000_000  # ids from here on are those of the report split
DATA, PRECISION = "d" * 64, "fp32-siblings"
SPACE = search_spaces.get("vit_resnas")
VERBS = {
    "nas ls": ("ls",),
    "nas front, 10,000 evaluations": ("front", "job-1"),
    "nas front, 120,000 evaluations": ("front", "large"),
    "nas what-if, 10,000 evaluations": ("what-if", "job-1", "--limits", "params<=20e6"),
    "nas what-if, 120,000 evaluations": ("what-if", "large", "--limits", "params<=20e6"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=1_000_000)
    parser.add_argument("--postgresql", metavar="URL", help="of an empty database")
    parser.add_argument("--keep", metavar="FOLDER", type=Path)
    asked = parser.parse_args()
    with ExitStack() as held:
        folder = asked.keep or Path(held.enter_context(tempfile.TemporaryDirectory()))
        urls = [f"sqlite:///{folder / 'nas.db'}", *([asked.postgresql] if asked.postgresql else [])]
        columns = []
        for url in urls:
            if not (url.startswith("sqlite") and (folder / "nas.db").exists()):
                fill(url, asked.evaluations)
            columns.append(measured(url))
    print(f"| | {' | '.join(('SQLite', 'PostgreSQL')[: len(urls)])} |")
    print(f"|{'---|' * (len(urls) + 1)}")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(column[name] for column in columns)} |")


def measured(url: str) -> dict[str, str]:
    """The rows of the table for one store."""
    rows = {"evaluations": f"{_count(url):,}"}
    for name, words in VERBS.items():
        runs = [_run(words, url) for _ in range(RUNS)]
        cpu, wall = (min(times) for times in zip(*runs, strict=True))
        rows[f"`{name.partition(',')[0]}`{name[name.find(',') :] if ',' in name else ''}"] = (
            f"{cpu:.2f} s of CPU ({wall:.2f} s)"
        )
    with Store.open(url, read_only=True) as store:
        rows |= _lookups(store)
    return rows


def _count(url: str) -> int:
    with Store.open(url, read_only=True) as store, store.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(t.evaluations)) or 0)


def _run(words: Sequence[str], url: str) -> tuple[float, float]:
    """CPU and wall seconds of a command line."""
    command = [sys.executable, "-c", "from nas.cli import main; raise SystemExit(main())", *words]
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"NAS_STORE": url})
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, words
    return usage.ru_utime + usage.ru_stime, time.monotonic() - began


def _lookups(store: Store) -> dict[str, str]:
    """What a search asks before each batch: half of the subnets are there."""
    supernet = store.supernets()[0]
    basis = EvaluationBasis(supernet.id, DATA, PRECISION)
    rng = np.random.default_rng(0)
    with store.read() as connection:
        query = sa.select(t.subnets.c.key).where(t.subnets.c.job_id == store.job("large").id)
        keys = list(connection.scalars(query))
    spent, passed, found = [], [], 0
    for _ in range(LOOKUPS):
        asked = [keys[i] for i in rng.integers(len(keys), size=BATCH // 2)]
        asked += [f"{i:016x}" for i in rng.integers(2**60, size=BATCH - len(asked))]
        cpu, wall = time.thread_time(), time.perf_counter()
        found += len(store.stored_hits(basis, "search", asked))
        spent.append(1e3 * (time.thread_time() - cpu))
        passed.append(1e3 * (time.perf_counter() - wall))
    assert found >= LOOKUPS * (BATCH // 2 - 1)
    medians = f"{np.median(spent):.2f} ms of CPU ({np.median(passed):.2f} ms)"
    return {f"finding what exists for a batch of {BATCH}, median": medians}


@dataclass(frozen=True)
class Drawn:
    """The subnets that jobs draw from; lists with one entry each."""

    keys: list[str]
    architectures: list[str]
    params: list[int]
    macs: list[int]
    latency_ms: list[float]
    accuracy: list[float]


def fill(url: str, count: int) -> None:
    """Makes the store."""
    codes = np.unique(SPACE.sample_choices(np.random.default_rng(0), POOL), axis=0)
    codes = np.random.default_rng(1).permutation(codes)
    archs, costs = SPACE.decode(codes), SPACE.costs(codes)
    share = np.log(costs["macs"] / costs["macs"].min()) / np.log(costs["macs"].max() / costs["macs"].min())
    noise = np.random.default_rng(2).normal(0, 0.01, len(codes))
    latency = 1 + costs["macs"] / 1e8
    drawn = Drawn(
        [arch.key for arch in archs],
        [json.dumps(arch.to_dict()) for arch in archs],
        costs["params"].tolist(),
        costs["macs"].tolist(),
        latency.tolist(),
        (0.4 + 0.4 * share**0.7 + noise).tolist(),
    )
    sizes = [LARGE, *[SMALL] * ((count - LARGE) // SMALL)]
    with Store.open(url) as store:
        first = 1
        for number, size in enumerate(sizes):
            job = _job(store, "large" if not number else f"job-{number}", number, codes, latency)
            _rows(store, job, number, size, drawn, first)
            first += size
        if url.startswith("postgresql"):
            with store.write() as connection:
                for table in (t.subnets, t.evaluations, t.hits):
                    sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
                    connection.exec_driver_sql(f"SELECT setval({sequence}, {10 * count})")
                connection.exec_driver_sql("ANALYZE")


def _job(store: Store, name: str, number: int, codes: Any, latency: Any) -> Job:
    """A finished job without its subnets."""
    config = {"data": {"name": "digit_pairs"}, "devices": {"cpu": {}}, "search": {"evaluations": SMALL}}
    job = store.create_job(name, config=config, seed=0, provenance={})
    with store.acquire(job) as lease:
        place = 0 if number < FIRST_USERS else 1 + number % (SUPERNETS - 1)
        wanted = NewSupernet(f"supernet-{place}", f"{place:064d}", {}, {}, {}, 1)
        store.use_supernet(lease, wanted, reused=number > 0)
        described = {"family": SPACE.family, "options": dict(SPACE.options), "size": str(SPACE.size)}
        for stage, result in {
            "space": {"space": described, "data": {"name": "digit_pairs", "digest": DATA}},
            "search": {},
            "finalists": {"baseline": {"chance": 0.1, "classes": 10}},
        }.items():
            store.begin_stage(lease, stage, "key")
            store.finish_stage(lease, stage, result)
        device = store.register_device("cpu", {"cpu": "made up"})
        fitted = roofline.build(SPACE, batch=64).fit(codes[:40], latency[:40])
        store.put_predictor(lease, device_id=device.id, kind="roofline", state=fitted.to_json(), score={})
        size = SMALL if number else LARGE
        points = [
            NewEvent("hypervolume", {"evaluations": n, "hypervolume": n / size}, stage="search", step=n)
            for n in range(BATCH, size + 1, BATCH)
        ]
        store.add_events(lease, points)
        lease.finish("succeeded")
    return job


def _rows(store: Store, job: Job, number: int, size: int, drawn: Drawn, first: int) -> None:
    """The job's subnets, with ids from `first` on, their evaluations and hits; some are reported."""
    supernet = store.supernet_of(job)
    assert supernet is not None
    chosen = np.random.default_rng([3, number]).permutation(len(drawn.keys))[:size].tolist()
    moment = now()
    with store.write() as connection:
        for start in range(0, size, CHUNK):
            part = list(enumerate(chosen[start : start + CHUNK], start=start))
            _insert(connection, t.subnets, _subnets(part, job, drawn, first))
            _insert(connection, t.evaluations, _evaluations(part, job, drawn, first, moment))
            _insert(connection, t.hits, _hits(part, job, first, supernet.supernet.id))
        reported = [(i, chosen[i]) for i in np.linspace(0, size - 1, FINALISTS).astype(int).tolist()]
        _report(connection, reported, job, drawn, first)


def _subnets(part: Any, job: Job, drawn: Drawn, first: int) -> Iterator[dict[str, Any]]:
    for i, n in part:
        yield {
            "id": first + i,
            "job_id": job.id,
            "key": drawn.keys[n],
            "architecture": drawn.architectures[n],
            "params": drawn.params[n],
            "macs": drawn.macs[n],
        }


def _evaluations(part: Any, job: Job, drawn: Drawn, first: int, moment: Any) -> Iterator[dict[str, Any]]:
    for i, n in part:
        told = {"accuracy": drawn.accuracy[n], "params": drawn.params[n], "macs": drawn.macs[n]}
        told |= {"memory_bytes": 5 * drawn.params[n], "latency_ms": drawn.latency_ms[n]}
        told |= {"predicted_ms": drawn.latency_ms[n], "predicted_low_ms": 1.0, "predicted_high_ms": 9.0}
        yield {
            "id": first + i,
            "subnet_id": first + i,
            "job_id": job.id,
            "split": "search",
            "weights": "inherited",
            "metric": "accuracy",
            "state": "ok",
            "value": drawn.accuracy[n],
            "stderr": 0.01,
            "count": IMAGES,
            "batch": i // BATCH,
            "position": i,
            "objectives": json.dumps(told),
            "created_at": moment,
            "reused": False,
        }


def _hits(part: Any, job: Job, first: int, supernet_id: int) -> Iterator[dict[str, Any]]:
    bits = np.random.default_rng(job.id).bytes(IMAGES // 8)
    for i, _ in part:
        yield {
            "id": first + i,
            "subnet_id": first + i,
            "job_id": job.id,
            "split": "search",
            "weights": "inherited",
            "count": IMAGES,
            "bits": bits,
            "supernet_id": supernet_id,
            "data": DATA,
            "precision": PRECISION,
        }


def _insert(connection: sa.Connection, table: sa.Table, rows: Iterator[dict[str, Any]]) -> None:
    """Inserts rows as the driver takes them, which is several times as fast as one by one."""
    listed = list(rows)
    names, cursor = ", ".join(f'"{name}"' for name in listed[0]), connection.connection.cursor()
    everything = [tuple(row.values()) for row in listed]
    if connection.dialect.name == "postgresql":
        with cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
            for row in everything:
                copy.write_row(row)
        return
    places = ", ".join("?" for _ in listed[0])
    everything = [tuple(str(v) if hasattr(v, "tzinfo") else v for v in row) for row in everything]
    cursor.executemany(f"INSERT INTO {table.name} ({names}) VALUES ({places})", everything)


def _report(connection: sa.Connection, reported: Any, job: Job, drawn: Drawn, first: int) -> None:
    """Rows of the report split, and measurements."""
    shared = {"job_id": job.id, "created_at": now(), "state": "ok"}
    what = {"split": "report", "weights": "inherited", "metric": "accuracy", "objectives": {}}
    what |= {"stderr": 0.01, "reused": False}
    timed = {"device_id": 1, "purpose": "finalist", "rounds": 3, "raw": [], "spread_ms": 0.1, "reused": False}
    rows = [(first + i, drawn.accuracy[n], drawn.latency_ms[n]) for i, n in reported]
    base = OTHERS + FINALISTS * job.id
    connection.execute(
        sa.insert(t.evaluations),
        [
            {**shared, **what, "id": base + i, "subnet_id": subnet, "value": value}
            for i, (subnet, value, _) in enumerate(rows)
        ],
    )
    connection.execute(
        sa.insert(t.measurements),
        [{**shared, **timed, "subnet_id": subnet, "latency_ms": ms} for subnet, _, ms in rows],
    )


if __name__ == "__main__":
    main()

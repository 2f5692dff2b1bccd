"""What a view of a large job costs the dashboard's server: CPU seconds and memory, first and while it runs.

    python benchmarks/dashboard.py            # 100,000 subnets; --subnets N

The rows are made up and written in bulk. A view is what a browser asks for when it opens the job's page; a
poll is what the page asks for every four seconds, without and with a new batch of 16 subnets in between.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

import search_spaces
from nas.store import NewEvent, Store
from nas.store import tables as t
from nas.store.values import now

JOB = "large"
CONFIG = {"supernet": {"family": "matformer"}, "devices": {"cpu": {}}, "search": {"evaluations": 10_000_000}}
BATCH, CHUNK = 16, 10_000
FINALISTS = 16
SERVER = """
import sys
from dashboards.app import serve
serve(sys.argv[1], port=0, ready=lambda address: print(address, flush=True))
"""
PARTS = ("front.figure job-head.children front-table.children hypervolume.figure predicted.figure "
         "training.figure generator.children job-clock.disabled")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subnets", type=int, default=100_000)
    parser.add_argument("--polls", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'nas.db'}"
        fill(url, asked.subnets)
        with server(url) as (process, address):
            view = View(address)
            report(process, "started", lambda: 0)
            report(process, "first view", view.open)
            report(process, "second view", view.open)
            for _ in range(asked.polls):
                report(process, "poll, nothing new", view.poll)
            for number in range(asked.polls):
                add_batch(url, asked.subnets + BATCH * number)
                report(process, "poll, a new batch", view.poll)


def fill(url: str, count: int) -> None:
    """A running job that has evaluated `count` subnets, and reported and measured some of them."""
    with Store.open(url) as store:
        job = store.create_job(JOB, config=CONFIG, seed=0, provenance={})
        with store.acquire(job) as lease:
            space = search_spaces.get("matformer", depth=(2, 4, 6, 8))
            described = {"family": space.family, "options": dict(space.options), "size": str(space.size)}
            store.begin_stage(lease, "space", "key")
            store.finish_stage(lease, "space", {"space": described})
            device = store.register_device("cpu", {"cpu": "made up"})
            store.put_predictor(lease, device_id=device.id, kind="roofline", state={}, score={"mape": 0.03})
            curve = [
                NewEvent("train", {"loss": 1 / (1 + i), "lr": 1e-3}, stage="train", step=i)
                for i in range(500)
            ]
            points = [
                NewEvent("hypervolume", {"evaluations": n, "hypervolume": n / count}, stage="search", step=n)
                for n in range(BATCH, count + 1, BATCH)
            ]
            store.begin_stage(lease, "search", "key")
            store.add_events(lease, [*curve, *points])
            baseline = {
                "chance": 0.1,
                "classes": 10,
                "examples": 1800,
                "majority": 0.2,
                "majority_class": "a",
            }
            store.begin_stage(lease, "finalists", "key")
            store.finish_stage(lease, "finalists", {"baseline": baseline})
        with store.write() as connection:
            for begin in range(0, count, CHUNK):
                _insert(connection, job.id, begin, min(CHUNK, count - begin))
            _report(connection, job.id, device.id, count)
            connection.execute(sa.update(t.jobs).values(state="running", started_at=now()))


def add_batch(url: str, begin: int) -> None:
    """The next batch of the search."""
    done = begin + BATCH
    data = {"evaluations": done, "hypervolume": 1.0}
    event = {"job_id": 1, "kind": "hypervolume", "stage": "search", "step": done, "data": data}
    with Store.open(url) as store, store.write() as connection:
        _insert(connection, 1, begin, BATCH)
        connection.execute(sa.insert(t.events).values(**event, created_at=now()))


@cache
def _subnets(count: int) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """Architectures with their MACs, the same again for each chunk: what differs are keys, times, qualities."""
    space = search_spaces.get("matformer", depth=(2, 4, 6, 8))
    codes = space.sample_choices(np.random.default_rng(0), count)
    return [one.to_dict() for one in space.decode(codes)], space.costs(codes)["macs"]


def _insert(connection: sa.Connection, job_id: int, begin: int, count: int) -> None:
    architectures, macs = _subnets(count)
    rng = np.random.default_rng(begin)
    latency = 0.4 + macs / 4e6 * rng.uniform(0.8, 1.25, count)
    accuracy = 0.93 - 0.5 * np.exp(-macs / 2.5e6) - 0.03 * rng.random(count)
    numbers = range(begin + 1, begin + count + 1)
    shared = {"job_id": job_id, "created_at": now()}
    connection.execute(
        sa.insert(t.subnets),
        [
            {
                "id": n,
                "job_id": job_id,
                "key": f"{n:016x}",
                "architecture": a,
                "params": 9,
                "macs": m,
            }
            for n, a, m in zip(numbers, architectures, macs.tolist(), strict=True)
        ],
    )
    connection.execute(
        sa.insert(t.evaluations),
        [
            {
                **shared,
                **{"subnet_id": n, "split": "search", "weights": "inherited", "metric": "accuracy"},
                **{"state": "ok", "value": a, "stderr": 0.01, "count": 1800},
                **{"batch": n // BATCH, "position": n, "objectives": {"latency_ms": ms, "predicted_ms": ms}},
            }
            for n, a, ms in zip(numbers, accuracy.tolist(), latency.tolist(), strict=True)
        ],
    )


def _report(connection: sa.Connection, job_id: int, device_id: int, count: int) -> None:
    """The report split's rows and the measurements of a few subnets."""
    shared = {"job_id": job_id, "created_at": now(), "state": "ok"}
    chosen = np.linspace(1, count, FINALISTS).astype(int).tolist()
    what = {"split": "report", "weights": "inherited", "metric": "accuracy", "objectives": {}}
    connection.execute(
        sa.insert(t.evaluations),
        [{**shared, **what, "subnet_id": n, "value": 0.5 + n / count / 3, "stderr": 0.01} for n in chosen],
    )
    timed = {"device_id": device_id, "purpose": "finalist", "rounds": 3, "raw": []}
    connection.execute(
        sa.insert(t.measurements),
        [{**shared, **timed, "subnet_id": n, "latency_ms": 1 + n / count, "spread_ms": 0.1} for n in chosen],
    )


@contextmanager
def server(url: str) -> Iterator[tuple[int, str]]:
    """The process id and the address of a dashboard over the store."""
    command = [sys.executable, "-c", SERVER, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, process.stdout.readline().strip()
        finally:
            process.terminate()


class View:
    """What a browser with the job's page open asks for, and how many bytes it gets."""

    def __init__(self, address: str) -> None:
        self.address = address
        with urllib.request.urlopen(f"{address}_dash-dependencies") as answer:
            self.has_version = b"job-version" in answer.read()
        self.version: Any = None

    def open(self) -> int:
        got = self._ask("page.children", {"url.pathname": f"/job/{JOB}"}, {"url.search": ""})[0]
        got += self._ask("panel.children", {"url.search": "", "job.data": 1})[0]
        self.version = None
        return got + self.poll()

    def poll(self) -> int:
        got = 0
        if self.has_version:
            state = {"job-version.data": self.version, "job.data": 1}
            inputs = {"job-clock.n_intervals": 0, "url.search": ""}
            got, answer = self._ask("job-version.data", inputs, state)
            if answer is None:
                return got
            self.version = answer["job-version"]["data"]
        first = "job-version.data" if self.has_version else "job-clock.n_intervals"
        return got + self._ask(PARTS, {first: self.version, "url.search": ""}, {"job.data": 1})[0]

    def _ask(
        self, output: str, inputs: dict[str, Any], state: dict[str, Any] | None = None
    ) -> tuple[int, Any]:
        names = output.split()
        outputs = [dict(zip(("id", "property"), name.split("."), strict=True)) for name in names]
        body = {
            "output": names[0] if len(names) == 1 else f"..{'...'.join(names)}..",
            "outputs": outputs[0] if len(names) == 1 else outputs,
            "inputs": _values(inputs.items()),
            "state": _values((state or {}).items()),
            "changedPropIds": [],
        }
        request = urllib.request.Request(
            f"{self.address}_dash-update-component",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            content = answer.read()
        return len(content), json.loads(content)["response"] if content else None


def _values(items: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [dict(zip(("id", "property"), name.split("."), strict=True), value=value) for name, value in items]


def report(process: int, what: str, act: Any) -> None:
    """Prints what an action cost the server."""
    before, begun = _cpu_seconds(process), time.monotonic()
    size = act()
    seconds, wall = _cpu_seconds(process) - before, time.monotonic() - begun
    peak, now_held = _status(process, "VmHWM"), _status(process, "VmRSS")
    print(
        f"{what:20} {seconds:6.2f} CPU s {wall:6.2f} s {size / 1e6:6.2f} MB sent, "
        f"resident {now_held:4.0f} MB, peak {peak:4.0f} MB",
        flush=True,
    )


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _status(process: int, field: str) -> float:
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(field)


if __name__ == "__main__":
    main()

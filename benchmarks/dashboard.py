"""What a large job costs who looks at it: CPU and wall seconds, bytes, memory, of the server and of Chromium.

    python benchmarks/dashboard.py                      # 1,000,000 subnets; --subnets N
    python benchmarks/dashboard.py --peer PROGRAM       # and optuna-dashboard with 10,000 trials
    python benchmarks/dashboard.py --no-browser         # the server alone

The rows are made up and written in bulk. A view is what a browser asks for when it opens the job's page; a
poll is what the page asks for every four seconds, without and with a new batch of 16 subnets in between.
The browser is headless, without a GPU. What it is sent does not count the scripts, which it keeps. Of a step
the time until the page shows it, and the CPU seconds of the server and of all of Chromium's processes.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import sqlalchemy as sa
from numpy.typing import NDArray
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

import search_spaces
from nas.results import frames
from nas.store import NewEvent, Store
from nas.store import tables as t
from nas.store.values import now

JOB = "large"
CONFIG = {"supernet": {"family": "matformer"}, "devices": {"cpu": {}}, "search": {"evaluations": 10_000_000}}
BATCH, CHUNK = 16, 10_000
PATIENCE_SECONDS = 600
PEER_TRIALS, PEER_PARAMETERS, PEER_PORT = 10_000, 12, 8097
PEER_RANGE = {"low": 0.0, "high": 1.0, "step": None, "log": False}
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--no-first-run",
    "--window-size=1280,1000",
]
WAIT = """
const done = arguments[arguments.length - 1];
const drawn = () => requestAnimationFrame(() => requestAnimationFrame(() => done(true)));
const look = () => ready() ? drawn() : setTimeout(look, 10);
look();
"""
FRONT = "const traces = document.querySelector('#front .js-plotly-plot')._fullData; "
KIND = FRONT + "return traces.length > 1 && traces[0].type === '{}';"
NARROW = (
    FRONT + "return traces[0].type === 'heatmap' && Math.log10(traces[0].x.at(-1) / traces[0].x[0]) < {};"
)
LEFT = "const words = document.querySelector('#decide-answer strong').innerText; "
DECIDED = "return document.querySelector('#decided .js-plotly-plot')._fullData.length > 1;"
DECIDED_LESS = LEFT + "return !words.startsWith('{0} ');"
COORDINATES = "return document.querySelector('#coordinates .js-plotly-plot')._fullData.length > 1;"
# React takes a value only from the setter of the element's own kind.
SLIDE = """
Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(bar, 100);
bar.dispatchEvent(new Event('input', {bubbles: true}));
bar.dispatchEvent(new Event('change', {bubbles: true}));
"""
SENT = """
return performance.getEntriesByType('resource').filter(one => !/[.](js|css)/.test(one.name))
  .reduce((sum, one) => sum + one.transferSize, 0);
"""
PEER_DRAWN = "return document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length > 0;"
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
    parser.add_argument("--subnets", type=int, default=1_000_000)
    parser.add_argument("--polls", type=int, default=2)
    parser.add_argument("--store", type=Path, help="a file that is kept, and used if it is there")
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--peer", help="the program optuna-dashboard")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = asked.store or Path(folder) / "nas.db"
        url = f"sqlite:///{file.resolve()}"
        if not file.exists():
            fill(url, asked.subnets)
        with server([sys.executable, "-c", SERVER, url]) as (process, line):
            measure_server(process, line.strip(), url, asked)
        if not asked.no_browser:
            with server([sys.executable, "-c", SERVER, url]) as (process, line), browser(folder) as chrome:
                measure_pages(process, chrome, line.strip())
        if asked.peer:
            measure_peer(asked.peer, folder)


def measure_server(process: int, address: str, url: str, asked: argparse.Namespace) -> None:
    """The requests alone."""
    view = View(address)
    report(process, "started", lambda: 0)
    report(process, "first view", view.open)
    report(process, "second view", view.open)
    for _ in range(asked.polls):
        report(process, "poll, nothing new", view.poll)
    with Store.open(url, read_only=True) as store:
        begin = sum(frames.evaluation_counts(store).values())
    for number in range(asked.polls):
        add_batch(url, begin + BATCH * number)
        report(process, "poll, a new batch", view.poll)


@contextmanager
def browser(folder: str) -> Iterator[Chrome]:
    """Headless Chromium with a profile of its own."""
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in [*FLAGS, f"--user-data-dir={folder}/chromium"]:
        options.add_argument(flag)
    chrome = Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    chrome.set_script_timeout(PATIENCE_SECONDS)
    chrome.command_executor.client_config.timeout = PATIENCE_SECONDS
    try:
        yield chrome
    finally:
        chrome.quit()


def measure_pages(process: int, chrome: Chrome, address: str) -> None:
    """What a person does: opens the job, zooms in and out, opens the decision, moves a limit."""
    step = Step(process, chrome)
    chrome.get(f"{address}devices")  # so that the scripts are there
    step.until("return !!document.querySelector('#devices table')")
    step.measure("job page, first picture", lambda: chrome.get(f"{address}job/{JOB}"), KIND.format("heatmap"))
    zoom = "Plotly.relayout(document.querySelector('#front .js-plotly-plot'), {'xaxis.range': %s})"
    step.measure("zoom in, a density", lambda: chrome.execute_script(zoom % "[0, 0.3]"), NARROW.format(0.4))
    step.measure(
        "zoom in, points", lambda: chrome.execute_script(zoom % "[0.1, 0.101]"), KIND.format("scatter")
    )
    out = zoom.replace("'xaxis.range': %s", "'xaxis.autorange': true")
    step.measure("zoom out", lambda: chrome.execute_script(out), KIND.format("heatmap"))
    step.measure("decide, first picture", lambda: chrome.get(f"{address}decide?job=1"), DECIDED)
    slider = "const bar = document.querySelector('#limit-0'); " + SLIDE
    step.measure("decide, a slider", lambda: chrome.execute_script(slider), DECIDED_LESS.format(FINALISTS))
    step.measure("why, all figures", lambda: chrome.get(f"{address}why?job=1"), COORDINATES)


class Step:
    """Waits in the page itself, and tells what a step cost."""

    def __init__(self, process: int, chrome: Chrome) -> None:
        self.process, self.chrome = process, chrome
        service = chrome.service.process
        self.browser = psutil.Process(service.pid)

    def until(self, condition: str) -> None:
        wait = f"const ready = () => {{ try {{ {condition} }} catch (error) {{ return false; }} }};" + WAIT
        self.chrome.execute_async_script(wait)

    def measure(self, what: str, act: Callable[[], object], condition: str) -> None:
        sent, server_before, browser_before = self._sent(), _cpu_seconds(self.process), self._cpu()
        begun = time.monotonic()
        act()
        self.until(condition)
        wall = time.monotonic() - begun
        bytes_sent = self._sent() - (sent if self._sent() >= sent else 0)
        print(
            f"{what:24} {wall:6.2f} s, server {_cpu_seconds(self.process) - server_before:5.2f} CPU s, "
            f"Chromium {self._cpu() - browser_before:5.2f} CPU s, {bytes_sent / 1e6:5.2f} MB sent, "
            f"server peak {_status(self.process, 'VmHWM'):4.0f} MB",
            flush=True,
        )

    def _cpu(self) -> float:
        total = 0.0
        for one in [self.browser, *self.browser.children(recursive=True)]:
            with suppress(psutil.Error):
                times = one.cpu_times()
                total += times.user + times.system
        return total

    def _sent(self) -> int:
        """Bytes of all answers but scripts and styles, of the page that is open."""
        size: int = self.chrome.execute_script(SENT)
        return size


def measure_peer(program: str, folder: str) -> None:
    """optuna-dashboard on a study of as many parameters as it may have, written in bulk."""
    url = f"sqlite:///{folder}/optuna.db"
    _fill_peer(url)
    command = [program, url, "--port", str(PEER_PORT), "--host", "127.0.0.1"]
    with server(command, lines=0) as (process, _), browser(f"{folder}/peer") as chrome:
        address = f"http://127.0.0.1:{PEER_PORT}"
        _wait_for(f"{address}/dashboard")
        report(process, "peer, its answer", lambda: _size_of(f"{address}/api/studies/1"))
        step = Step(process, chrome)
        chrome.get(f"{address}/dashboard")
        page = f"{address}/dashboard/studies/1"
        step.measure(f"peer, {PEER_TRIALS:,} trials", lambda: chrome.get(page), PEER_DRAWN)


def _fill_peer(url: str) -> None:
    study = optuna.create_study(storage=url, study_name="peer", directions=["minimize", "maximize"])
    rng = np.random.default_rng(0)
    engine = sa.create_engine(url)
    metadata = sa.MetaData()
    metadata.reflect(engine)
    tables, moment = metadata.tables, datetime(2026, 1, 1)
    numbers = range(1, PEER_TRIALS + 1)
    shape = json.dumps({"name": "FloatDistribution", "attributes": PEER_RANGE})
    with engine.begin() as connection:
        trials = [{"trial_id": n, "number": n - 1, "study_id": study._study_id, "state": "COMPLETE",
                   "datetime_start": moment, "datetime_complete": moment} for n in numbers]  # fmt: skip
        connection.execute(sa.insert(tables["trials"]), trials)
        connection.execute(
            sa.insert(tables["trial_values"]),
            [{"trial_id": n, "objective": of, "value": rng.random(), "value_type": "FINITE"}
             for n in numbers for of in (0, 1)],
        )  # fmt: skip
        connection.execute(
            sa.insert(tables["trial_params"]),
            [{"trial_id": n, "param_name": f"p{i}", "param_value": rng.random(), "distribution_json": shape}
             for n in numbers for i in range(PEER_PARAMETERS)],
        )  # fmt: skip


def _size_of(address: str) -> int:
    with urllib.request.urlopen(address) as answer:
        return len(answer.read())


def _wait_for(address: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(address):
            return
        time.sleep(0.2)
    raise TimeoutError(address)


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
    """Architectures with their MACs, the same for each chunk: what differs are keys, times and qualities."""
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
def server(command: Sequence[str], *, lines: int = 1) -> Iterator[tuple[int, str]]:
    """The process id of a program, and the first of the lines that are read of what it prints."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, process.stdout.readline() if lines else ""
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
        return (
            got
            + self._ask(
                PARTS, {first: self.version, "url.search": "", "front-view.data": None}, {"job.data": 1}
            )[0]
        )

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

"""The installed `nas` as a process of its own, in its own process group, over the smallest of jobs."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nas.analysis.invariants import problems
from nas.store import Store

NAS = Path(sys.executable).with_name("nas")
SECONDS = 180.0  # the most that any one process may take
TOTAL = 20
JOB = f"""\
data: digits
supernet: {{space: {{embed_dim: [8, 16], depth: [1, 2], num_heads: [1, 2], mlp_ratio: [1, 2]}}}}
train: {{steps: 60, batch_size: 32, checkpoint_every: 20, threads: 1}}
devices: {{cpu: {{batch: 8}}}}
objectives: [accuracy, params]
predictor: {{samples: 14, rounds: 2, max_rounds: 3}}
search: {{evaluations: {TOTAL}, batch: 2, population: 6, finalists: 6}}
execution: {{workers: 1}}
"""
SPACE_SIZE = 24
STARTED: list["subprocess.Popen[str]"] = []  # by the test that runs
PLACES: list["Place"] = []  # that it has made


@dataclass(frozen=True)
class Ran:
    """How a process ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines on stderr that begin with 'Error: '."""
        return [line for line in self.err.splitlines() if line.startswith("Error: ")]


@dataclass(frozen=True)
class Place:
    """A folder with a job file and a store."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "store.sqlite"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}"

    @property
    def artifacts(self) -> Path:
        return self.folder / "store.sqlite.artifacts" / "supernet-1"

    def copied_to(self, folder: Path) -> "Place":
        """The same state once more; only of a store that nobody has open."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        PLACES.append(Place(folder))
        return PLACES[-1]

    def start(self, *words: object, **options: Any) -> "subprocess.Popen[str]":
        """`nas` with these words, on this store."""
        store = [] if "--store" in words or words[0] == "measure" else ["--store", self.url]
        process = subprocess.Popen(
            [str(NAS), *map(str, words), *store],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            **options,
        )
        STARTED.append(process)
        return process

    def nas(self, *words: object, **options: Any) -> Ran:
        """`nas` with these words, until it ends; no process of it may be left then."""
        return ended(self.start(*words, **options))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the store as it is at this moment; none while it is being made."""
        if not self.file.exists():
            return []
        with closing(sqlite3.connect(f"{self.file.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            try:
                return connection.execute(sql).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
                return []

    def change(self, *statements: str) -> None:
        """Writes to the store past every rule."""
        with closing(sqlite3.connect(self.file)) as connection, connection:
            for sql in statements:
                connection.execute(sql)

    def opened(self) -> Store:
        """The store, for reading."""
        return Store.open(self.url, read_only=True)

    def state(self, job: int = 1) -> tuple[str, str | None]:
        """State and error of a job."""
        return self.query(f"SELECT state, error FROM jobs WHERE id = {job}")[0]  # type: ignore[return-value]


Here = Callable[..., Ran]  # a place and the words


def make_place(folder: Path, job: str = JOB) -> Place:
    """A folder with `job.yaml` and no store yet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.yaml").write_text(job)
    PLACES.append(Place(folder))
    return PLACES[-1]


def ended(process: "subprocess.Popen[str]") -> Ran:
    """Waits for the process; its children must be gone soon after it."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        kill_group(process)
        raise
    deadline = time.monotonic() + 15
    while (left := members(process)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left, f"processes outlive `{process.args}`: {left}"
    return Ran(process.returncode, out, err)


def kill_group(process: "subprocess.Popen[str]") -> Ran:
    """kill -9 of the process and all that it has started."""
    with suppress(ProcessLookupError):
        signal_group(process, signal.SIGKILL)
    out, err = process.communicate(timeout=30)
    return Ran(process.returncode, out, err)


def end_what_was_started() -> None:
    """Ends what a failed test has left running, lest its pipes are blamed on the next one."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            kill_group(process)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def broken_stores(*others: str) -> list[str]:
    """What the invariant checker finds in the stores that the test has made, which are then forgotten.

    others: URLs of further ones. A file that no row names is what a kill may leave.
    """
    urls = [*others, *(place.url for place in dict.fromkeys(PLACES) if place.file.exists())]
    PLACES.clear()
    broken = [(url, problem) for url in urls for problem in problems(url)]
    return [f"{url}: {problem}" for url, problem in broken if not problem.startswith("no row names")]


def signal_group(process: "subprocess.Popen[str]", number: int) -> None:
    """What a terminal does at Ctrl-C: every process of the group gets the signal."""
    os.killpg(process.pid, number)


def members(process: "subprocess.Popen[str]") -> list[int]:
    """The living processes of the process's group."""
    found = []
    for other in psutil.process_iter(["status"]):
        try:
            if os.getpgid(other.pid) == process.pid and other.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(other.pid)
        except ProcessLookupError:
            continue
    return found


def workers(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The evaluating processes."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if "--multiprocessing-fork" in child.cmdline()]


def wait_for(process: "subprocess.Popen[str]", reached: Callable[[], Any]) -> Any:
    """Polls until `reached` holds, and returns what it returned; fails when the process ends before."""
    deadline = time.monotonic() + SECONDS
    while not (found := reached()):
        if process.poll() is not None or time.monotonic() > deadline:
            kill_group(process)
            raise AssertionError(f"`{process.args}` did not come so far: exit code {process.returncode}")
        time.sleep(0.003)
    return found


def stage_begun(place: Place, name: str) -> Callable[[], Any]:
    """Whether the stage has begun."""
    return lambda: place.query(f"SELECT 1 FROM stages WHERE name = '{name}'")


def trained_to(place: Place, step: int) -> Callable[[], Any]:
    """Whether there is a checkpoint of the step or a later one."""
    return lambda: place.query(f"SELECT 1 FROM artifacts WHERE step >= {step}")


def searched(place: Place, batches: int) -> Callable[[], Any]:
    """Whether that many batches of the search are stored."""
    return lambda: place.query(f"SELECT 1 FROM evaluations WHERE split = 'search' AND batch >= {batches - 1}")

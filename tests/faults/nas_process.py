"""The installed `nas` as a process of its own, in its own process group, over the smallest of jobs."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from nas.analysis.invariants import problems
from nas.store import Store

if TYPE_CHECKING:
    from psycopg import Connection

    from benchmarks.postgresql_server import Server

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
ASKED: dict[str, "Connection[Any]"] = {}  # open, by the URL of a server's database
LOCK_SECONDS = 5.0
# The databases that a test's `place`, or `copy`, is tried on; unless a test says so it is a SQLite file.
SQLITE, SERVER = "SQLite", "server"
SLOWLY = pytest.param(SERVER, marks=pytest.mark.slow)


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


class LockedError(Exception):
    """Somebody else holds a lock on the store, or on a row of it."""


@dataclass(frozen=True)
class Database:
    """A database of a server, empty at first."""

    server: "Server"
    name: str

    @classmethod
    def new(cls, server: "Server", template: str = "template1") -> "Database":
        """Under a name that no other one has."""
        database = cls(server, f"place_{uuid.uuid4().hex}")
        server.create(database.name, template)
        return database

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    def drop(self) -> None:
        forget_connection(self.url)
        self.server.drop(self.name)

    def copied(self) -> "Database":
        forget_connection(self.url)
        self.server.cut_connections(self.url)
        return Database.new(self.server, self.name)


@dataclass(frozen=True)
class Place:
    """A folder with a job file, and a store: in a file in it, or in a database with its artifacts in it."""

    folder: Path
    database: Database | None = None

    @property
    def file(self) -> Path:
        assert self.database is None, "a server keeps its files to itself"
        return self.folder / "store.sqlite"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}" if self.database is None else self.database.url

    @property
    def environment(self) -> dict[str, str]:
        """Of whoever uses the store."""
        return {} if self.database is None else {"NAS_ARTIFACTS": str(self.folder / "artifacts")}

    @property
    def artifacts(self) -> Path:
        """The folder of the first supernet's files."""
        if self.database is None:
            return self.folder / "store.sqlite.artifacts" / "supernet-1"
        (root,) = (self.folder / "artifacts").glob("store-*")
        return root / "supernet-1"

    def is_made(self) -> bool:
        """Whether there is a store."""
        return self.file.exists() if self.database is None else bool(self.query("SELECT 1 FROM store"))

    def copied_to(self, folder: Path) -> "Place":
        """The same state once more; only of a store that nobody has open."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        PLACES.append(Place(folder, None if self.database is None else self.database.copied()))
        return PLACES[-1]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This process sees the store as `nas` does when it is started here."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            yield

    def start(self, *words: object, **options: Any) -> "subprocess.Popen[str]":
        """`nas` with these words, on this store."""
        store = [] if "--store" in words or words[0] == "measure" else ["--store", self.url]
        process = subprocess.Popen(
            [str(NAS), *map(str, words), *store],
            cwd=self.folder,
            env=options.pop("env", os.environ) | self.environment,
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
        """Rows of the store as it is at this moment; none while it is being made. JSON is text."""
        if self.database is not None:
            return asked(self.url, sql)
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
        """Writes to the store past every rule. Raises LockedError when somebody else does not let it."""
        if self.database is not None:
            change_server(self.url, *statements)
            return
        try:
            with closing(sqlite3.connect(self.file, timeout=LOCK_SECONDS)) as connection, connection:
                for sql in statements:
                    connection.execute(sql)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise LockedError(str(error)) from error

    def opened(self) -> Store:
        """The store, for reading rows."""
        return Store.open(self.url, read_only=True)

    def state(self, job: int = 1) -> tuple[str, str | None]:
        """State and error of a job."""
        return self.query(f"SELECT state, error FROM jobs WHERE id = {job}")[0]  # type: ignore[return-value]


Here = Callable[..., Ran]  # a place and the words


def make_place(folder: Path, job: str = JOB, *, server: "Server | None" = None) -> Place:
    """A folder with `job.yaml` and no store yet: a file that is to be, or an empty database of the server."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.yaml").write_text(job)
    PLACES.append(Place(folder, None if server is None else Database.new(server)))
    return PLACES[-1]


def asked(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a server's database; none while there is no such table."""
    import psycopg  # noqa: PLC0415 - of an extra
    from psycopg.types.string import TextLoader  # noqa: PLC0415

    if url not in ASKED:
        ASKED[url] = psycopg.connect(url, autocommit=True)
        ASKED[url].adapters.register_loader("json", TextLoader)
    try:
        return ASKED[url].execute(sql).fetchall()
    except psycopg.errors.UndefinedTable:
        return []


def change_server(url: str, *statements: str) -> None:
    """Writes to a server's database past every rule, in one transaction."""
    import psycopg  # noqa: PLC0415 - of an extra

    try:
        with psycopg.connect(url) as connection:
            connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
            for sql in statements:
                connection.execute(sql)
    except psycopg.errors.LockNotAvailable as error:
        raise LockedError(str(error)) from error


def forget_connection(url: str) -> None:
    """Closes what `asked` has opened."""
    if (connection := ASKED.pop(url, None)) is not None:
        connection.close()


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
    broken = [(url, problem) for url in others for problem in problems(url)]
    for place in dict.fromkeys(PLACES):
        with place.entered():
            broken += [(place.url, problem) for problem in (problems(place.url) if place.is_made() else ())]
    for place in PLACES:
        if place.database is not None:
            place.database.drop()
    PLACES.clear()
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
    return [child for child in children if "--multiprocessing-fork" in command_line(child)]


def command_line(process: psutil.Process) -> str:
    """Nothing of one that has ended since it was listed, as `git` and the like do."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


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

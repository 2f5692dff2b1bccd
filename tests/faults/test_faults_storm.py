"""Workers over stub jobs: zombies, many at once, storms of kills (`benchmarks/storm.py`)."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from nas_process import STARTED, broken_stores, wait_for

from benchmarks import stub_job
from nas.store import NewJob, Store, Submission
from nas.store import tables as t

BENCHMARKS = Path(stub_job.__file__).parent
NOTHING = re.compile(r"lost 0, twice 0, wrong 0$", re.MULTILINE)
Started = "subprocess.Popen[str]"


def submitted(url: str) -> None:
    values = {"config": {}, "seed": 3, "provenance": {}}
    with Store.open(url) as store:
        store.submit([NewJob("job", None, values, Submission())])


@pytest.fixture
def worker(any_url: str, tmp_path: Path) -> Iterator[Callable[[float], Started]]:
    """Starts a worker whose jobs pause for so long before every write; all are ended after the test."""

    def start(pause: float) -> Started:
        settings = {"STORM_LEASE": "30", "STORM_PAUSE": str(pause), "STORM_TOLD": str(tmp_path / "told")}
        command = [sys.executable, str(BENCHMARKS / "storm.py"), "--work", any_url]
        STARTED.append(
            subprocess.Popen(
                command,
                env=os.environ | settings,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        return STARTED[-1]

    yield start
    for process in STARTED:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def state(url: str) -> tuple[str, int]:
    with Store.open(url, read_only=True) as store:
        job = store.job("job")
        return job.state, job.attempt


def test_a_worker_that_wakes_up_after_its_lease_writes_nothing(
    any_url: str, worker: Callable[[float], Started], tmp_path: Path
) -> None:
    """A zombie: suspended with its job, and the lease runs out meanwhile."""
    submitted(any_url)
    first, told = worker(0.4), tmp_path / "told"
    wait_for(first, lambda: told.exists() and told.read_text().count("\n") >= 2)
    (job,) = psutil.Process(first.pid).children()
    for process in (job, psutil.Process(first.pid)):
        process.suspend()
    with Store.open(any_url) as store, store.write() as connection:
        connection.execute(sa.update(t.jobs).values(lease_until=1.0))
    second = worker(0.0)
    wait_for(second, lambda: state(any_url) == ("succeeded", 2))
    with Store.open(any_url, read_only=True) as store:
        before = store.job("job")
    for process in (job, psutil.Process(first.pid)):
        process.resume()
    psutil.wait_procs([job], timeout=120)
    assert not job.is_running()
    assert {line.split()[1] for line in told.read_text().splitlines()[2:]} == {"2"}  # attempts that wrote
    with Store.open(any_url, read_only=True) as store:
        assert store.job("job") == before
        assert stub_job.wrong(store, before.id) == []
    assert broken_stores(any_url) == []


def run(*words: object) -> str:
    """What a script of the benchmarks prints."""
    script, *others = map(str, words)
    command = [sys.executable, str(BENCHMARKS / script), *others]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    others = [line for line in done.stderr.splitlines() if not re.fullmatch(r"\d+ of \d+ kills", line)]
    assert (done.returncode, others) == (0, []), done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("words", [(80,), (40, "--postgresql")], ids=["SQLite", "server"])
def test_eight_workers_take_every_job_once_and_by_priority(words: tuple[object, ...]) -> None:
    printed = run("claims.py", "--jobs", *words)
    assert f"succeeded {words[0]}, lost 0, ended twice 0, begun again 0, lines of errors 0" in printed
    assert "workers that saw priorities rise: 0" in printed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("words", [(), ("--postgresql",)], ids=["SQLite", "server"])
def test_eight_workers_write_evaluations_at_once_and_each_is_stored_once(words: tuple[str, ...]) -> None:
    printed = run("claims.py", "--rate", 50, "--seconds", 4, *words)
    assert printed.startswith("evaluations 200 of 200, workers 8, ")
    assert "stored 200, jobs that hold each of theirs once 8, lines of errors 0" in printed


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "words", [("--kills", 100), ("--kills", 100, "--postgresql")], ids=["SQLite", "server"]
)
def test_a_storm_loses_nothing_and_does_nothing_twice(words: tuple[object, ...]) -> None:
    printed = run("storm.py", *words)
    assert NOTHING.search(printed), printed
    assert f": {words[1]} kills in " in printed

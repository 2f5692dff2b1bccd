"""A process that dies at any one write of a job: the next one goes on, and nothing is lost or done twice.

Every moment at which a result is half stored has a name (`nas.artifacts.CRASH_POINTS`), and each is tried as
often as a job passes it: before, in the middle of and after every transaction and every file.
"""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nas_process import broken_stores

from benchmarks import stub_job
from nas.artifacts import CRASH_POINTS
from nas.store import NewJob, Store, Submission, check, orphans_of_both_kinds, remove_orphans_of_both_kinds

# Imports once and forks for each attempt: a line of JSON (URL, crash point, folder) in, the exit status out.
ATTEMPTS = """
import json, os, sys
import sqlalchemy as sa
from benchmarks import stub_job
from nas.store import Store
from nas.store import tables as t

def attempt(url, point):
    if point:
        os.environ["NAS_CRASH_AT"] = point
    with Store.open(url) as store:
        with store.write() as connection:  # instead of waiting until the lease of the dead has run out
            connection.execute(sa.update(t.jobs).where(t.jobs.c.owner.is_not(None)).values(lease_until=1.0))
        claim = store.take_job()
        if claim is not None:
            with claim, store.join_claim(claim.job, claim.owner) as lease:
                stub_job.run(store, lease)

for line in sys.stdin:
    url, point, os.environ["NAS_ARTIFACTS"] = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            attempt(url, point)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""
KILLED = 9
pytestmark = pytest.mark.timeout(1800)  # some 30 kills in one test
SENT = "file sent"  # passed where files are sent to what a URL names
# A job has some 30 transactions.
POINTS = [
    pytest.param(point, marks=[pytest.mark.slow] if point.startswith("rows") else [])
    for point in CRASH_POINTS
    if point != SENT
]


@pytest.fixture
def attempt() -> Iterator[Callable[[str, str | None], int]]:
    """How a process ends that runs the job of a store, and is to die at a crash point."""
    command = [sys.executable, "-c", ATTEMPTS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(url: str, point: str | None) -> int:
            process.stdin.write(json.dumps([url, point, os.environ.get("NAS_ARTIFACTS", "")]) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield ask
        process.stdin.close()


def submitted(url: str) -> None:
    values = {"config": {}, "seed": 7, "provenance": {}}
    with Store.open(url) as store:
        store.submit([NewJob("job", None, values, Submission())])


def crashed_everywhere(attempt: Callable[[str, str | None], int], new: Callable[[], str], point: str) -> int:
    """Lets the job die at the point the first time, the second time, ... that it is passed; how often it is.

    new: the URL of one more store with the job in it.
    """
    for number in range(1, 1000):
        url = new()
        ended = attempt(url, f"{point}:{number}")
        if ended == 0:
            return number - 1
        assert ended == KILLED, f"{point}:{number}"
        assert attempt(url, None) == 0, f"{point}:{number}"
        assert_whole(url, f"{point}:{number}")
    raise AssertionError("the job never ends")


def assert_whole(url: str, where: str) -> None:
    """The job has succeeded with what its seed says; of the crash only files that no row names are left."""
    with Store.open(url) as store:
        (job,) = store.jobs()
        assert job.state == "succeeded", where
        assert job.attempt in (1, 2), where
        assert stub_job.wrong(store, job.id) == [], where
        remove_orphans_of_both_kinds(store, orphans_of_both_kinds(store))
    assert check(url) == [], where
    assert broken_stores(url) == [], where


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_every_write_on_sqlite(attempt, tmp_path: Path, point: str) -> None:
    template = tmp_path / "template.db"
    submitted(f"sqlite:///{template}")

    def new() -> str:
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        return f"sqlite:///{shutil.copyfile(template, folder / 'nas.db')}"

    assert crashed_everywhere(attempt, new, point) >= 2
    assert not list(tmp_path.rglob(".partial-*")), "of a file that was begun nothing stays"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "artifacts"),
    [
        *((point, "") for point in CRASH_POINTS if point.startswith("rows")),
        *((point, "file://") for point in (SENT, "file deleted")),
    ],
)
def test_a_crash_at_every_write_on_postgresql(
    attempt, postgresql, tmp_path: Path, monkeypatch, point: str, artifacts: str
) -> None:
    """artifacts: what their folder is called with."""
    names = [f"crashes_{uuid.uuid4().hex}"]
    submitted(postgresql.create(names[0]))

    def new() -> str:
        names.append(f"crashes_{uuid.uuid4().hex}")
        monkeypatch.setenv(
            "NAS_ARTIFACTS", f"{artifacts}{tmp_path / names[-1]}"
        )  # each is a copy of the first
        return postgresql.create(names[-1], names[0])

    try:
        assert crashed_everywhere(attempt, new, point) >= (10 if point.startswith("rows") else 2)
    finally:
        for name in names:
            postgresql.drop(name)

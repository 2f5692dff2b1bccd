"""Ray's head is lost in the middle of a job: the job ends with a sentence, and goes on under another head."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from nas_process import NAS, Place, ended, searched, wait_for
from outcomes import assert_kept, assert_once, outcome, rows

RAY = NAS.with_name("ray")
SECONDS = 300.0  # until a head answers, on a busy machine


@contextmanager
def head(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A Ray cluster of one node at a port of this machine, in a process group of its own."""
    folder = Path(tempfile.mkdtemp(prefix="r-"))  # a path of pytest's is too long for a socket
    process = subprocess.Popen(
        [
            *(RAY, "start", "--head", "--block", f"--port={port}", f"--temp-dir={folder}"),
            *("--num-cpus=1", "--include-dashboard=false", f"--object-store-memory={80 * 2**20}"),
        ],
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until_it_answers(process, port)
        yield process
    finally:
        kill(process)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_it_answers(process: "subprocess.Popen[bytes]", port: int) -> None:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.1)
    raise AssertionError(f"no head answers; `ray start` has ended with {process.poll()}")


def kill(process: "subprocess.Popen[bytes]") -> None:
    """kill -9 of everything that belongs to the head: the processes that evaluate, too."""
    with suppress(psutil.NoSuchProcess):
        for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait(30)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_loss_of_the_head_ends_the_executor_and_not_the_job(finished: Place, place: Place) -> None:
    port = free_port()
    words = ("--set", "execution.engine=ray", "--set", f"execution.address=127.0.0.1:{port}")
    with head(port) as first:
        process = place.start("run", "job.yaml", *words)
        wait_for(process, searched(place, 2))
        before = rows(place)
        kill(first)
        ran = ended(process)
    assert (ran.code, len(ran.errors), "Traceback" in ran.err) == (1, 1, False)
    assert ran.errors[0].startswith("Error: The head of the Ray cluster at ")
    assert "`nas resume` goes on" in ran.err
    assert place.state()[0] == "failed"
    assert_kept(before, place)
    without = place.nas("resume", "job")
    assert (without.code, "No Ray cluster answers at 127.0.0.1" in without.err) == (1, True)
    with head(port):
        assert place.nas("resume", "job").code == 0
    assert_once(place)
    assert outcome(place) == outcome(finished)

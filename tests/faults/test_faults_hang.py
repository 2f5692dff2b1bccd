"""What hangs: a stop ends the job within ten seconds all the same, and it goes on as if nothing had been."""

import os
import shutil
import signal
import time
from pathlib import Path
from subprocess import Popen

import psutil
import pytest
from nas_process import Place, ended, make_place, searched, stage_begun, trained_to, wait_for, workers
from outcomes import assert_kept, assert_once, outcome, rows
from test_faults_stop import STOPPED

TESTS = Path(__file__).parent.parent
SECONDS = 10.0
DEVICE = """\
import hashlib, time
from dataclasses import dataclass
from hung.made_device import MadeDevice

BACKEND, PRECISIONS = "hung.device", ("fp32",)
CALIBRATOR_SECONDS = MadeDevice("it", 1, 8, "fp32", 1.0).calibrator_seconds()

def build(*, name, how, threads=1, batch=64, precision="fp32"):
    return Hanging(name, threads, batch, precision, 1.0, how=how)

@dataclass
class Hanging(MadeDevice):
    how: str = "sleep"

    def fingerprint(self):
        return super().fingerprint() | {"backend": BACKEND, "how": self.how}

    def time(self, run):
        found = super().time(run)
        if found.wall_s != CALIBRATOR_SECONDS:
            print("hangs", flush=True)
            while self.how == "sleep":
                time.sleep(1000)
            while self.how == "deaf":
                try:
                    time.sleep(1000)
                except BaseException:
                    pass
            hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2**31 - 1)  # a library that does not come back
        return found
"""
DATA = """\
import time
from nas.datasets import digits

class Hanging:
    def __init__(self, data):
        self._data = data

    def __getattr__(self, name):
        return getattr(self._data, name)

    def train_batch(self, seed, step, size):
        while step == 30:
            time.sleep(1000)
        return self._data.train_batch(seed, step, size)

def build(**options):
    return Hanging(digits.build(**options))
"""


def start(place: Place, *words: object) -> "Popen[str]":
    """`nas` that can import what lies in the place."""
    paths = [str(place.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return place.start(*words, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})


def stops_in_time(place: Place, process: "Popen[str]") -> None:
    """Sends SIGTERM to the job's process alone; it must end, with all that it started."""
    began, before = time.monotonic(), rows(place)
    process.send_signal(signal.SIGTERM)
    assert_stopped(place, process, began)
    assert_kept(before, place)


def assert_stopped(place: Place, process: "Popen[str]", began: float) -> None:
    ran = ended(process)
    assert time.monotonic() - began < SECONDS
    assert (ran.code, ran.errors, ran.err.splitlines()[-1]) == (130, [], STOPPED)
    assert "Traceback" not in ran.err
    assert place.state() == ("stopped", None)


def suspend_workers(process: "Popen[str]") -> None:
    for worker in wait_for(process, lambda: workers(process)):
        worker.send_signal(signal.SIGSTOP)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_stops_whatever_its_workers_do_and_goes_on_as_if_nothing_had_been(
    finished: Place, place: Place
) -> None:
    process = place.start("run", "job.yaml")
    wait_for(process, searched(place, 2))
    suspend_workers(process)
    began = time.monotonic()
    told = place.nas("stop", "job")
    assert (told.code, "within 10 seconds" in told.err) == (0, True)
    began = max(began, time.monotonic() - 1.0)  # `nas stop` itself is not the job
    assert_stopped(place, process, began)
    again = place.start("resume", "job")
    suspend_workers(again)  # also those that are just importing torch
    stops_in_time(place, again)
    assert place.nas("resume", "job").code == 0
    assert_once(place)
    assert outcome(place) == outcome(finished)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sleep", "deaf", "native"])
def test_a_job_stops_while_a_backend_hangs(tmp_path: Path, how: str) -> None:
    place = make_place(tmp_path / "place")
    (place.folder / "hung").mkdir()
    (place.folder / "hung" / "__init__.py").touch()
    (place.folder / "hung" / "device.py").write_text(DEVICE)
    shutil.copy(TESTS / "made_device.py", place.folder / "hung")
    text = (place.folder / "job.yaml").read_text()
    told = f"{{cpu: {{backend: hung.device, batch: 8, how: {how}}}}}"
    (place.folder / "job.yaml").write_text(text.replace("{cpu: {batch: 8}}", told))
    process = start(place, "run", "job.yaml")
    wait_for(process, stage_begun(place, "latency"))
    assert process.stdout is not None
    assert process.stdout.readline() == "hangs\n"
    stops_in_time(place, process)


@pytest.mark.slow
def test_a_job_stops_while_its_data_hang_and_keeps_the_steps_before(tmp_path: Path) -> None:
    place = make_place(tmp_path / "place")
    (place.folder / "hung").mkdir()
    (place.folder / "hung" / "__init__.py").touch()
    (place.folder / "hung" / "data.py").write_text(DATA)
    text = (place.folder / "job.yaml").read_text()
    (place.folder / "job.yaml").write_text(text.replace("data: digits", "data: hung.data"))
    process = start(place, "run", "job.yaml")
    wait_for(process, trained_to(place, 20))
    time.sleep(1.0)
    stops_in_time(place, process)
    assert place.query("SELECT max(step) FROM artifacts") == [(30,)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_stops_whatever_its_actors_do(finished: Place, place: Place) -> None:
    process = place.start(
        "run", "job.yaml", "--set", "execution.engine=ray", "--set", "execution.address=local"
    )
    wait_for(process, searched(place, 2))
    actors = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "ray::EvaluationWorker" in " ".join(child.cmdline())
    ]
    assert actors
    for actor in actors:
        actor.send_signal(signal.SIGSTOP)
    stops_in_time(place, process)
    assert place.nas("resume", "job").code == 0
    assert_once(place)
    assert outcome(place) == outcome(finished)

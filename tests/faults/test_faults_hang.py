"""What hangs: a stop ends the job within ten seconds all the same, and it goes on as if nothing had been.

What hangs knows nothing of the store, which is in a file in some of these tests, and on a server in others.
"""

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING

import psutil
import pytest
from nas_process import (
    SERVER,
    SQLITE,
    Place,
    Ran,
    command_line,
    ended,
    make_place,
    searched,
    stage_begun,
    trained_to,
    wait_for,
    workers,
)
from outcomes import assert_kept, assert_once, outcome, rows
from test_faults_stop import STOPPED

if TYPE_CHECKING:
    from benchmarks.postgresql_server import Server

TESTS = Path(__file__).parent.parent
SECONDS = 60.0  # until a stop has ended what hangs, on a busy machine
DEVICE = """\
import hashlib, time
from dataclasses import dataclass
from hung.made_device import MadeDevice

BACKEND, PRECISIONS = "hung.device", ("fp32",)
CALIBRATOR_SECONDS = MadeDevice("it", 1, 8, "fp32", 1.0).calibrator_seconds()

def build(*, name, how="native", threads=1, batch=64, precision="fp32"):
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
ONE = """\
import hashlib
from dataclasses import dataclass
from hung.made_device import MadeDevice
from nas import watchdog
from predictors.measurement import rounds
from predictors.measurement.deadlines import Deadlines

BACKEND, PRECISIONS = "hung.device", ("fp32",)
watchdog.RETURN_SECONDS = 1.0
rounds.Deadlines = lambda: Deadlines(shortest=4.0, first=4.0)

def build(*, name, params, threads=1, batch=64, precision="fp32"):
    return Hanging(name, threads, batch, precision, 1.0, params=params)

@dataclass
class Hanging(MadeDevice):
    params: int = 0

    def fingerprint(self):
        return super().fingerprint() | {"backend": BACKEND}

    def prepare(self, module, example):
        if sum(p.numel() for p in module.parameters()) == self.params:
            hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2**31 - 1)
        return super().prepare(module, example)
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
    found = {"PYTHONPATH": os.pathsep.join(paths), "NAS_COMPONENTS": "hung.device"}
    return place.start(*words, env=os.environ | found)


def hanging_place(folder: Path, code: str, options: str, server: "Server | None" = None) -> Place:
    """A job whose device is `hung.device`."""
    place = make_place(folder, server=server)
    (place.folder / "hung").mkdir()
    (place.folder / "hung" / "__init__.py").touch()
    (place.folder / "hung" / "device.py").write_text(code)
    shutil.copy(TESTS / "made_device.py", place.folder / "hung")
    text = (place.folder / "job.yaml").read_text()
    told = f"{{cpu: {{backend: hung.device, batch: 8, {options}}}}}"
    (place.folder / "job.yaml").write_text(text.replace("{cpu: {batch: 8}}", told))
    return place


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
@pytest.mark.parametrize("place", [SERVER], indirect=True)
def test_a_job_stops_whatever_its_workers_do_and_goes_on_as_if_nothing_had_been(
    finished: Place, place: Place
) -> None:
    process = place.start("run", "job.yaml")
    wait_for(process, searched(place, 1))  # nine batches before its end: on a busy machine it is seen late
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
@pytest.mark.parametrize(
    ("how", "server"), [("sleep", SQLITE), ("deaf", SERVER), ("native", SQLITE)], indirect=["server"]
)
def test_a_job_stops_while_a_backend_hangs(tmp_path: Path, how: str, server: "Server | None") -> None:
    place = hanging_place(tmp_path / "place", DEVICE, f"how: {how}", server)
    process = start(place, "run", "job.yaml")
    wait_for(process, stage_begun(place, "latency"))
    assert process.stdout is not None
    assert process.stdout.readline() == "hangs\n"
    stops_in_time(place, process)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("server", [SERVER], indirect=True)
def test_a_subnet_over_which_a_backend_hangs_for_good_fails_after_three_processes(
    finished: Place, tmp_path: Path, server: "Server"
) -> None:
    ((params, key),) = finished.query("SELECT params, key FROM subnets ORDER BY params DESC LIMIT 1")
    place = hanging_place(tmp_path / "place", ONE, f"params: {params}", server)
    for words in (("run", "job.yaml"), ("resume", "job"), ("resume", "job")):
        ran = ended(start(place, *words))
        assert (ran.code, len(ran.errors), "Traceback" in ran.err) == (1, 1, False)
        assert f"Subnet {key} on device 'cpu' did not come back" in ran.errors[0]
    assert place.query("SELECT count(*) FROM events WHERE kind = 'hung'") == [(3,)]
    ran = ended(start(place, "resume", "job"))
    assert (ran.code, ran.errors) == (0, [])
    assert f"Subnet {key} is not measured on 'cpu': 3 processes" in ran.err
    failed = "SELECT DISTINCT s.key, m.reason FROM measurements m JOIN subnets s ON s.id = m.subnet_id"
    told = place.query(f"{failed} WHERE m.state = 'failed'")
    assert [(one, reason.startswith("3 processes")) for one, reason in told] == [(key, True)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("verb", "server"), [("check", SQLITE), ("add", SERVER), ("measure", SQLITE)], indirect=["server"]
)
def test_what_measures_without_a_job_ends_when_it_is_told(
    subnet: Path, tmp_path: Path, verb: str, number: signal.Signals, server: "Server | None"
) -> None:
    place = hanging_place(tmp_path / "place", DEVICE, "how: native", server)
    words: dict[str, tuple[object, ...]] = {
        "check": ("devices", "check", "hung.device"),
        "add": ("devices", "add", "it", "--backend", "hung.device"),
        "measure": ("measure", subnet, "--device", "hung.device"),
    }
    process = start(place, *words[verb])
    assert process.stdout is not None
    assert process.stdout.readline() == "hangs\n"
    began = time.monotonic()
    process.send_signal(number)
    ran = ended(process)
    assert time.monotonic() - began < SECONDS
    assert (ran.code, ran.errors, "Traceback" in ran.err) == (130, [], False)
    assert ran.err.splitlines()[-1].startswith("Interrupted")
    assert place.query("SELECT count(*) FROM devices WHERE reference_ms IS NOT NULL") in ([], [(0,)])


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
        if "ray::EvaluationWorker" in command_line(child)
    ]
    assert actors
    for actor in actors:
        actor.send_signal(signal.SIGSTOP)
    stops_in_time(place, process)
    assert place.nas("resume", "job").code == 0
    assert_once(place)
    assert outcome(place) == outcome(finished)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_retraining_under_ray_stops_in_time_and_leaves_nothing(copy: Place) -> None:
    words = ("finetune", "job", "--front", "--engine", "ray", "--workers", "1", "--steps", "200000")
    with tempfile.TemporaryDirectory(prefix="t-") as folder:  # short: Ray makes sockets in it
        process = copy.start(*words, env=os.environ | {"TMPDIR": folder})
        ran = stopped_in_time(process)
        assert (ran.code, ran.errors, "Traceback" in ran.err) == (130, [], False)
        assert list(Path(folder).glob("nas-*")) == []
    assert copy.state() == ("succeeded", None)


def stopped_in_time(process: "Popen[str]") -> Ran:
    """Sends SIGTERM when Ray has been there for a while."""

    def trains() -> bool:
        children = psutil.Process(process.pid).children(recursive=True)
        return any("raylet" in command_line(child) for child in children)

    wait_for(process, trains)
    time.sleep(5.0)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    ran = ended(process)
    assert time.monotonic() - began < SECONDS
    return ran

"""Ctrl-C, SIGTERM and `nas stop`: the state is saved, nothing is left behind, `nas resume` goes on.

On a server in one of the stages; terminals and second signals are the process's alone, and tried on SQLite.
"""

import signal
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from nas_process import (
    SERVER,
    SLOWLY,
    SQLITE,
    TOTAL,
    Place,
    ended,
    kill_group,
    searched,
    signal_group,
    stage_begun,
    trained_to,
    wait_for,
)
from outcomes import assert_kept, assert_once, outcome, rows

STOPPED = "Job 'job' has stopped; its state is saved. Go on with: nas resume job"


def interrupted(place: Place, process: "Popen[str]", number: signal.Signals) -> None:
    """Signals the whole group; the state is saved and the message names the way on."""
    before = rows(place)
    signal_group(process, number)
    ran = ended(process)
    assert (ran.code, ran.out, ran.errors, ran.err.splitlines()[-1]) == (130, "", [], STOPPED)
    assert "Traceback" not in ran.err
    assert place.state() == ("stopped", None)
    assert_kept(before, place)


def test_ctrl_c_in_training(place: Place) -> None:
    process = place.start("run", "job.yaml")
    wait_for(process, trained_to(place, 20))
    interrupted(place, process, signal.SIGINT)


def test_a_terminal_that_is_closed_stops_a_job_unless_nohup_has_started_it(place: Place) -> None:
    closing, nohup = (
        {"preexec_fn": partial(signal.signal, signal.SIGHUP, action)}
        for action in (signal.SIG_DFL, signal.SIG_IGN)
    )
    process = place.start("run", "job.yaml", "--set", "train.steps=1000000", **closing)
    wait_for(process, trained_to(place, 20))
    interrupted(place, process, signal.SIGHUP)
    process = place.start("resume", "job", **nohup)
    wait_for(process, lambda: place.query("SELECT 1 FROM jobs WHERE state = 'running' AND attempt = 2"))
    signal_group(process, signal.SIGHUP)
    ((last,),) = place.query("SELECT max(step) FROM artifacts")
    wait_for(process, trained_to(place, last + 20))
    interrupted(place, process, signal.SIGTERM)


@pytest.mark.parametrize("place", [SQLITE, SLOWLY], indirect=True)
def test_a_running_job_has_one_process_and_stops_when_it_is_told(place: Place) -> None:
    process = place.start("run", "job.yaml", "--set", "train.steps=1000000")
    wait_for(process, trained_to(place, 20))
    refused = place.nas("resume", "job")
    assert (refused.code, refused.out) == (4, "")
    assert f"pid {process.pid}" in refused.errors[0]
    assert "nas stop" in refused.err
    told = place.nas("stop", "job")
    assert (told.code, told.err) == (0, "Job 'job' stops after its current batch, or within 10 seconds.\n")
    ran = ended(process)
    assert (ran.code, ran.errors, ran.err.splitlines()[-1]) == (130, [], STOPPED)
    assert place.state() == ("stopped", None)
    told = place.nas("stop", "job")
    assert (told.code, "stopped" in told.err) == (4, True)


@pytest.mark.parametrize("copy", [SQLITE, SLOWLY], indirect=True)
def test_a_finished_job_is_left_alone(copy: Place) -> None:
    before = _content(copy)
    ran = copy.nas("resume", "job", "--json")
    assert ran.code == 0
    assert ran.err == "Job 'job' has finished already: nothing is left to do.\n"
    assert '"front"' in ran.out
    assert _content(copy) == before


def _content(place: Place) -> tuple[dict[Path, bytes], dict[str, set[tuple[Any, ...]]]]:
    """All files but those that SQLite keeps beside an open store, and all rows."""
    files = (path for path in place.folder.rglob("*") if path.is_file())
    content = {path: path.read_bytes() for path in files if not path.name.endswith(("-shm", "-wal"))}
    return content, rows(place)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", [SQLITE, SERVER], indirect=True)
def test_signals_in_every_stage(finished: Place, place: Place) -> None:
    words = ("run", "job.yaml")
    moments = (
        (stage_begun(place, "latency"), signal.SIGTERM),
        (trained_to(place, 20), signal.SIGTERM),
        (stage_begun(place, "search"), signal.SIGINT),  # its worker is just importing torch
        (searched(place, 3), signal.SIGINT),
        (searched(place, 6), signal.SIGTERM),
    )
    for reached, number in moments if place.database is None else moments[3:4]:
        process = place.start(*words)
        wait_for(process, reached)
        interrupted(place, process, number)
        words = ("resume", "job")
    assert place.nas(*words).code == 0
    assert_once(place)
    assert outcome(place) == outcome(finished)


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait(place: Place) -> None:
    many = ("--set", f"search.batch={TOTAL}", "--set", "data.name=digit_pairs")
    process = place.start("run", "job.yaml", *many)
    wait_for(process, stage_begun(place, "search"))
    signal_group(process, signal.SIGINT)
    signal_group(process, signal.SIGINT)
    try:
        ran = ended(process)
    except AssertionError:
        kill_group(process)
        raise
    assert (ran.code, ran.err.splitlines()[-1]) == (130, STOPPED)
    assert "Traceback" not in ran.err
    assert place.state() == ("stopped", None)

"""Ctrl-C, SIGTERM and `nas stop`: the state is saved, nothing is left behind, `nas resume` goes on."""

import signal

import pytest
from nas_process import TOTAL, Place, ended, kill_group, searched, signal_group, stage_begun, trained_to, wait_for
from outcomes import assert_kept, assert_once, outcome, rows

STOPPED = "Job 'job' has stopped; its state is saved. Go on with: nas resume job"


def test_ctrl_c_in_training_then_nas_stop_in_search(place: Place) -> None:
    process = place.start("run", "job.yaml")
    wait_for(process, trained_to(place, 20))
    signal_group(process, signal.SIGINT)
    ran = ended(process)
    assert (ran.code, ran.out, ran.err.splitlines()[-1]) == (130, "", STOPPED)
    assert "Traceback" not in ran.err
    assert place.state() == ("stopped", None)
    before = rows(place)

    process = place.start("resume", "job")
    wait_for(process, lambda: place.state()[0] == "running")
    second = place.start("resume", "job")  # loads torch while the first one trains and loads its worker
    wait_for(process, searched(place, 1))
    told = place.nas("stop", "job")
    assert (told.code, told.err) == (0, "Job 'job' stops after its current batch.\n")
    refused, ran = ended(second), ended(process)
    assert refused.code == 4
    assert f"pid {process.pid}" in refused.errors[0]
    assert "nas stop" in refused.err
    assert (ran.code, ran.err.splitlines()[-1]) == (130, STOPPED)
    assert place.state() == ("stopped", None)
    assert_kept(before, place)
    told = place.nas("stop", "job")
    assert (told.code, "stopped" in told.err) == (4, True)


def test_a_finished_job_is_left_alone(copy: Place) -> None:
    before = copy.file.read_bytes(), sorted(copy.folder.rglob("*"))
    ran = copy.nas("resume", "job", "--json")
    assert ran.code == 0
    assert ran.err == "Job 'job' has finished already: nothing is left to do.\n"
    assert '"front"' in ran.out
    assert (copy.file.read_bytes(), sorted(copy.folder.rglob("*"))) == before


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_in_every_stage(finished: Place, place: Place, number: signal.Signals) -> None:
    words = ("run", "job.yaml")
    moments = (stage_begun(place, "latency"), trained_to(place, 20), stage_begun(place, "search"), searched(place, 3))
    for reached in moments:
        before = rows(place)
        process = place.start(*words)
        wait_for(process, reached)
        signal_group(process, number)
        ran = ended(process)
        assert (ran.code, ran.errors, ran.err.splitlines()[-1]) == (130, [], STOPPED)
        assert "Traceback" not in ran.err
        assert place.state() == ("stopped", None)
        assert_kept(before, place)
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

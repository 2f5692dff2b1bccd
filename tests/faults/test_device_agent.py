"""kill -9 and SIGTERM of an agent in the middle of a measurement: the next one goes on, nothing is lost.

Agents are there for several machines, and so is a server: it has the stores of two of the three tests.
"""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nas_process import JOB, SERVER, SQLITE, Place, ended, kill_group, make_place, wait_for
from outcomes import assert_kept, assert_once, rows

if TYPE_CHECKING:
    from benchmarks.postgresql_server import Server

AGENT = ("device-agent", "pi", "--batch", "8")
REMOTE = JOB.replace("devices: {cpu: {batch: 8}}", "devices: {pi: {backend: remote}}").replace(
    "rounds: 2, max_rounds: 3", "rounds: 12, max_rounds: 12"
)


@pytest.fixture
def place(tmp_path: Path, server: "Server | None") -> Place:
    """A job that is measured by an agent."""
    assert REMOTE != JOB
    return make_place(tmp_path / "place", REMOTE, server=server)


def begun(place: Place) -> Callable[[], object]:
    """Whether an agent measures a request."""
    return lambda: place.query("SELECT 1 FROM requests WHERE state = 'running'")


def live_agent(place: Place) -> "subprocess.Popen[str]":
    agent = place.start(*AGENT)
    wait_for(agent, lambda: place.query("SELECT 1 FROM agents WHERE owner IS NOT NULL"))
    return agent


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("server", [SERVER], indirect=True)
def test_agents_that_are_killed_and_that_are_told_to_leave(place: Place) -> None:
    agent = live_agent(place)
    job = place.start("run", "job.yaml")
    wait_for(job, begun(place))
    before = rows(place)
    assert kill_group(agent).code == -signal.SIGKILL
    assert place.query("SELECT state, attempt FROM requests") == [("running", 1)]

    second = place.start(*AGENT)
    wait_for(second, lambda: place.query("SELECT 1 FROM requests WHERE attempt = 2"))
    second.send_signal(signal.SIGTERM)
    left = ended(second)
    assert (left.code, left.errors) == (0, [])
    assert place.query("SELECT state, attempt, owner FROM requests") == [("queued", 1, None)]
    assert_kept(before, place)

    third = live_agent(place)
    ran = ended(job)
    assert (ran.code, ran.errors, "Traceback" in ran.err) == (0, [], False)
    assert ran.err.count("Waiting for device 'pi'") >= 1
    third.send_signal(signal.SIGINT)
    assert ended(third).code == 0
    assert place.state() == ("succeeded", None)
    assert_kept(before, place)
    assert_once(place)
    assert place.query("SELECT DISTINCT state FROM requests") == [("done",)]
    assert place.query("SELECT attempt FROM requests WHERE id = 1") == [(2,)]
    sampled = place.query("SELECT DISTINCT subnet_id FROM measurements WHERE purpose = 'sample'")
    assert len(sampled) >= 10
    assert place.nas("db", "check").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("server", [SQLITE, SERVER], indirect=True)
def test_a_job_that_is_stopped_while_it_waits_takes_its_request_along(place: Place) -> None:
    agent = live_agent(place)
    job = place.start("run", "job.yaml")
    wait_for(job, begun(place))
    job.send_signal(signal.SIGTERM)
    ran = ended(job)
    assert (ran.code, "nas resume" in ran.err) == (130, True)
    assert place.state() == ("stopped", None)
    assert place.query("SELECT state, result FROM requests") == [("cancelled", None)]
    agent.send_signal(signal.SIGTERM)
    left = ended(agent)
    assert (left.code, left.errors) == (0, [])
    assert place.query("SELECT count(*) FROM measurements") == [(0,)]


@pytest.mark.slow
def test_a_job_whose_agent_does_not_run_is_refused(place: Place) -> None:
    agent = live_agent(place)
    kill_group(agent)
    ran = place.nas("run", "job.yaml")
    assert (ran.code, len(ran.errors)) == (2, 1)
    assert "agent 'pi' does not run" in ran.errors[0]
    assert place.query("SELECT count(*) FROM jobs") == [(0,)]

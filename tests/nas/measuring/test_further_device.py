"""A finished job measured on a second device: its own front stays, and there is one for the other device."""

import json
from typing import Any

import pytest
import sqlalchemy as sa
from tiny_job import CONFIG

from nas import pipeline
from nas.errors import ConflictError
from nas.measuring import devices, further_device
from nas.measuring.latency_fit import MEMORY
from nas.progress import Silent
from nas.results import frames
from nas.results.front import front
from nas.store import Store
from nas.store import tables as t
from search_spaces.errors import NotFoundError, UsageError
from tests import made_device

OPTIONS = {"backend": made_device.BACKEND, "threads": 1, "batch": 8, "precision": "fp32", "speed": 0.5}


@pytest.fixture
def copy(tiny_copy: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(devices, "CALIBRATION_SECONDS", 0.0)
    store = Store.open(tiny_copy)
    devices.add(store, "lab", OPTIONS)
    return store


def test_a_front_on_another_device(copy: Store) -> None:
    job = copy.job("tiny")
    before = front(copy, job)
    predictor = copy.predictor(job)
    found = further_device.measure_on(copy, "lab", job, progress=Silent())
    assert json.loads(json.dumps(found)) == found
    assert (found["job"], found["device"], found["finalists"]) == ("tiny", "lab", len(before.members))
    assert front(copy, job) == before
    assert copy.predictor(job) == predictor
    there = front(copy, job, device="lab")
    assert {m.subnet for m in there.members} == {m.subnet for m in before.members}
    measured = [m.measured_ms for m in there.members]
    assert measured == sorted(m for m in measured if m is not None)
    for member in there.members:
        low, high = member.interval_ms or (0.0, 0.0)
        assert low <= (member.predicted_ms or 0.0) <= high
        assert member.measured_ms == pytest.approx(member.predicted_ms, rel=0.2)
    after = copy.job("tiny")
    assert (after.state, after.finished_at, after.owner) == ("succeeded", job.finished_at, None)
    assert frames.jobs(copy)["stage"][0] == "finalists"
    row = copy.device("lab")
    count = frames.devices(copy).set_index("device")["measurements"]["lab"]
    assert count == len([m for m in copy.measurements(job) if m.device_id == row.id]) > 0
    assert further_device.measure_on(copy, "lab", after, progress=Silent()) == found


def test_a_run_that_was_killed_meanwhile_is_still_a_run_on_its_own_device(
    copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = copy.job("tiny")
    monkeypatch.setattr(further_device, "stored_latency", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        further_device.measure_on(copy, "lab", job, progress=Silent())
    with copy.write() as connection:  # what a kill leaves behind
        connection.exec_driver_sql("UPDATE jobs SET state = 'running', finished_at = NULL")
    pipeline.run(copy, copy.job("tiny"), progress=Silent())
    assert copy.job("tiny").state == "succeeded"
    assert front(copy, job).device == next(iter(CONFIG["devices"]))
    monkeypatch.undo()
    assert further_device.measure_on(copy, "lab", copy.job("tiny"), progress=Silent())["device"] == "lab"


def test_a_job_with_a_limit_on_memory_is_measured_on_a_device_that_tells_none(
    copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = copy.job("tiny").config
    limited["constraints"] = [*limited["constraints"], f"{MEMORY}<=1000000000"]
    with copy.write() as connection:
        connection.execute(sa.update(t.jobs).values(config=limited))
    monkeypatch.setattr(made_device.MadeDevice, "peak_memory", lambda *_: None)
    found = further_device.measure_on(copy, "lab", copy.job("tiny"), progress=Silent())
    assert found["finalists"] > 0
    assert all(m.measured_ms for m in front(copy, copy.job("tiny"), device="lab").members)


def test_an_agent_that_does_not_run_is_refused_unless_all_is_measured(
    copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, device = copy.job("tiny"), made_device.build(name="pi", batch=8)
    with copy.acquire_agent("pi", device.fingerprint(), OPTIONS):
        pass

    def waits(*_: Any, **__: Any) -> None:
        raise AssertionError("it waits for the agent")

    monkeypatch.setattr(further_device, "measure_and_fit", waits)
    with pytest.raises(UsageError, match="pi: agent 'pi' does not run") as caught:
        further_device.measure_on(copy, "pi", job, progress=Silent())
    assert "nas device-agent pi" in caught.value.hint
    assert copy.job("tiny").state == "succeeded"
    monkeypatch.setattr(further_device, "_measure", lambda *_: {"device": "pi"})
    with copy.acquire_agent("pi", device.fingerprint(), OPTIONS):
        found = further_device.measure_on(copy, "pi", job, progress=Silent())
    assert further_device.measure_on(copy, "pi", copy.job("tiny"), progress=Silent()) == found


def test_too_small_a_sample_is_refused_before_anything_is_measured(copy: Store) -> None:
    job = copy.job("tiny")
    before = [*copy.measurements(job), *copy.failures(job)]
    with pytest.raises(UsageError, match=r"sample of 9 is too small: .* needs 10 subnets") as caught:
        further_device.measure_on(copy, "lab", job, progress=Silent(), samples=9)
    assert "--samples 10" in caught.value.hint
    assert [*copy.measurements(job), *copy.failures(job)] == before


def test_what_is_refused(copy: Store) -> None:
    job = copy.job("tiny")
    with pytest.raises(NotFoundError, match="No device 'labb' is registered") as caught:
        further_device.measure_on(copy, "labb", job, progress=Silent())
    assert caught.value.hint == "Did you mean 'lab'?"
    devices.add(copy, "cpu", {"backend": "torch_cpu", **{"threads": 1, "batch": 8, "precision": "fp32"}})
    with pytest.raises(ConflictError, match="measured on 'cpu' from the first"):
        further_device.measure_on(copy, "cpu", job, progress=Silent())
    new = copy.create_job("new", config=job.config, seed=0, provenance={})
    with pytest.raises(ConflictError, match="no front yet"):
        further_device.measure_on(copy, "lab", new, progress=Silent())

"""A finished job measured on a second device: its own front stays, and there is one for the other device."""

import json

import pytest
from tiny_job import CONFIG

from nas import devices, pipeline, remeasuring
from nas.front import front
from nas.progress import Silent
from nas.store import Store, frames
from search_spaces._errors import ConflictError, NotFoundError
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
    found = remeasuring.measure_on(copy, "lab", job, progress=Silent())
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
    assert remeasuring.measure_on(copy, "lab", after, progress=Silent()) == found


def test_a_run_that_was_killed_meanwhile_is_still_a_run_on_its_own_device(
    copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = copy.job("tiny")
    monkeypatch.setattr(remeasuring, "stored_latency", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        remeasuring.measure_on(copy, "lab", job, progress=Silent())
    with copy.write() as connection:  # what a kill leaves behind
        connection.exec_driver_sql("UPDATE jobs SET state = 'running', finished_at = NULL")
    pipeline.run(copy, copy.job("tiny"), progress=Silent())
    assert copy.job("tiny").state == "succeeded"
    assert front(copy, job).device == next(iter(CONFIG["devices"]))
    monkeypatch.undo()
    assert remeasuring.measure_on(copy, "lab", copy.job("tiny"), progress=Silent())["device"] == "lab"


def test_what_is_refused(copy: Store) -> None:
    job = copy.job("tiny")
    with pytest.raises(NotFoundError, match="No device 'labb' is registered") as caught:
        remeasuring.measure_on(copy, "labb", job, progress=Silent())
    assert caught.value.hint == "Did you mean 'lab'?"
    devices.add(copy, "cpu", {"backend": "torch_cpu", **{"threads": 1, "batch": 8, "precision": "fp32"}})
    with pytest.raises(ConflictError, match="measured on 'cpu' from the first"):
        remeasuring.measure_on(copy, "cpu", job, progress=Silent())
    new = copy.create_job("new", config=job.config, seed=0, provenance={})
    with pytest.raises(ConflictError, match="no front yet"):
        remeasuring.measure_on(copy, "lab", new, progress=Silent())

"""Devices that a job file names and a store knows: what a job is made with, and what is refused before it."""

from typing import Any

import pytest
from tiny_job import CONFIG

from nas import jobs
from nas.config import DeviceConfig, JobConfig, checked_config
from nas.errors import ConflictError, JobFailedError
from nas.measuring import devices, targets
from nas.measuring.remote import RemoteDevice
from nas.measuring.targets import registered, resolved, target
from nas.store import Store, digest
from predictors.devices import Timing
from search_spaces.errors import NotFoundError, UsageError
from tests import made_device

OPTIONS = {"backend": made_device.BACKEND, "threads": 1, "batch": 8, "precision": "fp32", "speed": 2.0}
FINGERPRINT = made_device.build(name="pi", batch=8, speed=2.0).fingerprint()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CALIBRATION_SECONDS", 0.0)


def config(value: Any) -> JobConfig:
    return checked_config(CONFIG | {"devices": value}, where="here")


def refused(store: Store, value: Any) -> str:
    with pytest.raises(UsageError) as caught:
        jobs.create(store, config(value), name=None)
    assert store.jobs() == []
    return f"{caught.value.message} {caught.value.hint}"


def test_a_job_is_made_with_the_options_of_a_stored_device(store: Store) -> None:
    row = devices.add(store, "lab", OPTIONS)
    assert (row.name, row.options) == ("lab", OPTIONS)
    assert row.reference_ms == pytest.approx(
        1e3 * made_device.build(name="x", speed=2.0).calibrator_seconds()
    )
    job = jobs.create(store, config(["lab"]), name=None)
    assert job.config["devices"] == {
        "lab": OPTIONS
        | {
            "agent": None,
            "workload": None,
            "one_of": None,
            "digest": row.digest,
        }
    }
    again = JobConfig.model_validate(job.config, strict=False)
    assert target(store, "lab", again.devices["lab"]) == made_device.build(name="lab", batch=8, speed=2.0)
    assert resolved(store, again) == again


def test_unknown_and_changed_stored_devices_are_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No device 'lab' is registered. `nas devices add" in refused(store, ["lab"])
    devices.add(store, "lab", OPTIONS)
    assert "No device 'labb' is registered. Did you mean 'lab'?" in refused(store, ["labb"])
    monkeypatch.setattr(made_device, "BACKEND", "other")
    words = refused(store, ["lab"])
    assert "backend was 'tests.made_device' and is 'other'" in words
    assert "--replace" in words
    with pytest.raises(NotFoundError):
        registered(store, "labb")


def test_a_name_stands_for_one_device(store: Store) -> None:
    first = devices.add(store, "lab", OPTIONS)
    assert devices.add(store, "lab", OPTIONS) == first
    with pytest.raises(ConflictError, match=r"another one: speed was 2.0 and is 3.0\.") as caught:
        devices.add(store, "lab", OPTIONS | {"speed": 3.0})
    assert "--replace" in caught.value.hint
    assert devices.add(store, "lab", OPTIONS | {"speed": 3.0}, replace=True).id != first.id
    assert store.device("lab").options == OPTIONS | {"speed": 3.0}
    with pytest.raises(ConflictError, match=r"another one: speed was 3.0 and is 2.0\."):
        devices.add(store, "lab", OPTIONS)
    assert devices.add(store, "lab", OPTIONS, replace=True).id == first.id
    assert (store.device("lab").id, store.device("lab").options) == (first.id, OPTIONS)
    with pytest.raises(ConflictError, match="registered already, as 'lab'"):
        devices.add(store, "other", OPTIONS)
    with pytest.raises(UsageError, match="name of a backend"):
        devices.add(store, "torch_cpu", OPTIONS)


def test_the_clean_time_is_that_of_the_labels_and_measured_anew_with_replace(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = devices.add(store, "lab", OPTIONS)
    assert first.reference_ms is not None
    clean = first.reference_ms
    sessions: list[float] = []

    def tried(*args: Any, **options: Any) -> Any:
        sessions.append(1.2 if len(sessions) == 5 else 1.5)  # a short time of unusual speed
        return real_tried(*args, **options)

    def time(self: made_device.MadeDevice, run: Any) -> Timing:
        return Timing(real_time(self, run).wall_s * sessions[-1])

    real_tried, real_time = devices._tried, made_device.MadeDevice.time
    monkeypatch.setattr(devices, "_tried", tried)
    monkeypatch.setattr(made_device.MadeDevice, "time", time)
    monkeypatch.setattr(devices, "MOST_SESSIONS", 24)
    device = made_device.build(name="lab", batch=8, speed=2.0)
    assert devices.clean_reference_ms(device, 60.0) == pytest.approx(1.5 * clean, rel=0.01)
    assert len(sessions) == 24
    assert devices.add(store, "lab", OPTIONS).reference_ms == clean
    again = devices.add(store, "lab", OPTIONS, replace=True)
    assert (again.id, again.reference_ms) == (first.id, pytest.approx(1.5 * clean, rel=0.01))


def test_a_job_is_made_with_what_its_agent_measures_with(store: Store) -> None:
    with store.acquire_agent("pi", FINGERPRINT, OPTIONS):
        for value in ({"pi": {"backend": "remote"}}, ["pi"], {"pi": {"backend": "remote", "batch": 8}}):
            job = jobs.create(store, config(value), name=None)
            told = {"backend": "remote", "agent": "pi", "workload": None, "digest": digest(FINGERPRINT)}
            told |= {"one_of": None}
            assert job.config["devices"] == {"pi": OPTIONS | told}
        with pytest.raises(UsageError, match=r"devices\.pi\.workload: agent 'pi' measures with None"):
            resolved(store, config({"pi": {"backend": "remote", "workload": {"prefill": 8}}}))
        job = jobs.create(store, config({"a": {"backend": "remote", "agent": "pi"}}), name=None)
        assert job.config["devices"]["a"]["agent"] == "pi"
        again = JobConfig.model_validate(job.config, strict=False)
        assert resolved(store, again) == again
    again = JobConfig.model_validate(job.config, strict=False)
    there = target(store, "a", again.devices["a"])
    assert isinstance(there, RemoteDevice)
    assert (there.name, there.agent, there.batch) == ("a", "pi", 8)
    assert registered(store, "pi") == RemoteDevice("pi", "pi", there.row)


def test_a_job_notices_that_its_stored_device_is_another_machine(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices.add(store, "lab", OPTIONS)
    job = jobs.create(store, config(["lab"]), name=None)
    made_for = JobConfig.model_validate(job.config, strict=False).devices["lab"]
    monkeypatch.setattr(made_device, "BACKEND", "other")
    monkeypatch.setattr(targets, "build_device", lambda name, _: made_device.build(name=name, batch=8))
    with pytest.raises(JobFailedError, match=r"'lab' is not the one that this job was made for") as caught:
        target(store, "lab", made_for)
    assert "backend was 'tests.made_device' and is 'other'; speed was 2.0 and is 1.0." in caught.value.message
    elsewhere = made_for.model_copy(update={"digest": "0" * 64})
    with pytest.raises(JobFailedError, match="made for: that one is not in this store"):
        target(store, "lab", elsewhere)


def test_a_job_notices_that_its_agent_was_restarted_with_another_device(store: Store) -> None:
    with store.acquire_agent("pi", FINGERPRINT, OPTIONS):
        job = jobs.create(store, config({"pi": {"backend": "remote"}}), name=None)
    made_for = JobConfig.model_validate(job.config, strict=False)
    with store.acquire_agent("pi", FINGERPRINT | {"speed": 3.0}, OPTIONS | {"speed": 3.0}, replace=True):
        with pytest.raises(JobFailedError, match=r"job was made for: speed was 2\.0 and is 3\.0\."):
            target(store, "pi", made_for.devices["pi"])
        with pytest.raises(UsageError, match=r"another device by now: speed was 2\.0 and is 3\.0\."):
            resolved(store, made_for)
    with store.acquire_agent("pi", FINGERPRINT, OPTIONS, replace=True):
        assert target(store, "pi", made_for.devices["pi"]).fingerprint() == FINGERPRINT


def test_a_predictor_that_times_layers_is_refused_with_an_agent(store: Store) -> None:
    table = {"predictor": CONFIG["predictor"] | {"name": "lookup_table"}}
    with store.acquire_agent("pi", FINGERPRINT, OPTIONS):
        asked = checked_config(CONFIG | table | {"devices": ["pi"]}, where="here")
        with pytest.raises(
            UsageError, match=r"lookup_table times single layers.* 'pi' is an agent's"
        ) as caught:
            jobs.create(store, asked, name=None)
    assert (caught.value.exit_code, caught.value.hint) == (2, "Take another predictor, such as roofline.")
    assert store.jobs() == []
    jobs.create(store, checked_config(CONFIG | table, where="here"), name=None)


def test_agents_that_are_unknown_or_gone_or_measure_otherwise_are_refused(store: Store) -> None:
    remote = {"backend": "remote"}
    assert "The store knows no agent 'pi'. `nas device-agent pi`" in refused(store, {"pi": remote})
    with store.acquire_agent("pi", FINGERPRINT, OPTIONS):
        assert "no agent 'p'. Did you mean 'pi'?" in refused(store, {"p": remote})
        words = refused(store, {"pi": {"backend": "remote", "batch": 4}})
        assert "devices.pi.batch: agent 'pi' measures with 8, not with 4." in words
        words = refused(store, {"pi": {"backend": "remote", "graph": True}})
        assert "devices.pi.graph: agent 'pi' measures with None, not with True." in words
    words = refused(store, {"pi": remote})
    assert "devices.pi: agent 'pi' does not run. Start it on its machine: nas device-agent pi" in words
    with pytest.raises(UsageError, match="knows no agent 'q'"):
        target(store, "q", DeviceConfig(backend="remote"))


def test_options_that_a_backend_does_not_have_are_refused_before_a_job_runs() -> None:
    for options, words in {("thread",): "no option 'thread'", ("graph",): "no option 'graph'"}.items():
        with pytest.raises(UsageError, match=words):
            jobs.check(config({"cpu": {"batch": 8, options[0]: 1}}))
    with pytest.raises(UsageError, match=r"cannot have a speed of 0"):
        jobs.check(config({"a": {"backend": made_device.BACKEND, "batch": 8, "speed": 0}}))
    jobs.check(config({"pi": {"backend": "remote"}}))


def test_a_check_tells_what_a_device_can(store: Store) -> None:
    row = devices.add(store, "lab", OPTIONS)
    found = devices.check(made_device.build(name="lab", batch=8, speed=2.0), row)
    assert found["difference"] == pytest.approx(0)
    assert (found["contention"], found["peak_memory"], found["energy"]) == (1.0, True, False)
    assert found["stored_calibrator_ms"] == row.reference_ms
    assert found["calibrator_change"] == pytest.approx(0)
    slower = devices.check(made_device.build(name="lab", batch=8, speed=1.0), row)
    assert slower["calibrator_change"] == pytest.approx(1.0)
    assert devices.check(made_device.build(name="lab", batch=8))["stored_calibrator_ms"] is None


def test_backends_tell_why_they_do_not_work_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"name": "torch_cpu", "available": True, "reason": None} in devices.backends()

    def broken(name: str, options: Any) -> None:
        raise UsageError("Device needs a card.", "Buy one.") if name == "torch_cpu" else OSError("no driver")

    monkeypatch.setattr(devices, "build_device", broken)
    found = {backend["name"]: backend for backend in devices.backends()}
    assert found["torch_cpu"] == {
        "name": "torch_cpu",
        "available": False,
        "reason": "Device needs a card. Buy one.",
    }
    assert all(not backend["available"] for backend in found.values())

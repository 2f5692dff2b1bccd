"""`nas devices` and `nas device-agent`: what they print, what they refuse, and with which exit code."""

import json
from pathlib import Path

import pytest
from running import Nas

from nas.measuring import devices
from nas.store import Store
from tests import made_device

MADE = ("--backend", made_device.BACKEND)


@pytest.fixture(autouse=True)
def _store(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CALIBRATION_SECONDS", 0.0)


def test_a_device_is_added_listed_and_checked(run_nas: Nas) -> None:
    ran = run_nas("devices", "add", "lab", *MADE, "--batch", "2", "--option", "speed=2.0")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("device:     lab (2)\ncalibrator: ")
    data = json.loads(run_nas("devices", "ls", "--json").out)
    lab = data["devices"][1]
    assert lab["options"] == {
        "backend": made_device.BACKEND,
        "threads": 1,
        "batch": 2,
        "precision": "fp32",
        "speed": 2.0,
    }
    assert (lab["device"], lab["registered"], lab["measurements"], lab["repeatability"]) == (
        "lab",
        True,
        0,
        None,
    )
    assert lab["reference_ms"] > 0
    assert "\n 2  lab " in run_nas("devices").out
    ran = run_nas("devices", "check", "lab")
    assert ran.code == 0
    words = ("difference:", "+0.0 % against when it was registered", "contention:", "peak memory:", "energy:")
    assert all(word in ran.out for word in words)
    data = json.loads(run_nas("devices", "check", "lab", "--json").out)
    assert (data["fingerprint"]["speed"], data["stored_calibrator_ms"]) == (2.0, lab["reference_ms"])


def test_an_agent_measures_what_is_queued_and_is_listed(run_nas: Nas, filled: str) -> None:
    ran = run_nas("device-agent", "pi", *MADE, "--once")
    assert (ran.code, ran.out) == (0, "")
    assert "Agent 'pi' measures with tests.made_device" in ran.err
    assert json.loads(run_nas("device-agent", "pi", *MADE, "--once", "--json", "--quiet").out) == {
        "agent": "pi",
        "measured": 0,
    }
    (agent,) = json.loads(run_nas("devices", "ls", "--json").out)["agents"]
    assert (agent["agent"], agent["device"], agent["live"]) == ("pi", "pi", False)
    assert agent["last_seen"]
    assert "gone" in run_nas("devices").out
    ran = run_nas("device-agent", "pi", *MADE, "--batch", "3", "--once")
    assert (ran.code, "batch was 64 and is 3" in ran.err, "--replace" in ran.err) == (4, True, True)
    assert run_nas("device-agent", "pi", *MADE, "--batch", "3", "--once", "--replace").code == 0
    with Store.open(filled) as store, store.acquire_agent("pi", {}, {}, replace=True):
        ran = run_nas("device-agent", "pi", *MADE, "--once")
        assert (ran.code, "runs already" in ran.err) == (4, True)
        assert "live" in run_nas("devices").out


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        ("devices add lab --backend torch_cup", 3, "There is no 'torch_cup'", "Did you mean 'torch_cpu'?"),
        ("devices add lab --option speed", 2, "is not of the form k=v", "--option graph=true"),
        ("devices add lab --option sped=1", 2, "no option 'sped'", "Options: "),
        ("devices add torch_cpu", 2, "name of a backend", "another name"),
        ("devices check pi", 2, "the device of an agent elsewhere", "on its machine"),
        ("devices check lbb", 3, "There is no 'lbb'", "Did you mean 'lab'?"),
        ("devices check lab --batch 2", 2, "that it was registered with", "Name a backend"),
        ("devices measure lbb first", 4, "no front yet", "`nas resume 1`"),
        ("devices measure lab nope", 3, "There is no job 'nope'", "Known: "),
        ("device-agent pi --option speed=0", 2, "no option 'speed'", "Options: "),
    ],
)
def test_an_error_is_a_sentence_a_hint_and_a_code(
    run_nas: Nas,
    filled: str,
    words: str,
    code: int,
    message: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NAS_COMPONENTS", made_device.BACKEND)
    with Store.open(filled) as store:
        device = made_device.build(name="lab", batch=2)
        store.register_device("lab", device.fingerprint(), {"backend": made_device.BACKEND, "batch": 2})
        with store.acquire_agent("pi", {"cpu": "pi"}, {"backend": "torch_cpu"}):
            pass
    ran = run_nas(*words.split())
    assert (ran.code, ran.out) == (code, "")
    error, told = ran.err.splitlines()
    assert error.startswith("Error: ")
    assert message in error
    assert hint in told


def test_validate_asks_the_store_for_devices_that_only_it_knows(run_nas: Nas, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("data: digits\ndevices: [lab]\nsupernet: {space: {embed_dim: [8, 16], depth: [1, 2]}}")
    ran = run_nas("validate", file)
    assert (ran.code, "devices.lab: No device 'lab' is registered" in ran.err) == (2, True)
    assert run_nas("devices", "add", "lab", *MADE, "--batch", "2").code == 0
    ran = run_nas("validate", file, "--json")
    assert json.loads(ran.out)["devices"]["lab"]["backend"] == made_device.BACKEND
    file.write_text("data: digits\ndevices: {pi: {backend: remote}}")
    ran = run_nas("validate", file)
    assert (ran.code, "knows no agent 'pi'" in ran.err) == (2, True)

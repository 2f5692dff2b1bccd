"""Devices that take ONNX files: networks of every family, missing packages, and nothing reported anywhere."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import search_spaces
import supernet
from predictors.devices import onnxruntime_cpu, openvino_cpu
from search_spaces.errors import UsageError
from search_spaces.registry import names

BACKENDS = {"onnxruntime": onnxruntime_cpu, "openvino": openvino_cpu}


def small_net(family: str) -> tuple[nn.Module, torch.Tensor]:
    """The largest network of the family's smallest space, and an example of three images."""
    spaces = (
        search_spaces.get(name) for name in search_spaces.names() if search_spaces.family_of(name) == family
    )
    space = min(spaces, key=lambda space: space.cost(space.largest).macs)
    net = supernet.build(space).eval()
    return net.extract(space.largest), net.example_input(3)


@pytest.mark.parametrize("family", names("supernet.families"))
@pytest.mark.parametrize(
    ("backend", "precision"),
    [
        ("onnxruntime", "fp32"),
        pytest.param("onnxruntime", "int8", marks=pytest.mark.slow),
        pytest.param("openvino", "fp32", marks=pytest.mark.slow),
    ],
)
def test_networks_of_every_family_run_and_are_checked(
    backend: str, precision: str, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    module, example = small_net(family)
    device = BACKENDS[backend].build(batch=3, precision=precision)
    with device.session(), device.prepare(module, example) as run:
        assert device.time(run).seconds > 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS.keys())
def test_one_thread_does_all_the_work_itself(backend) -> None:
    device, module = backend.build(batch=64), nn.Sequential(*[nn.Linear(512, 512)] * 8)
    with device.session(), device.prepare(module, torch.randn(64, 512)) as run:
        run()
        before = os.times()
        own = sum(device.time(run).cpu_s or 0 for _ in range(30))
        after = os.times()
    process = after.user + after.system - before.user - before.system
    assert own > 0.8 * process - 0.02


class Odd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS.keys())
def test_an_operator_that_cannot_be_exported_is_named(backend) -> None:
    device = backend.build(batch=2)
    with pytest.raises(UsageError, match="bessel_j0"), device.session():
        device.prepare(Odd(), torch.ones(2, 3)).__enter__()


@pytest.mark.parametrize("package", BACKENDS)
def test_a_missing_package_is_named_with_what_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [
        name
        for name in sys.modules
        if name.startswith(
            ("predictors.runtimes.onnx", "predictors.runtimes.op", "predictors.runtimes.sessions.")
        )
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        UsageError, match=rf"Device 'x' needs {package}: pip install 'elastiform\[{package}\]'"
    ):
        BACKENDS[package].build(name="x")


@pytest.mark.slow  # Two heavy imports in a process of their own.
@pytest.mark.parametrize("package", BACKENDS)
def test_what_a_fresh_process_loads_to_measure_memory_imports_no_torch(package: str) -> None:
    words = f"import sys, predictors.runtimes.sessions.{package}; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_openvino_reports_nothing() -> None:
    script = (
        "import sys, socket\n"
        "def refuse(*_): raise SystemExit('a connection')\n"
        "socket.socket.connect = refuse\n"
        "import torch\nfrom predictors.devices import openvino_cpu\n"
        "device = openvino_cpu.build(batch=2)\n"
        "with device.session(), device.prepare(torch.nn.Linear(4, 4), torch.ones(2, 4)) as run:\n"
        "    device.time(run)\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"

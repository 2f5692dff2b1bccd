"""The law of devices: timings are positive and repeat; the process and the module are left as they were."""

import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from predictors.devices import Device, Timing
from search_spaces.errors import UsageError
from search_spaces.registry import load, names
from supernet.plain.decoder import Decoder

DEVICES = names("predictors.devices")
NEEDS = {"torch_compile": pytest.mark.slow, "torch_cuda": pytest.mark.gpu}
OF_TEXTS = ("llama_cpp",)
IN_FEATURES, VOCABULARY, TOKENS = 32, 64, 16
TIMINGS = 9

every_device = pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=NEEDS.get(name, ())) for name in DEVICES]
)


def built(backend: str, **options: Any) -> Device:
    return load("predictors.devices", backend).build(**{"batch": 8} | options)


def built_if_possible(backend: str, precision: str) -> Device | None:
    """None for bf16 where this CPU lacks it; everything has the other precisions."""
    if precision != "bf16":
        return built(backend, precision=precision)
    with contextlib.suppress(UsageError):
        return built(backend, precision=precision)
    return None


def net(backend: str, width: int) -> nn.Module:
    """What every backend takes, or a decoder for the one that takes no other network."""
    torch.manual_seed(0)
    if backend in OF_TEXTS:
        sizes: dict[str, Any] = {"num_heads": [2], "mlp_hidden": [width], "embed_dim": 64, "head_dim": 32}
        return Decoder(vocabulary=VOCABULARY, context=TOKENS, **sizes)
    return nn.Sequential(nn.Linear(IN_FEATURES, width), nn.GELU(), nn.Linear(width, width), nn.Dropout(0.5))


def some(backend: str, samples: int) -> torch.Tensor:
    """Inputs of it."""
    if backend in OF_TEXTS:
        return torch.randint(VOCABULARY, (samples, TOKENS))
    return torch.randn(samples, IN_FEATURES)


def timings(device: Device, module: nn.Module, example: torch.Tensor) -> list[Timing]:
    with device.session(), device.prepare(module, example) as run:
        device.time(run)
        return [device.time(run) for _ in range(TIMINGS)]


def flushes() -> bool:
    return bool((torch.full((1,), 1e-310, dtype=torch.float64) * 1.0 == 0).item())


def process_state() -> dict[str, object]:
    return {
        "threads": torch.get_num_threads(),
        "collecting": gc.isenabled(),
        "inference": torch.is_inference_mode_enabled(),
        "gradients": torch.is_grad_enabled(),
        "flushes": flushes(),
        "cores": os.sched_getaffinity(0),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
    }


def test_every_backend_is_found() -> None:
    assert {
        "torch_cpu",
        "torch_compile",
        "torch_cuda",
        "onnxruntime_cpu",
        "openvino_cpu",
        "llama_cpp",
    } <= set(DEVICES)


@every_device
def test_timings_are_positive_repeat_and_tell_networks_apart(backend: str) -> None:
    device, example = built(backend), some(backend, 8)
    wide, again, narrow = (timings(device, net(backend, width), example) for width in (1024, 1024, 128))
    assert all(t.wall_s > 0 and t.seconds > 0 for t in (*wide, *again, *narrow))
    assert all(t.cpu_s is None or t.cpu_s <= 1.1 * t.wall_s + 1e-4 for t in wide)
    middle = [statistics.median(t.seconds for t in ts) for ts in (wide, again, narrow)]
    spread = max(t.seconds for t in wide) - min(t.seconds for t in wide)
    assert abs(middle[0] - middle[1]) <= max(spread, 0.5 * middle[0])  # on a busy machine
    assert middle[2] < middle[0]


def interrupted(device: Device, module: nn.Module, example: torch.Tensor) -> None:
    with device.session(), device.prepare(module, example) as run:
        assert device.time(run).seconds > 0
        raise KeyboardInterrupt


@every_device
def test_module_and_process_are_restored(backend: str) -> None:
    for precision in load("predictors.devices", backend).PRECISIONS:
        device = built_if_possible(backend, precision)
        if device is None:
            continue
        module, example = net(backend, 32).train(), some(backend, 8)
        next(module.children()).eval()
        modes = [part.training for part in module.modules()]
        weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        before = process_state()
        with pytest.raises(KeyboardInterrupt):
            interrupted(device, module, example)
        assert process_state() == before
        assert [part.training for part in module.modules()] == modes
        assert all(torch.equal(tensor, weights[name]) for name, tensor in module.state_dict().items())
        assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float32}


@every_device
def test_a_device_computes_what_the_module_computes(backend: str) -> None:
    """In float32 within rounding; in fewer bits something else, which is near it."""
    module = net(backend, 32)
    for precision in load("predictors.devices", backend).PRECISIONS:
        device = built_if_possible(backend, precision)
        if device is None:
            continue
        inputs = [some(backend, 8) for _ in range(3)]
        with device.session(), device.computing(module.train(), inputs[0]) as compute:
            outputs = [compute(x) for x in inputs]
        with torch.inference_mode():
            expected = [module.eval()(x) for x in inputs]
        for ours, theirs in zip(outputs, expected, strict=True):
            assert (ours.dtype, ours.device.type, ours.shape) == (torch.float32, "cpu", theirs.shape)
            error = ((ours - theirs).norm() / theirs.norm()).item()
            assert error <= (1e-4 if precision == "fp32" else 0.3), precision
            assert precision == "fp32" or error > 1e-6, precision


@every_device
def test_runs_are_prepared_side_by_side_and_for_any_batch(backend: str) -> None:
    device = built(backend)
    with device.session(), device.prepare(net(backend, 32), some(backend, 1)) as one:
        with device.prepare(net(backend, 64), some(backend, 8)) as other:
            assert device.time(one).seconds > 0
            assert device.time(other).seconds > 0
        assert device.time(one).seconds > 0


@every_device
def test_peak_memory_holds_the_weights_and_grows_with_the_network(backend: str) -> None:
    device, example = built(backend), some(backend, 8)
    widths = (256, 2048) if backend not in OF_TEXTS else (256, 16_384)
    small, large = (device.peak_memory(net(backend, width), example) for width in widths)
    weights = sum(4 * weight.numel() for weight in net(backend, widths[1]).parameters())
    assert small is not None
    assert large is not None
    assert weights < large
    assert small < large < 8 * weights + 2**26


@every_device
def test_energy_is_unknown_or_grows(backend: str) -> None:
    device = built(backend)
    first = device.joules()
    assert first is None or 0 <= first <= (device.joules() or 0)


@every_device
def test_fingerprint_is_plain_data_that_changes_with_a_setting_only(backend: str) -> None:
    plain = built(backend).fingerprint()
    assert json.loads(json.dumps(plain)) == plain
    assert {"backend": backend, "batch": 8, "threads": 1, "precision": "fp32"}.items() <= plain.items()
    assert built(backend, name="other").fingerprint() == plain
    with built(backend).session():
        assert built(backend).fingerprint() == plain
    assert built(backend, batch=9).fingerprint() == plain | {"batch": 9}


@every_device
def test_threads_and_precision_belong_to_the_fingerprint(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = built(backend).fingerprint()
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    assert built(backend, threads=2).fingerprint() == plain | {"threads": 2}
    for precision in load("predictors.devices", backend).PRECISIONS:
        device = built_if_possible(backend, precision)
        if device is None:
            continue
        assert device.fingerprint() == plain | {"precision": precision}


@pytest.mark.parametrize("backend", DEVICES)
@pytest.mark.parametrize(
    "options", [{"threads": 0}, {"threads": 100_000}, {"batch": 0}, {"precision": "int3"}]
)
def test_impossible_options_are_refused(backend: str, options: dict[str, int | str]) -> None:
    with pytest.raises(UsageError, match=r"Device 'it' (cannot use|has no precision)"):
        load("predictors.devices", backend).build(name="it", **options)


def test_precisions_are_read_without_a_heavy_import() -> None:
    script = "import sys\n" + "".join(
        f"from predictors.devices import {name}\nassert {name}.PRECISIONS[0] == 'fp32'\n" for name in DEVICES
    )
    script += "print(sorted({'torch', 'onnx', 'onnxruntime', 'openvino'} & sys.modules.keys()))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"

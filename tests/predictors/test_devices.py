"""The law of devices: timings are positive and repeat; the process and the module are left as they were."""

import gc
import json
import time
from itertools import pairwise

import pytest
import torch
from torch import nn

from predictors._measurement import Measurement, measure
from predictors.devices import Device, torch_cpu
from search_spaces._errors import UsageError
from search_spaces._registry import load, names

DEVICES = names("predictors.devices")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    return load("predictors.devices", request.param).build(batch=8)


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(32, width), nn.GELU(), nn.Linear(width, width), nn.Dropout(0.5))


def wall_ms(module: nn.Module, example: torch.Tensor) -> float:
    """The fastest of some runs by the wall clock."""
    with torch.inference_mode():
        clock = [time.perf_counter()]
        for _ in range(10):
            module(example)
            clock.append(time.perf_counter())
    return 1e3 * min(after - before for before, after in pairwise(clock))


def test_every_backend_is_found() -> None:
    assert "torch_cpu" in DEVICES


def test_latencies_are_positive_repeat_and_are_in_milliseconds(device: Device) -> None:
    example, wide, narrow = torch.randn(device.batch, 32), net(1024), net(256)
    subnets = {"wide": lambda: wide, "again": lambda: wide, "narrow": lambda: narrow}
    results = measure(device, subnets, example, seed=0, rounds=5, max_rounds=5)
    labels = {name: r.latency_ms for name, r in results.items() if isinstance(r, Measurement)}
    assert len(labels) == 3
    assert all(label > 0 for label in labels.values())
    assert labels["again"] == pytest.approx(labels["wide"], rel=0.5)  # on a busy machine
    assert labels["narrow"] < labels["wide"]
    assert 0.2 < labels["wide"] / wall_ms(wide, example) < 5


def interrupted(device: Device, module: nn.Module, example: torch.Tensor) -> None:
    with device.session(), device.prepare(module, example) as run:
        assert device.time(run).seconds > 0
        raise KeyboardInterrupt


def test_module_and_process_are_restored(device: Device) -> None:
    module, example = net(16).train(), torch.randn(device.batch, 32)
    module[0].eval()
    modes = [part.training for part in module.modules()]
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    before = (torch.get_num_threads(), gc.isenabled(), torch.is_inference_mode_enabled(), flushes())
    with pytest.raises(KeyboardInterrupt):
        interrupted(device, module, example)
    assert [part.training for part in module.modules()] == modes
    assert (torch.get_num_threads(), gc.isenabled(), torch.is_inference_mode_enabled(), flushes()) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in module.state_dict().items())
    assert all(tensor.dtype == torch.float32 for tensor in module.state_dict().values())


def test_fingerprint_is_plain_data_that_names_what_matters(device: Device) -> None:
    fingerprint = device.fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert {"backend", "batch", "precision"} <= fingerprint.keys()


def test_any_batch_size_can_be_prepared(device: Device) -> None:
    with device.session(), device.prepare(net(16), torch.randn(9, 32)) as run:
        assert device.time(run).wall_s > 0


class Probe(nn.Module):
    """Notes the state in which it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        Probe.seen = {
            "threads": torch.get_num_threads(),
            "flushes": flushes(),
            "inference": torch.is_inference_mode_enabled(),
            "training": self.training,
            "collecting": gc.isenabled(),
            "dtypes": (self.weight.dtype, x.dtype, index.dtype),
        }
        return x


def flushes() -> bool:
    return bool((torch.full((1,), 1e-310, dtype=torch.float64) * 1.0 == 0).item())


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_torch_cpu_runs_in_the_state_it_promises(precision: str, dtype: torch.dtype) -> None:
    device = torch_cpu.build(batch=2, precision=precision)
    probe = Probe()
    torch.set_num_threads(2)
    torch.set_flush_denormal(False)
    example = (torch.randn(2, 3), torch.zeros(2, dtype=torch.int64))
    with device.session(), device.prepare(probe, example) as run:
        device.time(run)
    assert Probe.seen == {
        "threads": 1,
        "flushes": True,
        "inference": True,
        "training": False,
        "collecting": False,
        "dtypes": (dtype, dtype, torch.int64),
    }
    assert torch.get_num_threads() == 2
    assert not flushes()
    assert probe.weight.dtype == torch.float32


def test_one_thread_is_timed_by_its_own_cpu_time_more_by_the_wall_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})

    def sleep() -> None:
        time.sleep(0.05)

    assert torch_cpu.build(threads=1).time(sleep).seconds < 0.025
    assert torch_cpu.build(threads=2).time(sleep).seconds >= 0.05


def test_the_allocator_is_part_of_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch_cpu.build().fingerprint()
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1000")
    assert torch_cpu.build().fingerprint() == plain | {
        "malloc": plain["malloc"] | {"MALLOC_TOP_PAD_": "1000"}
    }


@pytest.mark.parametrize(
    "options", [{"threads": 0}, {"threads": 100_000}, {"batch": 0}, {"precision": "int3"}]
)
def test_impossible_options_are_refused(options: dict[str, int | str]) -> None:
    with pytest.raises(UsageError, match=r"Device 'cpu' (cannot use|has no precision)"):
        torch_cpu.build(**options)

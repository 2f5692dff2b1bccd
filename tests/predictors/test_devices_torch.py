"""torch backends: the state in which networks run, the allocator, the compiler's caches, the missing GPU."""

import gc
import subprocess
import sys
import time
import weakref

import pytest
import torch
from test_devices import flushes
from torch import nn

from predictors.devices import torch_compile, torch_cpu, torch_cuda
from predictors.runtimes import allocator, inductor
from predictors.runtimes.energy import PackageEnergy
from predictors.runtimes.host import clock_policy
from predictors.runtimes.outputs import check_outputs, tensors_of
from search_spaces.errors import UsageError
from supernet.plain.decoder import Decoder

MIB = 2**20


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


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_networks_run_in_the_state_that_is_promised(precision: str, dtype: torch.dtype) -> None:
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

    one, two = (torch_cpu.build(threads=threads).time(sleep) for threads in (1, 2))
    assert one.seconds == one.cpu_s < 0.025
    assert one.wall_s >= 0.05
    assert two.cpu_s is None
    assert two.seconds == two.wall_s >= 0.05


PAGES = """
import resource
import psutil, torch
from torch import nn
from predictors.devices import torch_cpu

MIB = 2**20
EXAMPLE = torch.ones(1, 10 * MIB)  # made here, so that it does not outlive a session in that session's memory

def page_faults(allocator):
    "Of one forward pass with activations above any threshold that glibc takes."
    device = torch_cpu.build(batch=1, allocator=allocator)
    with (
        device.session(),
        device.prepare(nn.Sequential(nn.ReLU(), nn.ReLU()), EXAMPLE) as run,
    ):
        for _ in range(5):  # until the pieces of memory fit
            run()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        run()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

system = page_faults("system")
resident = psutil.Process().memory_info().rss
keep = page_faults("keep")
print(system, keep, (psutil.Process().memory_info().rss - resident) // MIB)
"""


def test_kept_memory_costs_no_page_faults_and_is_given_back() -> None:
    """In a process of its own: a heap that others have left full of holes has no faults either way."""
    ran = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    system, keep, kept_mib = map(int, ran.stdout.split())
    assert system > 5000
    assert keep < 100
    assert kept_mib < 20  # of 120 that were in use


def test_the_allocator_belongs_to_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_TOP_PAD_", raising=False)
    plain = torch_cpu.build().fingerprint()
    assert plain["allocator"]["policy"] == "keep"
    assert plain["allocator"]["library"].startswith("glibc 2.")
    assert torch_cpu.build(allocator="keep").fingerprint() == plain
    system = {"allocator": plain["allocator"] | {"policy": "system"}}
    assert torch_cpu.build(allocator="system").fingerprint() == plain | system
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1000")
    assert torch_cpu.build().fingerprint()["allocator"]["environment"]["MALLOC_TOP_PAD_"] == "1000"


def test_another_allocator_is_left_alone_and_cannot_be_asked_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "provider", lambda: "libjemalloc.so.2")
    assert torch_cpu.build().fingerprint()["allocator"]["policy"] == "system"
    with pytest.raises(UsageError, match=r"allocator of libjemalloc\.so\.2"):
        torch_cpu.build(allocator="keep")
    with pytest.raises(UsageError, match="no allocator 'fast'"):
        torch_cpu.build(allocator="fast")


@pytest.mark.slow  # The profiler's first use takes seconds.
def test_peak_memory_is_that_of_tensors_and_nothing_is_printed() -> None:
    script = (
        "import torch\nfrom predictors.devices import torch_cpu\n"
        "net = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.GELU(), torch.nn.Linear(512, 64))\n"
        "print(torch_cpu.build().peak_memory(net, torch.randn(16, 64)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    weights, example, hidden = 2 * 64 * 512 + 512 + 64, 16 * 64, 16 * 512
    assert int(ran.stdout) == 4 * (weights + example + 2 * hidden)
    assert "USDT" not in ran.stderr


@pytest.mark.slow  # C++ compilers take their time.
def test_compiled_networks_are_each_compiled_once_and_freed() -> None:
    device, alive = torch_compile.build(batch=2), []
    with device.session():
        for width in range(8, 20):  # more than the entries that torch keeps for one code object
            module = nn.Sequential(nn.Linear(4, width), nn.GELU())
            alive.append(weakref.ref(module))
            prepared, never_again = device.prepare(module, torch.randn(2, 4)), "fail_on_recompile"
            with prepared as run, torch.compiler.set_stance(never_again):
                device.time(run)
            del module, prepared, run
    gc.collect()
    assert [ref() for ref in alive] == [None] * 12


@pytest.mark.slow
def test_a_compiled_step_of_decoding_says_what_the_whole_text_does() -> None:
    torch.manual_seed(0)
    sizes = {"vocabulary": 256, "context": 12, "embed_dim": 16, "head_dim": 4, "heads_per_kv": 2}
    decoder = Decoder(**sizes, num_heads=[4], mlp_hidden=[24]).eval()
    text = decoder.some_input(2, 9)
    step = decoder.as_run(2, 9, is_step=True)
    with torch.inference_mode(), inductor.compiled(step, (text[:, -1:],)) as forward:
        outputs = [forward(text[:, -1:]) for _ in range(2)]  # the second reads what the first has written
        torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
        torch.testing.assert_close(outputs[0], decoder(text)[:, -1:], rtol=1e-5, atol=1e-5)


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def test_a_network_that_is_no_single_graph_is_refused() -> None:
    device = torch_compile.build(batch=2)
    with pytest.raises(UsageError, match="cannot compile"), device.session():
        device.prepare(Branching(), torch.ones(2, 3)).__enter__()


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("No working C++ compiler found")

    assert "compiler" in torch_compile.build().fingerprint()
    monkeypatch.setattr(inductor, "get_cpp_compiler", missing)
    with pytest.raises(UsageError, match="'mine' needs a C\\+\\+ compiler"):
        torch_compile.build(name="mine")


def test_a_gpu_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="Device 'gpu' needs a GPU"):
        torch_cuda.build()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("graph", [False, True])
def test_a_gpu_is_timed_to_the_end_of_its_work(graph: bool) -> None:
    device, example = torch_cuda.build(batch=8, graph=graph), torch.randn(8, 4096)
    one = nn.Linear(4096, 4096)
    seconds = []
    for layers in (1, 16):
        with device.session(), device.prepare(nn.Sequential(*[one] * layers), example) as run:
            seconds.append(min(device.time(run).seconds for _ in range(10)))
    assert seconds[1] > 4 * seconds[0]
    assert device.fingerprint()["graph"] is graph


def test_other_outputs_than_torchs_are_refused() -> None:
    expected = (torch.tensor([1.0, -2.0]),)
    check_outputs("odd", (torch.tensor([1.0, -2.00001]),), expected, tolerance=1e-4)
    with pytest.raises(UsageError, match="odd network's outputs differ"):
        check_outputs("odd", (torch.tensor([1.0, -2.1]),), expected, tolerance=1e-4)
    with pytest.raises(UsageError, match="not finite"):
        check_outputs("odd", (torch.tensor([1.0, torch.nan]),), expected, tolerance=None)
    with pytest.raises(UsageError, match="other shapes"):
        check_outputs("odd", (torch.ones(3),), expected, tolerance=None)
    with pytest.raises(UsageError, match="returns dict"):
        tensors_of({"logits": expected[0]})


def counter(folder, name: str, value: int, limit: int = 1000) -> None:
    folder.mkdir(exist_ok=True)
    for file, content in (("name", name), ("energy_uj", value), ("max_energy_range_uj", limit)):
        (folder / file).write_text(f"{content}\n")


def test_energy_is_that_of_the_packages_over_wrap_arounds(tmp_path) -> None:
    energy = PackageEnergy(tmp_path)
    assert energy.joules() is None
    counter(tmp_path / "intel-rapl:0", "package-0", 900)
    counter(tmp_path / "intel-rapl-mmio:0", "package-0", 900)  # the same counter once more
    counter(tmp_path / "intel-rapl:0:0", "core", 500)
    counter(tmp_path / "intel-rapl:1", "package-1", 10)
    assert energy.joules() == 0
    counter(tmp_path / "intel-rapl:0", "package-0", 100)
    counter(tmp_path / "intel-rapl:1", "package-1", 60)
    assert energy.joules() == pytest.approx((200 + 50) * 1e-6)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert energy.joules() is None


def test_the_clock_policy_is_what_can_be_read(tmp_path) -> None:
    assert clock_policy(tmp_path) == {}
    (tmp_path / "cpu0" / "cpufreq").mkdir(parents=True)
    (tmp_path / "cpu0" / "cpufreq" / "scaling_governor").write_text("performance\n")
    assert clock_policy(tmp_path) == {"governor": "performance"}

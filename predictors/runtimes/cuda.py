"""Torch modules on an NVIDIA GPU, timed by its own events."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from predictors.devices import JSON, Compute, Example, Run, Timing
from predictors.runtimes.energy import gpu_energy, gpu_facts
from predictors.runtimes.host import timed
from predictors.runtimes.torch import computed, evaluating, torch_session

WARM_UP = 10


@dataclass(frozen=True)
class GPURun:
    """`launch` returns before the GPU has done the work, a call afterwards."""

    launch: Callable[[], object]

    def __call__(self) -> None:
        self.launch()
        torch.cuda.synchronize()


@dataclass(frozen=True)
class TorchCUDA:
    """A `Device`; timings are the GPU's time between two events around a forward pass."""

    name: str
    threads: int
    batch: int
    precision: str
    graph: bool
    energy: Callable[[], float | None]

    def fingerprint(self) -> dict[str, JSON]:
        """See `Device.fingerprint`; clocks and driver as far as NVML tells them."""
        return {
            "backend": "torch_cuda",
            "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
            **gpu_facts(_uuid()),
            "threads": self.threads,
            "batch": self.batch,
            "precision": self.precision,
            "graph": self.graph,
        }

    @contextmanager
    def session(self) -> Iterator[None]:
        """Threads of the launching CPU; at the end unused memory goes back to the GPU."""
        with torch_session(self.threads):
            try:
                yield
            finally:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()

    @contextmanager
    def prepare(self, module: nn.Module, example: Example) -> Iterator[Run]:
        """See `Device.prepare`; runs on a copy of the module, warmed up."""
        with evaluating(module, example, self.precision, torch.device("cuda")) as (copy, arguments):

            def forward() -> None:
                with torch.inference_mode():
                    copy(*arguments)

            for _ in range(WARM_UP):
                forward()
            torch.cuda.synchronize()
            run = GPURun(_captured(forward) if self.graph else forward)
            run()
            yield run

    @contextmanager
    def computing(self, module: nn.Module, example: Tensor) -> Iterator[Compute]:
        """See `Device.computing`; a graph would replay the same kernels, so that none is captured."""
        with evaluating(module, example, self.precision, torch.device("cuda")) as (copy, arguments):
            yield lambda x: computed(copy, x, arguments[0])

    def time(self, run: Run) -> Timing:
        """One timing of a run that `prepare` made, by the GPU's clock."""
        assert isinstance(run, GPURun)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def between_events() -> None:
            start.record()
            run.launch()
            end.record()
            end.synchronize()

        torch.cuda.synchronize()
        timed(between_events, self.threads)
        return Timing(start.elapsed_time(end) * 1e-3)

    def peak_memory(self, module: nn.Module, example: Example) -> int:
        """The most that torch's CUDA allocator had handed out at once, weights and inputs included.

        What other networks hold on the GPU does not count, nor what CUDA itself needs.
        """
        before = torch.cuda.memory_allocated()
        with evaluating(module, example, self.precision, torch.device("cuda")) as (copy, arguments):
            with torch.inference_mode():
                copy(*arguments)  # libraries set up their workspaces
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                copy(*arguments)
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before

    def joules(self) -> float | None:
        """Of the whole GPU since its driver was loaded."""
        return self.energy()


def is_available() -> bool:
    """Whether torch finds a GPU that it can use."""
    return torch.cuda.is_available()


def energy_counter() -> Callable[[], float | None]:
    """Joules of the GPU that torch uses; see `gpu_energy`."""
    return gpu_energy(_uuid())


def _uuid() -> str:
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


def _captured(forward: Callable[[], None]) -> Callable[[], object]:
    """A function that replays what `forward` launches."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    return graph.replay

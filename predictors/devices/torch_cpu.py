"""PyTorch eager on the CPU."""

import copy
import gc
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from predictors.devices import JSON, Device, Example, Run, Timing
from search_spaces._errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SUBNORMAL = 1e-310


def build(*, name: str = "cpu", threads: int = 1, batch: int = 64, precision: str = "fp32") -> Device:
    """This machine's CPU; raises UsageError for values that it cannot have."""
    cores = len(os.sched_getaffinity(0))
    if not 1 <= threads <= cores:
        raise UsageError(f"Device '{name}' cannot use {threads} threads.", f"This process has {cores} cores.")
    if batch < 1:
        raise UsageError(f"Device '{name}' cannot use a batch of {batch}.", "The smallest batch is 1.")
    if precision not in DTYPES:
        raise UsageError(f"Device '{name}' has no precision '{precision}'.", f"Options: {', '.join(DTYPES)}.")
    return TorchCPU(name, threads, batch, precision)


@dataclass(frozen=True)
class TorchCPU:
    """A `Device`; one thread is timed in its own CPU time (right on a busy machine), more in wall time."""

    name: str
    threads: int
    batch: int
    precision: str

    def fingerprint(self) -> dict[str, JSON]:
        """The allocator's settings belong to it: they move eager latencies by up to a factor of two."""
        return {
            "backend": "torch_cpu",
            "torch": torch.__version__,
            "cpu": _cpu_model(),
            "machine": platform.machine(),
            "threads": self.threads,
            "batch": self.batch,
            "precision": self.precision,
            "malloc": {key: value for key, value in sorted(os.environ.items()) if key.startswith("MALLOC_")},
        }

    @contextmanager
    def session(self) -> Iterator[None]:
        """Fixes the number of threads, and flushes subnormal numbers, which some CPUs handle slowly."""
        threads, flushes = torch.get_num_threads(), _flushes_subnormals()
        torch.set_num_threads(self.threads)
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(flushes)
            torch.set_num_threads(threads)

    @contextmanager
    def prepare(self, module: nn.Module, example: Example) -> Iterator[Run]:
        """See `Device.prepare`; another precision than float32 runs on a copy of the module."""
        arguments = example if isinstance(example, tuple) else (example,)
        dtype = DTYPES[self.precision]
        if dtype is not torch.float32:
            module = copy.deepcopy(module).to(dtype)
            arguments = tuple(a.to(dtype) if a.is_floating_point() else a for a in arguments)
        modes = [(part, part.training) for part in module.modules()]
        module.eval()

        def run() -> None:
            with torch.inference_mode():
                module(*arguments)

        try:
            yield run
        finally:
            for part, training in modes:
                part.training = training

    def time(self, run: Run) -> Timing:
        """One timing with the garbage collector off."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            wall, cpu = time.perf_counter(), time.thread_time()
            run()
            cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        finally:
            if collecting:
                gc.enable()
        return Timing(wall, cpu if self.threads == 1 else None)

    def peak_memory(self, module: nn.Module, example: Example) -> int | None:
        """Not told by this backend."""

    def joules(self) -> float | None:
        """Not told by this backend."""


def _flushes_subnormals() -> bool:
    """torch can set this mode but not read it."""
    return not torch.full((1,), SUBNORMAL, dtype=torch.float64).mul(1.0).item()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"

"""Torch modules on the CPU, as they are or compiled."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from predictors.devices import JSON, Compute, Example, Run, Timing
from predictors.runtimes.allocator import allocating, allocator_fingerprint
from predictors.runtimes.energy import PackageEnergy
from predictors.runtimes.host import host_fingerprint, pinned, timed
from predictors.runtimes.torch import (
    Forward,
    allocated_peak,
    computed,
    evaluating,
    held_bytes,
    torch_session,
)

Network: TypeAlias = Callable[[nn.Module, tuple[Tensor, ...]], AbstractContextManager[Forward]]


def eager(module: nn.Module, arguments: tuple[Tensor, ...]) -> AbstractContextManager[Forward]:
    """The module itself."""
    return nullcontext(module)


@dataclass(frozen=True)
class TorchCPU:
    """A `Device`; one thread is timed in its own CPU time (right on a busy machine), more in wall time.

    network: what is run for a module.  also: what of the network's making belongs to the fingerprint.
    """

    backend: str
    name: str
    threads: int
    batch: int
    precision: str
    allocator: str
    network: Network = eager
    also: Mapping[str, JSON] = field(default_factory=dict)
    energy: PackageEnergy = field(default_factory=PackageEnergy, compare=False)

    def fingerprint(self) -> dict[str, JSON]:
        """See `Device.fingerprint`."""
        return {
            "backend": self.backend,
            "torch": torch.__version__,
            **self.also,
            **host_fingerprint(),
            "threads": self.threads,
            "batch": self.batch,
            "precision": self.precision,
            "allocator": allocator_fingerprint(self.allocator),
        }

    @contextmanager
    def session(self) -> Iterator[None]:
        """Threads, core, subnormal numbers and allocator; see the functions for each."""
        with pinned(self.threads), torch_session(self.threads), allocating(self.allocator):
            yield

    @contextmanager
    def prepare(self, module: nn.Module, example: Example) -> Iterator[Run]:
        """See `Device.prepare`; another precision than float32 runs on a copy of the module."""
        with (
            evaluating(module, example, self.precision) as (ready, arguments),
            self.network(ready, arguments) as forward,
        ):

            def run() -> None:
                with torch.inference_mode():
                    forward(*arguments)

            yield run

    @contextmanager
    def computing(self, module: nn.Module, example: Tensor) -> Iterator[Compute]:
        """See `Device.computing`."""
        with (
            evaluating(module, example, self.precision) as (ready, arguments),
            self.network(ready, arguments) as forward,
        ):
            yield lambda x: computed(forward, x, arguments[0])

    def time(self, run: Run) -> Timing:
        """One timing with the garbage collector off."""
        return timed(run, self.threads)

    def peak_memory(self, module: nn.Module, example: Example) -> int:
        """Weights, inputs, and the most that torch's allocator had handed out at once in a forward pass.

        Exact and repeatable; the allocator's own rounding and the runtime's code do not belong to it.
        """
        with evaluating(module, example, self.precision) as (ready, arguments):
            held = held_bytes(ready, arguments)
        with self.prepare(module, example) as run:
            run()
            return held + allocated_peak(run)

    def joules(self) -> float | None:
        """Of all CPU packages; see `PackageEnergy`."""
        return self.energy.joules()

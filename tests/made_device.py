"""A backend whose timings follow from the parameters of a network: somebody's own module."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from predictors.devices import Timing
from predictors.measurement.calibrator import calibrator
from search_spaces.errors import UsageError

BACKEND = "tests.made_device"
PRECISIONS = ("fp32", "int4")
SECONDS_PER_PARAMETER = 1e-8


def build(
    *,
    name: str,
    threads: int = 1,
    batch: int = 64,
    precision: str = "fp32",
    speed: float = 1.0,
    launch: float = 0.0,
) -> "MadeDevice":
    """A device of any speed above 0, that takes `launch` seconds more for each module with parameters."""
    if speed <= 0:
        raise UsageError(f"Device '{name}' cannot have a speed of {speed}.")
    return MadeDevice(name, threads, batch, precision, speed, launch)


def in_four_bits(weights: Tensor) -> Tensor:
    """16 levels between the least and the greatest."""
    low, step = weights.min(), (weights.max() - weights.min()).clamp_min(1e-12) / 15
    return ((weights - low) / step).round() * step + low


@dataclass
class MadeDevice:
    """A `Device` whose clock is computed."""

    name: str
    threads: int
    batch: int
    precision: str
    speed: float
    launch: float = 0.0
    _seconds: float = 0.0

    def calibrator_seconds(self) -> float:
        return self._seconds_of(calibrator())

    def fingerprint(self) -> dict[str, Any]:
        told = {"threads": self.threads, "batch": self.batch, "precision": self.precision}
        return {"backend": BACKEND, "speed": self.speed, "launch": self.launch, **told}

    def session(self) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def prepare(self, module: nn.Module, example: Any) -> Iterator[Callable[[], None]]:
        seconds = self._seconds_of(module)

        def run() -> None:
            self._seconds = seconds

        yield run

    @contextmanager
    def computing(self, module: nn.Module, example: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
        """Weights in 4 bits really are: a quantised network is another one."""
        network = copy.deepcopy(module).eval()
        if self.precision == "int4":
            for parameter in network.parameters():
                parameter.data = in_four_bits(parameter.data)

        def compute(x: Tensor) -> Tensor:
            assert x.shape == example.shape
            with torch.inference_mode():
                return network(x)

        yield compute

    def time(self, run: Callable[[], None]) -> Timing:
        self._seconds = 0.0
        run()
        return Timing(self._seconds)

    def peak_memory(self, module: nn.Module, example: Any) -> int | None:
        return 4 * sum(p.numel() for p in module.parameters())

    def joules(self) -> float | None:
        return None

    def _seconds_of(self, module: nn.Module) -> float:
        parameters = sum(p.numel() for p in module.parameters())
        launched = sum(1 for m in module.modules() if any(True for _ in m.parameters(recurse=False)))
        seconds = (1e-5 + SECONDS_PER_PARAMETER * parameters) / self.speed + self.launch * launched
        return seconds / 2 if self.precision == "int4" else seconds

"""Where latency is measured: a backend with threads, batch and precision fixed; one file per backend.

A backend's module offers `PRECISIONS: tuple[str, ...]` and `build(*, name, batch, ...) -> Device`, and
imports nothing heavy until something is built. `build` raises UsageError for options that the backend does
not have, and where its package or hardware is missing. A module may offer `check_space(space, *, name,
precision)`, which raises UsageError where the backend does not take every network of a space;
`SINGLE_LAYERS`, False where it takes no layers by themselves; and `TEXTS_WHOLE`, True where a device with a
workload computes whole texts by the same code.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from search_spaces.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn


JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Example: TypeAlias = "Tensor | tuple[Tensor, ...]"
Run: TypeAlias = Callable[[], None]
Compute: TypeAlias = "Callable[[Tensor], Tensor]"


@dataclass(frozen=True, slots=True)
class Timing:
    """One run: seconds of wall clock, and of the CPU time of the calling thread.

    cpu_s is None where other threads or another processor do the work.
    """

    wall_s: float
    cpu_s: float | None = None

    @property
    def seconds(self) -> float:
        """The clock that labels are made of: CPU time where there is one."""
        return self.wall_s if self.cpu_s is None else self.cpu_s


class Device(Protocol):
    """A target that can time a network.

    with device.session():
        with device.prepare(module, example) as run:
            device.time(run)

    Any number of runs may be prepared at the same time inside one session; nothing outlives the session.
    """

    @property
    def name(self) -> str:
        """What a job file calls this device."""

    @property
    def batch(self) -> int:
        """Samples in one forward pass; `example` has as many, and latencies are those of the whole batch."""

    def fingerprint(self) -> dict[str, JSON]:
        """Everything that two timings must share to be compared: hardware, runtime, version and settings."""

    def session(self) -> AbstractContextManager[None]:
        """Brings the process (threads, number format, clocks) into the measured state, and back."""

    def prepare(self, module: "nn.Module", example: Example) -> AbstractContextManager[Run]:
        """A function that runs `module` once, to the end, in inference on the fixed input `example`.

        example: a tensor, or a tuple of positional arguments, of any number of samples.
        At the end of the context the module is as it was (train or eval mode, number format).
        Raises UsageError for a module that the backend cannot take.
        """

    def computing(self, module: "nn.Module", example: "Tensor") -> AbstractContextManager[Compute]:
        """A function of inputs of the shape of `example`: what the device computes of them with `module`.

        Its result is the first output, float32 on the CPU, in the number format and by the code that
        `prepare` times. Raises what `prepare` raises. A backend of somebody else's may do without: no quality
        is then told of its devices.
        """

    def time(self, run: Run) -> Timing:
        """One timing of `run`, to its end; its first calls belong to the warm-up."""

    def peak_memory(self, module: "nn.Module", example: Example) -> int | None:
        """Bytes at the peak of one forward pass, weights included; None where that cannot be told."""

    def joules(self) -> float | None:
        """A hardware energy counter that only grows; None where there is none."""


def own_calibrator(device: Device, batch: int = 1) -> "tuple[nn.Module, Tensor] | None":
    """What is timed in place of the block of `predictors/measurement/calibrator.py`, and its input.

    The `calibrator` of a backend that takes no such block; None for one without, which takes it.
    """
    make: Callable[[int], tuple[nn.Module, Tensor] | None] | None = getattr(device, "calibrator", None)
    return None if make is None else make(batch)


def check_options(name: str, *, threads: int, batch: int, precision: str, precisions: Sequence[str]) -> None:
    """Raises UsageError for threads, a batch or a precision that device `name` cannot have."""
    cores = len(os.sched_getaffinity(0))
    if not 1 <= threads <= cores:
        raise UsageError(f"Device '{name}' cannot use {threads} threads.", f"This process has {cores} cores.")
    if batch < 1:
        raise UsageError(f"Device '{name}' cannot use a batch of {batch}.", "The smallest batch is 1.")
    if precision not in precisions:
        raise UsageError(
            f"Device '{name}' has no precision '{precision}'.", f"Options: {', '.join(precisions)}."
        )


def required(name: str, package: str, *, extra: str, importing: str | None = None) -> None:
    """Imports the package, or the module `importing` that does so in its own way.

    Raises UsageError that says how device `name` gets the package.
    """
    try:
        importlib.import_module(importing or package)
    except ImportError as error:
        raise UsageError(
            f"Device '{name}' needs {package}: pip install 'elastiform[{extra}]'", f"Import failed: {error}."
        ) from error

"""Where latency is measured: a backend with threads, batch and precision fixed; one file per backend.

A backend's module offers `build(*, name, batch, ...) -> Device`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor, nn

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Example: TypeAlias = "Tensor | tuple[Tensor, ...]"
Run: TypeAlias = Callable[[], None]


class Device(Protocol):
    """A target that can time a network.

    with device.session():
        with device.prepare(module, example) as run:
            device.seconds(run)

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

        example: a tensor, or a tuple of positional arguments, with `batch` samples.
        At the end of the context the module is as it was (train or eval mode, number format).
        Raises UsageError for an example of another batch size.
        """

    def seconds(self, run: Run) -> float:
        """One timing of `run` in the clock that fits the device; its first calls belong to the warm-up."""

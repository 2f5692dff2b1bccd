"""What the backends that run torch modules share: number formats, evaluation mode, allocated memory."""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate, chain
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from predictors.devices import Example, Run
from predictors.runtimes.outputs import tensors_of

Forward: TypeAlias = Callable[..., object]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SUBNORMAL = 1e-310
KINETO_LOG_LEVEL = "KINETO_LOG_LEVEL"


def as_arguments(example: Example) -> tuple[Tensor, ...]:
    """The positional arguments of the forward pass."""
    return example if isinstance(example, tuple) else (example,)


@contextmanager
def evaluating(
    module: nn.Module, example: Example, precision: str = "fp32", place: torch.device | None = None
) -> Iterator[tuple[nn.Module, tuple[Tensor, ...]]]:
    """The module in evaluation mode with its arguments, in `precision` and at `place`.

    Unless it is there in float32 already, it is a copy. At the end the module is as it was.
    """
    arguments, dtype = as_arguments(example), DTYPES[precision]
    if dtype is not torch.float32 or place is not None:
        module = copy.deepcopy(module).to(place, dtype)
        arguments = tuple(a.to(place, dtype if a.is_floating_point() else None) for a in arguments)
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield module, arguments
    finally:
        for part, training in modes:
            part.training = training


def computed(forward: Forward, x: Tensor, like: Tensor) -> Tensor:
    """The first output of a forward pass in inference, float32 on the CPU.

    like: an input of the place and number format that the forward pass takes; of whole numbers only the
    place.
    """
    with torch.inference_mode():
        given = x.to(like.device, like.dtype if x.is_floating_point() else None)
        return tensors_of(forward(given))[0].float().cpu()


@contextmanager
def torch_session(threads: int) -> Iterator[None]:
    """Fixes the number of threads, and flushes subnormal numbers, which some CPUs handle slowly."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with subnormals_flushed():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def subnormals_flushed() -> Iterator[None]:
    """In this thread; afterwards they are as before, whatever a runtime has set meanwhile."""
    flushes = _flushes_subnormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushes)


def held_bytes(module: nn.Module, arguments: tuple[Tensor, ...]) -> int:
    """Parameters, buffers and arguments; what shares its memory counts once."""
    tensors = chain(module.parameters(), module.buffers(), arguments)
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def allocated_peak(run: Run) -> int:
    """Bytes that torch's CPU allocator had handed out at the peak of one run, beyond those before it.

    From the profiler's allocations and releases in their order; its first use in a process takes seconds.
    """
    with _quiet_kineto(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return int(max(accumulate(changes, initial=0)))


@contextmanager
def _quiet_kineto() -> Iterator[None]:
    """Without it every profile prints lines on stderr; the profiler reads the level at its first use."""
    given = os.environ.get(KINETO_LOG_LEVEL)
    os.environ.setdefault(KINETO_LOG_LEVEL, "99")
    try:
        yield
    finally:
        if given is None:
            del os.environ[KINETO_LOG_LEVEL]


def _flushes_subnormals() -> bool:
    """torch can set this mode but not read it."""
    return not torch.full((1,), SUBNORMAL, dtype=torch.float64).mul(1.0).item()

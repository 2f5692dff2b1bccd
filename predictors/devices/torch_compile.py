"""PyTorch compiled by TorchInductor on the CPU: fused loops in C++, one compilation per network."""

from predictors.devices import Device, check_options
from predictors.runtimes.allocator import chosen_policy

PRECISIONS = ("fp32", "bf16")


def build(
    *,
    name: str = "cpu-compiled",
    threads: int = 1,
    batch: int = 64,
    precision: str = "fp32",
    allocator: str | None = None,
) -> Device:
    """This machine's CPU; compiling takes seconds to a minute per network.

    allocator: as that of `torch_cpu`.
    Raises UsageError for values that it cannot have, and where there is no C++ compiler.
    """
    check_options(name, threads=threads, batch=batch, precision=precision, precisions=PRECISIONS)
    policy = chosen_policy(name, allocator)
    from predictors.runtimes.inductor import compiled, compiler  # noqa: PLC0415 - imports torch
    from predictors.runtimes.torch_cpu import TorchCPU  # noqa: PLC0415

    also = {"compiler": compiler(name)}
    return TorchCPU("torch_compile", name, threads, batch, precision, policy, compiled, also)

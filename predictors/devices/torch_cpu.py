"""PyTorch eager on the CPU."""

from predictors.devices import Device, check_options
from predictors.runtimes.allocator import chosen_policy

PRECISIONS = ("fp32", "bf16")


def build(
    *,
    name: str = "cpu",
    threads: int = 1,
    batch: int = 64,
    precision: str = "fp32",
    allocator: str | None = None,
) -> Device:
    """This machine's CPU.

    allocator: "keep": memory that is freed in a session stays with the process, which takes the page faults
        out of latencies; "system": as the process has it; None: "keep" where the allocator is glibc's.
    Raises UsageError for values that it cannot have.
    """
    check_options(name, threads=threads, batch=batch, precision=precision, precisions=PRECISIONS)
    policy = chosen_policy(name, allocator)
    from predictors.runtimes.torch_cpu import TorchCPU  # noqa: PLC0415 - imports torch

    return TorchCPU("torch_cpu", name, threads, batch, precision, policy)

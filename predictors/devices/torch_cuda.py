"""PyTorch eager on an NVIDIA GPU, one forward pass at a time or as a CUDA graph."""

from predictors.devices import Device, check_options
from search_spaces.errors import UsageError

PRECISIONS = ("fp32", "fp16", "bf16")


def build(
    *, name: str = "gpu", threads: int = 1, batch: int = 64, precision: str = "fp32", graph: bool = False
) -> Device:
    """The first GPU that the process sees.

    threads: of the CPU that launches kernels.  graph: replay a CUDA graph, so that launches cost nothing.
    Raises UsageError for values that it cannot have, and where there is no GPU.
    """
    check_options(name, threads=threads, batch=batch, precision=precision, precisions=PRECISIONS)
    from predictors.runtimes import cuda  # noqa: PLC0415 - imports torch

    if not cuda.is_available():
        raise UsageError(
            f"Device '{name}' needs a GPU.", "torch.cuda.is_available() says that there is none."
        )
    return cuda.TorchCUDA(name, threads, batch, precision, graph, cuda.energy_counter())

"""Whether a runtime computes what torch computes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from search_spaces.errors import UsageError


def tensors_of(output: object) -> tuple[Tensor, ...]:
    """The tensors that a forward pass returned; raises UsageError where it returned anything else."""
    tensors = tuple(output) if isinstance(output, list | tuple) else (output,)
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise UsageError(
                f"The network returns {type(tensor).__name__}, which not every runtime can.",
                "Let it return a tensor, or a tuple of tensors.",
            )
    return tensors


def check_outputs(
    kind: str, outputs: Sequence[Tensor], expected: Sequence[Tensor], *, tolerance: float | None
) -> None:
    """Raises UsageError where the `kind` network's outputs differ from torch's, or are not finite.

    tolerance: relative to the largest number of an output; None: only shapes have to agree.
    """
    if [f.shape for f in outputs] != [e.shape for e in expected]:
        raise UsageError(f"The {kind} network's outputs have other shapes than the module's.")
    for mine, theirs in zip(outputs, expected, strict=True):
        if not mine.isfinite().all():
            raise UsageError(f"The {kind} network's outputs are not finite.")
        if tolerance is None or not theirs.numel():
            continue
        error = (mine.double() - theirs.double()).abs().max()
        largest = theirs.double().abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        if error > tolerance * largest:
            raise UsageError(
                f"The {kind} network's outputs differ from the module's by {float(error / largest):.1e} "
                "of the largest."
            )

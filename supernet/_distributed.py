"""What training needs of `torch.distributed`; without a process group there is one rank."""

from collections.abc import Iterable

import torch
import torch.distributed as dist


def world() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this one."""
    return dist.get_rank() if dist.is_initialized() else 0


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Averages over the ranks; a parameter without a gradient has none on any rank, since all draw alike.

    DistributedDataParallel does not fit: a step runs several forward passes and leaves different parameters
    unused each time.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients or not dist.is_initialized():
        return
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))

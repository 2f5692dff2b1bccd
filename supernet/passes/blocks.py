"""The blocks of a network, and where in the shared weights each of them comes from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from supernet.plain.layers import Mlp, Network


@dataclass(frozen=True)
class Place:
    """Of a block: the number of its network among the shared ones, and how deep in it, from 0 to 1."""

    network: int
    depth: float


def named_blocks(module: nn.Module) -> dict[str, nn.Module]:
    """All blocks, attention and a feed-forward network each, by name and in the order of the forward pass."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(getattr(part, "mlp", None), Mlp) and isinstance(getattr(part, "attn", None), nn.Module)
    }


def places(shared: nn.Module) -> dict[str, Place]:
    """Where each block of shared weights is; the networks count in the order in which they are registered."""
    networks = [(name, part) for name, part in shared.named_modules() if isinstance(part, Network)]
    return {
        f"{prefix}.{name}" if prefix else name: Place(number, index / max(1, len(blocks) - 1))
        for number, (prefix, network) in enumerate(networks)
        for blocks in [named_blocks(network)]
        for index, name in enumerate(blocks)
    }


def linear_rates(last: float, count: int) -> Sequence[float]:
    """From 0 for the first block to `last` for the last one, in single precision as timm has them."""
    rates: list[float] = torch.linspace(0, last, count).tolist()
    return rates


@contextmanager
def replaced_forward(
    part: nn.Module, function: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
) -> Iterator[None]:
    """Inside, the module computes `function(FORWARD, x)` with its own forward function, between its hooks."""
    before = vars(part).get("forward")
    part.forward = partial(function, part.forward)
    try:
        yield
    finally:
        del part.forward
        if before is not None:
            part.forward = before

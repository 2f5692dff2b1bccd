"""Stochastic depth (drop-path): what a block adds to its tokens is left out, example by example, in training.

Source: Huang et al. (arXiv 1603.09382), with rates that rise linearly from block to block, and the rest
scaled up, as in timm.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from supernet.plain.layers import Mlp


@contextmanager
def branches_dropped(module: nn.Module, rate: float, draw: Callable[[int], Tensor]) -> Iterator[None]:
    """Inside, attention and FFN of the first block always add, those of the last one with chance 1 - rate.

    draw: so many numbers between 0 and 1, for each branch and example, in the order of the forward pass.
    """
    with _hooked(module, rate, partial(_with_some_dropped, draw=draw)):
        yield


@torch.no_grad()
def rows_drawn(module: nn.Module, rate: float, example: Tensor) -> list[int]:
    """How many numbers each branch draws for an example inside `branches_dropped`.

    module, example: both on the meta device, the example (1, ...).
    """
    rows: list[int] = []

    def note(_: nn.Module, inputs: object, output: Tensor, *, share: float) -> None:
        rows.append(len(output))

    with _hooked(module, rate, note):
        module(example)
    return rows


@contextmanager
def _hooked(module: nn.Module, rate: float, hook: Callable[..., Tensor | None]) -> Iterator[None]:
    """Inside, a hook is called with what a branch adds and `share`, the chance with which it is left out."""
    blocks = [m for m in module.modules() if isinstance(getattr(m, "mlp", None), Mlp) and hasattr(m, "attn")]
    with ExitStack() as hooks:
        for block, share in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
            if share:
                for branch in (block.attn, block.mlp):
                    assert isinstance(branch, nn.Module)
                    hooks.callback(branch.register_forward_hook(partial(hook, share=share)).remove)
        yield


def _with_some_dropped(
    _: nn.Module, inputs: object, output: Tensor, *, share: float, draw: Callable[[int], Tensor]
) -> Tensor:
    stays = draw(len(output)) >= share
    factor = (stays / (1 - share)).to(output.device, output.dtype)
    return output * factor.view(-1, *[1] * (output.ndim - 1))

"""Stochastic depth (drop-path): what a block adds to its tokens is left out, example by example, in training.

Source: Huang et al. (arXiv 1603.09382), with rates that rise linearly from block to block, and the rest
scaled up, as in timm.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from supernet.plain.layers import Mlp


@contextmanager
def branches_dropped(module: nn.Module, rate: float, generator: torch.Generator) -> Iterator[None]:
    """Inside, attention and FFN of the first block always add, those of the last one with chance 1 - rate.

    generator: draws for each branch and example, in the order of the forward pass.
    """
    blocks = [m for m in module.modules() if isinstance(getattr(m, "mlp", None), Mlp) and hasattr(m, "attn")]
    with ExitStack() as hooks:
        for block, share in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
            if share:
                drop = partial(_with_some_dropped, share=share, generator=generator)
                for branch in (block.attn, block.mlp):
                    assert isinstance(branch, nn.Module)
                    hooks.callback(branch.register_forward_hook(drop).remove)
        yield


def _with_some_dropped(
    _: nn.Module, inputs: object, output: Tensor, *, share: float, generator: torch.Generator
) -> Tensor:
    stays = torch.rand(len(output), generator=generator) >= share
    factor = (stays / (1 - share)).to(output.device, output.dtype)
    return output * factor.view(-1, *[1] * (output.ndim - 1))

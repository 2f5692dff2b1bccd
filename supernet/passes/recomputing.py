"""Activation checkpointing: what a block computes on the way is computed again by the backward pass.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from supernet.passes.blocks import named_blocks, replaced_forward


@contextmanager
def recomputed(module: nn.Module) -> Iterator[None]:
    """Inside, of a block only its inputs are kept; the backward pass must end inside, too."""
    with ExitStack() as blocks:
        for block in named_blocks(module).values():
            blocks.enter_context(replaced_forward(block, partial(_again, block)))
        yield


class _Forward(nn.Module):
    """The forward function of a block as a module, to be called with tensors and without its hooks."""

    def __init__(self, block: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.block, self._function = block, function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


def _again(block: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    # The block has its tensors while the forward pass lasts, and has lost them when the backward pass comes.
    whole = _Forward(block, function)
    tensors = {name: tensor for name, tensor in whole.named_parameters()} | dict(whole.named_buffers())
    output: Tensor = checkpoint(
        lambda inputs: functional_call(whole, tensors, (inputs,)),
        x,
        use_reentrant=False,
        preserve_rng_state=False,  # what is left out at random remembers it itself
    )
    return output

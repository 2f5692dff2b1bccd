"""Feed-forward networks of several widths on one input, each neuron computed once.

Narrow ones are prefixes of wide ones: hidden neurons are independent of each other, and the output is a sum
over them. Neurons are added chunk by chunk, one chunk for each option of the width; whoever computes a width
thus does the same sums in the same order, and its bits do not depend on which siblings were asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from supernet._halves import Halves
from supernet._plain_layers import Block


@dataclass(frozen=True, eq=False, slots=True)
class Chunk:
    """Neurons of a block's feed-forward network: rows (c, D) of `fc1`, columns (c, D) of `fc2`, transposed.

    Gated ones have 2c rows, first those of the gates.
    """

    block: Halves
    rows: Tensor
    bias: Tensor
    columns: Tensor

    def neurons(self, x: Tensor) -> Tensor:
        """Outputs (B N, c) of the neurons for normalised tokens (B N, D)."""
        return self.block.mlp.activated(F.linear(x, self.rows, self.bias))


def divided(block: Halves, widths: Sequence[int]) -> Iterator[Chunk]:
    """The neurons of the block's network, divided where an option of its width ends."""
    mlp = block.mlp
    parts = 2 if mlp.gated else 1
    rows, bias = mlp.fc1.weight.unflatten(0, (parts, -1)), mlp.fc1.bias.unflatten(0, (parts, -1))
    ends = [width for width in widths if width <= mlp.fc2.in_features]
    for begin, end in zip([0, *ends], ends, strict=False):
        yield Chunk(
            block,
            rows[:, begin:end].flatten(0, 1).contiguous(),
            bias[:, begin:end].flatten().contiguous(),
            mlp.fc2.weight[:, begin:end].t().contiguous(),
        )


class Siblings:
    """The second halves of blocks that differ in their width only, on the same tokens (B, N, D).

    Asked from the narrowest to the widest, each adds what the one before lacks.
    """

    def __init__(self, x: Tensor) -> None:
        self._x, self._done = x, 0
        self._normed = self._sum = x.new_empty(0)

    def output(self, chunks: Sequence[Chunk]) -> Tensor:
        """Tokens behind the block that has these chunks."""
        block = chunks[0].block
        if not self._done:
            self._normed = block.norm2(self._x).flatten(0, 1)
            self._sum = block.mlp.fc2.bias
        for chunk in chunks[self._done :]:
            self._sum = torch.addmm(self._sum, chunk.neurons(self._normed), chunk.columns)
        self._done = len(chunks)
        y = self._sum.view_as(self._x)
        return self._x + (block.ls2(y) if isinstance(block, Block) else y)

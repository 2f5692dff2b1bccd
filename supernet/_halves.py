"""Blocks in two halves: attention does not depend on how wide the feed-forward network behind it is."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from supernet._base import Stage
from supernet._plain_hiera import HieraBlock
from supernet._plain_layers import Block

Halves: TypeAlias = Block | HieraBlock


@dataclass(frozen=True, eq=False, slots=True)
class FeedForward:
    """The second half of a block as a function; it knows its block, with which siblings compute as one."""

    block: Halves

    def __call__(self, x: Tensor) -> Tensor:
        return self.block.fed(x)


def halved(stages: Iterable[tuple[str, Stage]]) -> Iterator[tuple[str, Stage]]:
    """The same functions in a row, each block as two: `NAME.attn` and `NAME.mlp`."""
    for name, stage in stages:
        if isinstance(stage, Block | HieraBlock):
            yield f"{name}.attn", stage.attended
            yield f"{name}.mlp", FeedForward(stage)
        else:
            yield name, stage

"""Blocks in two halves: attention does not depend on how wide the feed-forward network behind it is."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from supernet.plain.layers import HalvedBlock
from supernet.supernet import Stage


@dataclass(frozen=True, eq=False, slots=True)
class FeedForward:
    """The second half of a block as a function; it knows its block, with which siblings compute as one."""

    block: HalvedBlock

    def __call__(self, x: Tensor) -> Tensor:
        return self.block.fed(x)


def halved(stages: Iterable[tuple[str, Stage]]) -> Iterator[tuple[str, Stage]]:
    """The same functions in a row, each block as two: `NAME.attn` and `NAME.mlp`."""
    for name, stage in stages:
        if isinstance(stage, HalvedBlock):
            yield f"{name}.attn", stage.attended
            yield f"{name}.mlp", FeedForward(stage)
        else:
            yield name, stage

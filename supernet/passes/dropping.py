"""What a training step leaves out at random: all that a branch adds to an example, and single numbers.

Stochastic depth, or drop-path: Huang et al. (arXiv 1603.09382), with the rest scaled up, as in timm. Dropout:
Srivastava et al. (2014), behind the embedding, behind attention, and on a feed-forward network's neurons and
outputs, as in the first vision transformers.
By hooks, so that plain modules know nothing of it. A pass that computes a block again leaves out the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supernet.passes.blocks import named_blocks
from supernet.plain.layers import Mlp


@contextmanager
def branches_dropped(
    module: nn.Module, rates: Sequence[float], draw: Callable[[int], Tensor]
) -> Iterator[None]:
    """Inside, attention and FFN of each block add to an example with chance 1 - its rate.

    rates: of the blocks, in their order.
    draw: so many numbers between 0 and 1, for each branch and example, in the order of the forward pass.
    """
    with ExitStack() as hooks:
        for block, rate in zip(named_blocks(module).values(), rates, strict=True):
            if rate:
                for branch in (block.attn, block.mlp):
                    assert isinstance(branch, nn.Module)
                    hooks.callback(branch.register_forward_hook(_Branch(rate, draw)).remove)
        yield


@dataclass(frozen=True)
class Rows:
    """Which of an architecture's examples in a step a pass is about, and the seed of what it leaves out."""

    seed: int
    examples: int
    part: slice


@contextmanager
def dropout(module: nn.Module, rate: float, rows: Rows) -> Iterator[None]:
    """Inside, every number at the places above is 0 with chance `rate`, or scaled up.

    Whatever parts the examples are seen in, the same numbers of an example are left out.
    """
    blocks = list(named_blocks(module).values())
    seeds = torch.Generator().manual_seed(rows.seed)
    with ExitStack() as hooks:
        for number, block in enumerate(blocks):
            attn, mlp = block.attn, block.mlp
            assert isinstance(attn, nn.Module)
            assert isinstance(mlp, Mlp)
            ways_in = (block, mlp.fc2) if number == 0 else (mlp.fc2,)
            drops = [_Numbers(rate, rows, _seed(seeds)) for _ in range(len(ways_in) + 2)]
            for part, drop in zip(ways_in, drops, strict=False):
                hooks.callback(part.register_forward_pre_hook(drop.before).remove)
            for part, drop in zip((attn, mlp), drops[-2:], strict=True):
                hooks.callback(part.register_forward_hook(drop.behind).remove)
        yield


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


class _Branch:
    """Leaves out what a module gives, for the same examples each time it is called."""

    def __init__(self, rate: float, draw: Callable[[int], Tensor]) -> None:
        self._rate, self._draw = rate, draw
        self._stays: Tensor | None = None

    def __call__(self, _: nn.Module, inputs: object, output: Tensor) -> Tensor:
        if self._stays is None:
            self._stays = self._draw(len(output)) >= self._rate
        factor = (self._stays / (1 - self._rate)).to(output.device, output.dtype)
        return output * factor.view(-1, *[1] * (output.ndim - 1))


class _Numbers:
    """Leaves out single numbers of what goes into a module or comes out of it, the same each time."""

    def __init__(self, rate: float, rows: Rows, seed: int) -> None:
        self._rate, self._rows, self._seed = rate, rows, seed

    def behind(self, _: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return self._dropped(output)

    def before(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return self._dropped(inputs[0])

    def _dropped(self, x: Tensor) -> Tensor:
        generator = torch.Generator(x.device).manual_seed(self._seed)
        numbers = torch.rand(self._rows.examples, *x.shape[1:], generator=generator, device=x.device)
        stays = numbers[self._rows.part] >= self._rate
        return x * stays.to(x.dtype) * (1 / (1 - self._rate))

"""The steps of many architectures: each distinct one is made once, however many architectures take it."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces import Architecture
from search_spaces.layers import Layer
from supernet.halves import FeedForward
from supernet.nested import Nested
from supernet.plain.layers import HalvedBlock
from supernet.supernet import Supernet


@dataclass(frozen=True, slots=True)
class Step:
    """A function of a forward pass.

    name: in the first architecture that needed it.  macs: for one example.  chunks: of a feed-forward network
    that has siblings, the neurons that each next wider option adds; they give what `run` gives, up to
    rounding.  params: that it keeps, about.
    """

    name: str
    run: Callable[[Any], Any]
    macs: int
    chunks: Sequence[Any] = ()
    params: int = 0


class Steps:
    """The steps of a supernet's architectures by the keys of their paths, each made when it is first needed.

    make: all steps of an architecture.  siblings: from a value to what has `output(chunks)`, the value behind
    the step with these chunks; asked for in the order of their numbers.
    params: that the steps made so far keep, about: half a block keeps the other half, too.
    """

    def __init__(
        self,
        supernet: Supernet,
        make: Callable[[Supernet, Architecture], Iterable[Step]],
        siblings: Callable[[Any], Any],
    ) -> None:
        self.siblings = siblings
        self._supernet, self._make = supernet, make
        self._paths: dict[Architecture, tuple[Hashable, ...]] = {}
        self._first: dict[Hashable, Architecture] = {}
        self._made: dict[Hashable, Step] = {}
        self.params = 0

    def path(self, arch: Architecture) -> tuple[Hashable, ...]:
        """The keys of an architecture's steps in order."""
        if arch not in self._paths:
            self._paths[arch] = self._supernet.path(arch)
            for key in self._paths[arch]:
                self._first.setdefault(key, arch)
        return self._paths[arch]

    def __getitem__(self, key: Hashable) -> Step:
        """The step of a key of any path that was asked for."""
        if key not in self._made:
            arch = self._first[key]
            for other, step in zip(self.path(arch), self._make(self._supernet, arch), strict=True):
                if other not in self._made:
                    self._made[other] = step
                    self.params += step.params
        return self._made[key]


def shared_steps(supernet: Supernet) -> Steps:
    """Steps with the weights that the supernet has when a step is first needed; for as long as these stay.

    What needs a copy of weights (narrower layers) keeps it: in all as many weights as distinct steps have.
    """
    return Steps(supernet.eval(), _running, Siblings)


def _running(supernet: Supernet, arch: Architecture) -> Iterator[Step]:
    named = list(supernet.steps(arch))
    names, layers = [name for name, _ in named], supernet.space.layers(arch)
    macs = step_macs(names, layers)
    params = dict.fromkeys(names, 0)
    for name, layer in attributed(names, layers):
        params[name] += layer.params
    for name, run in named:
        chunks: tuple[Chunk, ...] = ()
        if isinstance(run, FeedForward):
            chunks = tuple(divided(run.block, sibling_widths(supernet, arch, name)))
        yield Step(name, run, macs[name], chunks, params[name])


def sibling_widths(supernet: Supernet, arch: Architecture, step: str) -> Sequence[int]:
    """The FFN widths that the space offers at this step, if there is a choice."""
    if not isinstance(supernet, Nested) or not step.endswith(".mlp"):
        return ()
    widths = supernet.ffn_widths(arch, step.removesuffix(".mlp"))
    return widths if len(widths) > 1 else ()


def step_macs(names: Sequence[str], layers: Sequence[Layer]) -> Mapping[str, int]:
    """MACs of steps, given their names and all layers, each in the order of the forward pass."""
    macs = dict.fromkeys(names, 0)
    for name, layer in attributed(names, layers):
        macs[name] += layer.macs
    return macs


def attributed(names: Sequence[str], layers: Sequence[Layer]) -> Iterator[tuple[str, Layer]]:
    """Each layer with the step that it is in.

    A layer that no step is named after is at the beginning, at the end, or leads into the step behind it.
    """
    owners = [_owner(names, layer.name) for layer in layers]
    named = [i for i, owner in enumerate(owners) if owner]
    for i, layer in enumerate(layers):
        if i < named[0]:
            yield names[0], layer
        elif i > named[-1]:
            yield names[-1], layer
        else:
            yield next(owner for owner in owners[i:] if owner), layer


@dataclass(frozen=True, eq=False, slots=True)
class Chunk:
    """Neurons of a block's feed-forward network: rows (c, D) of `fc1`, columns (c, D) of `fc2`, transposed.

    Gated ones have 2c rows, first those of the gates.  bias: of the rows, where the network has any.
    """

    block: HalvedBlock
    rows: Tensor
    bias: Tensor | None
    columns: Tensor

    def neurons(self, x: Tensor) -> Tensor:
        """Outputs (B N, c) of the neurons for normalised tokens (B N, D)."""
        return self.block.mlp.activated(F.linear(x, self.rows, self.bias))


def divided(block: HalvedBlock, widths: Sequence[int]) -> Iterator[Chunk]:
    """The neurons of the block's network, divided where an option of its width ends."""
    mlp = block.mlp
    parts = 2 if mlp.gated else 1
    rows, bias = (None if p is None else p.unflatten(0, (parts, -1)) for p in (mlp.fc1.weight, mlp.fc1.bias))
    assert rows is not None
    ends = [width for width in widths if width <= mlp.fc2.in_features]
    for begin, end in zip([0, *ends], ends, strict=False):
        yield Chunk(
            block,
            rows[:, begin:end].flatten(0, 1).contiguous(),
            None if bias is None else bias[:, begin:end].flatten().contiguous(),
            mlp.fc2.weight[:, begin:end].t().contiguous(),
        )


class Siblings:
    """The second halves of blocks that differ in their FFN's width only, on the same tokens (B, N, D).

    Asked from the narrowest to the widest, each adds what the one before lacks: hidden neurons are
    independent of each other, and the output is a sum over them. Neurons are added chunk by chunk, one chunk
    for each option of the width; whoever computes a width thus does the same sums in the same order, and its
    bits do not depend on which siblings were asked for.
    """

    def __init__(self, x: Tensor) -> None:
        self._x, self._done = x, 0
        self._normed = self._sum = x.new_empty(0)

    def output(self, chunks: Sequence[Chunk]) -> Tensor:
        """Tokens behind the block that has these chunks."""
        block = chunks[0].block
        if not self._done:
            self._normed = block.norm2(self._x).flatten(0, 1)
            bias = block.mlp.fc2.bias
            self._sum = self._x.new_zeros(()) if bias is None else bias
        for chunk in chunks[self._done :]:
            self._sum = torch.addmm(self._sum, chunk.neurons(self._normed), chunk.columns)
        self._done = len(chunks)
        return self._x + block.scaled(self._sum.view_as(self._x))


def _owner(names: Sequence[str], layer: str) -> str:
    """The step that the layer is named after; what is of no half of its block is the first half's."""
    stages = [name.removesuffix(".attn") for name in names]
    prefixes = [*zip(names, names, strict=True), *zip(stages, names, strict=True)]
    return next((name for prefix, name in prefixes if f"{layer}.".startswith(f"{prefix}.")), "")

"""How much forward work architectures need together, counted without any weights or images.

Work is in multiply-accumulates per image (`search_spaces.layers`), which is exact for a trie; norms,
activations and softmax are not in it.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from search_spaces import Architecture
from search_spaces.layers import FLOAT_BYTES, Layer
from supernet.evaluation.prefix_cache import PrefixCache
from supernet.evaluation.scores import Descent
from supernet.evaluation.steps import Step, Steps, attributed, sibling_widths, step_macs
from supernet.supernet import Supernet


@dataclass(frozen=True, slots=True)
class _Activation:
    """An activation without its numbers."""

    nbytes: int


class _Siblings:
    def __init__(self, x: _Activation) -> None:
        self._x = x

    def output(self, chunks: Sequence[Any]) -> _Activation:
        return self._x


@dataclass(frozen=True, slots=True)
class ForwardWork:
    """MACs per image of a set of architectures.

    alone: one by one.  blocks: equal first blocks once.  halves: of equal first steps, attention too where
    only the FFN behind it differs.  siblings: besides, FFNs that differ only in width as the widest of them.
    """

    alone: int
    blocks: int
    halves: int
    siblings: int


def forward_work(supernet: Supernet, archs: Sequence[Architecture]) -> ForwardWork:
    """What evaluating these distinct architectures together costs, by how much they share."""
    steps = counted_steps(supernet, images=1)
    paths = [steps.path(arch) for arch in archs]
    alone = sum(steps[key].macs for path in paths for key in path)
    halves = cached_work(supernet, [archs], siblings=False, budget=0, images=1)
    siblings = cached_work(supernet, [archs], siblings=True, budget=0, images=1)
    return ForwardWork(alone, _by_blocks(steps, paths), halves, siblings)


def cached_work(
    supernet: Supernet, groups: Iterable[Sequence[Architecture]], *, siblings: bool, budget: int, images: int
) -> int:
    """What evaluating groups of architectures one after another costs on one batch of `images` images.

    budget: bytes of a `PrefixCache` that lives as long as all of them.
    """
    cache = PrefixCache(budget)
    descent = Descent(counted_steps(supernet, images=images), siblings=siblings, cache=cache)
    for archs in groups:
        for _ in descent.run(_Activation(0), archs, batch=None):
            pass
    return descent.macs


def counted_steps(supernet: Supernet, *, images: int) -> Steps:
    """Steps that only tell their MACs and how many bytes their outputs for so many images have."""

    def make(supernet: Supernet, arch: Architecture) -> Iterator[Step]:
        names, layers = supernet.step_names(arch), supernet.space.layers(arch)
        macs = step_macs(names, layers)
        written = {name: layer.output_elements for name, layer in attributed(names, layers)}
        for name in names:
            output = _Activation(written[name] * FLOAT_BYTES * images)
            yield Step(name, partial(_instead, output), macs[name], _narrower(supernet, arch, name, layers))

    return Steps(supernet, make, _Siblings)


def _instead(output: _Activation, x: _Activation) -> _Activation:
    return output


def _narrower(supernet: Supernet, arch: Architecture, name: str, layers: Sequence[Layer]) -> Sequence[int]:
    """The widths that stand for the chunks of an FFN that has siblings."""
    widths = sibling_widths(supernet, arch, name)
    fc2 = next((layer for layer in layers if layer.name == f"{name}.fc2"), None)
    return [width for width in widths if fc2 is not None and width <= fc2.shape[1]]


def _by_blocks(steps: Steps, paths: Iterable[Sequence[Hashable]]) -> int:
    """MACs of the trie whose steps are whole blocks."""
    work: dict[Sequence[Hashable], int] = {}
    for path in paths:
        waiting = 0
        for i, key in enumerate(path):
            waiting += steps[key].macs
            if not steps[key].name.endswith(".attn"):
                work[path[: i + 1]] = waiting
                waiting = 0
    return sum(work.values())

"""Supernets whose architectures are prefixes: a parameter is a leading slice of the largest net's."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from torch import Tensor, nn

from search_spaces import Architecture
from search_spaces.errors import UsageError
from supernet.halves import halved
from supernet.supernet import Stage, Supernet

DIVISORS = (8, 4, 2, 1)


def fewer_neurons(hidden: int) -> list[int]:
    """How many neurons FFNs can have that are cut out of a network's own: an eighth to all of them."""
    return sorted({max(1, hidden // divisor) for divisor in DIVISORS})


def equal_layers(module: nn.Module, kind: type[nn.Module]) -> tuple[dict[str, Any], int, int, int]:
    """What makes a plain module whose layers are all alike: its other arguments, depth, heads, FFN neurons.

    Raises UsageError when it is none of that kind or its layers are unequal.
    """
    if not isinstance(module, kind):
        raise UsageError(f"it is a {type(module).__name__}, and only a {kind.__name__} can be nested.")
    numbers: dict[str, Any] = dict(module.config)  # type: ignore[arg-type]
    depth = len(numbers["num_heads"])
    heads, hidden = set(numbers.pop("num_heads")), set(numbers.pop("mlp_hidden"))
    if len(heads) != 1 or len(hidden) != 1:
        raise UsageError("its layers differ, and only one with equal layers can be nested.")
    return numbers, depth, heads.pop(), hidden.pop()


def prefix_slice(tensor: Tensor, shape: Sequence[int], *, segments: int = 1) -> Tensor:
    """The leading `shape` of `tensor`, contiguous; dim 0 may consist of equal `segments`, each cut alike.

    A fused projection of query, key and value has 3 segments, a gated `fc1` has 2. Contiguous, because a
    strided view may pick another matrix product kernel than its copy, and outputs would differ in the last
    bit. By one view and not by a slice a dim, each of which fills up the gradient with zeros.
    """
    if tuple(tensor.shape) == tuple(shape):
        return tensor
    assert all(n <= most for n, most in zip(shape, tensor.shape, strict=True)), "it would be of other numbers"
    if segments == 1:
        return tensor.as_strided(tuple(shape), tensor.stride()).contiguous()
    first, *others = tensor.stride()
    strides = (len(tensor) // segments * first, first, *others)
    parts = tensor.as_strided((segments, shape[0] // segments, *shape[1:]), strides)
    return parts.reshape(tuple(shape)).contiguous()


class Nested(Supernet):
    """`shared` is the plain module of the largest architecture."""

    @abstractmethod
    def segments(self, name: str) -> int:
        """Into how many equal segments dim 0 of the parameter called `name` divides (see `prefix_slice`)."""

    def shared_name(self, arch: Architecture, name: str) -> str:
        """Of which shared tensor the plain module's `name` is a slice; most families call both alike."""
        return name

    def shared_block(self, arch: Architecture, name: str) -> str:
        weight = ".mlp.fc2.weight"
        return self.shared_name(arch, name + weight).removesuffix(weight)

    @abstractmethod
    def ffn_widths(self, arch: Architecture, block: str) -> Sequence[int]:
        """How many neurons the FFN of this block can have, all else as in the architecture; ascending."""

    def _divided(self, module: nn.Module) -> Iterator[tuple[str, Stage]]:
        return halved(super()._divided(module))

    def tensors(self, arch: Architecture) -> dict[str, Tensor]:
        shared, skeleton = self.shared, self._skeleton(arch)
        whole = dict(chain(shared.named_parameters(), shared.named_buffers()))
        return {
            name: prefix_slice(
                whole[self.shared_name(arch, name)], wanted.shape, segments=self.segments(name)
            )
            for name, wanted in chain(skeleton.named_parameters(), skeleton.named_buffers())
        }

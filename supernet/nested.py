"""Supernets whose architectures are prefixes: a parameter is a leading slice of the largest net's."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from supernet.halves import halved
from supernet.supernet import Stage, Supernet

DIVISORS = (8, 4, 2, 1)
ASSEMBLED = 8  # modules that are kept, of as many architectures as may be
COPIES = 2**26  # bytes of slices that they may have copied

_steps = 0  # of all optimisers of this process: those of fused ones raise no version of a tensor


def _stepped(*_: object) -> None:
    global _steps
    _steps += 1


register_optimizer_step_post_hook(_stepped)


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


@dataclass(frozen=True, eq=False, slots=True)
class _Origins:
    """Shared tensors as they are when something is made of them.

    holders: of these tensors and of the modules around them.  held: what they hold, and by that keep alive.
    sliced: those whose numbers are copied.  moment: of these.
    """

    holders: Sequence[dict[str, Any]]
    held: Sequence[object]
    identities: Sequence[int]
    sliced: Sequence[Tensor]
    moment: Hashable

    @classmethod
    def of(cls, holders: Sequence[dict[str, Any]], sliced: Sequence[Tensor]) -> "_Origins":
        held = list(chain.from_iterable(map(dict.values, holders)))
        return cls(holders, held, list(map(id, held)), sliced, _moment(held, sliced))

    @property
    def are_same(self) -> bool:
        """Whether they are there still, without any step or load since.

        It is asked before every pass, and what it looks at has left the processor's caches by then.
        """
        identities = list(map(id, chain.from_iterable(map(dict.values, self.holders))))
        return identities == self.identities and _moment(self.held, self.sliced) == self.moment


def _moment(held: Sequence[object], sliced: Sequence[Tensor]) -> Hashable:
    """What every change of the sliced numbers changes, and every move of all tensors to another place."""
    first = next(one for one in held if isinstance(one, Tensor))
    return tuple(map(attrgetter("_version"), sliced)), first.data_ptr(), _steps


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _holders(shared: nn.Module, names: Collection[str]) -> list[dict[str, Any]]:
    """What holds the tensors of these names, and the modules around them."""
    around = {"", *(name.rsplit(".", i)[0] for name in names for i in range(1, name.count(".") + 1))}
    return [
        holder
        for prefix, module in shared.named_modules()
        if prefix in around
        for holder in (module._parameters, module._buffers, module._modules)
        if holder
    ]


@dataclass(frozen=True, eq=False, slots=True)
class _Assembled:
    """An architecture that was run on these origins; with a module of its own if that was more than once.

    copied: bytes of slices that the module holds, or 0 without one: it is too large for one if `is_large`.
    """

    origins: _Origins
    module: nn.Module | None = None
    copied: int = 0
    is_large: bool = False


class Nested(Supernet):
    """`shared` is the plain module of the largest architecture.

    What is run again without gradients, on the same weights, is run by a plain module that was assembled of
    the slices: to take them, and to call a module with them, is more work than a small network is itself.
    Whatever changes weights ends that, but for what goes behind a tensor's back by its `data`.
    """

    def __init__(self, space: SearchSpace, shared: nn.Module) -> None:
        super().__init__(space, shared)
        self._kept: Mapping[Architecture, _Assembled] = {}
        self._altered = 0

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
        skeleton, whole = self._skeleton(arch), self._whole()
        return {
            name: prefix_slice(
                whole[self.shared_name(arch, name)], wanted.shape, segments=self.segments(name)
            )
            for name, wanted in chain(skeleton.named_parameters(), skeleton.named_buffers())
        }

    def _whole(self) -> dict[str, Tensor]:
        return dict(chain(self.shared.named_parameters(), self.shared.named_buffers()))

    def forward(self, x: Tensor, arch: Architecture) -> Tensor:
        module = None
        is_plain = not (self.training or self._altered or torch.is_grad_enabled())
        if is_plain and not torch.compiler.is_compiling():
            module = self._assembled_before(arch)
        return super().forward(x, arch) if module is None else module(x)

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._kept = {}
        return super().train(mode)

    @contextmanager
    def altered(
        self, arch: Architecture, alter: Callable[[nn.Module], AbstractContextManager[Any]]
    ) -> Iterator[Any]:
        self._altered += 1
        try:
            with super().altered(arch, alter) as result:
                yield result
        finally:
            self._altered -= 1

    def _assembled_before(self, arch: Architecture) -> nn.Module | None:
        """The architecture's own module; None when it is run on these weights for the first time."""
        before = self._kept.get(arch)
        if before is not None and before.origins.are_same:
            if before.module is not None or before.is_large:
                return before.module
            now = self._with_module(arch, before.origins)
        elif (origins := self._origins(arch)) is None:
            return None
        else:
            now = _Assembled(origins)
        # Those of other weights go, which nothing else may hold any more.
        others = [(key, one) for key, one in self._kept.items() if key != arch and one.origins.are_same]
        others = others[1 - ASSEMBLED :]
        while sum(one.copied for _, one in others) + now.copied > COPIES:
            others.pop(0)
        self._kept = {**dict(others), arch: now}
        return now.module

    def _with_module(self, arch: Architecture, origins: _Origins) -> _Assembled:
        with torch.inference_mode(False), torch.no_grad():
            tensors, whole = self.tensors(arch), self._whole()
            pairs = [(one, whole[self.shared_name(arch, name)]) for name, one in tensors.items()]
            # What is no copy follows whatever becomes of the numbers.
            copies = [(one, source) for one, source in pairs if _storage(one) != _storage(source)]
            if (copied := sum(one.nbytes for one, _ in copies)) > COPIES:
                return _Assembled(origins, is_large=True)
            now = _Origins.of(origins.holders, [source for _, source in copies])
            return _Assembled(now, self._assembled(arch, tensors), copied)

    def _origins(self, arch: Architecture) -> _Origins | None:
        """All that the architecture has something of; None where versions of tensors are not counted."""
        skeleton = self._skeleton(arch)
        of_skeleton = chain(skeleton.named_parameters(), skeleton.named_buffers())
        names = {self.shared_name(arch, name) for name, _ in of_skeleton}
        tensors = [tensor for name, tensor in self._whole().items() if name in names]
        if any(type(one) not in (nn.Parameter, Tensor) or one.is_inference() for one in tensors):
            return None
        return _Origins.of(_holders(self.shared, names), tensors)

"""A supernet: shared weights from which every architecture of a space takes its slice.

The idea in one sentence: an architecture is built as a **plain module**, and each of its parameters is a
prefix slice of the tensor of the same name in the largest plain module. Running an architecture calls the
plain module with the sliced tensors; extracting it copies the same slices into a plain module. Nothing is
written twice, so the two cannot differ.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from search_spaces import Architecture, SearchSpace

SKELETONS = 64


def prefix_slice(tensor: Tensor, shape: Sequence[int], *, segments: int = 1) -> Tensor:
    """The leading `shape` of `tensor`, contiguous; dim 0 may consist of equal `segments`, each cut alike.

    A fused projection of query, key and value has 3 segments, a gated `fc1` has 2. Contiguous, because a
    strided view may pick another matrix product kernel than its copy, and outputs would differ in the last
    bit.
    """
    if tuple(tensor.shape) == tuple(shape):
        return tensor
    parts = tensor.unflatten(0, (segments, -1))
    index = (slice(None), slice(shape[0] // segments), *(slice(n) for n in shape[1:]))
    return parts[index].reshape(tuple(shape)).contiguous()


class _WithoutInit(TorchFunctionMode):
    """Skips `torch.nn.init`: drawing a skeleton's weights is most of its cost, and nobody reads them."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


class Supernet(nn.Module, ABC):
    """Base of every family; the architecture is an argument, never state.

    A family gives `plain` and `segments`, and `example_input`. `shared` is the plain module of the largest
    architecture and holds all weights: saving it saves the supernet.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.shared = self.plain(space.largest)
        self._skeleton = lru_cache(SKELETONS)(self._build_skeleton)

    @abstractmethod
    def plain(self, arch: Architecture) -> nn.Module:
        """A stand-alone module of this architecture with fresh weights, `stages()` and `config`."""

    @abstractmethod
    def segments(self, name: str) -> int:
        """Into how many equal segments dim 0 of the parameter called `name` divides (see `prefix_slice`)."""

    @abstractmethod
    def example_input(self, batch: int) -> Tensor:
        """Random input of the shape that the family takes."""

    @abstractmethod
    def stage_key(self, arch: Architecture, stage: str) -> Hashable:
        """What a stage's work depends on beside its input and its name."""

    def _build_skeleton(self, arch: Architecture) -> nn.Module:
        with torch.device("meta"), _WithoutInit():
            return self.plain(arch)

    def sliced(self, arch: Architecture) -> dict[str, Tensor]:
        """The tensors of an architecture by parameter name; gradients flow back into the shared weights."""
        shared = dict(self.shared.named_parameters())
        return {
            name: prefix_slice(shared[name], parameter.shape, segments=self.segments(name))
            for name, parameter in self._skeleton(arch).named_parameters()
        }

    def forward(self, x: Tensor, arch: Architecture) -> Tensor:
        """Runs one architecture on the shared weights."""
        output: Tensor = functional_call(self._skeleton(arch), self.sliced(arch), (x,))
        return output

    def extract(self, arch: Architecture) -> nn.Module:
        """A stand-alone copy of one architecture, on the supernet's device, in evaluation mode."""
        tensors = {name: tensor.detach().clone() for name, tensor in self.sliced(arch).items()}
        module = self._build_skeleton(arch)
        module.load_state_dict(tensors, strict=True, assign=True)
        return module.eval()

    def steps(self, arch: Architecture) -> Iterator[tuple[Hashable, Callable[[Tensor], Tensor]]]:
        """The forward pass as (key, function) pairs: equal keys so far, equal inputs, equal outputs."""
        module: Any = self.extract(arch)
        for name, stage in module.stages():
            yield (name, self.stage_key(arch, name)), stage

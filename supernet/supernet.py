"""A supernet: shared weights from which every architecture of a space takes its own.

The idea in one sentence: an architecture is built as a **plain module**, and each of its parameters is made
of shared tensors by one rule, `Supernet.tensors`. Running an architecture calls the plain module with these
tensors; extracting it copies the same tensors into a plain module. Nothing is written twice, so the two
cannot differ.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.workloads import Workload
from supernet.passes.blocks import Place, named_blocks, places

Stage = Callable[[Tensor], Tensor]
SKELETONS = 64


class WithoutInit(TorchFunctionMode):
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


class _WithPatches(nn.Module):
    """A method of a module as a module, because only those can be called with other tensors."""

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, patches = self.plain.with_patches(x)
        return logits, patches


class Supernet(nn.Module, ABC):
    """Base of every family; the architecture is an argument, never state.

    `shared` holds all weights: its state is the supernet's. `frozen` are architectures without any weight
    that is trained.
    """

    def __init__(self, space: SearchSpace, shared: nn.Module) -> None:
        super().__init__()
        self.space, self.shared = space, shared
        self.frozen: frozenset[Architecture] = frozenset()
        self._built = lru_cache(SKELETONS)(self._build_skeleton)

    @abstractmethod
    def plain(self, arch: Architecture) -> nn.Module:
        """A stand-alone module of this architecture with fresh weights, `stages()` and `config`."""

    @abstractmethod
    def tensors(self, arch: Architecture) -> dict[str, Tensor]:
        """The plain module's parameters and buffers by name; gradients flow back into the shared weights."""

    @abstractmethod
    def example_input(self, batch: int) -> Tensor:
        """Random input of the shape that the family takes."""

    @abstractmethod
    def path(self, arch: Architecture) -> tuple[Hashable, ...]:
        """A key for each of `steps`, without any weight: equal keys, equal functions, in any architecture."""

    def segments(self, name: str) -> int:
        """Into how many equal segments dim 0 of the parameter called `name` divides, each its own matrix.

        A fused projection of query, key and value has 3, a gated `fc1` has 2.
        """
        return 1

    @abstractmethod
    def adapt(self, batches: Iterable[Tensor]) -> None:
        """Makes pretrained weights ready for training, from inputs without labels or targets."""

    def recalibrate(self, batches: Iterable[Tensor]) -> None:
        """Estimates statistics of batches anew, from inputs as training has them; most families have none."""

    def _skeleton(self, arch: Architecture) -> nn.Module:
        """The plain module without weights, in the mode, training or evaluation, that this one is in."""
        skeleton = self._built(arch)
        return skeleton if skeleton.training == self.training else skeleton.train(self.training)

    def _build_skeleton(self, arch: Architecture) -> nn.Module:
        with torch.device("meta"), WithoutInit():
            return self.plain(arch)

    def forward(self, x: Tensor, arch: Architecture) -> Tensor:
        """Runs one architecture on the shared weights."""
        output: Tensor = functional_call(self._skeleton(arch), self.tensors(arch), (x,))
        return output

    def altered(
        self, arch: Architecture, alter: Callable[[nn.Module], AbstractContextManager[Any]]
    ) -> AbstractContextManager[Any]:
        """What `alter` makes of the plain module that runs the architecture, which has no weights itself."""
        return alter(self._skeleton(arch))

    @property
    def networks(self) -> int:
        """How many networks the shared weights are of: one, unless the family joins several."""
        return 1

    def block_places(self, arch: Architecture) -> list[Place]:
        """Where in the shared weights each block of the architecture's plain module comes from."""
        names = named_blocks(self._skeleton(arch))
        return [self._places[self.shared_block(arch, name)] for name in names]

    def shared_block(self, arch: Architecture, name: str) -> str:
        """Which block of `shared` the plain module's block of this name is of; most call both alike."""
        return name

    @cached_property
    def _places(self) -> dict[str, Place]:
        return places(self.shared)

    def common(self) -> "tuple[nn.Module, Supernet] | None":
        """The part with statistics of batches that all architectures share, and the supernet behind it.

        The part takes what the supernet takes; both have its weights, and running one behind the other is
        running it. None where there is no such part.
        """
        return None

    def with_patches(self, x: Tensor, arch: Architecture) -> tuple[Tensor, Tensor]:
        """What the plain module's `with_patches` gives: logits, and patches (B, P, D) that can be classified.

        For families whose plain module has it; training on labelled patches uses it.
        """
        method = _WithPatches(self._skeleton(arch))
        tensors = {f"plain.{name}": tensor for name, tensor in self.tensors(arch).items()}
        logits, patches = functional_call(method, tensors, (x,))
        return logits, patches

    def extract(self, arch: Architecture) -> nn.Module:
        """A stand-alone copy of one architecture, on the supernet's device, in evaluation mode."""
        return self._assembled(arch, {name: tensor.clone() for name, tensor in self.tensors(arch).items()})

    def as_run(self, arch: Architecture, workload: Workload | None, batch: int) -> nn.Module:
        """A stand-alone copy of one architecture as a device runs it on a workload, `batch` texts at a time.

        Raises UsageError where the family's networks know no workloads.
        """
        if workload is not None:
            raise UsageError(f"The networks of family '{self.space.family}' are run on no workload.")
        return self.extract(arch)

    def run_input(self, workload: Workload | None, batch: int) -> Tensor:
        """What `as_run` takes; random, always the same."""
        return self.example_input(batch)

    def steps(self, arch: Architecture) -> Iterator[tuple[str, Stage]]:
        """The forward pass as functions by name, one for each key of `path`.

        They share the weights as they are now, as far as they need no copy.
        """
        return self._divided(self._assembled(arch, self.tensors(arch)))

    def step_names(self, arch: Architecture) -> list[str]:
        """The names of `steps`, without any weight."""
        return [name for name, _ in self._divided(self._skeleton(arch))]

    def _divided(self, module: nn.Module) -> Iterator[tuple[str, Stage]]:
        """The stages of a plain module; families whose FFNs are chosen divide blocks in halves."""
        stages: Iterator[tuple[str, Stage]] = module.stages()  # type: ignore[operator]
        return stages

    def _assembled(self, arch: Architecture, tensors: dict[str, Tensor]) -> nn.Module:
        module = self._build_skeleton(arch)
        detached = {name: tensor.detach() for name, tensor in tensors.items()}
        module.load_state_dict(detached, strict=True, assign=True)
        return module.eval()


class Joined(Supernet):
    """Base of families that join models which come from elsewhere, their anchors."""

    @abstractmethod
    def load_anchors(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Gives the anchors at these positions these weights.

        Raises UsageError for weights that do not fit an anchor's numbers.
        """

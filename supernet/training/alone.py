"""One architecture of a supernet with weights that it shares with none: how a subnet is trained further."""

from collections.abc import Callable, Hashable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from search_spaces import Architecture
from search_spaces.restriction import only
from supernet.initialisation import init_weights
from supernet.nested import Nested
from supernet.passes.blocks import Place
from supernet.plain.layers import Mlp
from supernet.supernet import Supernet


class Alone(Nested):
    """A supernet whose space is one architecture and whose shared weights are that architecture's module.

    net: the supernet that it comes from, whose weights stay as they are.
    """

    def __init__(self, net: Supernet, arch: Architecture, module: nn.Module) -> None:
        super().__init__(only(net.space, arch), module)
        # As functions, since a module that is an attribute would count as a part of this one.
        self._plain: Callable[[Architecture], nn.Module] = net.plain
        self._example: Callable[[int], Tensor] = net.example_input
        self._segments: Callable[[str], int] = net.segments
        self._block_places = net.block_places(arch)
        self._networks = net.networks

    def plain(self, arch: Architecture) -> nn.Module:
        return self._plain(arch)

    def segments(self, name: str) -> int:
        return self._segments(name)

    @property
    def networks(self) -> int:
        return self._networks

    def block_places(self, arch: Architecture) -> list[Place]:
        """In the supernet that it comes from, where its blocks have their rates."""
        return self._block_places

    def path(self, arch: Architecture) -> tuple[Hashable, ...]:
        return tuple(self.step_names(arch))

    def ffn_widths(self, arch: Architecture, block: str) -> Sequence[int]:
        mlp = self.shared.get_submodule(f"{block}.mlp")
        assert isinstance(mlp, Mlp)
        return [mlp.fc2.in_features]

    def adapt(self, batches: Iterable[Tensor]) -> None:
        """Nothing: there are no smaller networks inside."""

    def recalibrate(self, batches: Iterable[Tensor]) -> None:
        """Estimates the statistics of batches anew, where the module has any."""
        update_bn(batches, self.shared)

    def example_input(self, batch: int) -> Tensor:
        return self._example(batch)


def inherited(net: Supernet, arch: Architecture) -> Alone:
    """The architecture with the weights that it has in the supernet."""
    return Alone(net, arch, net.extract(arch))


def from_scratch(net: Supernet, arch: Architecture, *, seed: int, std: float | None = None) -> Alone:
    """The architecture with fresh weights, on the CPU; the same seed gives the same ones.

    std: of linear layers, see `init_weights`.
    """
    module = net.plain(arch)
    init_weights(module, torch.Generator().manual_seed(seed), std=std)
    return Alone(net, arch, module)

"""One vision transformer whose prefixes of FFN neurons, heads, channels and layers are networks, too."""

from collections.abc import Hashable, Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Architecture, SearchSpace
from search_spaces.shapes.elastic_vit import hidden_features, layer_values, plain_config, vit_config
from supernet.importance import sort_by_importance
from supernet.initialisation import init_weights
from supernet.nested import Nested, equal_layers, fewer_neurons
from supernet.plain.vit import ViT


class ElasticViT(Nested):
    """The supernet of a space of `search_spaces.shapes.elastic_vit`; the same seed gives the same weights."""

    def __init__(self, space: SearchSpace, *, seed: int) -> None:
        self._vit = vit_config(space)
        super().__init__(space, ViT(**plain_config(self._vit, space.largest)))
        init_weights(self.shared, torch.Generator().manual_seed(seed))

    def plain(self, arch: Architecture) -> nn.Module:
        return ViT(**plain_config(self._vit, arch))

    def segments(self, name: str) -> int:
        if ".attn.qkv." in name:
            return 3
        return 2 if self._vit.gated and ".mlp.fc1." in name else 1

    def path(self, arch: Architecture) -> tuple[Hashable, ...]:
        dim = arch["embed_dim"]
        layers = enumerate(zip(*layer_values(arch), strict=True))
        halves = [(("attn", i, dim, heads), ("mlp", i, dim, ratio)) for i, (heads, ratio) in layers]
        return ("stem", dim), *chain.from_iterable(halves), ("head", dim)

    def ffn_widths(self, arch: Architecture, block: str) -> Sequence[int]:
        ratios = self.space.options["mlp_ratio"]
        return sorted({hidden_features(int(arch["embed_dim"]), ratio) for ratio in ratios})

    def adapt(self, batches: Iterable[Tensor]) -> None:
        """Moves the most important neurons and heads to the front."""
        sort_by_importance(self, batches)

    def example_input(self, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, self._vit.in_chans, *self._vit.image_size, generator=generator)


def nested_options(module: nn.Module) -> dict[str, Any]:
    """Options of the space whose largest architecture is the plain module, elastic in the FFNs.

    Raises UsageError when it is no ViT or its layers are unequal.
    """
    numbers, depth, heads, hidden = equal_layers(module, ViT)
    dim, channels = numbers.pop("embed_dim"), numbers.pop("stem_channels")
    return numbers | {
        "image_size": tuple(numbers["image_size"]),
        "stem_dim": channels[0] if channels else 16,
        "embed_dim": (dim,),
        "depth": (depth,),
        "num_heads": (heads,),
        "mlp_ratio": tuple(neurons / dim for neurons in fewer_neurons(hidden)),
    }

"""One vision transformer whose prefixes of FFN neurons, heads, channels and layers are networks, too."""

from collections.abc import Hashable, Iterable

import torch
from torch import Tensor, nn

from search_spaces import Architecture, SearchSpace
from search_spaces._elastic_vit import layer_values, plain_config, vit_config
from supernet._importance import sort_by_importance
from supernet._init import init_weights
from supernet._nested import Nested
from supernet._plain_vit import ViT


class ElasticViT(Nested):
    """The supernet of any space of `search_spaces._elastic_vit`; the same seed gives the same weights."""

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

    def stage_key(self, arch: Architecture, stage: str) -> Hashable:
        if not stage.startswith("blocks."):
            return stage, arch["embed_dim"]
        index = int(stage.removeprefix("blocks."))
        heads, ratios = layer_values(arch)
        return stage, heads[index], ratios[index]

    def adapt(self, batches: Iterable[Tensor]) -> None:
        """Moves the most important neurons and heads to the front."""
        sort_by_importance(self, batches)

    def example_input(self, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, self._vit.in_chans, *self._vit.image_size, generator=generator)

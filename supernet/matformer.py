"""MatFormer family: prefixes of FFN neurons, heads, residual channels and layers of one vision transformer.

Source: Devvrit et al., "MatFormer: Nested Transformer for Elastic Inference" (arXiv 2310.07707), section 3.1.
"""

from collections.abc import Hashable, Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Architecture, SearchSpace
from search_spaces._vit import ViTConfig, module_arguments
from search_spaces.matformer import hidden_features
from supernet._importance import sort_by_importance
from supernet._init import init_weights
from supernet._nested import Nested
from supernet._plain_vit import ViT


def build(space: SearchSpace, *, seed: int = 0) -> "MatFormer":
    """A freshly initialised supernet of a `matformer` space; the same seed gives the same weights."""
    return MatFormer(space, seed=seed)


class MatFormer(Nested):
    """A vision transformer whose prefixes of FFN neurons, heads, channels and layers are networks, too."""

    def __init__(self, space: SearchSpace, *, seed: int) -> None:
        self._vit = ViTConfig(**{f.name: space.options[f.name] for f in fields(ViTConfig)})
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


def layer_values(arch: Architecture) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Heads and FFN ratio of every layer, whether they were chosen per layer or once."""
    values: list[tuple[Any, ...]] = [
        arch.per_layer(name) or (arch[name],) * int(arch["depth"]) for name in ("num_heads", "mlp_ratio")
    ]
    return values[0], values[1]


def plain_config(vit: ViTConfig, arch: Architecture) -> dict[str, Any]:
    """The arguments of the plain `ViT` of an architecture; JSON data."""
    heads, ratios = layer_values(arch)
    dim = int(arch["embed_dim"])
    return module_arguments(vit, dim, heads, [hidden_features(dim, ratio) for ratio in ratios])

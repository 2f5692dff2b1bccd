"""TurboViT family: prefixes of channels, heads, FFN neurons and a stage's blocks of one Hiera.

Heads of a fixed width are prefixes, too; heads that share the width divide whatever channels there are.
Source: Wong, Abbasi and Nair, "TurboViT" (arXiv 2308.11421); Ryali et al., "Hiera" (arXiv 2306.00989).
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.families.turbovit import hiera_config, plain_config
from search_spaces.shapes.elastic_vit import hidden_features
from search_spaces.shapes.hiera import is_local
from search_spaces.shapes.hiera_options import options_of
from supernet.importance import sort_by_importance
from supernet.initialisation import init_weights
from supernet.nested import Nested
from supernet.plain.hiera import Hiera
from supernet.pretrained.timm_hiera import load_timm, options_of_config, space_options

__all__ = ["NESTS", "TurboViT", "build", "load_timm", "nested_options", "space_options"]

NESTS = "Hieras"


def build(space: SearchSpace, *, seed: int = 0) -> "TurboViT":
    """A freshly initialised supernet of a `turbovit` space; the same seed gives the same weights."""
    return TurboViT(space, seed=seed)


def nested_options(module: nn.Module) -> dict[str, Any]:
    """Options of the space whose largest architecture is the plain module, elastic in the FFNs.

    Raises UsageError when it is no Hiera.
    """
    if not isinstance(module, Hiera):
        raise UsageError(f"it is a {type(module).__name__}, and only a Hiera can be nested.")
    return options_of_config(module.config)


class TurboViT(Nested):
    """A Hiera whose prefixes are networks, too."""

    def __init__(self, space: SearchSpace, *, seed: int) -> None:
        self._config = hiera_config(space)
        super().__init__(space, Hiera(**plain_config(space, space.largest)))
        init_weights(self.shared, torch.Generator().manual_seed(seed))

    def plain(self, arch: Architecture) -> nn.Module:
        return Hiera(**plain_config(self.space, arch))

    def segments(self, name: str) -> int:
        return 3 if ".attn.qkv." in name else 1

    def shared_name(self, arch: Architecture, name: str) -> str:
        """Blocks are counted over all stages, and those of the largest network's earlier stages are more."""
        kind, _, rest = name.partition(".")
        if kind != "blocks":
            return name
        number, _, rest = rest.partition(".")
        stage, within = place_of(_depths(arch), int(number))
        return f"blocks.{sum(_depths(self.space.largest)[:stage]) + within}.{rest}"

    def path(self, arch: Architecture) -> tuple[Hashable, ...]:
        config = plain_config(self.space, arch)
        width = config["stem_dim"] or config["embed_dim"][0]
        keys: list[Hashable] = [("stem", width)]
        for number in range(sum(config["depth"])):
            place = place_of(config["depth"], number)
            dim, heads, hidden = (config[name][place[0]] for name in ("embed_dim", "num_heads", "mlp_hidden"))
            # How wide the stem is does not tell whether the first block projects.
            condenses = number == 0 and config["stem_dim"] is not None
            local = is_local(*place, config["mask_unit_stages"])
            keys += ("attn", *place, width, dim, heads, local, condenses), ("mlp", *place, dim, hidden)
            width = dim
        return *keys, ("head", width)

    def ffn_widths(self, arch: Architecture, block: str) -> Sequence[int]:
        stage, _ = place_of(_depths(arch), int(block.removeprefix("blocks.")))
        dim = plain_config(self.space, arch)["embed_dim"][stage]
        ratios = options_of(self.space.options, "mlp_ratio", stage)
        return sorted({hidden_features(dim, ratio) for ratio in ratios})

    def adapt(self, batches: Iterable[Tensor]) -> None:
        """Moves the most important neurons and heads to the front."""
        sort_by_importance(self, batches)

    def example_input(self, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, self._config.in_chans, *self._config.image_size, generator=generator)


def place_of(depth: Sequence[int], number: int) -> tuple[int, int]:
    """The stage of block `number`, counted over all stages, and its place there."""
    for stage, blocks in enumerate(depth):
        if number < blocks:
            return stage, number
        number -= blocks
    raise IndexError(f"there is no block {number} behind the last")


def _depths(arch: Architecture) -> list[int]:
    return [int(depth) for depth in arch.per_layer("depth")]

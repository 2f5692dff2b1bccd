"""ViT-ResNAS family: prefixes of channels, heads and FFN neurons of one ViT-Res, and blocks left out.

Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers" (arXiv 2109.00642).
"""

from collections.abc import Hashable, Iterable, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.families.vit_resnas import plain_config, vit_res_config
from supernet.importance import sort_by_importance
from supernet.initialisation import init_weights
from supernet.nested import Nested, fewer_neurons
from supernet.plain.vit_res import ResidualStem, ViTRes, stem_stride
from supernet.supernet import Supernet

__all__ = ["NESTS", "ViTResNAS", "build", "nested_options"]

NESTS = "ViT-Res"


def build(space: SearchSpace, *, seed: int = 0) -> "ViTResNAS":
    """A freshly initialised supernet of a `vit_resnas` space; the same seed gives the same weights."""
    return ViTResNAS(space, seed=seed)


def nested_options(module: nn.Module) -> dict[str, Any]:
    """Options of the space whose largest architecture is the plain module, elastic in the FFNs.

    Raises UsageError when it is no ViT-Res or the blocks of a stage are unequal.
    """
    if not isinstance(module, ViTRes):
        raise UsageError(f"it is a {type(module).__name__}, and only a ViTRes can be nested.")
    numbers = dict(module.config)
    heads, hidden = numbers.pop("num_heads"), numbers.pop("mlp_hidden")
    if any(len(set(blocks)) != 1 or None in blocks for blocks in (*heads, *hidden)):
        raise UsageError("blocks of a stage differ, and only one with equal blocks can be nested.")
    return numbers | {
        "image_size": tuple(numbers["image_size"]),
        "embed_dim": tuple((dim,) for dim in numbers["embed_dim"]),
        "num_heads": tuple(tuple(set(blocks)) for blocks in heads),
        "mlp_hidden": tuple(tuple(fewer_neurons(blocks[0])) for blocks in hidden),
        "depth": tuple(map(len, heads)),
        "optional": ((),) * len(heads),
    }


class ViTResNAS(Nested):
    """A multi-stage vision transformer whose prefixes are networks, too."""

    def __init__(self, space: SearchSpace, *, seed: int) -> None:
        self._config = vit_res_config(space)
        super().__init__(space, ViTRes(**plain_config(space, space.largest)))
        init_weights(self.shared, torch.Generator().manual_seed(seed))

    def plain(self, arch: Architecture) -> nn.Module:
        return ViTRes(**plain_config(self.space, arch))

    def segments(self, name: str) -> int:
        return 3 if ".attn.qkv." in name else 1

    def path(self, arch: Architecture) -> tuple[Hashable, ...]:
        config, numbers = plain_config(self.space, arch), count()
        dims = config["embed_dim"]
        keys: list[Hashable] = [("stem", dims[0])]
        for stage, dim in enumerate(dims):
            if stage:
                keys.append(("reduction", stage, dims[stage - 1], dim))
            for heads, hidden in zip(config["num_heads"][stage], config["mlp_hidden"][stage], strict=True):
                number = next(numbers)
                if heads is not None:
                    keys += ("attn", number, dim, heads), ("mlp", number, dim, hidden)
        return *keys, ("head", dims[-1])

    def ffn_widths(self, arch: Architecture, block: str) -> Sequence[int]:
        name = f"mlp_hidden.{block.removeprefix('blocks.')}"
        options = next(choice.options for choice in self.space.choices if choice.name == name)
        return [int(hidden) for hidden in options]

    def adapt(self, batches: Iterable[Tensor]) -> None:
        """Moves the most important neurons and heads to the front."""
        sort_by_importance(self, batches)

    def recalibrate(self, batches: Iterable[Tensor]) -> None:
        """Estimates the stem's batch statistics anew.

        Only the stem has any, and it stands before everything that is chosen: one estimate is exact for all
        architectures.
        """
        update_bn(batches, self.shared.get_submodule("patch_embed"))

    def common(self) -> tuple[nn.Module, Supernet] | None:
        """The stem but for its last convolution, whose outputs are the first channels that are chosen."""
        stem = self.shared.get_submodule("patch_embed")
        return (_Features(stem), _BehindFeatures(self)) if isinstance(stem, ResidualStem) else None

    def example_input(self, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, self._config.in_chans, *self._config.image_size, generator=generator)


class _Features(nn.Module):
    """What a stem does before its last convolution."""

    def __init__(self, stem: ResidualStem) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, x: Tensor) -> Tensor:
        return self.stem.features(x)


class _BehindFeatures(ViTResNAS):
    """The same weights behind those features: for them the stem's last convolution cuts patches, as any."""

    def __init__(self, whole: ViTResNAS) -> None:
        Nested.__init__(self, whole.space, whole.shared)
        self._config, self.frozen = whole._config, whole.frozen

    def plain(self, arch: Architecture) -> nn.Module:
        config = plain_config(self.space, arch)
        stride = stem_stride(config["patch_size"])
        return ViTRes(
            **config
            | {
                "stem": "patch",
                "in_chans": config["stem_dim"],
                "patch_size": config["patch_size"] // stride,
                "image_size": [side // stride for side in config["image_size"]],
            }
        )

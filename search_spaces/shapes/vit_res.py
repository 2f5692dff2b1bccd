"""The parts of a ViT-Res that no search changes, and the layers of its pieces.

A ViT-Res is a vision transformer in stages: a class token from the start, and between two stages a residual
spatial reduction that halves both sides of the patch grid.
Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers" (arXiv 2109.00642).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from search_spaces.bounds import MOST_STAGES, bounded, positive, short
from search_spaces.errors import UsageError
from search_spaces.layers import Layer, activation, add, conv2d, linear, norm, pool, token
from search_spaces.shapes import vit
from search_spaces.shapes.vit import ViTConfig, check_epsilon, check_image_size

STEMS = ("conv", "patch")
STEM_NORMS = ("batch", "group")


@dataclass(frozen=True, kw_only=True)
class ViTResConfig:
    """Fixed numbers of a ViT-Res; `head_dim` has one entry per stage.

    stem: `patch` is one convolution of `patch_size`; `conv` is three 3x3 convolutions with `stem_dim`
    channels, the first of stride 2 where `patch_size` is even, a shortcut around the other two, and a
    convolution that takes the rest of `patch_size` in one stride.
    stem_norm: after each 3x3 convolution, over the batch (as published) or over one image (`group`).
    """

    image_size: tuple[int, int] = (8, 16)
    patch_size: int = 2
    in_chans: int = 1
    num_classes: int = 19
    stem: str = "conv"
    stem_dim: int = 8
    stem_norm: str = "group"
    head_dim: tuple[int, ...] = (4, 8, 16)
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """Raises UsageError for sizes that do not fit together."""
        for name in ("patch_size", "in_chans", "num_classes", "stem_dim"):
            positive(name, getattr(self, name))
        if not self.head_dim or any(type(dim) is not int or dim < 1 for dim in self.head_dim):
            raise UsageError(f"head_dim = {short(self.head_dim)} is not one positive integer for each stage.")
        bounded("the number of stages", len(self.head_dim), most=MOST_STAGES)
        bounded("head_dim", max(self.head_dim))
        check_epsilon(self.norm_eps)
        check_image_size(self.image_size)
        for name, values in {"stem": STEMS, "stem_norm": STEM_NORMS}.items():
            if getattr(self, name) not in values:
                raise UsageError(
                    f"{name} = {short(getattr(self, name))} is unknown.", f"Options: {', '.join(values)}."
                )
        if any(side % self.stride for side in self.image_size):
            raise UsageError(
                f"An image of {self.image_size[0]}x{self.image_size[1]} pixels does not go through "
                f"{self.stages} stages: both sides must be multiples of {self.stride} (patches of "
                f"{self.patch_size}, halved {self.stages - 1} times).",
                "Choose another image_size, a smaller patch_size or fewer stages.",
            )

    @property
    def stages(self) -> int:
        return len(self.head_dim)

    @property
    def stride(self) -> int:
        """Pixels along one side of a patch of the last stage."""
        return int(self.patch_size * 2 ** (self.stages - 1))

    @property
    def stem_stride(self) -> int:
        """Stride of the first 3x3 convolution."""
        return 2 - self.patch_size % 2

    def grid(self, stage: int) -> tuple[int, int]:
        """Patches of a stage as (rows, columns)."""
        cell = self.patch_size * 2**stage
        return self.image_size[0] // cell, self.image_size[1] // cell

    def stage_vit(self, stage: int) -> ViTConfig:
        """A stage as a plain vision transformer, which has the same blocks, head and patch stem."""
        return ViTConfig(
            image_size=self.image_size,
            patch_size=self.patch_size * 2**stage,
            in_chans=self.in_chans,
            num_classes=self.num_classes,
            stem="patch",
            head_dim=self.head_dim[stage],
            class_token=True,
            pool="token",
            fc_norm=False,
            norm_eps=self.norm_eps,
        )


def module_arguments(
    config: ViTResConfig,
    embed_dim: Sequence[int],
    num_heads: Sequence[Sequence[int | None]],
    mlp_hidden: Sequence[Sequence[int | None]],
) -> dict[str, Any]:
    """The arguments of the plain module `ViTRes`, JSON data; an entry per stage, None for a missing block."""
    fixed: Mapping[str, Any] = {f.name: getattr(config, f.name) for f in fields(ViTResConfig)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fixed.items()} | {
        "embed_dim": list(embed_dim),
        "num_heads": [list(stage) for stage in num_heads],
        "mlp_hidden": [list(stage) for stage in mlp_hidden],
    }


def stem_layers(config: ViTResConfig, dim: int) -> tuple[Layer, ...]:
    """From the image to the token sequence of the first stage."""
    first = config.stage_vit(0)
    if config.stem == "patch":
        return vit.stem_layers(first, dim)
    return (
        *_conv_stem(config, dim),
        token("cls_token", 1, dim),
        token("pos_embed", first.tokens, dim),
    )


def _conv_stem(config: ViTResConfig, dim: int) -> Iterator[Layer]:
    width, stride = config.stem_dim, config.stem_stride
    size, channels = config.image_size, config.in_chans
    for i in range(3):
        step = stride if i == 0 else 1
        yield conv2d(f"patch_embed.convs.{i}", size, channels, width, kernel=3, stride=step, bias=False)
        size, channels = (size[0] // step, size[1] // step), width
        yield norm(f"patch_embed.norms.{i}", size[0] * size[1], width)
        yield activation(f"patch_embed.act{i}", size[0] * size[1], width)
    yield add("patch_embed.add", size[0] * size[1], width)
    rest = config.patch_size // stride
    yield conv2d("patch_embed.proj", size, width, dim, kernel=rest, stride=rest)


def block_layers(
    config: ViTResConfig, stage: int, index: int, dim: int, heads: int, hidden: int
) -> tuple[Layer, ...]:
    """Block `index`, counted over all stages, with `heads` heads and `hidden` FFN neurons."""
    return vit.block_layers(config.stage_vit(stage), index, dim, heads, hidden)


def reduction_layers(config: ViTResConfig, stage: int, dim: int, dim_out: int) -> tuple[Layer, ...]:
    """From the tokens of a stage to those of the next."""
    rows, columns = config.grid(stage + 1)
    tokens, patches, name = config.stage_vit(stage).tokens, rows * columns, f"reductions.{stage}"
    return (
        norm(f"{name}.norm", tokens, dim),
        conv2d(f"{name}.conv", config.grid(stage), dim, dim_out, kernel=3, stride=2),
        token(f"{name}.pos_embed", patches, dim_out),
        linear(f"{name}.token", 1, dim, dim_out),
        pool(f"{name}.pool", 4, dim, groups=patches),
        add(f"{name}.add", patches + 1, dim_out),
    )


def head_layers(config: ViTResConfig, dim: int) -> tuple[Layer, ...]:
    """From the last block's tokens to the logits."""
    return vit.head_layers(config.stage_vit(config.stages - 1), dim)

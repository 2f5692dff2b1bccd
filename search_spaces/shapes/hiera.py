"""The parts of a Hiera that no search changes, and the layers of its pieces.

A Hiera is a vision transformer in stages. Its tokens lie in square mask units of 2^(stages - 1) patches a
side; the first block of a later stage takes the maximum of every 2x2 queries (Q-pooling), which halves both
sides of the token grid and of the units, and the early stages attend within units only.
Source: Ryali et al., "Hiera" (arXiv 2306.00989); condensed behind a wide stem as in Wong et al., "TurboViT"
(arXiv 2308.11421).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from search_spaces.bounds import positive, short
from search_spaces.errors import UsageError
from search_spaces.layers import Layer, activation, add, attention, conv2d, linear, norm, pool, token
from search_spaces.shapes.vit import check_epsilon, check_image_size

POOLED = 4  # queries of which Q-pooling takes the maximum


@dataclass(frozen=True, kw_only=True)
class HieraConfig:
    """Fixed numbers of a Hiera.

    patch_kernel: side of the stem's convolution, whose stride is patch_size.  stem_dim: channels of a wide
    stem, which the first block condenses to the width of stage 0.  q_pool: how many of the transitions
    between stages pool.  head_dim: width of a head; None: a stage's width is divided among its heads.
    """

    stages: int
    image_size: tuple[int, int]
    patch_size: int
    patch_kernel: int
    in_chans: int
    num_classes: int
    stem_dim: int
    q_pool: int
    head_dim: int | None = None
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """Raises UsageError for sizes that do not fit together."""
        for name in ("patch_size", "patch_kernel", "in_chans", "num_classes", "stem_dim", "head_dim"):
            if name != "head_dim" or self.head_dim is not None:
                positive(name, getattr(self, name))
        check_epsilon(self.norm_eps)
        check_image_size(self.image_size)
        if self.patch_kernel % 2 == 0:
            raise UsageError(f"patch_kernel = {self.patch_kernel} is even; the stem's kernel has a middle.")
        if type(self.q_pool) is not int or not 0 <= self.q_pool < self.stages:
            raise UsageError(
                f"q_pool = {short(self.q_pool)} is not from 0 to {self.stages - 1}, the number of "
                f"transitions between {self.stages} stages."
            )
        if any(side % (self.patch_size * self.unit_side) for side in self.image_size):
            raise UsageError(
                f"An image of {self.image_size[0]}x{self.image_size[1]} pixels cannot be cut into mask units "
                f"of {self.unit_side}x{self.unit_side} patches of {self.patch_size}x{self.patch_size} "
                f"pixels: both sides must be multiples of {self.patch_size * self.unit_side}.",
                "Choose another image_size, a smaller patch_size or fewer stages.",
            )

    @property
    def unit_side(self) -> int:
        """Patches along one side of a mask unit."""
        return int(2 ** (self.stages - 1))

    @property
    def units(self) -> int:
        """Mask units of an image; Q-pooling makes them smaller, never fewer."""
        height, width = (side // (self.patch_size * self.unit_side) for side in self.image_size)
        return height * width

    def tokens(self, stage: int) -> int:
        """Tokens behind the first block of a stage."""
        return int(self.units * (self.unit_side // 2 ** min(stage, self.q_pool)) ** 2)

    def pools(self, stage: int) -> bool:
        """Whether the first block of the stage pools its queries."""
        return 0 < stage <= self.q_pool


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """What the attention of one block follows from.

    name: dotted path of the block.  first: of its stage.  local: attends within mask units.  projects: its
    shortcut is a linear layer on the normalised tokens.  dim, dim_out: residual width before and behind it.
    """

    name: str
    stage: int
    first: bool
    local: bool
    projects: bool
    dim: int
    dim_out: int
    heads: int
    head_dim: int


def is_local(stage: int, within: int, mask_unit_stages: int) -> bool:
    """Whether block `within` of a stage attends within mask units, of which that many stages make use.

    The first block of a stage still follows the stage before: it attends before it has pooled.
    """
    return (stage if within else max(stage - 1, 0)) < mask_unit_stages


def module_arguments(
    config: HieraConfig,
    *,
    embed_dim: Sequence[int],
    depth: Sequence[int],
    num_heads: Sequence[int],
    mlp_hidden: Sequence[int],
    mask_unit_stages: int,
    wide_stem: bool,
) -> dict[str, Any]:
    """The arguments of the plain module `Hiera`, JSON data; the lists have an entry per stage."""
    fixed = {f.name: getattr(config, f.name) for f in fields(HieraConfig) if f.name != "stages"}
    return fixed | {
        "image_size": list(config.image_size),
        "stem_dim": config.stem_dim if wide_stem else None,
        "embed_dim": list(embed_dim),
        "depth": list(depth),
        "num_heads": list(num_heads),
        "mlp_hidden": list(mlp_hidden),
        "mask_unit_stages": mask_unit_stages,
    }


def stem_layers(config: HieraConfig, dim: int) -> tuple[Layer, ...]:
    """From the image to the tokens."""
    size, channels, kernel = config.image_size, config.in_chans, config.patch_kernel
    return (
        conv2d("patch_embed.proj", size, channels, dim, kernel=kernel, stride=config.patch_size),
        token("pos_embed", config.tokens(0), dim),
    )


def attention_layers(config: HieraConfig, block: BlockShape) -> tuple[Layer, ...]:
    """A block up to the sum behind its attention."""
    pools = block.first and config.pools(block.stage)
    after = config.tokens(block.stage)
    before = after * POOLED if pools else after
    units, inner, prefix = config.units if block.local else 1, block.heads * block.head_dim, block.name
    layers = [norm(f"{prefix}.norm1", before, block.dim)]
    if block.projects:
        layers.append(linear(f"{prefix}.proj", before, block.dim, block.dim_out))
    if pools:
        layers.append(pool(f"{prefix}.pool", POOLED, block.dim_out, groups=after))
    layers.append(linear(f"{prefix}.attn.qkv", before, block.dim, 3 * inner))
    if pools:
        layers.append(pool(f"{prefix}.attn.pool", POOLED, inner, groups=after))
    queries, keys = after // units, before // units
    return (
        *layers,
        attention(f"{prefix}.attn", queries, block.heads, block.head_dim, windows=units, keys=keys),
        linear(f"{prefix}.attn.proj", after, inner, block.dim_out),
        add(f"{prefix}.add1", after, block.dim_out),
    )


def mlp_layers(config: HieraConfig, name: str, stage: int, dim: int, hidden: int) -> tuple[Layer, ...]:
    """The rest of the block: its FFN with `hidden` neurons."""
    tokens = config.tokens(stage)
    return (
        norm(f"{name}.norm2", tokens, dim),
        linear(f"{name}.mlp.fc1", tokens, dim, hidden),
        activation(f"{name}.mlp.act", tokens, hidden),
        linear(f"{name}.mlp.fc2", tokens, hidden, dim),
        add(f"{name}.add2", tokens, dim),
    )


def head_layers(config: HieraConfig, dim: int) -> tuple[Layer, ...]:
    """From the last block's tokens to the logits."""
    return (
        pool("pool", config.tokens(config.stages - 1), dim),
        norm("head.norm", 1, dim),
        linear("head.fc", 1, dim, config.num_classes),
    )

"""A plain hierarchical vision transformer (Hiera) that needs torch only.

Every extracted subnet of the `turbovit` family is one of these. Parameter names are those of timm's `Hiera`,
which takes a subnet with a stem as wide as its first stage, and with widths and heads that grow evenly.
Source: Ryali et al., "Hiera" (arXiv 2306.00989); behind a wide stem as in Wong et al., "TurboViT" (arXiv
2308.11421).

Shapes: B images, N tokens, D residual width, H heads, d head width, U mask units, T tokens of a unit. The
tokens lie in an order in which all pooling and all mask units are reshapes: the place within the unit, the
2x2 neighbours that are pooled first in front, and the unit last, N = T U.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.plain.layers import Attention, HalvedBlock, Mlp, Network, timm_ratio

POOLED = 4  # tokens of which one is left
TIMM_EPS = 1e-6


def unrolled(x: Tensor, grid: Sequence[int], levels: int) -> Tensor:
    """Tokens (B, N, D) from raster order to the order above, where units have 2^levels tokens a side."""
    whole = [side >> levels for side in grid]
    x = x.unflatten(1, (whole[0], *[2] * levels, whole[1], *[2] * levels))
    # Of the halvings of a side, the last axis tells neighbours apart, and those are pooled first.
    bits = [axis for level in range(levels) for axis in (1 + levels - level, 2 * (1 + levels) - level)]
    return x.permute(0, *bits, 1, 2 + levels, 3 + 2 * levels).flatten(1, -2)


def max_pooled(x: Tensor, *, dim: int) -> Tensor:
    """The largest of every 2x2 neighbours, channel by channel; `dim` is that of the tokens."""
    return x.unflatten(dim, (POOLED, -1)).amax(dim)


class OverlappingPatches(nn.Module):
    """One padded convolution from the image (B, C, height, width) to tokens (B, N, D) in raster order."""

    def __init__(self, in_chans: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel, stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class MaskUnitAttention(Attention):
    """Attention within each of `units` mask units, 1 for all of the image, to tokens of width `dim_out`.

    pools: of every 2x2 queries only the maximum asks, so that a quarter of the tokens is left.
    """

    def __init__(
        self, dim: int, dim_out: int, num_heads: int, head_dim: int, *, units: int, pools: bool, eps: float
    ) -> None:
        super().__init__(dim, num_heads, head_dim, qkv_bias=True, proj_bias=True, qk_norm=False, eps=eps)
        self.units, self.pools = units, pools
        self.proj = nn.Linear(num_heads * head_dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        x = F.scaled_dot_product_attention(q, k, v)
        if self.units == 1:
            return self.proj(x.transpose(1, 2).flatten(2))
        x = x.unflatten(0, (-1, self.units)).permute(0, 3, 1, 2, 4)  # B T U H d
        return self.proj(x.flatten(3).flatten(1, 2))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B U, H, T, d)."""
        x = self.qkv(x)
        if self.units > 1:
            x = x.unflatten(1, (-1, self.units)).transpose(1, 2).flatten(0, 1)
        q, k, v = x.unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        return max_pooled(q, dim=2) if self.pools else q, k, v


class HieraBlock(HalvedBlock):
    """Pre-norm transformer block from tokens of width `dim` to those of another width, pooled or not.

    Where it projects, the shortcut starts from the normalised tokens, as published.
    """

    def __init__(self, attn: MaskUnitAttention, mlp: Mlp, dim: int, *, projects: bool, eps: float) -> None:
        super().__init__()
        dim_out = attn.proj.out_features
        self.norm1 = nn.LayerNorm(dim, eps)
        self.proj = nn.Linear(dim, dim_out) if projects else None
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim_out, eps)
        self.mlp = mlp

    def attended(self, x: Tensor) -> Tensor:
        """The first half: projection and pooling as far as the block has them, attention, the residual."""
        normed = self.norm1(x)
        if self.proj is not None:
            x = self.proj(normed)
        if self.attn.pools:
            x = max_pooled(x, dim=1)
        return x + self.attn(normed)


class PoolingHead(nn.Module):
    """The mean of the tokens (B, N, D), normalised, to logits (B, classes)."""

    def __init__(self, dim: int, num_classes: int, *, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps)
        self.fc = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(x.mean(dim=1)))


class Hiera(Network):
    """Hiera from images (B, C, height, width) to logits (B, classes).

    embed_dim, depth, num_heads and mlp_hidden have one entry per stage.  stem_dim: of a stem that the first
    block condenses, None for one as wide as the first stage.  head_dim: None for heads that share the width.
    mask_unit_stages: how many stages, from the first on, attend within mask units.  q_pool: how many of the
    transitions pool.  `config` holds the arguments for `Hiera(**config)`.
    """

    classifier = "head.fc"

    def __init__(
        self,
        *,
        embed_dim: Sequence[int],
        depth: Sequence[int],
        num_heads: Sequence[int],
        mlp_hidden: Sequence[int],
        mask_unit_stages: int,
        image_size: Sequence[int],
        patch_size: int,
        patch_kernel: int,
        in_chans: int,
        num_classes: int,
        stem_dim: int | None = None,
        q_pool: int,
        head_dim: int | None = None,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.input_shape = (in_chans, *image_size)
        self.grid = (image_size[0] // patch_size, image_size[1] // patch_size)
        self.levels = len(depth) - 1
        width = embed_dim[0] if stem_dim is None else stem_dim
        self.patch_embed = OverlappingPatches(in_chans, width, patch_kernel, patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], width))
        self.blocks = nn.Sequential(*self._made_blocks())
        self.head = PoolingHead(embed_dim[-1], num_classes, eps=norm_eps)

    def _made_blocks(self) -> Iterator[HieraBlock]:
        config = self.config
        units = (self.grid[0] >> self.levels) * (self.grid[1] >> self.levels)
        dim = self.pos_embed.shape[-1]
        columns = (config[name] for name in ("embed_dim", "depth", "num_heads", "mlp_hidden"))
        for stage, (width, depth, heads, hidden) in enumerate(zip(*columns, strict=True)):
            for within in range(depth):
                # A stage's first block attends like the stage before: its keys are not pooled yet.
                local = (stage if within else max(stage - 1, 0)) < config["mask_unit_stages"]
                attn = MaskUnitAttention(
                    dim,
                    width,
                    heads,
                    config["head_dim"] or width // heads,
                    units=units if local else 1,
                    pools=within == 0 < stage <= config["q_pool"],
                    eps=config["norm_eps"],
                )
                condenses = stage > 0 or config["stem_dim"] is not None
                yield HieraBlock(
                    attn,
                    Mlp(width, hidden, gated=False, act="gelu"),
                    dim,
                    projects=within == 0 and condenses,
                    eps=config["norm_eps"],
                )
                dim = width

    def embed(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to tokens (B, N, D)."""
        return unrolled(self.patch_embed(x) + self.pos_embed, self.grid, self.levels)

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        yield "stem", self.embed
        for name, block in self.blocks.named_children():
            yield f"blocks.{name}", block
        yield "head", self.head

    def timm_arguments(self) -> dict[str, Any] | None:
        """As of every network, for timm's `Hiera`.

        None for a stem of its own width, widths or heads that do not grow evenly, heads that do not fill the
        width, unequal FFN ratios, an epsilon that is not timm's.
        """
        config = self.config
        widths, heads, head_dim = config["embed_dim"], config["num_heads"], config["head_dim"]
        ratios = {timm_ratio(width, n) for width, n in zip(widths, config["mlp_hidden"], strict=True)}
        fills = all(w % h == 0 and head_dim in (None, w // h) for w, h in zip(widths, heads, strict=True))
        growth = [_growth(widths), _growth(heads)]
        expands = all(a != b for a, b in pairwise(widths))
        if config["stem_dim"] is not None or not (fills and expands and len(ratios) == 1) or None in growth:
            return None
        if config["norm_eps"] != TIMM_EPS:
            return None
        stages, kernel = len(config["depth"]), config["patch_kernel"]
        return {key: config[key] for key in ("in_chans", "num_classes", "q_pool")} | {
            "model_name": "hiera_tiny_224",
            "img_size": list(config["image_size"]),
            "embed_dim": widths[0],
            "num_heads": heads[0],
            "dim_mul": growth[0],
            "head_mul": growth[1],
            "stages": list(config["depth"]),
            "mask_unit_size": [2 ** (stages - 1)] * 2,
            "mask_unit_attn": [stage < config["mask_unit_stages"] for stage in range(stages)],
            "patch_kernel": [kernel] * 2,
            "patch_stride": [config["patch_size"]] * 2,
            "patch_padding": [kernel // 2] * 2,
            "mlp_ratio": ratios.pop(),
        }


def _growth(numbers: Sequence[int]) -> float | None:
    """The factor from stage to stage with which timm, which truncates, comes to all; None if none does."""
    factor = timm_ratio(numbers[0], numbers[1])
    grown = all(int(a * factor) == b for a, b in pairwise(numbers))
    return factor if grown else None

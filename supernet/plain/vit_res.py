"""A plain multi-stage vision transformer with residual spatial reductions (ViT-Res) that needs torch only.

Every extracted subnet of the `vit_resnas` family is one of these.
Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers" (arXiv 2109.00642).

Shapes: B images, R rows and S columns of patches, D residual width; tokens are (B, 1 + R S, D), the class
token first.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.plain.layers import Attention, Block, Mlp, Network, PatchEmbed


class ResidualStem(nn.Module):
    """Three 3x3 convolutions, a shortcut around the last two, and a strided one to tokens (B, R S, D)."""

    def __init__(self, in_chans: int, width: int, embed_dim: int, patch_size: int, *, norm: str) -> None:
        super().__init__()
        stride = stem_stride(patch_size)
        self.convs = nn.ModuleList(
            nn.Conv2d(width if i else in_chans, width, 3, 1 if i else stride, padding=1, bias=False)
            for i in range(3)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(1, width) for _ in range(3)
        )
        rest = patch_size // stride
        self.proj = nn.Conv2d(width, embed_dim, rest, rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.features(x)).flatten(2).transpose(1, 2)

    def features(self, x: Tensor) -> Tensor:
        """What the strided convolution at the end takes (B, width, rows, columns)."""
        first = self._layer(0, x)
        return first + self._layer(2, self._layer(1, first))

    def _layer(self, index: int, x: Tensor) -> Tensor:
        return F.relu(self.norms[index](self.convs[index](x)))


def stem_stride(patch_size: int) -> int:
    """Of a stem's first convolution: half of an even patch is left for the last one."""
    return 2 - patch_size % 2


class Reduction(nn.Module):
    """Residual spatial reduction: tokens of an R x S grid to tokens of a half as high and half as wide one.

    The main path is normalised; the shortcut averages the patches as they are, and zeros fill its channels.
    """

    def __init__(self, grid: tuple[int, int], dim: int, dim_out: int, *, eps: float) -> None:
        super().__init__()
        assert dim_out >= dim, "the shortcut only adds channels"
        self.grid, self.added = grid, dim_out - dim
        self.norm = nn.LayerNorm(dim, eps)
        self.conv = nn.Conv2d(dim, dim_out, 3, 2, padding=1)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1] // 4, dim_out))
        self.token = nn.Linear(dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.joined(self.norm(x), x)

    def joined(self, normed: Tensor, x: Tensor) -> Tensor:
        """The main path of normalised tokens and the shortcut of the tokens as they are."""
        patches = self.conv(self.image(normed)).flatten(2).transpose(1, 2) + self.pos_embed
        shortcut = F.avg_pool2d(self.image(x), 2).flatten(2).transpose(1, 2)
        main = torch.cat([self.token(normed[:, :1]), patches], dim=1)
        return main + F.pad(torch.cat([x[:, :1], shortcut], dim=1), (0, self.added))

    def image(self, x: Tensor) -> Tensor:
        """The patches of tokens as (B, D, R, S)."""
        return x[:, 1:].transpose(1, 2).unflatten(2, self.grid)


class ViTRes(Network):
    """ViT-Res from images (B, C, height, width) to logits (B, classes) of the class token.

    embed_dim and head_dim have one entry per stage, num_heads and mlp_hidden a list of blocks per stage. A
    block that is None is left out, and those behind it keep their names. `config` holds the arguments for
    `ViTRes(**config)`.
    """

    def __init__(
        self,
        *,
        embed_dim: Sequence[int],
        num_heads: Sequence[Sequence[int | None]],
        mlp_hidden: Sequence[Sequence[int | None]],
        head_dim: Sequence[int],
        image_size: Sequence[int],
        patch_size: int,
        in_chans: int,
        num_classes: int,
        stem: str = "conv",
        stem_dim: int = 24,
        stem_norm: str = "batch",
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.input_shape = (in_chans, *image_size)
        grids = [
            (image_size[0] // (patch_size * 2**s), image_size[1] // (patch_size * 2**s))
            for s in range(len(embed_dim))
        ]
        self.patch_grid = grids[-1]
        self.patch_embed = (
            PatchEmbed(in_chans, embed_dim[0], patch_size, bias=True)
            if stem == "patch"
            else ResidualStem(in_chans, stem_dim, embed_dim[0], patch_size, norm=stem_norm)
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim[0]))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grids[0][0] * grids[0][1], embed_dim[0]))
        blocks, numbers = list[OrderedDict[str, nn.Module]](), count()
        for dim, width, heads, hidden in zip(embed_dim, head_dim, num_heads, mlp_hidden, strict=True):
            here = list(zip(heads, hidden, numbers, strict=False))  # the endless one last: it loses none
            blocks.append(
                OrderedDict(
                    (str(n), _block(dim, h, width, f, eps=norm_eps))
                    for h, f, n in here
                    if h is not None and f is not None
                )
            )
        self.stage_blocks = [list(stage) for stage in blocks]  # names, by stage
        self.blocks = nn.Sequential(OrderedDict(chain.from_iterable(stage.items() for stage in blocks)))
        self.reductions = nn.ModuleList(
            Reduction(grid, dim, dim_out, eps=norm_eps)
            for grid, (dim, dim_out) in zip(grids[:-1], pairwise(embed_dim), strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim[-1], norm_eps)
        self.head = nn.Linear(embed_dim[-1], num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to the first stage's tokens."""
        x = self.patch_embed(x)
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed

    def classify(self, x: Tensor) -> Tensor:
        """The last stage's tokens to logits (B, classes)."""
        return self.head(self.norm(x)[:, 0])

    def with_patches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes), and the last stage's patches (B, R S, D) behind the last norm."""
        *before, _ = self.stages()
        for _, stage in before:
            x = stage(x)
        x = self.norm(x)
        return self.head(x[:, 0]), x[:, 1:]

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        yield "stem", self.embed
        blocks = dict(self.blocks.named_children())
        for stage, names in enumerate(self.stage_blocks):
            if stage:
                yield f"reductions.{stage - 1}", self.reductions[stage - 1]
            for name in names:
                yield f"blocks.{name}", blocks[name]
        yield "head", self.classify


def _block(dim: int, heads: int, head_dim: int, hidden: int, *, eps: float) -> Block:
    attn = Attention(dim, heads, head_dim, qkv_bias=True, proj_bias=True, qk_norm=False, eps=eps)
    return Block(attn, Mlp(dim, hidden, gated=False, act="gelu"), dim, layer_scale=False, eps=eps)

"""A plain Swin transformer that needs torch only, whole or as parts of several in a row.

Parameter names are those of timm's `SwinTransformer`.
Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows"
(arXiv 2103.14030).

Shapes: B images, R rows and S columns of tokens, D residual width, H heads, d head width, W windows per image
of N tokens each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.plain.layers import Mlp, Network, Stitched, is_recorded

Pair: TypeAlias = tuple[int, int]
MASKED = -100.0  # added to the score of two tokens that only the shift made neighbours
TIMM_EPS = 1e-5


def windowed(x: Tensor, window: Pair) -> Tensor:
    """Images of tokens (B, R, S, D) to windows (B, W, N, D)."""
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def joined(x: Tensor, grid: Pair, window: Pair) -> Tensor:
    """Windows (B, W, N, D) back to images of tokens (B, R, S, D)."""
    x = x.unflatten(2, window).unflatten(1, (grid[0] // window[0], grid[1] // window[1]))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _offsets(window: Pair, device: torch.device) -> Tensor:
    """For every two tokens of a window the row (N, N) of the bias table that stands for their offset."""
    rows, columns = (torch.arange(side, device=device) for side in window)
    down = (rows[:, None] - rows + window[0] - 1)[:, None, :, None]
    right = (columns[:, None] - columns + window[1] - 1)[None, :, None, :]
    return (down * (2 * window[1] - 1) + right).flatten(2).flatten(0, 1)


def _mask(grid: Pair, window: Pair, shift: Pair, device: torch.device) -> Tensor:
    """What to add to the scores (W, 1, N, N) of the shifted windows, which wrap around the image's edges."""
    bands = [
        (torch.arange(side, device=device) >= side - high).long()
        + (torch.arange(side, device=device) >= side - moved).long()
        for side, high, moved in zip(grid, window, shift, strict=True)
    ]
    regions = 3 * bands[0][:, None] + bands[1]
    tokens = windowed(regions[None, :, :, None], window)[0, :, :, 0]
    apart = tokens[:, None, :, None] != tokens[:, None, None, :]
    return torch.zeros(apart.shape, device=device).masked_fill(apart, MASKED)


def constants(grid: Pair, window: Pair, shift: Pair, device: torch.device) -> tuple[Tensor, Tensor]:
    """Offsets (N, N) and mask (W, 1, N, N); kept outside of the module, which thus has no buffers."""
    if is_recorded():
        return _offsets(window, device), _mask(grid, window, shift, device)
    return _cached_constants(grid, window, shift, device)


@lru_cache(64)
def _cached_constants(grid: Pair, window: Pair, shift: Pair, device: torch.device) -> tuple[Tensor, Tensor]:
    # Made under inference mode they could never take part in a training step again.
    with torch.inference_mode(mode=False):
        return _offsets(window, device), _mask(grid, window, shift, device)


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for every offset between two tokens."""

    def __init__(
        self, dim: int, num_heads: int, grid: Pair, window: Pair, shift: Pair, *, bias: bool
    ) -> None:
        super().__init__()
        self.num_heads, self.grid, self.window, self.shift = num_heads, grid, window, shift
        offsets = (2 * window[0] - 1) * (2 * window[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, num_heads))
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        # Windows count as heads, so that one bias serves all images: each B WH N d.
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(x.device))
        x = x.unflatten(1, (-1, self.num_heads)).transpose(2, 3)
        if torch.compiler.is_compiling():
            # Exporters put another attention in its place, whose output lies otherwise in memory.
            x = x.clone(memory_format=torch.contiguous_format)
        return self.proj(x.flatten(3))

    def bias(self, device: torch.device) -> Tensor:
        """What is added to the scores (1, WH, N, N)."""
        offsets, mask = constants(self.grid, self.window, self.shift, device)
        bias = self.relative_position_bias_table[offsets].permute(2, 0, 1)
        return (bias + mask.to(bias.dtype)).flatten(0, 1)[None]


class SwinBlock(nn.Module):
    """Pre-norm transformer block on (B, R, S, D); its windows are shifted by `attn.shift`."""

    def __init__(self, dim: int, attn: WindowAttention, mlp: Mlp, *, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def attend(self, x: Tensor) -> Tensor:
        """Attention in the shifted windows, back in place (B, R, S, D)."""
        (down, right), window = self.attn.shift, self.attn.window
        if not (down or right):
            return joined(self.attn(windowed(x, window)), self.attn.grid, window)
        x = windowed(x.roll((-down, -right), dims=(1, 2)), window)
        return joined(self.attn(x), self.attn.grid, window).roll((down, right), dims=(1, 2))


class NormedPatchEmbed(nn.Module):
    """One convolution from the image (B, C, height, width) to tokens (B, R, S, D), and a norm."""

    def __init__(self, in_chans: int, dim: int, patch_size: int, *, eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Joins 2x2 neighbours (B, R, S, D) to one token (B, R/2, S/2, 2D)."""

    def __init__(self, dim: int, *, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        # Column by column within the 2x2: the order of the published weights.
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class Stage(nn.Module):
    """Blocks of one resolution, and the merging that leads to it, if there is one."""

    def __init__(self, downsample: PatchMerging | None, blocks: Sequence[SwinBlock]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def steps(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """The blocks as functions by name; the first one merges before."""
        for i, (name, block) in enumerate(self.blocks.named_children()):
            merges = i == 0 and self.downsample is not None
            yield f"blocks.{name}", partial(self.merge_and_run, block) if merges else block

    def merge_and_run(self, block: nn.Module, x: Tensor) -> Tensor:
        """Tokens of the stage before through the merging and a block."""
        assert self.downsample is not None
        return block(self.downsample(x))


class Head(nn.Module):
    """Tokens (B, R, S, D) to logits (B, classes) of their mean."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean(dim=(1, 2)))


class Swin(Network):
    """Swin transformer from images (B, C, height, width) to logits (B, classes).

    depths and num_heads have one entry per stage; `config` holds the arguments for `Swin(**config)`.
    """

    classifier = "head.fc"

    def __init__(
        self,
        *,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        image_size: Sequence[int],
        patch_size: int,
        in_chans: int,
        num_classes: int,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.input_shape = (in_chans, *image_size)

        def block(stage: int, *, shifted: bool) -> SwinBlock:
            dim, cell = embed_dim * 2**stage, patch_size * 2**stage
            grid = (image_size[0] // cell, image_size[1] // cell)
            window = (min(grid[0], window_size), min(grid[1], window_size))
            # A side that one window covers has nothing to exchange.
            moved = [window_size // 2 if shifted and side > window_size else 0 for side in grid]
            attn = WindowAttention(dim, num_heads[stage], grid, window, (moved[0], moved[1]), bias=qkv_bias)
            return SwinBlock(
                dim, attn, Mlp(dim, round(dim * mlp_ratio), gated=False, act="gelu"), eps=norm_eps
            )

        def merging(stage: int) -> PatchMerging | None:
            return PatchMerging(embed_dim * 2 ** (stage - 1), eps=norm_eps) if stage else None

        self.patch_embed: NormedPatchEmbed | None = NormedPatchEmbed(
            in_chans, embed_dim, patch_size, eps=norm_eps
        )
        self.layers = nn.Sequential(
            *(
                Stage(merging(stage), [block(stage, shifted=i % 2 == 1) for i in range(depth)])
                for stage, depth in enumerate(depths)
            )
        )
        last_dim = embed_dim * 2 ** (len(depths) - 1)
        self.norm: nn.LayerNorm | None = nn.LayerNorm(last_dim, norm_eps)
        self.head: Head | None = Head(last_dim, num_classes)

    @property
    def block_list(self) -> list[nn.Module]:
        """The blocks in order, from tokens to tokens (B, R, S, D) of one resolution: no merging."""
        return [block for stage in self._stages() for block in stage.blocks]

    def keep(self, begin: int, end: int, *, stem: bool, head: bool) -> Self:
        """Drops all blocks but `begin` to `end - 1`, and the stem and the head unless they are asked for.

        What stays keeps its name. Block `begin` takes tokens of its own resolution: a merging before it goes,
        too. Without its stem the network takes tokens, without its head it gives them.
        """
        start, kept = 0, []
        for i, stage in enumerate(self._stages()):
            depth = len(stage.blocks)
            stage.blocks = stage.blocks[max(begin - start, 0) : max(end - start, 0)]
            if begin >= start:
                stage.downsample = None
            if len(stage.blocks):
                kept.append(i)
            start += depth
        self.layers = self.layers[kept[0] : kept[-1] + 1] if kept else nn.Sequential()
        if not stem:
            self.patch_embed = None
        if not head:
            self.norm = self.head = None
        return self

    def embed(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to tokens (B, R, S, D)."""
        assert self.patch_embed is not None
        return self.patch_embed(x)

    def classify(self, x: Tensor) -> Tensor:
        """Tokens (B, R, S, D) to logits (B, classes)."""
        assert self.norm is not None
        assert self.head is not None
        return self.head(self.norm(x))

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        if self.patch_embed is not None:
            yield "stem", self.embed
        for name, stage in self.layers.named_children():
            assert isinstance(stage, Stage)
            for step, function in stage.steps():
                yield f"layers.{name}.{step}", function
        if self.head is not None:
            yield "head", self.classify

    def timm_arguments(self) -> dict[str, Any] | None:
        """As of every network; None for an epsilon that is not timm's own, which is no argument there."""
        config = self.config
        if config["norm_eps"] != TIMM_EPS:
            return None
        same = ("patch_size", "in_chans", "num_classes", "embed_dim", "depths", "num_heads", "window_size")
        return {name: config[name] for name in (*same, "mlp_ratio", "qkv_bias")} | {
            "model_name": "swin_tiny_patch4_window7_224",
            "img_size": list(config["image_size"]),
        }

    def _stages(self) -> Iterator[Stage]:
        for stage in self.layers:
            assert isinstance(stage, Stage)
            yield stage


class StitchedSwin(Stitched, Network):
    """Parts of Swin transformers in a row, a linear layer on all tokens between one and the next.

    anchors: arguments of `Swin`.  segments: [anchor, begin, end] each, the blocks of a part counted over all
    stages. The first part brings its stem, the last its head; `config` holds the arguments for
    `StitchedSwin(**config)`.
    """

    def __init__(self, *, anchors: Sequence[Mapping[str, Any]], segments: Sequence[Sequence[int]]) -> None:
        last = len(segments) - 1
        super().__init__(
            [
                Swin(**anchors[anchor]).keep(begin, end, stem=i == 0, head=i == last)
                for i, (anchor, begin, end) in enumerate(segments)
            ],
            [
                (width(anchors[a], end - 1), width(anchors[b], begin))
                for (a, _, end), (b, begin, _) in pairwise(segments)
            ],
        )
        self.config: dict[str, Any] = {"anchors": anchors, "segments": segments}
        takes = anchors[segments[0][0]]
        self.input_shape = (takes["in_chans"], *takes["image_size"])


def width(config: Mapping[str, Any], index: int) -> int:
    """The residual width at a block counted over all stages; behind the last block: its own."""
    stage = sum(index >= end for end in list(accumulate(config["depths"]))[:-1])
    dim: int = config["embed_dim"]
    return dim * 2**stage

"""The numbers of a Swin transformer, and the layers of its pieces.

Blocks are counted flat over the stages. Between two stages 2x2 neighbours are merged: half the resolution,
twice the channels.
Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows"
(arXiv 2103.14030), section 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from search_spaces.bounds import MOST, MOST_STAGES, bounded, bounded_depth, positive, short
from search_spaces.errors import UsageError
from search_spaces.layers import Layer, activation, add, attention, conv2d, linear, norm, pool, token
from search_spaces.shapes.vit import check_epsilon


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Numbers of a Swin transformer; names, meanings and defaults (Swin-T) are timm's.

    depths, num_heads: one entry per stage.  embed_dim: channels of the first stage.
    window_size: side of the attention windows in tokens; along a side with no more tokens than this, the
    window is the whole side and is never shifted.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: int = 4
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        """Takes lists for tuples. Raises UsageError for sizes that do not fit together."""
        for name in ("image_size", "depths", "num_heads"):
            object.__setattr__(self, name, _positive_tuple(name, getattr(self, name)))
        for name in ("patch_size", "in_chans", "num_classes", "embed_dim", "window_size"):
            positive(name, getattr(self, name))
        bounded("the number of stages", len(self.depths), most=MOST_STAGES)
        bounded_depth("depths", sum(self.depths))
        if type(self.mlp_ratio) not in (int, float) or not 1 / self.embed_dim <= self.mlp_ratio <= MOST:
            raise UsageError(
                f"mlp_ratio = {short(self.mlp_ratio)} leaves an FFN without neurons, or is over {MOST:,}."
            )
        if type(self.qkv_bias) is not bool:
            raise UsageError(f"qkv_bias = {self.qkv_bias!r} is neither true nor false.")
        check_epsilon(self.norm_eps)
        if len(self.image_size) != 2:
            raise UsageError(
                f"image_size = {self.image_size!r} is not two positive integers (height, width)."
            )
        if len(self.depths) != len(self.num_heads):
            raise UsageError(
                f"depths has {len(self.depths)} stages and num_heads {len(self.num_heads)}.",
                "Give one number of each per stage.",
            )
        if any(side % self.patch_size for side in self.image_size):
            raise UsageError(
                f"An image of {self.image_size[0]}x{self.image_size[1]} pixels cannot be cut into patches of "
                f"{self.patch_size}x{self.patch_size}.",
                "Choose a patch_size that divides both sides.",
            )
        for problem in self._misfits():
            raise UsageError(problem, "Choose another image_size, patch_size, window_size or num_heads.")

    def _misfits(self) -> Iterator[str]:
        for stage, heads in enumerate(self.num_heads):
            grid = self.grid(stage)
            if self.channels(stage) % heads:
                yield f"{heads} heads do not divide the {self.channels(stage)} channels of stage {stage}."
            if any(side % window for side, window in zip(grid, self.window(stage), strict=True)):
                yield (
                    f"Windows of {self.window_size}x{self.window_size} do not fill the {grid[0]}x{grid[1]} "
                    f"tokens of stage {stage}."
                )
            if stage + 1 < len(self.depths) and any(side % 2 for side in grid):
                yield f"The {grid[0]}x{grid[1]} tokens of stage {stage} cannot be merged 2x2."

    def channels(self, stage: int) -> int:
        """The residual width of a stage."""
        return int(self.embed_dim * 2**stage)

    def grid(self, stage: int) -> tuple[int, int]:
        """The tokens of a stage as (rows, columns)."""
        cell = self.patch_size * 2**stage
        return self.image_size[0] // cell, self.image_size[1] // cell

    def window(self, stage: int) -> tuple[int, int]:
        """Rows and columns of a stage's windows."""
        rows, columns = self.grid(stage)
        return min(rows, self.window_size), min(columns, self.window_size)


def place(config: SwinConfig, index: int) -> tuple[int, int]:
    """Stage of a flat block, and its number within the stage."""
    for stage, depth in enumerate(config.depths):
        if index < depth:
            return stage, index
        index -= depth
    raise IndexError(f"There are {sum(config.depths)} blocks only.")


def width(config: SwinConfig, index: int) -> int:
    """Channels of the tokens that a flat block takes and gives."""
    return config.channels(place(config, index)[0])


def resolution(config: SwinConfig, index: int) -> tuple[int, int]:
    """The tokens of a flat block as (rows, columns)."""
    return config.grid(place(config, index)[0])


def stem_layers(config: SwinConfig) -> tuple[Layer, ...]:
    """From the image to the tokens of the first stage."""
    rows, columns = config.grid(0)
    patch, dim = config.patch_size, config.embed_dim
    return (
        conv2d("patch_embed.proj", config.image_size, config.in_chans, dim, kernel=patch, stride=patch),
        norm("patch_embed.norm", rows * columns, dim),
    )


def block_layers(config: SwinConfig, index: int, *, downsample: bool) -> tuple[Layer, ...]:
    """One flat block; with `downsample` and as the first of a later stage, with the merging before it."""
    stage, within = place(config, index)
    (rows, columns), (high, wide) = config.grid(stage), config.window(stage)
    dim, heads, n = config.channels(stage), config.num_heads[stage], rows * columns
    prefix, hidden = f"layers.{stage}.blocks.{within}", round(dim * config.mlp_ratio)
    merging = _merging(config, stage) if downsample and stage and not within else ()
    return (
        *merging,
        norm(f"{prefix}.norm1", n, dim),
        linear(f"{prefix}.attn.qkv", n, dim, 3 * dim, bias=config.qkv_bias),
        token(f"{prefix}.attn.relative_position_bias_table", (2 * high - 1) * (2 * wide - 1), heads),
        attention(f"{prefix}.attn.softmax", high * wide, heads, dim // heads, windows=n // (high * wide)),
        linear(f"{prefix}.attn.proj", n, dim, dim),
        add(f"{prefix}.add1", n, dim),
        norm(f"{prefix}.norm2", n, dim),
        linear(f"{prefix}.mlp.fc1", n, dim, hidden),
        activation(f"{prefix}.mlp.act", n, hidden),
        linear(f"{prefix}.mlp.fc2", n, hidden, dim),
        add(f"{prefix}.add2", n, dim),
    )


def _merging(config: SwinConfig, stage: int) -> tuple[Layer, ...]:
    rows, columns = config.grid(stage)
    joined = 4 * config.channels(stage - 1)
    prefix = f"layers.{stage}.downsample"
    return (
        norm(f"{prefix}.norm", rows * columns, joined),
        linear(f"{prefix}.reduction", rows * columns, joined, config.channels(stage), bias=False),
    )


def head_layers(config: SwinConfig) -> tuple[Layer, ...]:
    """From the last block's tokens to the logits."""
    last = len(config.depths) - 1
    (rows, columns), dim = config.grid(last), config.channels(last)
    return (
        norm("norm", rows * columns, dim),
        pool("pool", rows * columns, dim),
        linear("head.fc", 1, dim, config.num_classes),
    )


def _positive_tuple(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not value or any(type(n) is not int or n < 1 for n in value):
        raise UsageError(f"{name} = {short(value)} is not a list of positive integers.")
    for number in value:
        positive(name, number)
    return tuple(value)

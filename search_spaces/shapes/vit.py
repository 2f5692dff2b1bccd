"""The parts of a plain vision transformer that no search changes, and the layers of its pieces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import log2
from typing import Any

from search_spaces.bounds import MOST, positive, short
from search_spaces.errors import UsageError
from search_spaces.layers import (
    Layer,
    activation,
    add,
    attention,
    conv2d,
    linear,
    norm,
    pool,
    relative_positions,
    scale,
    token,
)

FLAGS = (
    *("stem_norm", "class_token", "no_embed_class", "pre_norm", "qkv_bias", "proj_bias", "qk_norm"),
    *("layer_scale", "gated", "fc_norm"),
)
LATER = ("rel_pos",)  # fields that older spaces and exported modules do not have
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")


def check_epsilon(norm_eps: object) -> None:
    """Raises UsageError for what cannot be the epsilon of a norm."""
    if not isinstance(norm_eps, float) or not 0 < norm_eps < 1:
        raise UsageError(f"norm_eps = {short(norm_eps)} is not a number between 0 and 1.")


def check_image_size(image_size: object) -> None:
    """Raises UsageError unless these are the sides of an image."""
    sides = image_size if isinstance(image_size, list | tuple) else ()
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise UsageError(f"image_size = {short(image_size)} is not two positive integers (height, width).")
    for side in sides:
        positive("image_size", side)


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Fixed numbers of a vision transformer; names and meanings are timm's where timm has them.

    stem: `patch` is one convolution of `patch_size`; `conv` is a 3x3 convolution to `stem_dim` channels
    followed by 3x3 convolutions of stride 2 until `patch_size` is reached (the channels double on the way).
    stem_norm: a norm over one image's channels and pixels after each convolution of the stem but the last.
    head_dim: width of one attention head, the same at every number of heads.
    gated: the FFN is `fc2(act(a) * b)` with `a, b` the halves of `fc1` (SwiGLU, GeGLU).
    fc_norm: the last norm stands after the pooling instead of before.
    rel_pos: relative positions on keys and values, up to so many patches apart; 0 for none.
    """

    image_size: tuple[int, int] = (8, 16)
    patch_size: int = 2
    in_chans: int = 1
    num_classes: int = 19
    stem: str = "conv"
    stem_dim: int = 16
    stem_norm: bool = False
    head_dim: int = 8
    class_token: bool = False
    reg_tokens: int = 0
    no_embed_class: bool = False
    pre_norm: bool = False
    qkv_bias: bool = True
    proj_bias: bool = True
    qk_norm: bool = False
    layer_scale: bool = False
    gated: bool = False
    act: str = "gelu"
    pool: str = "avg"
    fc_norm: bool = True
    norm_eps: float = 1e-6
    rel_pos: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError for sizes that do not fit together."""
        for name in ("patch_size", "in_chans", "num_classes", "stem_dim", "head_dim"):
            positive(name, getattr(self, name))
        for name in FLAGS:
            if type(value := getattr(self, name)) is not bool:
                raise UsageError(f"{name} = {short(value)} is neither true nor false.")
        check_epsilon(self.norm_eps)
        check_image_size(self.image_size)
        for name in ("reg_tokens", "rel_pos"):
            if type(value := getattr(self, name)) is not int or not 0 <= value <= MOST:
                raise UsageError(f"{name} = {short(value)} is not a whole number from 0 to {MOST:,}.")
        if any(side % self.patch_size for side in self.image_size):
            raise UsageError(
                f"An image of {self.image_size[0]}x{self.image_size[1]} pixels cannot be cut into patches of "
                f"{self.patch_size}x{self.patch_size}.",
                "Choose a patch_size that divides both sides.",
            )
        if self.stem not in ("patch", "conv"):
            raise UsageError(f"stem = {short(self.stem)} is unknown.", "Options: patch, conv.")
        if self.stem == "conv" and (self.patch_size < 2 or log2(self.patch_size) % 1):
            raise UsageError(
                f"A convolutional stem needs a patch_size of 2, 4, 8, ..., not {self.patch_size}."
            )
        if self.act not in ACTIVATIONS:
            raise UsageError(f"act = {short(self.act)} is unknown.", f"Options: {', '.join(ACTIVATIONS)}.")
        if self.pool not in ("avg", "token") or (self.pool == "token" and not self.class_token):
            raise UsageError(
                f"pool = {short(self.pool)} is not possible.", "Options: avg; token with class_token: true."
            )

    @property
    def num_patches(self) -> int:
        return self.image_size[0] * self.image_size[1] // self.patch_size**2

    @property
    def prefix_tokens(self) -> int:
        return self.class_token + self.reg_tokens

    @property
    def tokens(self) -> int:
        return self.num_patches + self.prefix_tokens

    @property
    def positions(self) -> int:
        """Tokens that carry a position embedding."""
        return self.num_patches if self.no_embed_class else self.tokens

    def stem_channels(self, embed_dim: int) -> tuple[int, ...]:
        """Output channels of the stem's convolutions."""
        if self.stem == "patch":
            return (embed_dim,)
        strided = int(log2(self.patch_size))
        return (*(self.stem_dim * 2**i for i in range(strided)), embed_dim)


def module_arguments(
    config: ViTConfig, embed_dim: int, num_heads: Sequence[int], mlp_hidden: Sequence[int]
) -> dict[str, Any]:
    """The arguments of the plain module `ViT`, JSON data; heads and FFN neurons per layer."""
    fixed = {f.name: getattr(config, f.name) for f in fields(ViTConfig) if f.name != "stem_dim"}
    fixed = {name: value for name, value in fixed.items() if value or name not in LATER}
    return fixed | {
        "image_size": list(config.image_size),
        "embed_dim": embed_dim,
        "num_heads": list(num_heads),
        "mlp_hidden": list(mlp_hidden),
        "stem_channels": list(config.stem_channels(embed_dim)) if config.stem == "conv" else [],
    }


def with_sides(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The same with image_size, where there is one, as (height, width); one number is a square's side."""
    size = numbers.get("image_size")
    if size is None:
        return dict(numbers)
    return {**numbers, "image_size": tuple(size) if isinstance(size, list | tuple) else (size, size)}


def stem_layers(config: ViTConfig, dim: int) -> tuple[Layer, ...]:
    """From the image to the token sequence."""
    layers = [*_patch_embed(config, dim)]
    if config.class_token:
        layers.append(token("cls_token", 1, dim))
    if config.reg_tokens:
        layers.append(token("reg_token", config.reg_tokens, dim))
    layers += [token("pos_embed", config.positions, dim)]
    if config.pre_norm:
        layers.append(norm("norm_pre", config.tokens, dim))
    return tuple(layers)


def _patch_embed(config: ViTConfig, dim: int) -> list[Layer]:
    if config.stem == "patch":
        p = config.patch_size
        bias = not config.pre_norm
        return [
            conv2d("patch_embed.proj", config.image_size, config.in_chans, dim, kernel=p, stride=p, bias=bias)
        ]
    layers: list[Layer] = []
    size, channels = config.image_size, config.in_chans
    for i, n_out in enumerate(config.stem_channels(dim)):
        stride = 1 if i == 0 else 2
        if i and config.stem_norm:
            layers.append(norm(f"patch_embed.norms.{i - 1}", size[0] * size[1], channels))
        if i:
            layers.append(activation(f"patch_embed.act{i - 1}", size[0] * size[1], channels))
        layers.append(conv2d(f"patch_embed.convs.{i}", size, channels, n_out, kernel=3, stride=stride))
        size, channels = (size[0] // stride, size[1] // stride), n_out
    return layers


def block_layers(config: ViTConfig, index: int, dim: int, heads: int, hidden: int) -> tuple[Layer, ...]:
    """One pre-norm transformer block with `heads` heads and `hidden` FFN neurons (after gating)."""
    n, inner, prefix = config.tokens, heads * config.head_dim, f"blocks.{index}"
    layers = [
        norm(f"{prefix}.norm1", n, dim),
        linear(f"{prefix}.attn.qkv", n, dim, 3 * inner, bias=config.qkv_bias),
    ]
    if config.qk_norm:
        layers += [norm(f"{prefix}.attn.{side}_norm", 1, config.head_dim) for side in ("q", "k")]
    layers.append(attention(f"{prefix}.attn", n, heads, config.head_dim))
    if config.rel_pos:
        layers += [
            relative_positions(
                f"{prefix}.attn.rel_pos_{side}", n, heads, config.head_dim, reach=config.rel_pos
            )
            for side in ("k", "v")
        ]
    layers.append(linear(f"{prefix}.attn.proj", n, inner, dim, bias=config.proj_bias))
    if config.layer_scale:
        layers.append(scale(f"{prefix}.ls1", n, dim))
    layers += [
        add(f"{prefix}.add1", n, dim),
        norm(f"{prefix}.norm2", n, dim),
        linear(f"{prefix}.mlp.fc1", n, dim, hidden * (1 + config.gated)),
        activation(f"{prefix}.mlp.act", n, hidden, inputs=1 + config.gated),
        linear(f"{prefix}.mlp.fc2", n, hidden, dim),
    ]
    if config.layer_scale:
        layers.append(scale(f"{prefix}.ls2", n, dim))
    return (*layers, add(f"{prefix}.add2", n, dim))


def head_layers(config: ViTConfig, dim: int) -> tuple[Layer, ...]:
    """From the last block's tokens to the logits."""
    pooled = pool("pool", config.tokens if config.pool == "avg" else 1, dim)
    last = [pooled, norm("fc_norm", 1, dim)] if config.fc_norm else [norm("norm", config.tokens, dim), pooled]
    return (*last, linear("head", 1, dim, config.num_classes))

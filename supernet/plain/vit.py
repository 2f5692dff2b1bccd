"""A plain vision transformer that needs torch only; every extracted ViT subnet is one of these.

Parameter names are those of timm's `VisionTransformer`, which takes a subnet with equal layers; heads and FFN
widths may differ from layer to layer.

Shapes: B images, N tokens, D residual width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.plain.layers import (
    Attention,
    Block,
    Mlp,
    Network,
    PatchEmbed,
    RelativeAttention,
    Stitched,
    timm_ratio,
)

# What timm takes as a class and not by name comes from an entry point: (gated, epsilon of the norms) -> its
# name.
TIMM_BASES = {
    (False, 1e-6): "vit_base_patch16_224",
    (False, 1e-5): "vit_base_patch16_clip_224",
    (True, 1e-6): "vit_giant_patch14_dinov2",
}
TIMM_SAME = (
    *("patch_size", "in_chans", "num_classes", "embed_dim", "class_token", "reg_tokens", "no_embed_class"),
    *("pre_norm", "qkv_bias", "qk_norm", "fc_norm"),
)


class ConvStem(nn.Module):
    """3x3 convolutions, the first with stride 1 and the others with stride 2, to tokens (B, N, D).

    Between them GELU, and before it, if `normed`, a norm over one whole image: no statistics of a batch.
    """

    def __init__(self, in_chans: int, channels: Sequence[int], *, normed: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(n_in, n_out, 3, 1 if i == 0 else 2, padding=1)
            for i, (n_in, n_out) in enumerate(zip([in_chans, *channels[:-1]], channels, strict=True))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, n) if normed else nn.Identity() for n in channels[:-1])

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=False):
            x = F.gelu(norm(conv(x)))
        return self.convs[-1](x).flatten(2).transpose(1, 2)


class ViT(Network):
    """Vision transformer from images (B, C, height, width) to logits (B, classes).

    num_heads and mlp_hidden have one entry per layer.  rel_pos: reach of the relative positions on keys and
    values, 0 for none.  `config` holds the arguments for `ViT(**config)`.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: Sequence[int],
        mlp_hidden: Sequence[int],
        image_size: Sequence[int],
        patch_size: int,
        in_chans: int,
        num_classes: int,
        head_dim: int,
        stem: str = "patch",
        stem_channels: Sequence[int] = (),
        stem_norm: bool = False,
        class_token: bool = False,
        reg_tokens: int = 0,
        no_embed_class: bool = False,
        pre_norm: bool = False,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        qk_norm: bool = False,
        layer_scale: bool = False,
        gated: bool = False,
        act: str = "gelu",
        pool: str = "avg",
        fc_norm: bool = True,
        norm_eps: float = 1e-6,
        rel_pos: int = 0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.input_shape = (in_chans, *image_size)
        patches = image_size[0] * image_size[1] // patch_size**2
        self.prefix_tokens = class_token + reg_tokens
        self.no_embed_class, self.pool = no_embed_class, pool
        self.patch_embed: nn.Module | None = (
            PatchEmbed(in_chans, embed_dim, patch_size, bias=not pre_norm)
            if stem == "patch"
            else ConvStem(in_chans, stem_channels, normed=stem_norm)
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, reg_tokens, embed_dim)) if reg_tokens else None
        positions = patches + (0 if no_embed_class else self.prefix_tokens)
        self.pos_embed: nn.Parameter | None = nn.Parameter(torch.zeros(1, positions, embed_dim))
        self.norm_pre: nn.Module = nn.LayerNorm(embed_dim, norm_eps) if pre_norm else nn.Identity()
        switches: Any = {"qkv_bias": qkv_bias, "proj_bias": proj_bias, "qk_norm": qk_norm, "eps": norm_eps}
        kind: type[Attention] = Attention
        if rel_pos:
            kind = RelativeAttention
            grid = [side // patch_size for side in image_size]
            switches |= {"grid": grid, "prefix_tokens": self.prefix_tokens, "reach": rel_pos}
        self.blocks = nn.Sequential(
            *(
                Block(
                    kind(embed_dim, heads, head_dim, **switches),
                    Mlp(embed_dim, hidden, gated=gated, act=act),
                    embed_dim,
                    layer_scale=layer_scale,
                    eps=norm_eps,
                )
                for heads, hidden in zip(num_heads, mlp_hidden, strict=True)
            )
        )
        self.norm: nn.Module = nn.Identity() if fc_norm else nn.LayerNorm(embed_dim, norm_eps)
        self.fc_norm: nn.Module = nn.LayerNorm(embed_dim, norm_eps) if fc_norm else nn.Identity()
        self.head: nn.Linear | None = nn.Linear(embed_dim, num_classes)

    @property
    def block_list(self) -> list[nn.Module]:
        """The blocks in order."""
        return list(self.blocks)

    def keep(self, begin: int, end: int, *, stem: bool, head: bool) -> Self:
        """Drops all blocks but `begin` to `end - 1`, and the stem and the head unless they are asked for.

        What stays keeps its name. Without its stem the network takes tokens, without its head it gives them.
        """
        self.blocks = self.blocks[begin:end]
        if not stem:
            self.patch_embed = self.cls_token = self.reg_token = self.pos_embed = None
            self.norm_pre = nn.Identity()
        if not head:
            self.norm, self.fc_norm, self.head = nn.Identity(), nn.Identity(), None
        return self

    def embed(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to tokens (B, N, D)."""
        assert self.patch_embed is not None
        x = self.patch_embed(x)
        assert self.pos_embed is not None
        prefix = [t.expand(x.shape[0], -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        if self.no_embed_class or not prefix:
            x = x + self.pos_embed
        if prefix:
            x = torch.cat([*prefix, x], dim=1)
        if prefix and not self.no_embed_class:
            x = x + self.pos_embed
        return self.norm_pre(x)

    def classify(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) to logits (B, classes)."""
        x = self.norm(x)
        x = x[:, 0] if self.pool == "token" else x[:, self.prefix_tokens :].mean(dim=1)
        assert self.head is not None
        return self.head(self.fc_norm(x))

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        if self.patch_embed is not None:
            yield "stem", self.embed
        for name, block in self.blocks.named_children():
            yield f"blocks.{name}", block
        if self.head is not None:
            yield "head", self.classify

    def timm_arguments(self) -> dict[str, Any] | None:
        """As of every network, for timm's `VisionTransformer`.

        None for layers that differ, heads that do not fill the width, a convolutional stem, relative
        positions.
        """
        config = self.config
        heads, hidden = set(config["num_heads"]), set(config["mlp_hidden"])
        alike = len(heads) == len(hidden) == 1 and min(heads) * config["head_dim"] == config["embed_dim"]
        base = TIMM_BASES.get((config["gated"], config["norm_eps"]))
        # Without proj_bias timm takes the biases of the FFN away, too.
        if base is None or not alike or config["stem"] != "patch" or not config["proj_bias"]:
            return None
        if config["rel_pos"]:
            return None
        return {key: config[key] for key in TIMM_SAME} | {
            "model_name": base,
            "img_size": list(config["image_size"]),
            "depth": len(config["num_heads"]),
            "num_heads": min(heads),
            "mlp_ratio": timm_ratio(config["embed_dim"], min(hidden) * (1 + config["gated"])),
            "init_values": 1e-5 if config["layer_scale"] else 0.0,  # None would leave the entry point's own
            "act_layer": config["act"],
            "global_pool": config["pool"],
        }


class StitchedViT(Stitched, Network):
    """Parts of vision transformers in a row, a linear layer on all tokens between one and the next.

    anchors: arguments of `ViT`.  segments: [anchor, begin, end] each, the blocks of a part. The first part
    brings its stem, the last its head; `config` holds the arguments for `StitchedViT(**config)`.
    """

    def __init__(self, *, anchors: Sequence[Mapping[str, Any]], segments: Sequence[Sequence[int]]) -> None:
        last = len(segments) - 1
        widths = [anchors[anchor]["embed_dim"] for anchor, _, _ in segments]
        super().__init__(
            [
                ViT(**anchors[anchor]).keep(begin, end, stem=i == 0, head=i == last)
                for i, (anchor, begin, end) in enumerate(segments)
            ],
            list(pairwise(widths)),
        )
        self.config: dict[str, Any] = {"anchors": anchors, "segments": segments}
        takes = anchors[segments[0][0]]
        self.input_shape = (takes["in_chans"], *takes["image_size"])

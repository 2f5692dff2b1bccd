"""Subnets of a ViT-ResNAS supernet run by masks in one full-size pass, as the paper trains them.

Elastiform slices instead: the numbers are the same (tests compare the two), and the work of what is masked is
not done. This is what slicing is measured against.

Shapes: B images, N tokens, C channels; a mask is (B, 1, C), zeros and ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import Architecture
from supernet.families.vit_resnas import ViTResNAS
from supernet.plain.layers import Attention, Block, Mlp
from supernet.plain.vit_res import Reduction, ViTRes


@dataclass(frozen=True)
class BlockMasks:
    """Heads (B, 1, H d), neurons (B, 1, F) and whether the block is there (B, 1, 1)."""

    heads: Tensor
    neurons: Tensor
    exists: Tensor


def masked_forward(net: ViTResNAS, x: Tensor, archs: Sequence[Architecture]) -> Tensor:
    """Logits of images of which the b-th belongs to architecture b mod n of the n given ones."""
    whole: Any = net.shared
    assert isinstance(whole, ViTRes)
    dims = [
        _masks([int(arch[f"embed_dim.{s}"]) for arch in archs], width, x)
        for s, width in enumerate(_widths(whole))
    ]
    x = whole.embed(x) * dims[0]
    for stage, names in enumerate(whole.stage_blocks):
        if stage:
            reduction: Any = whole.reductions[stage - 1]
            x = _reduce(reduction, x, dims[stage - 1]) * dims[stage]
        for name in names:
            block: Any = whole.blocks.get_submodule(name)
            x = _run(block, x, dims[stage], block_masks(block, name, archs, x))
    return whole.head(layer_norm(whole.norm, x, dims[-1])[:, 0])


def layer_norm(norm: nn.LayerNorm, x: Tensor, mask: Tensor) -> Tensor:
    """A layer norm with the statistics of the live channels; dead ones stay zero. x is zero there."""
    live = mask.sum(dim=-1, keepdim=True)
    mean = x.sum(dim=-1, keepdim=True) / live
    centred = (x - mean) * mask
    variance = centred.square().sum(dim=-1, keepdim=True) / live
    return (centred * (variance + norm.eps).rsqrt() * norm.weight + norm.bias) * mask


def block_masks(block: Block, name: str, archs: Sequence[Architecture], x: Tensor) -> BlockMasks:
    """The masks of a block, which is called by its number."""
    there = [f"num_heads.{name}" in arch for arch in archs]
    heads = [int(arch[f"num_heads.{name}"]) if on else 0 for arch, on in zip(archs, there, strict=True)]
    neurons = [int(arch[f"mlp_hidden.{name}"]) if on else 0 for arch, on in zip(archs, there, strict=True)]
    width = block.attn.head_dim
    return BlockMasks(
        _masks([h * width for h in heads], block.attn.num_heads * width, x),
        _masks(neurons, block.mlp.fc2.in_features, x),
        _masks([int(on) for on in there], 1, x),
    )


def _masks(counts: Sequence[int], width: int, x: Tensor) -> Tensor:
    """The first channels by architecture, dealt out to the images in turns (B, 1, width)."""
    rows = torch.arange(width, device=x.device) < torch.tensor(counts, device=x.device)[:, None]
    return rows[torch.arange(len(x), device=x.device) % len(counts)].unsqueeze(1).to(x.dtype)


def _widths(whole: ViTRes) -> list[int]:
    return list(whole.config["embed_dim"])


def _run(block: Block, x: Tensor, dim: Tensor, masks: BlockMasks) -> Tensor:
    x = x + _attend(block.attn, layer_norm(block.norm1, x, dim), masks.heads) * dim * masks.exists
    return x + _feed(block.mlp, layer_norm(block.norm2, x, dim), masks.neurons) * dim * masks.exists


def _attend(attn: Attention, x: Tensor, heads: Tensor) -> Tensor:
    joined = F.scaled_dot_product_attention(*attn.heads(x)).transpose(1, 2).flatten(2)
    return attn.proj(joined * heads)


def _feed(mlp: Mlp, x: Tensor, neurons: Tensor) -> Tensor:
    return mlp.fc2(mlp.hidden(x) * neurons)


def _reduce(reduction: Reduction, x: Tensor, dim: Tensor) -> Tensor:
    return reduction.joined(layer_norm(reduction.norm, x, dim), x)

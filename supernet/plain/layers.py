"""What plain modules are made of; needs torch only.

Parameter names are those of timm. The `modeling.py` of an exported subnet is the file of its class with this
one put in front.

Shapes: B images, N tokens, D residual width, H heads, d head width.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}


class Staged(nn.Module, ABC):
    """A network as a sequence of named functions, which is what its forward pass runs."""

    @abstractmethod
    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """The forward pass as a sequence of named functions."""

    def forward(self, x: Tensor) -> Tensor:
        for _, stage in self.stages():
            x = stage(x)
        return x


class Network(Staged):
    """A network that is exported: from images (B, C, height, width) to logits (B, classes).

    One for language goes from token ids (B, T) to logits (B, T, vocabulary).
    config: the arguments of its class, JSON data.  input_shape: (C, height, width), or (T,).
    first_conv, classifier: its first and last layer as timm calls them.
    """

    config: dict[str, Any]
    input_shape: tuple[int, ...]
    first_conv, classifier = "patch_embed.proj", "head"

    def example_input(self, batch: int) -> Tensor:
        """Some input of the shape that the network takes, always the same."""
        return torch.zeros(batch, *self.input_shape)

    def timm_arguments(self) -> dict[str, Any] | None:
        """JSON data: `timm.create_model(**arguments)` takes these weights and computes the same.

        None where timm has no such network.
        """
        return None


def timm_ratio(dim: int, hidden: int) -> float:
    """A ratio with which timm, which truncates the product, comes to exactly `hidden`."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


class Stitched(Staged):
    """Networks in a row, a linear layer on all tokens between one and the next.

    segments: the first brings its stem, the last its head.  widths: residual width before and behind every
    linear layer.
    """

    def __init__(self, segments: Sequence[Staged], widths: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.segments = nn.ModuleList(segments)
        self.stitches = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in widths)

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        for i, segment in enumerate(self.segments):
            assert isinstance(segment, Staged)
            if i:
                yield f"stitches.{i - 1}", partial(_on_contiguous, self.stitches[i - 1])
            for name, stage in segment.stages():
                yield f"segments.{i}.{name}", stage


def _on_contiguous(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer; on strided tokens the kernel, and with it the last bit, would depend on who owns its
    weight.
    """
    return layer(x.contiguous())


class PatchEmbed(nn.Module):
    """One convolution from the image (B, C, height, width) to tokens (B, N, D)."""

    def __init__(self, in_chans: int, embed_dim: int, patch_size: int, *, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with a fused projection; `num_heads * head_dim` need not equal D."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        *,
        qkv_bias: bool,
        proj_bias: bool,
        qk_norm: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        inner = num_heads * head_dim
        self.qkv = nn.Linear(dim, 3 * inner, bias=qkv_bias)
        self.q_norm: nn.Module = nn.LayerNorm(head_dim, eps) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(head_dim, eps) if qk_norm else nn.Identity()
        self.proj = nn.Linear(inner, dim, bias=proj_bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the tokens, each (B, H, N, d)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.q_norm(q), self.k_norm(k), v


def is_recorded() -> bool:
    """Whether a graph is being made of what runs: constants are then not to be kept for later calls.

    A compiler has stand-ins for tensors, which must not outlive it; a trace records how they are made.
    """
    return torch.compiler.is_compiling() or is_traced()


def is_traced() -> bool:
    """Whether a trace is being made, from which exporters write files; they know older functions only."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing


class RelativePosition(nn.Module):
    """A learned vector for how far two tokens are apart: one for the rows plus one for the columns.

    Distances beyond `reach` count as `reach`; entry 0 is for pairs with a class or register token, which have
    no place in the image.
    """

    def __init__(self, head_dim: int, grid: Sequence[int], *, prefix_tokens: int, reach: int) -> None:
        super().__init__()
        self.grid, self.prefix_tokens, self.reach = (grid[0], grid[1]), prefix_tokens, reach
        self.row_table = nn.Parameter(torch.zeros(2 * reach + 2, head_dim))
        self.column_table = nn.Parameter(torch.zeros(2 * reach + 2, head_dim))

    def forward(self) -> Tensor:
        """One vector for every pair of tokens (N, N, d)."""
        rows, columns = distances(self.grid, self.prefix_tokens, self.reach, self.row_table.device)
        return self.row_table[rows] + self.column_table[columns]


def distances(
    grid: tuple[int, int], prefix_tokens: int, reach: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For every pair of tokens the entries (N, N) of the two tables; no buffers, so outside of the module."""
    if is_recorded():
        return _distances(grid, prefix_tokens, reach, device)
    return _cached_distances(grid, prefix_tokens, reach, device)


@lru_cache(64)
def _cached_distances(
    grid: tuple[int, int], prefix_tokens: int, reach: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    # Made under inference mode they could never take part in a training step again.
    with torch.inference_mode(mode=False):
        return _distances(grid, prefix_tokens, reach, device)


def _distances(
    grid: tuple[int, int], prefix_tokens: int, reach: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    places = torch.cartesian_prod(*(torch.arange(side, device=device) for side in grid))  # patches, 2
    apart = (places - places[:, None]).clamp(-reach, reach) + reach + 1  # query, key, 2
    rows, columns = F.pad(apart, (0, 0, prefix_tokens, 0, prefix_tokens, 0)).unbind(-1)
    return rows, columns


class RelativeAttention(Attention):
    """Attention whose keys and values know the distance to the query, by tables that all heads share.

    Source: Shaw et al., "Self-Attention with Relative Position Representations" (arXiv 1803.02155), in two
    dimensions as in AutoFormer (Chen et al., arXiv 2107.00651).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        *,
        grid: Sequence[int],
        prefix_tokens: int,
        reach: int,
        qkv_bias: bool,
        proj_bias: bool,
        qk_norm: bool,
        eps: float,
    ) -> None:
        super().__init__(
            dim, num_heads, head_dim, qkv_bias=qkv_bias, proj_bias=proj_bias, qk_norm=qk_norm, eps=eps
        )
        self.rel_pos_k = RelativePosition(head_dim, grid, prefix_tokens=prefix_tokens, reach=reach)
        self.rel_pos_v = RelativePosition(head_dim, grid, prefix_tokens=prefix_tokens, reach=reach)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        q = q * self.head_dim**-0.5
        near = _by_query(q, self.rel_pos_k().transpose(-2, -1), self.num_heads)
        shares = (q @ k.transpose(-2, -1) + near).softmax(dim=-1)
        x = shares @ v + _by_query(shares, self.rel_pos_v(), self.num_heads)
        return self.proj(x.transpose(1, 2).flatten(2))


def _by_query(x: Tensor, matrices: Tensor, heads: int) -> Tensor:
    """Rows (B, H, N, m) of H heads times the matrix (N, m, n) of their query, to (B, H, N, n)."""
    rows = x.permute(2, 0, 1, 3).flatten(1, 2)  # N, B H, m
    return (rows @ matrices).unflatten(1, (-1, heads)).permute(1, 2, 0, 3)


class Mlp(nn.Module):
    """The feed-forward network with `hidden` neurons; gated: `fc2(act(a) * b)`, the halves of `fc1`."""

    def __init__(self, dim: int, hidden: int, *, gated: bool, act: str, bias: bool = True) -> None:
        super().__init__()
        self.gated, self.act = gated, ACTIVATIONS[act]
        self.fc1 = nn.Linear(dim, 2 * hidden if gated else hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """The neurons' outputs (..., hidden), which is what importance is measured on."""
        return self.activated(self.fc1(x))

    def activated(self, x: Tensor) -> Tensor:
        """What the neurons make of their inputs; gated ones have twice as many."""
        if not self.gated:
            return self.act(x)
        gate, value = x.chunk(2, dim=-1)
        return self.act(gate) * value


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class HalvedBlock(nn.Module, ABC):
    """A block whose attention does not depend on how wide the feed-forward network behind it is."""

    norm2: nn.Module
    mlp: Mlp

    def forward(self, x: Tensor) -> Tensor:
        return self.fed(self.attended(x))

    @abstractmethod
    def attended(self, x: Tensor) -> Tensor:
        """The first half: attention and its residual."""

    def fed(self, x: Tensor) -> Tensor:
        """The second half: the feed-forward network and its residual."""
        return x + self.scaled(self.mlp(self.norm2(x)))

    def scaled(self, x: Tensor) -> Tensor:
        """What the second residual adds of the feed-forward network's output."""
        return x


class Block(HalvedBlock):
    """Pre-norm transformer block on (B, N, D)."""

    def __init__(self, attn: Attention, mlp: Mlp, dim: int, *, layer_scale: bool, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = attn
        self.ls1: nn.Module = LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = mlp
        self.ls2: nn.Module = LayerScale(dim) if layer_scale else nn.Identity()

    def attended(self, x: Tensor) -> Tensor:
        return x + self.ls1(self.attn(self.norm1(x)))

    def scaled(self, x: Tensor) -> Tensor:
        return self.ls2(x)

"""A plain decoder for language that needs torch only; every extracted language model is one of these.

The network is that of Llama and its relatives; heads and FFN widths may differ from layer to layer.

Shapes: B texts, T tokens, D residual width, H heads, K heads of keys and values, d head width.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.plain.layers import HalvedBlock, Mlp, Network, is_recorded, is_traced


class RMSNorm(nn.Module):
    """A norm of the mean square with a scale for each channel.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467).
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        if is_traced():
            return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps) * self.weight
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class GroupedAttention(nn.Module):
    """Causal attention with rotary positions, in which `heads_per_kv` heads share keys and values.

    Source: Ainslie et al., "GQA" (arXiv 2305.13245); Su et al., "RoFormer" (arXiv 2104.09864).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        *,
        heads_per_kv: int,
        qkv_bias: bool,
        qk_norm: bool,
        eps: float,
        theta: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.theta = num_heads, head_dim, theta
        self.heads_per_kv, self.kv_heads = heads_per_kv, num_heads // heads_per_kv
        self.q_proj = nn.Linear(dim, num_heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(dim, self.kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(dim, self.kv_heads * head_dim, bias=qkv_bias)
        self.q_norm: nn.Module = RMSNorm(head_dim, eps) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = RMSNorm(head_dim, eps) if qk_norm else nn.Identity()
        self.proj = nn.Linear(num_heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self._attended(*self.heads_at(x), masked=True)

    def following(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The same for one token (B, 1, D) that follows others.

        keys, values: (B, K, C, d) of all C tokens; the last place is the token's, and is written here.
        """
        place = keys.shape[2] - 1
        q, k, v = self.heads_at(x, place)
        keys[:, :, place:], values[:, :, place:] = k, v
        return self._attended(q, keys, values, masked=False)

    def continued(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The same for tokens (B, T, D) that follow any number of others, which may be none.

        keys, values: (B, K, C, d) of all C tokens; the last T places are the tokens', and are written here.
        """
        begin = keys.shape[2] - x.shape[1]
        q, k, v = self.heads_at(x, begin)
        keys[:, :, begin:], values[:, :, begin:] = k, v
        if begin == 0 or x.shape[1] == 1:
            return self._attended(q, keys, values, masked=begin == 0)
        seen = torch.ones(x.shape[1], keys.shape[2], dtype=torch.bool, device=x.device).tril(begin)
        return self._joined(
            F.scaled_dot_product_attention(q, keys, values, seen, enable_gqa=self.heads_per_kv > 1)
        )

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, *, masked: bool) -> Tensor:
        grouped = self.heads_per_kv > 1
        if grouped and is_traced():
            k, v = (x.repeat_interleave(self.heads_per_kv, dim=1) for x in (k, v))
            grouped = False
        x = F.scaled_dot_product_attention(q, k, v, is_causal=masked, enable_gqa=grouped)
        return self._joined(x)

    def _joined(self, x: Tensor) -> Tensor:
        """What heads (B, H, T, d) have gathered, to (B, T, D)."""
        return self.proj(x.transpose(1, 2).flatten(2))

    def heads_at(self, x: Tensor, begin: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """As `heads`, with the positions of the tokens, the first of which is `begin`."""
        q, k, v = self.heads(x)
        angles = rotations(begin + x.shape[1], self.head_dim, self.theta, x.device)
        cosines, sines = (table[begin:] for table in angles)
        return rotated(q, cosines, sines), rotated(k, cosines, sines), v

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, d), keys and values (B, K, T, d) of the tokens, without their positions."""
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2), v.transpose(1, 2)


def rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Queries or keys (B, H, T, d) turned by the angles of their positions (T, d / 2).

    A channel of the first half makes a pair with the one at the same place of the second.
    """
    first, second = x.chunk(2, dim=-1)
    cosines, sines = cosines.to(x.dtype), sines.to(x.dtype)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def rotations(tokens: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, d / 2) of the positions; no buffers, so outside of the module."""
    if is_recorded():
        return _rotations(tokens, head_dim, theta, device)
    return _cached_rotations(tokens, head_dim, theta, device)


@lru_cache(64)
def _cached_rotations(
    tokens: int, head_dim: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    # Made under inference mode they could never take part in a training step again.
    with torch.inference_mode(mode=False):
        return _rotations(tokens, head_dim, theta, device)


def _rotations(tokens: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    places = torch.arange(tokens, dtype=torch.float32, device=device)
    angles = places[:, None] * theta**-exponents
    return angles.cos(), angles.sin()


def some_tokens(vocabulary: int, batch: int, tokens: int) -> Tensor:
    """Random ids (B, T), always the same."""
    return torch.randint(vocabulary, (batch, tokens), generator=torch.Generator().manual_seed(0))


class DecoderBlock(HalvedBlock):
    """Pre-norm block of a decoder on (B, T, D)."""

    def __init__(self, attn: GroupedAttention, mlp: Mlp, dim: int, *, eps: float) -> None:
        super().__init__()
        self.norm1 = RMSNorm(dim, eps)
        self.attn = attn
        self.norm2 = RMSNorm(dim, eps)
        self.mlp = mlp

    def attended(self, x: Tensor) -> Tensor:
        return x + self.attn(self.norm1(x))


class Decoder(Network):
    """A decoder from token ids (B, T) to the logits (B, T, vocabulary) of the next tokens, T <= `context`.

    num_heads and mlp_hidden have one entry per layer.  tied: the logits are made with the embedding's
    weights.  `config` holds the arguments for `Decoder(**config)`.
    """

    first_conv = "embed"

    def __init__(
        self,
        *,
        vocabulary: int,
        context: int,
        embed_dim: int,
        num_heads: Sequence[int],
        mlp_hidden: Sequence[int],
        head_dim: int,
        heads_per_kv: int = 1,
        gated: bool = True,
        act: str = "silu",
        tied: bool = True,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        norm_eps: float = 1e-5,
        rope_theta: float = 10_000.0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.input_shape = (context,)
        self.vocabulary = vocabulary
        self.embed = nn.Embedding(vocabulary, embed_dim)
        switches: Any = {"qkv_bias": qkv_bias, "qk_norm": qk_norm, "eps": norm_eps, "theta": rope_theta}
        self.blocks = nn.Sequential(
            *(
                DecoderBlock(
                    GroupedAttention(embed_dim, heads, head_dim, heads_per_kv=heads_per_kv, **switches),
                    Mlp(embed_dim, hidden, gated=gated, act=act, bias=False),
                    embed_dim,
                    eps=norm_eps,
                )
                for heads, hidden in zip(num_heads, mlp_hidden, strict=True)
            )
        )
        self.norm = RMSNorm(embed_dim, norm_eps)
        self.head: nn.Linear | None = None if tied else nn.Linear(embed_dim, vocabulary, bias=False)

    def example_input(self, batch: int) -> Tensor:
        return self.some_input(batch, self.input_shape[0])

    def some_input(self, batch: int, tokens: int) -> Tensor:
        """Texts (B, T) of so many tokens, always the same."""
        return some_tokens(self.vocabulary, batch, tokens)

    def as_run(self, batch: int, tokens: int, *, is_step: bool) -> nn.Module:
        """What runs `batch` texts of so many tokens at once, or the last token of each (`is_step`).

        Then the other tokens of `some_input` are remembered.
        """
        if not is_step:
            return self
        step = DecodeStep(self, batch=batch, context=tokens).eval()
        step.remember(self.some_input(batch, tokens)[:, :-1])
        return step

    def empty_cache(self, batch: int) -> list[tuple[Tensor, Tensor]]:
        """Room for keys and values (B, K, `context`, d) of every layer."""
        context, weight = self.input_shape[0], self.embed.weight
        shapes = [(batch, block.attn.kv_heads, context, block.attn.head_dim) for block in self._layers()]
        return [(weight.new_zeros(shape), weight.new_zeros(shape)) for shape in shapes]

    def continued(self, x: Tensor, cache: Sequence[tuple[Tensor, Tensor]], begin: int) -> Tensor:
        """Logits (B, T, vocabulary) of tokens (B, T) that follow `begin` others.

        cache: keys and values of every layer as `empty_cache` makes them; those of the others are read, those
        of the tokens written.
        """
        end = begin + x.shape[1]
        x = self.embed(x)
        for block, (keys, values) in zip(self._layers(), cache, strict=True):
            places = keys[:, :, :end], values[:, :, :end]
            x = block.fed(x + block.attn.continued(block.norm1(x), *places))
        return self.logits(x)

    def _layers(self) -> Iterator[DecoderBlock]:
        for block in self.blocks:
            assert isinstance(block, DecoderBlock)
            yield block

    def logits(self, x: Tensor) -> Tensor:
        """Vectors (B, T, D) behind the last block to logits (B, T, vocabulary)."""
        weight = self.embed.weight if self.head is None else self.head.weight
        return F.linear(self.norm(x), weight)

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        yield "embed", self.embed
        for name, block in self.blocks.named_children():
            yield f"blocks.{name}", block
        yield "head", self.logits


class DecodeStep(nn.Module):
    """One step of decoding: from the last token (B, 1) of texts to its logits (B, 1, vocabulary).

    The texts have `context` tokens; keys and values of the others are remembered, those of the last one are
    written into their place in every step.
    """

    def __init__(self, decoder: Decoder, *, batch: int, context: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.remembered: Tensor | None = None  # the first tokens, for runtimes with a memory of their own
        for i, block in enumerate(decoder.blocks):
            assert isinstance(block, DecoderBlock)
            shape = (batch, block.attn.kv_heads, context, block.attn.head_dim)
            self.register_buffer(f"keys_{i}", torch.zeros(shape))
            self.register_buffer(f"values_{i}", torch.zeros(shape))

    @torch.no_grad()
    def remember(self, x: Tensor) -> None:
        """Computes the keys and values of the first tokens (B, T), T < `context`."""
        self.remembered = x
        x = self.decoder.embed(x)
        for block, keys, values in self._remembered():
            _, k, v = block.attn.heads_at(block.norm1(x))
            keys[:, :, : x.shape[1]], values[:, :, : x.shape[1]] = k, v
            x = block(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.decoder.embed(x)
        for block, keys, values in self._remembered():
            x = block.fed(x + block.attn.following(block.norm1(x), keys, values))
        return self.decoder.logits(x)

    def _remembered(self) -> Iterator[tuple[DecoderBlock, Tensor, Tensor]]:
        for i, block in enumerate(self.decoder.blocks):
            assert isinstance(block, DecoderBlock)
            yield block, self.get_buffer(f"keys_{i}"), self.get_buffer(f"values_{i}")

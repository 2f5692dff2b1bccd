"""The parts of a decoder for language that no search changes, and the layers of its pieces.

The block is that of Llama (Touvron et al., arXiv 2302.13971): norms of the mean square, rotary positions,
heads that share keys and values in groups, a gated feed-forward network, no biases. Biases of queries, keys
and values (Qwen2) and norms of queries and keys (Qwen3) are switches, and so is the gate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from search_spaces.bounds import positive, short
from search_spaces.errors import UsageError
from search_spaces.layers import (
    Layer,
    activation,
    add,
    causal_attention,
    embedding,
    linear,
    rms_norm,
    rotary,
)

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
LARGEST_VOCABULARY = 1_000_000
LONGEST_CONTEXT = 2**20  # tokens
LARGEST_THETA = 1e12
SWITCHES = ("gated", "tied", "qkv_bias", "qk_norm")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Fixed numbers of a decoder.

    vocabulary: how many token ids there are.  context: tokens of an input, of which costs and examples are.
    heads_per_kv: heads that share one head of keys and values.
    tied: whether the logits are made with the embedding's weights.  rope_theta: the base of the rotations.
    """

    vocabulary: int = 256
    context: int = 64
    head_dim: int = 16
    heads_per_kv: int = 1
    gated: bool = True
    act: str = "silu"
    tied: bool = True
    qkv_bias: bool = False
    qk_norm: bool = False
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        """Raises UsageError for numbers that make no decoder."""
        positive("vocabulary", self.vocabulary, most=LARGEST_VOCABULARY)
        positive("context", self.context, most=LONGEST_CONTEXT)
        positive("head_dim", self.head_dim)
        positive("heads_per_kv", self.heads_per_kv)
        if self.head_dim % 2:
            raise UsageError(
                f"head_dim = {self.head_dim} is odd.",
                "Rotary positions turn pairs of channels: make it even.",
            )
        for name in SWITCHES:
            if type(getattr(self, name)) is not bool:
                raise UsageError(f"{name} = {short(getattr(self, name))} is neither true nor false.")
        if self.act not in ACTIVATIONS:
            raise UsageError(f"act = {short(self.act)} is unknown.", f"Options: {', '.join(ACTIVATIONS)}.")
        _check_number("norm_eps", self.norm_eps, least=0.0, most=1.0)
        _check_number("rope_theta", self.rope_theta, least=1.0, most=LARGEST_THETA)


@dataclass(frozen=True)
class Names:
    """What a format calls the modules of a decoder.

    layer: the beginning of the names of layer `{}`.  of_layer: for each of our modules in a block theirs, two
    for a gated `mlp.fc1`.
    """

    embed: str
    norm: str
    head: str
    layer: str
    of_layer: Mapping[str, Sequence[str]]

    def theirs(self, name: str) -> tuple[str, ...]:
        """The weights of the format that make our parameter, one below the other."""
        module, _, end = name.rpartition(".")
        if not module.startswith("blocks."):
            return (f"{getattr(self, module)}.{end}",)
        _, number, part = module.split(".", 2)
        return tuple(f"{self.layer.format(number)}{theirs}.{end}" for theirs in self.of_layer[part])


@dataclass(frozen=True, slots=True)
class Pass:
    """What a decoder is run on: the last `tokens` of `keys` tokens, the others being remembered."""

    tokens: int
    keys: int


def prefill(tokens: int) -> Pass:
    """All of a text at once."""
    return Pass(tokens, tokens)


def decode_step(context: int) -> Pass:
    """The next token of a text that is `context` tokens long with it."""
    return Pass(1, context)


def module_arguments(
    config: DecoderConfig, embed_dim: int, num_heads: Sequence[int], mlp_hidden: Sequence[int]
) -> dict[str, Any]:
    """The arguments of the plain module `Decoder`, JSON data; heads and FFN neurons per layer."""
    return asdict(config) | {
        "embed_dim": embed_dim,
        "num_heads": list(num_heads),
        "mlp_hidden": list(mlp_hidden),
    }


def stem_layers(config: DecoderConfig, dim: int, run: Pass) -> tuple[Layer, ...]:
    """From token ids to vectors."""
    return (embedding("embed", run.tokens, config.vocabulary, dim),)


def block_layers(
    config: DecoderConfig, index: int, dim: int, heads: int, hidden: int, run: Pass
) -> tuple[Layer, ...]:
    """One pre-norm block with `heads` heads and `hidden` FFN neurons (after gating)."""
    n, prefix = run.tokens, f"blocks.{index}"
    return (
        rms_norm(f"{prefix}.norm1", n, dim),
        *_attention_layers(config, f"{prefix}.attn", dim, heads, run),
        add(f"{prefix}.add1", n, dim),
        rms_norm(f"{prefix}.norm2", n, dim),
        linear(f"{prefix}.mlp.fc1", n, dim, hidden * (1 + config.gated), bias=False),
        activation(f"{prefix}.mlp.act", n, hidden, inputs=1 + config.gated),
        linear(f"{prefix}.mlp.fc2", n, hidden, dim, bias=False),
        add(f"{prefix}.add2", n, dim),
    )


def _attention_layers(
    config: DecoderConfig, prefix: str, dim: int, heads: int, run: Pass
) -> tuple[Layer, ...]:
    n, size, kv_heads = run.tokens, config.head_dim, heads // config.heads_per_kv
    sides = {"q": heads, "k": kv_heads, "v": kv_heads}
    layers = [
        linear(f"{prefix}.{side}_proj", n, dim, count * size, bias=config.qkv_bias)
        for side, count in sides.items()
    ]
    if config.qk_norm:
        layers += [rms_norm(f"{prefix}.{side}_norm", n * sides[side], size) for side in "qk"]
    return (
        *layers,
        rotary(f"{prefix}.rotary", heads + kv_heads, n, size),
        causal_attention(prefix, heads, kv_heads, size, queries=n, keys=run.keys),
        linear(f"{prefix}.proj", n, heads * size, dim, bias=False),
    )


def head_layers(config: DecoderConfig, dim: int, run: Pass) -> tuple[Layer, ...]:
    """From the last block's vectors to the logits of every token; tied weights are the embedding's."""
    logits = linear("head", run.tokens, dim, config.vocabulary, bias=False)
    return rms_norm("norm", run.tokens, dim), replace(logits, params=0) if config.tied else logits


def kv_elements(layer: Layer) -> tuple[int, ...]:
    """How many numbers of keys and values a layer needs remembered for one text: a feature of `totals`."""
    if layer.kind != "causal_attention":
        return (0,)
    _, kv_heads, _, keys, head_dim = layer.shape
    return (2 * kv_heads * keys * head_dim,)


def _check_number(name: str, value: float, *, least: float, most: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least < value <= most:
        raise UsageError(f"{name} = {short(value)} is no number above {least:g} and at most {most:g}.")

"""MatLM space: a decoder for language with nested FFNs, and layers, heads and residual width as options.

Source: Devvrit et al., "MatFormer: Nested Transformer for Elastic Inference" (arXiv 2310.07707), section 4.1
and appendices B and F.2; layers left out by importance as in Nemotron Elastic (arXiv 2511.16664).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture, group_of
from search_spaces.bounds import DEEPEST, positive, short
from search_spaces.choices import Choice, Part
from search_spaces.errors import UsageError, did_you_mean
from search_spaces.layers import Layer
from search_spaces.shapes.decoder import (
    LONGEST_CONTEXT,
    DecoderConfig,
    Pass,
    block_layers,
    decode_step,
    head_layers,
    kv_elements,
    module_arguments,
    prefill,
    stem_layers,
)
from search_spaces.shapes.elastic_vit import ascending, check_widths, hidden_features
from search_spaces.space import Codes, SearchSpace

FAMILY = "matlm"
RATIO, HIDDEN = "mlp_ratio", "mlp_hidden"  # the two ways to say how wide FFNs are
PER_LAYER = ("num_heads", RATIO, HIDDEN)
GRANULARITIES = ("s", "m", "l", "xl")
OPTIONS = ("embed_dim", "depth", *PER_LAYER, "per_layer", "order", "optional")

# Table 4 of the paper: 16 layers with 16 heads, 256k ids, FFNs without a gate.
_MATLM: dict[str, Any] = {
    "vocabulary": 256_000,
    "context": 1024,
    "gated": False,
    "act": "gelu",
    "depth": (16,),
    "num_heads": (16,),
    RATIO: (0.5, 1, 2, 4),
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    **{
        f"matlm_{size}m": _MATLM | {"embed_dim": (dim,), "head_dim": dim // 16}
        for size, dim in {78: 256, 180: 512, 310: 768, 463: 1024, 850: 1536}.items()
    },
    "smollm2_135m": {
        "vocabulary": 49_152,
        "context": 2048,
        "embed_dim": (576,),
        "depth": (30,),
        "num_heads": (9,),
        "heads_per_kv": 3,
        "head_dim": 64,
        HIDDEN: (768, 960, 1152, 1344, 1536),
        "rope_theta": 100_000.0,
    },
}

# What a decoder that was trained trains with: `docs/language.md` tells what was tried.
PRETRAINED_TRAINING: Mapping[str, Any] = {
    "batch_size": 4,
    "lr": 1e-4,
    "weight_decay": 0.01,
    "betas": (0.9, 0.95),
    "warmup": 10,
    "largest_first": 0.0,
    "sampling": {"largest": 1 / 3},
    "teacher": {"init": True},
}
# How it is searched.
PRETRAINED_SEARCH: Mapping[str, Any] = {"start": "sensitivity"}


def build(
    *,
    name: str = FAMILY,
    vocabulary: int = DecoderConfig.vocabulary,
    context: int = DecoderConfig.context,
    embed_dim: Sequence[int] = (32, 64),
    depth: Sequence[int] = (1, 2, 3, 4),
    num_heads: Sequence[int] = (2, 4),
    mlp_ratio: Sequence[float] | None = None,
    mlp_hidden: Sequence[int] | None = None,
    per_layer: Sequence[str] | None = None,
    order: Sequence[int] = (),
    optional: Sequence[int] = (),
    **decoder: Any,
) -> SearchSpace:
    """The space over the options; `decoder` are further fields of `DecoderConfig`.

    vocabulary: how many tokens there are.
    context: tokens of an input: costs are those of all of them at once.
    embed_dim: options of the residual width.  depth: of the number of layers.  num_heads: of the heads of
    attention.
    mlp_ratio: FFN neurons relative to the subnet's residual width; mlp_hidden: their number. One of the two;
    without either the ratios are 0.5, 1, 2 and 4.
    per_layer: which of `num_heads` and the FFN's option are chosen for every layer anew (None: the FFN's);
    the others once for the network.
    order: of layers, counted from 0, in which smaller options of depth leave them out; empty: from the last.
    optional: layers each of which may be left out by itself; depth has one option then.
    Raises UsageError for unknown or impossible options.
    """
    config = _config(decoder | {"vocabulary": vocabulary, "context": context})
    elastic: dict[str, Any] = {
        "embed_dim": ascending("embed_dim", embed_dim),
        "depth": ascending("depth", depth, most=DEEPEST),
        "num_heads": _heads(num_heads, config),
        **_ffn(mlp_ratio, mlp_hidden),
    }
    if RATIO in elastic:
        check_widths(elastic["embed_dim"], elastic[RATIO])
    elastic["per_layer"] = _chosen_per_layer(per_layer, elastic)
    elastic["order"] = _order(order, elastic["depth"])
    elastic["optional"] = _optional(optional, elastic["depth"])
    options = asdict(config) | elastic
    space = SearchSpace(
        name=name,
        family=FAMILY,
        choices=tuple(_choices(elastic)),
        parts=tuple(_parts(config, elastic, prefill(config.context))),
        options=options,
    )
    return space.with_presets(_presets(space))


def decoder_config(space: SearchSpace) -> DecoderConfig:
    """What no architecture of the space changes."""
    return DecoderConfig(**{f.name: space.options[f.name] for f in fields(DecoderConfig)})


def decoding(space: SearchSpace, *, context: int) -> SearchSpace:
    """The same choices, with the layers and costs of the next token of a text of `context` tokens."""
    return _run_on(space, decode_step(context))


def as_run(space: SearchSpace, tokens: int, is_step: bool) -> SearchSpace:
    """The same choices, with the layers of a run on a text of so many tokens, or on its last one only.

    Raises UsageError for texts that are longer than the networks take.
    """
    positive("The tokens of a workload", tokens, most=LONGEST_CONTEXT)
    if tokens > (longest := space.options["context"]):
        raise UsageError(
            f"A device's workload has {tokens:,} tokens, and the networks of space '{space.name}' take "
            f"{longest:,}.",
            "Take fewer, or data with longer texts.",
        )
    return decoding(space, context=tokens) if is_step else _run_on(space, prefill(tokens))


def _run_on(space: SearchSpace, run: Pass) -> SearchSpace:
    config = replace(decoder_config(space), context=run.keys)
    parts = _parts(config, space.options, run)
    return replace(space, parts=tuple(parts), options=dict(space.options) | {"context": run.keys})


def memory(
    space: SearchSpace, codes: Codes, *, context: int, batch: int = 1, element_bytes: int = 4
) -> dict[str, NDArray[np.int64]]:
    """Bytes of weights, of the keys and values of `batch` texts of `context` tokens, and of both: (n,) each.

    element_bytes: of one number.
    """
    weights = space.costs(codes)["params"] * element_bytes
    texts = decoding(space, context=context).totals(codes, kv_elements)[:, 0]
    kv_cache = texts * batch * element_bytes
    return {"weight_bytes": weights, "kv_bytes": kv_cache, "memory_bytes": weights + kv_cache}


def kept_layers(options: Mapping[str, Any], values: Mapping[str, Any]) -> list[int]:
    """The layers that an architecture has, by a space's `options`; numbers are those of the largest."""
    left_out = set(options["order"][: options["depth"][-1] - values["depth"]])
    return [
        i for i in range(options["depth"][-1]) if i not in left_out and values.get(f"exists.{i}") is not False
    ]


def layer_values(space: SearchSpace, arch: Architecture) -> list[tuple[int, int, int]]:
    """Number, heads and FFN neurons of each layer that the architecture has."""
    values, dim = dict(arch.values), int(arch["embed_dim"])
    return [
        (
            i,
            int(values[_name(space.options, "num_heads", i)]),
            _hidden(space.options, dim, values[_name(space.options, ffn_option(space.options), i)]),
        )
        for i in kept_layers(space.options, values)
    ]


def ffn_option(options: Mapping[str, Any]) -> str:
    """By which option a space says how wide FFNs are."""
    return RATIO if RATIO in options else HIDDEN


def ffn_choices(space: SearchSpace, arch: Architecture) -> list[str]:
    """The choices that say how wide an architecture's FFNs are; nothing else of it depends on them.

    Networks that differ in these alone remember the same things of a text, so that one can draft for another.
    """
    return [name for name in arch if group_of(name)[0] == ffn_option(space.options)]


def ffn_widths(space: SearchSpace, dim: int) -> list[int]:
    """How many neurons an FFN can have at this residual width; ascending."""
    return [_hidden(space.options, dim, value) for value in space.options[ffn_option(space.options)]]


def plain_config(space: SearchSpace, arch: Architecture) -> dict[str, Any]:
    """The arguments of the plain `Decoder` of an architecture; JSON data."""
    layers = layer_values(space, arch)
    heads, hidden = ([layer[place] for layer in layers] for place in (1, 2))
    return module_arguments(decoder_config(space), int(arch["embed_dim"]), heads, hidden)


def _hidden(options: Mapping[str, Any], dim: int, value: Any) -> int:
    return hidden_features(dim, value) if RATIO in options else int(value)


def _name(options: Mapping[str, Any], choice: str, layer: int) -> str:
    return f"{choice}.{layer}" if choice in options["per_layer"] else choice


def _config(decoder: Mapping[str, Any]) -> DecoderConfig:
    numbers = [f.name for f in fields(DecoderConfig)]
    for key in decoder:
        if key not in numbers:
            raise UsageError(
                f"The {FAMILY} space has no option '{key}'.", did_you_mean(key, [*numbers, *OPTIONS])
            )
    return DecoderConfig(**decoder)


def _heads(num_heads: object, config: DecoderConfig) -> tuple[int, ...]:
    """Raises UsageError for a number of heads that is not a whole number of groups."""
    options: tuple[int, ...] = ascending("num_heads", num_heads)
    for heads in options:
        if heads % config.heads_per_kv:
            raise UsageError(
                f"num_heads = {heads} is no whole number of groups of {config.heads_per_kv} heads.",
                "Take multiples of heads_per_kv: heads that share keys and values stay together.",
            )
    return options


def _ffn(ratios: object, widths: object) -> dict[str, tuple[Any, ...]]:
    if ratios is not None and widths is not None:
        raise UsageError(f"{RATIO} and {HIDDEN} both say how wide FFNs are.", "Leave one of them away.")
    if widths is not None:
        return {HIDDEN: ascending(HIDDEN, widths)}
    return {RATIO: ascending(RATIO, (0.5, 1, 2, 4) if ratios is None else ratios, kinds=(int, float))}


def _chosen_per_layer(per_layer: object, elastic: Mapping[str, Any]) -> tuple[str, ...]:
    offered = [name for name in PER_LAYER if name in elastic]
    if per_layer is None:
        return (offered[-1],)
    names = tuple(per_layer) if isinstance(per_layer, list | tuple) else (per_layer,)
    for name in names:
        if name not in offered:
            raise UsageError(
                f"{short(name)} cannot be chosen per layer.", f"per_layer takes {', '.join(offered)}."
            )
    return names


def _layers_in(option: str, layers: object, depth: int) -> tuple[int, ...]:
    """Raises UsageError unless they are different layers of so many."""
    numbers = tuple(layers) if isinstance(layers, list | tuple) else (layers,)
    if not all(type(i) is int and 0 <= i < depth for i in numbers) or len(set(numbers)) < len(numbers):
        raise UsageError(
            f"{option} = {short(layers)} is not a list of different layers from 0 to {depth - 1}."
        )
    return numbers


def _order(order: object, depth: Sequence[int]) -> tuple[int, ...]:
    dropped = depth[-1] - depth[0]
    layers = _layers_in("order", order, depth[-1]) or tuple(range(depth[-1] - 1, -1, -1))[:dropped]
    if len(layers) < dropped:
        raise UsageError(
            f"order names {len(layers)} layers, and the smallest depth leaves {dropped} out.",
            "Name as many layers, the first to be left out first.",
        )
    return layers


def _optional(optional: object, depth: Sequence[int]) -> tuple[int, ...]:
    layers = tuple(sorted(_layers_in("optional", optional, depth[-1])))
    if layers and len(depth) > 1:
        raise UsageError(
            "depth and optional both leave layers out.", "Give depth one option, or leave optional away."
        )
    if len(layers) == depth[-1]:
        raise UsageError("optional names all layers, and a network needs one.", "Leave one of them away.")
    return layers


def _choices(elastic: Mapping[str, Any]) -> Iterator[Choice]:
    once = [name for name in PER_LAYER if name in elastic and name not in elastic["per_layer"]]
    for name in ("embed_dim", "depth", *once):
        yield Choice(name, elastic[name])
    depths = elastic["depth"]
    for i in range(depths[-1]):
        needs: tuple[str, tuple[Any, ...]] = (
            "depth",
            tuple(depth for depth in depths if i not in elastic["order"][: depths[-1] - depth]),
        )
        if i in elastic["optional"]:
            yield Choice(f"exists.{i}", (False, True))
            needs = f"exists.{i}", (True,)
        for name in PER_LAYER:
            if name in elastic["per_layer"]:
                yield Choice(f"{name}.{i}", elastic[name], needs)


def _parts(config: DecoderConfig, options: Mapping[str, Any], run: Pass) -> Iterator[Part]:
    def stem(values: Mapping[str, Any]) -> tuple[Layer, ...]:
        return stem_layers(config, values["embed_dim"], run)

    def block(index: int, heads: str, ffn: str, values: Mapping[str, Any]) -> tuple[Layer, ...]:
        kept = kept_layers(options, values)
        if index not in kept or values[heads] is None or values[ffn] is None:
            return ()
        dim = values["embed_dim"]
        hidden = _hidden(options, dim, values[ffn])
        return block_layers(config, kept.index(index), dim, values[heads], hidden, run)

    def head(values: Mapping[str, Any]) -> tuple[Layer, ...]:
        return head_layers(config, values["embed_dim"], run)

    yield Part(("embed_dim",), stem)
    for i in range(options["depth"][-1]):
        heads, ffn = _name(options, "num_heads", i), _name(options, ffn_option(options), i)
        exists = [f"exists.{i}"] if i in options["optional"] else []
        before = tuple(f"exists.{j}" for j in options["optional"] if j < i)
        names = tuple(dict.fromkeys(["embed_dim", "depth", *exists, heads, ffn]))
        yield Part(names, partial(block, i, heads, ffn), named_by=before)
    yield Part(("embed_dim",), head)


def _presets(space: SearchSpace) -> dict[str, dict[str, Any]]:
    """MatFormer's S, M, L, XL: one FFN granularity in all layers, everything else at its largest."""
    option = ffn_option(space.options)
    if len(space.options[option]) != len(GRANULARITIES):
        return {}
    largest = dict(space.largest.values)
    return {
        name: {choice: value if choice.partition(".")[0] == option else largest[choice] for choice in largest}
        for name, value in zip(GRANULARITIES, space.options[option], strict=True)
    }

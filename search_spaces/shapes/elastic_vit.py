"""Spaces of plain vision transformers: residual width, depth, heads and FFN ratio as options."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from search_spaces.architecture import Architecture
from search_spaces.bounds import DEEPEST, MOST, short
from search_spaces.choices import Choice, Part
from search_spaces.errors import UsageError, did_you_mean
from search_spaces.layers import Layer
from search_spaces.shapes.vit import (
    LATER,
    ViTConfig,
    block_layers,
    head_layers,
    module_arguments,
    stem_layers,
    with_sides,
)
from search_spaces.space import SearchSpace

ELASTIC = ("embed_dim", "depth", "num_heads", "mlp_ratio")
PER_LAYER = ("num_heads", "mlp_ratio")


def elastic_vit(
    family: str,
    *,
    name: str,
    embed_dim: Sequence[int],
    depth: Sequence[int],
    num_heads: Sequence[int],
    mlp_ratio: Sequence[float],
    per_layer: Sequence[str],
    vit: Mapping[str, Any],
) -> SearchSpace:
    """The space over the options, without presets; `vit` are fields of `ViTConfig`.

    per_layer: which of `num_heads` and `mlp_ratio` are chosen for every layer anew; the others once for the
    network.
    Raises UsageError for unknown or impossible options.
    """
    config = _vit_config(family, vit)
    elastic = {
        "embed_dim": ascending("embed_dim", embed_dim),
        "depth": ascending("depth", depth, most=DEEPEST),
        "num_heads": ascending("num_heads", num_heads),
        "mlp_ratio": ascending("mlp_ratio", mlp_ratio, kinds=(int, float)),
    }
    check_widths(elastic["embed_dim"], elastic["mlp_ratio"])
    for choice in per_layer if isinstance(per_layer, list | tuple) else (per_layer,):
        if choice not in PER_LAYER:
            raise UsageError(
                f"{short(choice)} cannot be chosen per layer.", f"per_layer takes {', '.join(PER_LAYER)}."
            )
    layer_names = {
        choice: [f"{choice}.{i}" if choice in per_layer else choice for i in range(max(elastic["depth"]))]
        for choice in PER_LAYER
    }
    return SearchSpace(
        name=name,
        family=family,
        choices=tuple(_choices(elastic, per_layer)),
        parts=tuple(_parts(config, layer_names)),
        options=_written(config) | elastic | {"per_layer": tuple(per_layer)},
    )


def vit_config(space: SearchSpace) -> ViTConfig:
    """What no architecture of the space changes."""
    return ViTConfig(**{f.name: space.options[f.name] for f in fields(ViTConfig) if f.name in space.options})


def _written(config: ViTConfig) -> dict[str, Any]:
    """The config as a space's options, by which stores know it; what came later is left out if unused."""
    return {name: value for name, value in asdict(config).items() if value or name not in LATER}


def layer_values(arch: Architecture) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Heads and FFN ratio of every layer, whether they were chosen per layer or once."""
    values: list[tuple[Any, ...]] = [
        arch.per_layer(name) or (arch[name],) * int(arch["depth"]) for name in ("num_heads", "mlp_ratio")
    ]
    return values[0], values[1]


def plain_config(vit: ViTConfig, arch: Architecture) -> dict[str, Any]:
    """The arguments of the plain `ViT` of an architecture; JSON data."""
    heads, ratios = layer_values(arch)
    dim = int(arch["embed_dim"])
    return module_arguments(vit, dim, heads, [hidden_features(dim, ratio) for ratio in ratios])


def hidden_features(embed_dim: int, mlp_ratio: float) -> int:
    """FFN neurons of a layer: the ratio is relative to the subnet's own residual width."""
    return round(embed_dim * mlp_ratio)


def ascending(
    name: str, options: object, *, kinds: Sequence[type] = (int,), most: int = MOST
) -> tuple[Any, ...]:
    """The options of a choice, one or several.

    Raises UsageError unless they are positive and ascending, and for one above `most`.
    """
    options = tuple(options) if isinstance(options, list | tuple) else (options,)
    if not options or not all(type(option) in kinds for option in options):
        wanted = "numbers" if float in kinds else "integers"
        raise UsageError(f"The options of {name} must be {wanted}, not {short(list(options))}.")
    if not all(option <= most for option in options):  # NaN is none, either
        raise UsageError(
            f"The options of {name} go up to {short(max(options))}: at most {most:,} is possible."
        )
    if min(options) <= 0 or not all(a < b for a, b in itertools.pairwise(options)):
        raise UsageError(
            f"The options of {name} must be positive and ascending without repeats, "
            f"not {short(list(options))}."
        )
    return options


def _vit_config(family: str, vit: Mapping[str, Any]) -> ViTConfig:
    numbers = [f.name for f in fields(ViTConfig)]
    for key in vit:
        if key not in numbers:
            raise UsageError(
                f"The {family} space has no option '{key}'.",
                did_you_mean(key, [*numbers, *ELASTIC, "per_layer"]),
            )
    return ViTConfig(**with_sides(vit))


def check_widths(dims: Sequence[int], ratios: Sequence[float]) -> None:
    """Two options must not be the same network, and none may be without neurons."""
    for dim in dims:
        widths = [hidden_features(dim, ratio) for ratio in ratios]
        if not all(0 < a < b for a, b in itertools.pairwise([*widths, math.inf])):
            raise UsageError(
                f"At embed_dim {dim} the options of mlp_ratio give {widths} FFN neurons: none, or repeats.",
                "Take ratios that are further apart.",
            )


def _choices(elastic: Mapping[str, tuple[Any, ...]], per_layer: Sequence[str]) -> list[Choice]:
    choices = [Choice(name, options) for name, options in elastic.items() if name not in per_layer]
    depths = elastic["depth"]
    for i in range(max(depths)):
        needs = ("depth", tuple(d for d in depths if d > i))
        choices += [Choice(f"{name}.{i}", elastic[name], needs) for name in PER_LAYER if name in per_layer]
    return choices


def _parts(config: ViTConfig, layer_names: Mapping[str, list[str]]) -> list[Part]:
    def stem(values: Mapping[str, Any]) -> tuple[Layer, ...]:
        return stem_layers(config, values["embed_dim"])

    def block(index: int, heads: str, ratio: str, values: Mapping[str, Any]) -> tuple[Layer, ...]:
        if values["depth"] <= index or values[heads] is None or values[ratio] is None:
            return ()
        dim = values["embed_dim"]
        return block_layers(config, index, dim, values[heads], hidden_features(dim, values[ratio]))

    def head(values: Mapping[str, Any]) -> tuple[Layer, ...]:
        return head_layers(config, values["embed_dim"])

    blocks = [
        Part(("embed_dim", "depth", heads, ratio), partial(block, i, heads, ratio))
        for i, (heads, ratio) in enumerate(
            zip(layer_names["num_heads"], layer_names["mlp_ratio"], strict=True)
        )
    ]
    return [Part(("embed_dim",), stem), *blocks, Part(("embed_dim",), head)]

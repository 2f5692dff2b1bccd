"""MatFormer space: a vision transformer with nested FFNs, and residual width, heads and depth as options.

Source: Devvrit et al., "MatFormer: Nested Transformer for Elastic Inference" (arXiv 2310.07707), section 3;
elastic heads as in its appendix F.2 (the first heads are kept, the head size does not change).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from search_spaces._choices import Choice, Part
from search_spaces._errors import UsageError, did_you_mean
from search_spaces._layers import Layer
from search_spaces._space import SearchSpace
from search_spaces._vit import ViTConfig, block_layers, head_layers, stem_layers, with_sides

FAMILY = "matformer"
ELASTIC = ("embed_dim", "depth", "num_heads", "mlp_ratio")
PER_LAYER = ("num_heads", "mlp_ratio")

_VIT = {
    "image_size": (224, 224),
    "patch_size": 16,
    "in_chans": 3,
    "num_classes": 1000,
    "stem": "patch",
    "head_dim": 64,
    "class_token": True,
    "pool": "token",
    "fc_norm": False,
    "mlp_ratio": (0.5, 1, 2, 4),
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "matformer_vit_b16": _VIT | {"embed_dim": (768,), "depth": (12,), "num_heads": (12,)},
    "matformer_vit_l16": _VIT | {"embed_dim": (1024,), "depth": (24,), "num_heads": (16,)},
}
GRANULARITIES = ("s", "m", "l", "xl")


def build(
    *,
    name: str = FAMILY,
    embed_dim: Sequence[int] = (16, 32, 64),
    depth: Sequence[int] = (1, 2, 3, 4),
    num_heads: Sequence[int] = (2, 4, 8),
    mlp_ratio: Sequence[float] = (0.5, 1, 2, 4),
    per_layer: Sequence[str] = ("mlp_ratio",),
    **vit: Any,
) -> SearchSpace:
    """The space over the options; `vit` are fields of `ViTConfig`. The defaults are for digit pairs.

    per_layer: which of `num_heads` and `mlp_ratio` are chosen for every layer anew; the others once for the
    network.
    Raises UsageError for unknown or impossible options.
    """
    config = _vit_config(vit)
    elastic = {
        "embed_dim": _ascending("embed_dim", embed_dim),
        "depth": _ascending("depth", depth),
        "num_heads": _ascending("num_heads", num_heads),
        "mlp_ratio": _ascending("mlp_ratio", mlp_ratio),
    }
    _check_widths(elastic["embed_dim"], elastic["mlp_ratio"])
    for choice in per_layer:
        if choice not in PER_LAYER:
            raise UsageError(
                f"'{choice}' cannot be chosen per layer.", f"per_layer takes {', '.join(PER_LAYER)}."
            )
    layer_names = {
        choice: [f"{choice}.{i}" if choice in per_layer else choice for i in range(max(elastic["depth"]))]
        for choice in PER_LAYER
    }
    return SearchSpace(
        name=name,
        family=FAMILY,
        choices=tuple(_choices(elastic, per_layer)),
        parts=tuple(_parts(config, layer_names)),
        options=asdict(config) | elastic | {"per_layer": tuple(per_layer)},
        preset_values=_presets(elastic, per_layer),
    )


def hidden_features(embed_dim: int, mlp_ratio: float) -> int:
    """FFN neurons of a layer: the ratio is relative to the subnet's own residual width."""
    return round(embed_dim * mlp_ratio)


def monotone_count(layers: int, granularities: int) -> int:
    """How many networks have FFNs that never shrink with depth: C(layers + granularities - 1, layers)."""
    return math.comb(layers + granularities - 1, granularities - 1)


def least_slope_count(layers: int, granularities: int) -> int:
    """How many of them use at most two neighbouring granularities (Mix'n'Match, section 3.3)."""
    return (granularities - 1) * layers + 1


def _vit_config(vit: Mapping[str, Any]) -> ViTConfig:
    known = [f.name for f in fields(ViTConfig)]
    for key in vit:
        if key not in known:
            raise UsageError(
                f"The matformer space has no option '{key}'.",
                did_you_mean(key, [*known, *ELASTIC, "per_layer"]),
            )
    return ViTConfig(**with_sides(vit))


def _ascending(name: str, options: Sequence[Any]) -> tuple[Any, ...]:
    options = tuple(options) if isinstance(options, list | tuple) else (options,)
    kinds = (int, float) if name == "mlp_ratio" else (int,)
    if not options or not all(type(option) in kinds for option in options):
        wanted = "numbers" if name == "mlp_ratio" else "integers"
        raise UsageError(f"The options of {name} must be {wanted}, not {list(options)}.")
    if min(options) <= 0 or not all(a < b for a, b in itertools.pairwise(options)):
        raise UsageError(
            f"The options of {name} must be positive and ascending without repeats, not {list(options)}."
        )
    return options


def _check_widths(dims: Sequence[int], ratios: Sequence[float]) -> None:
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


def _presets(elastic: Mapping[str, tuple[Any, ...]], per_layer: Sequence[str]) -> dict[str, dict[str, Any]]:
    """MatFormer's S, M, L, XL: one FFN granularity in all layers, everything else at its largest."""
    ratios = elastic["mlp_ratio"]
    if len(ratios) != len(GRANULARITIES):
        return {}
    largest = {name: options[-1] for name, options in elastic.items()}
    uniform = [
        {name: [value] * largest["depth"] if name in per_layer else value for name, value in point.items()}
        for point in (largest | {"mlp_ratio": ratio} for ratio in ratios)
    ]
    return dict(zip(GRANULARITIES, uniform, strict=True))

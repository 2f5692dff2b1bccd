"""MatFormer space: a vision transformer with nested FFNs, and residual width, heads and depth as options.

Source: Devvrit et al., "MatFormer: Nested Transformer for Elastic Inference" (arXiv 2310.07707), section 3;
elastic heads as in its appendix F.2 (the first heads are kept, the head size does not change).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from search_spaces.shapes.elastic_vit import elastic_vit
from search_spaces.space import SearchSpace

FAMILY = "matformer"

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
# What the released training of MatViT says of settings that are here, too (see docs/recipes.md). Its gradient
# is clipped as the sum of four losses, of which ours is the mean.
PUBLISHED_TRAINING: Mapping[str, Any] = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "weight_decay": 0.1,
    "clip": 0.25,
    "label_smoothing": 0.0,
    "largest_first": 0.0,
    "mixup": 0.5,
    "dropout": 0.1,
    "drop_path": 0.1,
    "drop_path_by": "network",
    "sampling": {"strategy": "joint"},
}


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

    embed_dim: options of the residual width.  depth: of the number of layers.  num_heads: of the heads of
    attention.  mlp_ratio: of the FFN's neurons, relative to the residual width.
    per_layer: which of `num_heads` and `mlp_ratio` are chosen for every layer anew; the others once for the
    network.
    Raises UsageError for unknown or impossible options.
    """
    space = elastic_vit(
        FAMILY,
        name=name,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        per_layer=per_layer,
        vit=vit,
    )
    return replace(space, preset_values=_presets(space.options))


def _presets(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """MatFormer's S, M, L, XL: one FFN granularity in all layers, everything else at its largest."""
    if len(options["mlp_ratio"]) != len(GRANULARITIES):
        return {}
    largest = {name: options[name][-1] for name in ("embed_dim", "depth", "num_heads")}
    uniform = [
        {
            name: [value] * largest["depth"] if name in options["per_layer"] else value
            for name, value in (largest | {"mlp_ratio": ratio}).items()
        }
        for ratio in options["mlp_ratio"]
    ]
    return dict(zip(GRANULARITIES, uniform, strict=True))

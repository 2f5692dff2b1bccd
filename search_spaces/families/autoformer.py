"""AutoFormer space: a vision transformer with relative positions; heads and FFN ratio chosen layer by layer.

Where the released files contradict each other, the options are the ones that hold the published nets: an FFN
ratio of 3 in the tiny space, 8 heads in the base space.
Source: Chen et al., "AutoFormer: Searching Transformers for Visual Recognition" (arXiv 2107.00651).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.shapes.elastic_vit import PER_LAYER, elastic_vit
from search_spaces.space import SearchSpace

FAMILY = "autoformer"
DEFAULTS: Mapping[str, Any] = {"class_token": True, "fc_norm": False, "norm_eps": 1e-5, "rel_pos": 14}

_IMAGENET = {
    "image_size": (224, 224),
    "patch_size": 16,
    "in_chans": 3,
    "num_classes": 1000,
    "stem": "patch",
    "head_dim": 64,
    "mlp_ratio": (3, 3.5, 4),
}
_TINY = {"embed_dim": (192, 216, 240), "depth": (12, 13, 14), "num_heads": (3, 4)}
_SMALL = {"embed_dim": (320, 384, 448), "depth": (12, 13, 14), "num_heads": (5, 6, 7)}
_BASE = {"embed_dim": (528, 576, 624), "depth": (14, 15, 16), "num_heads": (8, 9, 10)}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "autoformer_tiny": _IMAGENET | _TINY,
    "autoformer_small": _IMAGENET | _SMALL,
    "autoformer_base": _IMAGENET | _BASE,
}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "t": {
        "embed_dim": 192,
        "depth": 13,
        "mlp_ratio": [3.5, 3.5, 3, 3.5, 3, 3, 4, 4, 3.5, 4, 3.5, 4, 3.5],
        "num_heads": [3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 3, 3],
    },
    "s": {
        "embed_dim": 384,
        "depth": 13,
        "mlp_ratio": [3, 3.5, 3, 3.5, 4, 4, 4, 4, 4, 4, 4, 3.5, 4],
        "num_heads": [6, 6, 5, 7, 5, 5, 5, 6, 6, 7, 7, 6, 7],
    },
    "b": {
        "embed_dim": 576,
        "depth": 14,
        "mlp_ratio": [3.5, 3.5, 4, 3.5, 4, 3.5, 3.5, 3, 4, 4, 3, 4, 3, 3.5],
        "num_heads": [9, 9, 9, 9, 9, 10, 9, 9, 10, 9, 10, 9, 9, 10],
    },
}
# What the released training says of settings that are here, too (see docs/autoformer.md).
PUBLISHED_TRAINING: Mapping[str, Any] = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "lr_floor": 0.01,
    "drop_path": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "betas": (0.9, 0.999),
    "clip": "none",
    "drop_path_by": "network",
    "label_smoothing": 0.1,
    "largest_first": 0.0,
    "decay_also": ("relative_positions",),
    "init_std": 0.02,
    "sampling": {"strategy": "single_path", "smallest": 0.0, "largest": 0.0},
}


def build(
    *,
    name: str = FAMILY,
    embed_dim: Sequence[int] = (16, 32, 64),
    depth: Sequence[int] = (2, 3, 4),
    num_heads: Sequence[int] = (2, 4, 8),
    mlp_ratio: Sequence[float] = (1, 2, 4),
    per_layer: Sequence[str] = PER_LAYER,
    **vit: Any,
) -> SearchSpace:
    """The space over the options; `vit` are fields of `ViTConfig`. The default sizes are for digit pairs.

    embed_dim: options of the residual width.  depth: of the number of layers.  num_heads: of the heads of
    attention.  mlp_ratio: of the FFN's neurons, relative to the residual width.
    per_layer: which of `num_heads` and `mlp_ratio` are chosen for every layer anew; the others once for the
    network.

    The published nets that the space holds are its presets `t`, `s` and `b`.
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
        vit={**DEFAULTS, **vit},
    )
    return space.with_presets(PUBLISHED)

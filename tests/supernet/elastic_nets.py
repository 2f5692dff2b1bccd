"""Small MatFormer supernets with random weights, one for every feature of the plain ViT."""

from typing import Any

import torch

import search_spaces
import supernet
from search_spaces import SearchSpace
from supernet.supernet import Supernet

BASE: dict[str, Any] = {
    "image_size": (8, 12),
    "patch_size": 4,
    "in_chans": 3,
    "num_classes": 5,
    "stem": "patch",
    "head_dim": 4,
    "embed_dim": (8, 16),
    "depth": (1, 2, 3),
    "num_heads": (1, 2, 4),
    "mlp_ratio": (0.5, 1, 2, 4),
}
FEATURES: dict[str, dict[str, Any]] = {
    "bare": {},
    "heads per layer": {"per_layer": ("num_heads", "mlp_ratio")},
    "one choice for all layers": {"per_layer": ()},
    "class token": {"class_token": True, "pool": "token", "fc_norm": False},
    "registers": {"class_token": True, "reg_tokens": 2, "no_embed_class": True, "fc_norm": False},
    "gated": {"gated": True, "act": "silu", "per_layer": ("num_heads", "mlp_ratio")},
    "scaled": {"layer_scale": True, "qk_norm": True, "act": "relu"},
    "clip": {"pre_norm": True, "qkv_bias": False, "act": "quick_gelu", "class_token": True, "pool": "token"},
    "no biases": {"qkv_bias": False, "proj_bias": False, "act": "gelu_tanh"},
    "conv stem": {"stem": "conv", "stem_dim": 3},
    "relative positions": {"rel_pos": 1, "class_token": True, "fc_norm": False, "per_layer": ("num_heads",)},
    "normed conv stem": {"stem": "conv", "stem_dim": 4, "stem_norm": True, "reg_tokens": 1},
}


def space(**options: Any) -> SearchSpace:
    return search_spaces.get("matformer", **(BASE | options))


def net(**options: Any) -> Supernet:
    """Every parameter random, those too that start at zero or one."""
    built = supernet.build(space(**options), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.shared.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return built.eval()

"""Small vision transformers whose pretrained weights lie in a file, registered with timm."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.hiera import Hiera, _create_hiera
from timm.models.vision_transformer import VisionTransformer, _create_vision_transformer

PRETRAINED = "vit_small_from_file"
SOURCE = SimpleNamespace(file=Path("none"))
SIZES: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}


@register_model
def vit_small_from_file(pretrained: bool = False, **options: Any) -> VisionTransformer:
    cfg = {
        "file": str(SOURCE.file),
        "num_classes": 7,
        "input_size": (3, 16, 16),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    arguments = {**SIZES, **options}
    arguments["pretrained_cfg"] = cfg
    return _create_vision_transformer(PRETRAINED, pretrained, **arguments)


def save_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Writes random weights for 7 classes of 16x16 RGB images to where timm looks for them."""
    return _save(PRETRAINED, folder)


HIERA = "hiera_small_from_file"
HIERA_SIZES: dict[str, Any] = {
    "img_size": 8,
    "embed_dim": 8,
    "stages": (1, 2),
    "q_pool": 1,
    "mask_unit_size": (2, 2),
    "mask_unit_attn": (True, False),
    "patch_kernel": (3, 3),
    "patch_stride": (2, 2),
    "patch_padding": (1, 1),
    "mlp_ratio": 2.0,
}


@register_model
def hiera_small_from_file(pretrained: bool = False, **options: Any) -> Hiera:
    cfg = {
        "file": str(SOURCE.file),
        "num_classes": 7,
        "input_size": (3, 8, 8),
        "first_conv": "patch_embed.proj",
        "classifier": "head.fc",
    }
    return _create_hiera(HIERA, pretrained, **{**HIERA_SIZES, **options, "pretrained_cfg": cfg})


def save_hiera_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Writes random weights for 7 classes of 8x8 RGB images to where timm looks for them."""
    return _save(HIERA, folder)


def _save(name: str, folder: Path) -> dict[str, torch.Tensor]:
    SOURCE.file = folder / "weights.safetensors"
    state = timm.create_model(name, num_classes=7).state_dict()
    generator = torch.Generator().manual_seed(3)
    weights = {key: torch.randn(tensor.shape, generator=generator) for key, tensor in state.items()}
    save_file(weights, SOURCE.file)
    return weights

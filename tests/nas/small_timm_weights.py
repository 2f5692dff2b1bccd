"""A small vision transformer whose pretrained weights lie in a file, registered with timm."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model
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
    SOURCE.file = folder / "weights.safetensors"
    state = timm.create_model(PRETRAINED, num_classes=7).state_dict()
    generator = torch.Generator().manual_seed(3)
    weights = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    save_file(weights, SOURCE.file)
    return weights

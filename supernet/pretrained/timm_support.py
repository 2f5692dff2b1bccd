"""Which timm vision transformers the plain `ViT` reproduces; all else is refused by name, never dropped.

Three sieves: the class of every module against a list, switches by value, and at last the names and shapes of
all parameters against the plain module's.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from search_spaces.errors import UsageError
from search_spaces.shapes.vit import ViTConfig
from supernet.plain.vit import ViT

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

# Class names of torch and timm -> our names.
ACTIVATIONS = {
    "GELU": "gelu",
    "GELUTanh": "gelu_tanh",
    "QuickGELU": "quick_gelu",
    "SiLU": "silu",
    "ReLU": "relu",
}
KNOWN = {
    "torch": {"Conv2d", "Dropout", "GELU", "Identity", "LayerNorm", "Linear", "ReLU", "Sequential", "SiLU"},
    "timm": {
        *(
            "VisionTransformer",
            "PatchEmbed",
            "Block",
            "Attention",
            "LayerScale",
            "LayerNorm",
            "Mlp",
            "GluMlp",
        ),
        *("GELU", "GELUTanh", "QuickGELU"),
    },
}


def check_supported(name: str, model: "VisionTransformer") -> None:
    """Raises UsageError with the first thing that the model computes and the plain ViT does not."""
    for problem in chain(foreign_modules(model, KNOWN), _switches(model)):
        raise UsageError(
            f"timm's '{name}' cannot become a plain vision transformer: {problem}.",
            "Plain ViTs can: class and register tokens, LayerScale, SwiGLU, token or average pooling.",
        )


def check_patches(name: str, options: Mapping[str, Any]) -> None:
    """Raises UsageError for images that the model's patches do not fill; timm would cut off their edges."""
    (height, width), patch = options["image_size"], options["patch_size"]
    if height % patch or width % patch:
        raise UsageError(
            f"timm's '{name}' takes patches of {patch}x{patch} pixels, which do not fill an image of "
            f"{height}x{width}.",
            f"Choose an image size that is a multiple of {patch}.",
        )


def check_parameters(name: str, model: "VisionTransformer", options: Mapping[str, Any], hidden: int) -> None:
    """Raises UsageError for the first parameter in which model and plain ViT of these options differ."""
    depth = len(model.blocks)
    fixed = {f.name: options[f.name] for f in fields(ViTConfig) if f.name in options}
    heads = list(options["num_heads"]) * depth
    with torch.device("meta"):
        plain = ViT(embed_dim=model.embed_dim, num_heads=heads, mlp_hidden=[hidden] * depth, **fixed)
    for problem in other_weights(model, plain, "a plain ViT"):
        raise UsageError(f"timm's '{name}' is no plain ViT: {problem}.", "Choose a plain ViT.")


def activation_of(model: "VisionTransformer") -> str | None:
    """Our name of the FFNs' activation; None for one that we have not, or if they differ."""
    blocks: Any = model.blocks
    names = {
        "gelu_tanh" if getattr(act, "approximate", "none") == "tanh" else ACTIVATIONS.get(type(act).__name__)
        for act in (block.mlp.act for block in blocks)
    }
    return names.pop() if len(names) == 1 else None


def foreign_modules(model: nn.Module, classes: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Modules whose class is none of `classes`: top-level package -> names of classes."""
    for path, module in model.named_modules():
        kind = type(module)
        if kind.__name__ not in classes.get(kind.__module__.partition(".")[0], ()):
            yield f"its '{path}' is a {kind.__name__}" if path else f"it is a {kind.__name__}"


def other_weights(model: nn.Module, plain: nn.Module, what: str) -> Iterator[str]:
    """Parameters that one of the two lacks or that differ in shape; `what`: the plain one in words."""
    ours, theirs = (
        {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()} for module in (plain, model)
    )
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            shape, wanted = (shapes.get(key, "missing") for shapes in (theirs, ours))
            yield f"its '{key}' is {shape}, {what}'s {wanted}"


def _switches(model: "VisionTransformer") -> Iterator[str]:
    modules = list(model.modules())
    used = {
        "dynamic_img_size": model.dynamic_img_size,
        "dynamic_img_pad": model.patch_embed.dynamic_img_pad,
        "pool_include_prefix": getattr(model, "pool_include_prefix", False),
        "gate_last": any(getattr(module, "gate_last", False) for module in modules),
        "dropout": any(module.p > 0 for module in modules if isinstance(module, nn.Dropout)),
    }
    yield from (f"it uses {switch}" for switch, on in used.items() if on)
    if model.global_pool not in ("avg", "token"):
        yield f"its pooling is '{model.global_pool}'"
    if not isinstance(model.head, nn.Linear):
        yield "it has no classifier (give num_classes)"
    if len(set(model.patch_embed.patch_size)) > 1:
        yield f"its patches of {model.patch_embed.patch_size} pixels are not square"
    if len({module.eps for module in modules if isinstance(module, nn.LayerNorm)}) > 1:
        yield "its norms differ in epsilon"
    if activation_of(model) is None:
        yield "its FFNs do not all have one of the activations gelu, gelu_tanh, quick_gelu, relu and silu"

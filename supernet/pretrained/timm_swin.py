"""timm's Swin transformers as plain ones; all that the plain `Swin` does not compute is refused by name.

Three sieves: the class of every module against a list, switches and windows by value, and at last the names
and shapes of all weights against the plain module's.
"""

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from search_spaces.errors import UsageError
from search_spaces.shapes.swin import SwinConfig
from supernet.plain.swin import Swin
from supernet.pretrained.timm_support import foreign_modules, other_weights

if TYPE_CHECKING:
    from timm.models.swin_transformer import SwinTransformer

KNOWN = {
    "torch": {"Conv2d", "Dropout", "GELU", "Identity", "LayerNorm", "Linear", "Sequential", "Softmax"},
    "timm": {
        *("SwinTransformer", "SwinTransformerStage", "SwinTransformerBlock", "WindowAttention"),
        *("PatchEmbed", "PatchMerging", "Mlp", "LayerNorm", "ClassifierHead", "SelectAdaptivePool2d"),
        *("FastAdaptiveAvgPool", "GELU", "DropPath"),
    },
}
HINT = "Swin transformers with one window size for all stages can, at image sizes that their windows fill."


def swin_config(name: str, model: "SwinTransformer") -> dict[str, Any]:
    """The arguments, JSON data, of the plain `Swin` with timm's `model`'s weights under the same names.

    name: of the model, for messages. Stochastic depth, which timm's Swins have unless told otherwise and
    which only their training sees, is left out.
    Raises UsageError with the first thing that the model computes and the plain Swin does not.
    """
    for problem in chain(foreign_modules(model, KNOWN), _switches(model)):
        raise UsageError(f"timm's '{name}' cannot become an anchor: {problem}.", HINT)
    config = _read(model)
    try:
        SwinConfig(**config)
    except UsageError as error:
        raise UsageError(f"timm's '{name}' cannot become an anchor. {error.message}", HINT) from error
    with torch.device("meta"):
        plain = Swin(**config)
    for problem in chain(_other_windows(model, plain), other_weights(model, plain, "a plain Swin")):
        raise UsageError(f"timm's '{name}' is no plain Swin: {problem}.", HINT)
    return config


def _read(model: "SwinTransformer") -> dict[str, Any]:
    patches: Any = model.patch_embed
    stages: Any = model.layers
    blocks = [block for stage in stages for block in stage.blocks]
    first = blocks[0]
    dim: int = first.attn.qkv.in_features
    return {
        "image_size": list(patches.img_size),
        "patch_size": patches.patch_size[0],
        "in_chans": model.in_chans,
        "num_classes": model.num_classes,
        "embed_dim": dim,
        "depths": [len(stage.blocks) for stage in stages],
        "num_heads": [stage.blocks[0].attn.num_heads for stage in stages],
        # A window is no larger than its stage's resolution; the largest is the one that was asked for.
        "window_size": max(side for block in blocks for side in block.window_size),
        "mlp_ratio": first.mlp.fc1.out_features / dim,
        "qkv_bias": first.attn.qkv.bias is not None,
        "norm_eps": first.norm1.eps,
    }


def _switches(model: "SwinTransformer") -> Iterator[str]:
    modules = list(model.modules())
    patches: Any = model.patch_embed
    pooling: Any = model.head.global_pool
    if not patches.strict_img_size:
        yield "it takes images of any size (strict_img_size is off)"
    if any(module.p > 0 for module in modules if isinstance(module, nn.Dropout)):
        yield "it uses dropout"
    if pooling.pool_type not in ("avg", "fast", "fastavg"):
        yield f"its pooling is '{pooling.pool_type}'"
    if not isinstance(model.head.fc, nn.Linear):
        yield "it has no classifier (give num_classes)"
    if len(set(patches.patch_size)) > 1:
        yield f"its patches of {patches.patch_size} pixels are not square"
    if any(module.approximate != "none" for module in modules if isinstance(module, nn.GELU)):
        yield "its GELU is approximate"
    if len({module.eps for module in modules if isinstance(module, nn.LayerNorm)}) > 1:
        yield "its norms differ in epsilon"


def _other_windows(model: "SwinTransformer", plain: Swin) -> Iterator[str]:
    stages: Any = model.layers
    theirs = [block for stage in stages for block in stage.blocks]
    ours: list[Any] = plain.block_list
    for i, (their, our) in enumerate(zip(theirs, ours, strict=True)):
        sizes = tuple(their.input_resolution), tuple(their.window_size), tuple(their.shift_size)
        wanted = our.attn.grid, our.attn.window, our.attn.shift
        names = ("resolution", "window_size", "shift_size")
        for word, (a, b) in zip(names, zip(sizes, wanted, strict=True), strict=True):
            if a != b:
                yield f"its block {i} has {word} {a}, a plain Swin's {b}"
        if their.attn.num_heads != our.attn.num_heads or their.attn.scale != _scale(our):
            yield f"its block {i} has other heads than a plain Swin's"


def _scale(block: Any) -> float:
    return float((block.norm1.normalized_shape[0] // block.attn.num_heads) ** -0.5)

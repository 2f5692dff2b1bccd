"""timm vision transformers in: one as a `matformer` space, and its weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from search_spaces.errors import UsageError
from supernet.pretrained.timm_models import check_has_weights, create, load_model
from supernet.pretrained.timm_support import activation_of, check_parameters, check_patches, check_supported
from supernet.supernet import Supernet

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 1)


def space_options(
    name: str,
    *,
    pretrained: bool = False,
    image_size: int | Sequence[int] | None = None,
    in_chans: int | None = None,
    num_classes: int | None = None,
) -> dict[str, Any]:
    """Options of the `matformer` space whose largest architecture is timm's `name`, elastic in the FFNs.

    The FFN ratios are an eighth, a quarter, a half and all of timm's; None means timm's own size. No weights
    are made or fetched.
    Raises UsageError for a model that timm does not have or that this space cannot express, and with
    `pretrained` for one that has no weights to fetch.
    """
    with torch.device("meta"):
        model = plain_vit(name, image_size, in_chans, num_classes, pretrained=False)
    if pretrained:
        check_has_weights(name, model)
    options, hidden = read(model)
    check_patches(name, options)
    check_parameters(name, model, options, hidden)
    full = hidden / model.embed_dim
    return options | {"mlp_ratio": tuple(full * fraction for fraction in FRACTIONS)}


def load_timm(supernet: Supernet, name: str, *, pretrained: bool, seed: int = 0) -> None:
    """Copies the weights of timm's `name`, built for the supernet's images and classes, into the supernet.

    Pretrained weights are adapted as timm does it. Another image size: the position embeddings are resampled
    bicubically. One channel: the first convolution's weights are summed over the colours; other numbers of
    channels: they are repeated and scaled. Another number of classes: a new classifier; the same number: the
    pretrained one is kept, whatever its classes mean.
    seed: of all weights that are not pretrained.
    Raises UsageError when the weights cannot be had or are not those of the space's largest architecture.
    """
    sizes = [supernet.space.options[key] for key in ("image_size", "in_chans", "num_classes")]
    load_model(supernet, name, lambda: plain_vit(name, *sizes, pretrained=pretrained), seed=seed)


def plain_vit(
    name: str,
    image_size: int | Sequence[int] | None,
    in_chans: int | None,
    num_classes: int | None,
    *,
    pretrained: bool,
) -> "VisionTransformer":
    """timm's `name` for these images and classes; None means timm's own.

    Raises UsageError for what `timm_models.create` refuses and for anything but a plain ViT.
    """
    from timm.models.vision_transformer import VisionTransformer  # noqa: PLC0415

    model = create(
        name, pretrained=pretrained, img_size=image_size, in_chans=in_chans, num_classes=num_classes
    )
    if type(model) is not VisionTransformer:
        kind = type(model).__name__
        raise UsageError(
            f"timm's '{name}' is a {kind}, not a plain VisionTransformer.", "Choose a plain ViT."
        )
    check_supported(name, model)
    return model


def read(model: "VisionTransformer") -> tuple[dict[str, Any], int]:
    """The space's options without the FFN's ratios, and the neurons of an FFN (after gating)."""
    block: Any = model.blocks[0]
    hidden: int = block.mlp.fc2.in_features
    options = {
        "image_size": tuple(model.patch_embed.img_size),
        "patch_size": model.patch_embed.patch_size[0],
        "in_chans": model.in_chans,
        "num_classes": model.num_classes,
        "stem": "patch",
        "head_dim": block.attn.head_dim,
        "class_token": model.cls_token is not None,
        "reg_tokens": 0 if model.reg_token is None else model.reg_token.shape[1],
        "no_embed_class": model.no_embed_class,
        "pre_norm": isinstance(model.norm_pre, nn.LayerNorm),
        "qkv_bias": block.attn.qkv.bias is not None,
        "proj_bias": block.attn.proj.bias is not None,
        "qk_norm": isinstance(block.attn.q_norm, nn.LayerNorm),
        "layer_scale": not isinstance(block.ls1, nn.Identity),
        "gated": block.mlp.fc1.out_features == 2 * hidden,
        "act": activation_of(model),
        "pool": model.global_pool,
        "fc_norm": isinstance(model.fc_norm, nn.LayerNorm),
        "norm_eps": block.norm1.eps,
        "embed_dim": (model.embed_dim,),
        "depth": (len(model.blocks),),
        "num_heads": (block.attn.num_heads,),
    }
    return options, hidden

"""timm models as anchors of a stitching space: their numbers, then their weights."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from search_spaces.errors import UsageError
from search_spaces.shapes.vit import ViTConfig
from supernet.pretrained.timm_models import check_has_weights, create, shown
from supernet.pretrained.timm_support import check_parameters, check_patches, check_supported
from supernet.pretrained.timm_swin import swin_config
from supernet.pretrained.timm_vit import read

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


HINT = "Choose plain ViTs (vit_*, deit_*, deit3_*) or Swins (swin_*)."


@dataclass(frozen=True)
class TimmAnchor:
    """An anchor's numbers as `search_spaces.shapes.anchors` takes them, and for what it was pretrained.

    name: as a user knows it.  image_size: (height, width).  num_classes: of its pretrained classifier.
    """

    name: str
    numbers: dict[str, Any]
    image_size: tuple[int, int]
    num_classes: int


def read_anchor(name: str, *, pretrained: bool, sizes: Mapping[str, Any]) -> TimmAnchor:
    """timm's `name`, built for images and classes of these sizes; no weights are made or fetched.

    sizes: image_size (height, width), in_chans, num_classes.
    Raises UsageError for a model that timm does not have, that is neither a plain ViT nor a Swin, or, with
    `pretrained`, that has no weights to fetch.
    """
    with torch.device("meta"):
        model = _build(name, sizes, pretrained=False)
    if pretrained:
        check_has_weights(name, model)
    card: Any = model.pretrained_cfg
    return TimmAnchor(
        shown(name), _numbers(shown(name), model), tuple(card["input_size"][1:]), card["num_classes"]
    )


def anchor_state(name: str, *, pretrained: bool, sizes: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
    """The weights of timm's `name` for these sizes, adapted as timm does it; `seed`: of those it draws.

    Raises UsageError when they cannot be had.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(name, sizes, pretrained=pretrained).state_dict()


def _build(name: str, sizes: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
    size, chans, classes = tuple(sizes["image_size"]), sizes["in_chans"], sizes["num_classes"]
    try:
        return create(name, pretrained=pretrained, img_size=size, in_chans=chans, num_classes=classes)
    except UsageError as error:
        if isinstance(error.__cause__, TypeError) and "img_size" in str(error.__cause__):
            raise UsageError(f"timm's '{name}' is no transformer that can be stitched.", HINT) from error
        raise


def _numbers(name: str, model: nn.Module) -> dict[str, Any]:
    from timm.models.swin_transformer import SwinTransformer  # noqa: PLC0415
    from timm.models.vision_transformer import VisionTransformer  # noqa: PLC0415

    if type(model) is SwinTransformer:
        return {"kind": "swin"} | swin_config(name, model)
    if type(model) is not VisionTransformer:
        raise UsageError(
            f"timm's '{name}' is a {type(model).__name__}, which cannot be stitched.",
            HINT,
        )
    return _vit_numbers(name, model)


def _vit_numbers(name: str, model: "VisionTransformer") -> dict[str, Any]:
    check_supported(name, model)
    options, hidden = read(model)
    check_patches(name, options)
    check_parameters(name, model, options, hidden)
    depth = len(model.blocks)
    fixed = {f.name: options[f.name] for f in fields(ViTConfig) if f.name in options}
    return fixed | {
        "kind": "vit",
        "image_size": list(options["image_size"]),
        "embed_dim": model.embed_dim,
        "num_heads": [*options["num_heads"]] * depth,
        "mlp_hidden": [hidden] * depth,
    }

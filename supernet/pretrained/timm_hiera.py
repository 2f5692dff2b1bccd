"""timm's Hieras in: one as a `turbovit` space, and its weights.

What the plain `Hiera` does not compute is refused by name. Three sieves: the class of every module against a
list, switches and blocks by value, and at last names and shapes of all weights against the plain module's.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from search_spaces.errors import UsageError
from search_spaces.shapes.hiera import HieraConfig, is_local
from supernet.nested import fewer_neurons
from supernet.plain.hiera import POOLED, Hiera
from supernet.pretrained.timm_models import check_has_weights, create, load_model
from supernet.pretrained.timm_support import foreign_modules, other_weights
from supernet.supernet import Supernet

if TYPE_CHECKING:
    from timm.models.hiera import Hiera as TimmHiera

KNOWN = {
    "torch": {"Conv2d", "Dropout", "GELU", "Identity", "LayerNorm", "Linear", "ModuleList"},
    "timm": {
        *("Hiera", "HieraBlock", "MaskUnitAttention", "PatchEmbed", "Unroll", "Reroll", "Mlp", "LayerNorm"),
        *("GELU", "ClNormMlpClassifierHead"),
    },
}
HINT = "timm's hiera_tiny_224, small, base, base_plus, large and huge can."


def space_options(
    name: str,
    *,
    pretrained: bool = False,
    image_size: int | Sequence[int] | None = None,
    in_chans: int | None = None,
    num_classes: int | None = None,
) -> dict[str, Any]:
    """Options of the `turbovit` space whose largest architecture is timm's `name`, elastic in the FFNs.

    None means timm's own size. No weights are made or fetched.
    Raises UsageError for a model that timm does not have or that this space cannot express, and with
    `pretrained` for one that has no weights to fetch.
    """
    with torch.device("meta"):
        model, config = _plain(name, image_size, in_chans, num_classes, pretrained=False)
    if pretrained:
        check_has_weights(name, model)
    return options_of_config(config)


def load_timm(supernet: Supernet, name: str, *, pretrained: bool, seed: int = 0) -> None:
    """Copies the weights of timm's `name`, built for the supernet's images and classes, into the supernet.

    Pretrained weights are adapted as timm does it, to other channels and classes. timm has no way to other
    image sizes: to resample the positions of a network with mask units would harm it.
    seed: of all weights that are not pretrained.
    Raises UsageError when the weights cannot be had or are not those of the space's largest architecture.
    """
    sizes = [supernet.space.options[key] for key in ("image_size", "in_chans", "num_classes")]
    load_model(supernet, name, lambda: _plain(name, *sizes, pretrained=pretrained)[0], seed=seed)


def options_of_config(config: dict[str, Any]) -> dict[str, Any]:
    """Options of the space whose largest architecture is the plain `Hiera` with these arguments.

    The FFN ratios are an eighth, a quarter, a half and all of the network's own, for every stage anew.
    """
    numbers = dict(config)
    depth, widths, heads, hidden = (
        numbers.pop(key) for key in ("depth", "embed_dim", "num_heads", "mlp_hidden")
    )
    stem_dim = numbers.pop("stem_dim")
    ratios = [tuple(n / dim for n in fewer_neurons(most)) for most, dim in zip(hidden, widths, strict=True)]
    return numbers | {
        "image_size": tuple(numbers["image_size"]),
        "stem_dim": widths[0] if stem_dim is None else stem_dim,
        "wide_stem": (stem_dim is not None,),
        "depth": tuple((blocks,) for blocks in depth),
        "embed_dim": _once_or_per_stage(widths),
        "num_heads": _once_or_per_stage(heads),
        "mlp_ratio": tuple(ratios),
        "mask_unit_stages": (numbers["mask_unit_stages"],),
    }


def _plain(
    name: str,
    image_size: int | Sequence[int] | None,
    in_chans: int | None,
    num_classes: int | None,
    *,
    pretrained: bool,
) -> "tuple[TimmHiera, dict[str, Any]]":
    """timm's `name` for these images and classes, and the arguments of the plain `Hiera` that it is.

    Raises UsageError for what `timm_models.create` refuses and for anything but a plain Hiera.
    """
    from timm.models.hiera import Hiera as TimmHiera  # noqa: PLC0415

    model = create(
        name, pretrained=pretrained, img_size=image_size, in_chans=in_chans, num_classes=num_classes
    )
    if type(model) is not TimmHiera:
        raise UsageError(f"timm's '{name}' is a {type(model).__name__}, not a Hiera.", HINT)
    for problem in chain(foreign_modules(model, KNOWN), _switches(model)):
        raise UsageError(f"timm's '{name}' cannot become a plain Hiera: {problem}.", HINT)
    config = _read(model, image_size)
    fixed = {key: config[key] for key in HieraConfig.__dataclass_fields__ if key in config}
    try:
        HieraConfig(**fixed | {"stages": len(config["depth"]), "stem_dim": 1})
    except UsageError as error:
        raise UsageError(f"timm's '{name}' cannot become a plain Hiera. {error.message}", HINT) from error
    with torch.device("meta"):
        plain = Hiera(**config)
    for problem in chain(_other_blocks(model, plain), other_weights(model, plain, "a plain Hiera")):
        raise UsageError(f"timm's '{name}' is no plain Hiera: {problem}.", HINT)
    return model, config


def _read(model: "TimmHiera", image_size: int | Sequence[int] | None) -> dict[str, Any]:
    every, proj = list[Any](model.blocks), model.patch_embed.proj
    assert isinstance(proj, nn.Conv2d)  # `_switches` has seen to it
    starts = [0, *(end + 1 for end in model.stage_ends[:-1])]
    firsts = [every[start] for start in starts]
    patch: int = model.patch_stride[0]
    if image_size is None:
        image_size = [side * patch for side in model.tokens_spatial_shape]
    # The first block of a stage attends as the stage before it is told to.
    local = [block.attn.use_mask_unit_attn for block in firsts[1:]]
    return {
        "image_size": [image_size] * 2 if isinstance(image_size, int) else list(image_size),
        "patch_size": patch,
        "patch_kernel": proj.kernel_size[0],
        "in_chans": model.in_chans,
        "num_classes": model.num_classes,
        "embed_dim": [block.dim_out for block in firsts],
        "depth": [end - start + 1 for start, end in zip(starts, model.stage_ends, strict=True)],
        "num_heads": [block.attn.heads for block in firsts],
        "mlp_hidden": [block.mlp.fc1.out_features for block in firsts],
        "mask_unit_stages": [*local, False].index(False),
        "stem_dim": None,
        "q_pool": model.q_pool,
        "head_dim": None,
        "norm_eps": firsts[0].norm1.eps,
    }


def _switches(model: "TimmHiera") -> Iterator[str]:
    modules, blocks, conv = list(model.modules()), list[Any](model.blocks), model.patch_embed.proj
    used = {
        "abs_win_pos_embed": model.pos_embed_win is not None,
        "sep_pos_embed": model.pos_embed_spatial is not None,
        "use_expand_proj=False": any(block.do_expand and block.proj is None for block in blocks),
        "patch_drop_rate": model.patch_drop_rate > 0,
        "dropout": any(module.p > 0 for module in modules if isinstance(module, nn.Dropout)),
    }
    yield from (f"it uses {switch}" for switch, on in used.items() if on)
    if model.head.pool_type != "avg":
        yield f"its pooling is '{model.head.pool_type}'"
    if not isinstance(model.head.fc, nn.Linear):
        yield "it has no classifier (give num_classes)"
    if not isinstance(conv, nn.Conv2d) or len({*conv.kernel_size}) > 1 or len({*conv.stride}) > 1:
        yield "its patches are not square"
    elif conv.padding != tuple(side // 2 for side in conv.kernel_size):
        yield f"its stem is padded by {conv.padding} pixels, half a kernel of {conv.kernel_size}"
    unit = (2 ** (len(model.stage_ends) - 1),) * 2
    if tuple(model.q_stride) != (2, 2) or tuple(model.mask_unit_size) != unit:
        yield f"its mask_unit_size is {model.mask_unit_size} and its q_stride {model.q_stride}"
    if any(module.approximate != "none" for module in modules if isinstance(module, nn.GELU)):
        yield "its GELU is approximate"
    if len({module.eps for module in modules if isinstance(module, nn.LayerNorm)}) > 1:
        yield "its norms differ in epsilon"


def _other_blocks(model: "TimmHiera", plain: Hiera) -> Iterator[str]:
    depth, local = plain.config["depth"], plain.config["mask_unit_stages"]
    places = [(stage, within) for stage, blocks in enumerate(depth) for within in range(blocks)]
    pairs = zip(list[Any](model.blocks), list[Any](plain.blocks), places, strict=True)
    for i, (their, our, place) in enumerate(pairs):
        given = their.attn.heads, their.attn.q_stride, bool(their.attn.use_mask_unit_attn)
        wanted = our.attn.num_heads, POOLED if our.attn.pools else 1, is_local(*place, local)
        names = ("num_heads", "q_stride", "mask_unit_attn")
        for word, a, b in zip(names, given, wanted, strict=True):
            if a != b:
                yield f"its block {i} has {word} {a}, a plain Hiera's {b}"


def _once_or_per_stage(numbers: Sequence[int]) -> tuple[Any, ...]:
    """One option of a choice for the whole network where the number doubles, else of a choice per stage."""
    doubles = all(n == numbers[0] * 2**stage for stage, n in enumerate(numbers))
    return (numbers[0],) if doubles else tuple((n,) for n in numbers)

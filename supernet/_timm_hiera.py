"""timm's Hieras in and out: one as a `turbovit` space, its weights, and a subnet's twin there.

What the plain `Hiera` does not compute is refused by name. Three sieves: the class of every module against a
list, switches and blocks by value, and at last names and shapes of all weights against the plain module's.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from search_spaces._errors import UsageError
from search_spaces._hiera import HieraConfig, is_local
from supernet._base import Supernet
from supernet._plain_hiera import POOLED, Hiera
from supernet._timm_models import check_has_weights, create, load_model, ratio_of
from supernet._timm_support import foreign_modules, other_weights

if TYPE_CHECKING:
    from timm.models.hiera import Hiera as TimmHiera

KNOWN = {
    "torch": {"Conv2d", "Dropout", "GELU", "Identity", "LayerNorm", "Linear", "ModuleList"},
    "timm": {
        *("Hiera", "HieraBlock", "MaskUnitAttention", "PatchEmbed", "Unroll", "Reroll", "Mlp", "LayerNorm"),
        *("GELU", "ClNormMlpClassifierHead"),
    },
}
TIMM_EPS = 1e-6
DIVISORS = (8, 4, 2, 1)  # of the FFNs' neurons, for the options
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
    own = dict(config)
    depth, widths, heads, hidden = (own.pop(key) for key in ("depth", "embed_dim", "num_heads", "mlp_hidden"))
    stem_dim = own.pop("stem_dim")
    fewer = [sorted({max(1, n // divisor) for divisor in DIVISORS}) for n in hidden]
    ratios = [tuple(n / width for n in options) for options, width in zip(fewer, widths, strict=True)]
    return own | {
        "image_size": tuple(own["image_size"]),
        "stem_dim": widths[0] if stem_dim is None else stem_dim,
        "wide_stem": (stem_dim is not None,),
        "depth": tuple((blocks,) for blocks in depth),
        "embed_dim": _once_or_per_stage(widths),
        "num_heads": _once_or_per_stage(heads),
        "mlp_ratio": tuple(ratios),
        "mask_unit_stages": (own["mask_unit_stages"],),
    }


def hiera_kwargs(plain: Hiera) -> dict[str, Any] | None:
    """JSON arguments: `timm.create_model(**arguments)` takes the plain module's weights, computes the same.

    None when timm's `Hiera` cannot: a stem of its own width, widths or heads that do not grow evenly, heads
    that do not fill the width, unequal FFN ratios, an epsilon that is not timm's.
    """
    config = plain.config
    widths, heads, head_dim = config["embed_dim"], config["num_heads"], config["head_dim"]
    ratios = {ratio_of(width, n) for width, n in zip(widths, config["mlp_hidden"], strict=True)}
    fills = all(w % h == 0 and head_dim in (None, w // h) for w, h in zip(widths, heads, strict=True))
    growth = [_growth(widths), _growth(heads)]
    expands = all(a != b for a, b in pairwise(widths))
    if config["stem_dim"] is not None or not (fills and expands and len(ratios) == 1) or None in growth:
        return None
    if config["norm_eps"] != TIMM_EPS:
        return None
    stages, kernel = len(config["depth"]), config["patch_kernel"]
    return {key: config[key] for key in ("in_chans", "num_classes", "q_pool")} | {
        "model_name": "hiera_tiny_224",
        "img_size": list(config["image_size"]),
        "embed_dim": widths[0],
        "num_heads": heads[0],
        "dim_mul": growth[0],
        "head_mul": growth[1],
        "stages": list(config["depth"]),
        "mask_unit_size": [2 ** (stages - 1)] * 2,
        "mask_unit_attn": [stage < config["mask_unit_stages"] for stage in range(stages)],
        "patch_kernel": [kernel] * 2,
        "patch_stride": [config["patch_size"]] * 2,
        "patch_padding": [kernel // 2] * 2,
        "mlp_ratio": ratios.pop(),
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

    Raises UsageError for what `_timm_models.create` refuses and for anything but a plain Hiera.
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
    told = [block.attn.use_mask_unit_attn for block in firsts[1:]]
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
        "mask_unit_stages": [*told, False].index(False),
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
        found = their.attn.heads, their.attn.q_stride, bool(their.attn.use_mask_unit_attn)
        wanted = our.attn.num_heads, POOLED if our.attn.pools else 1, is_local(*place, local)
        names = ("num_heads", "q_stride", "mask_unit_attn")
        for word, a, b in zip(names, found, wanted, strict=True):
            if a != b:
                yield f"its block {i} has {word} {a}, a plain Hiera's {b}"


def _once_or_per_stage(numbers: Sequence[int]) -> tuple[Any, ...]:
    """One option of a choice for the whole network where the number doubles, else of a choice per stage."""
    doubles = all(n == numbers[0] * 2**stage for stage, n in enumerate(numbers))
    return (numbers[0],) if doubles else tuple((n,) for n in numbers)


def _growth(numbers: Sequence[int]) -> float | None:
    """The factor from stage to stage with which timm, which truncates, comes to all; None if none does."""
    factor = ratio_of(numbers[0], numbers[1])
    grown = all(int(a * factor) == b for a, b in pairwise(numbers))
    return factor if grown else None

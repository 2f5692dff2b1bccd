"""TurboViT space: width, depths, heads, FFN ratio, mask-unit stages and stem of a hierarchical network.

A flat list of options is one choice for the whole network: `embed_dim` and `num_heads` of stage 0, which
double from stage to stage, and `mlp_ratio`. A list of lists is one choice per stage; `depth` always is.
A wide stem always gives the first block a projection on its shortcut, also where stem and stage 0 are equally
wide: two architectures are then never the same network.
Source: Wong, Abbasi and Nair, "TurboViT" (arXiv 2308.11421), whose table of layers was not published; Ryali
et al., "Hiera" (arXiv 2306.00989).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from search_spaces.architecture import Architecture
from search_spaces.choices import Choice, Part
from search_spaces.layers import Layer
from search_spaces.shapes.elastic_vit import hidden_features
from search_spaces.shapes.hiera import (
    BlockShape,
    HieraConfig,
    attention_layers,
    head_layers,
    is_local,
    mlp_layers,
    module_arguments,
    stem_layers,
)
from search_spaces.shapes.hiera_options import (
    checked_config,
    checked_depth,
    checked_elastic,
    defaults,
    is_per_stage,
    patch_size_of,
    value_in,
)
from search_spaces.shapes.vit import with_sides
from search_spaces.space import SearchSpace

FAMILY = "turbovit"
# Width and heads of stage 0, depths, whether the stem is wide; with FFN ratio 4 and two mask-unit stages.
PUBLISHED: Mapping[str, tuple[int, int, Sequence[int], bool]] = {
    "hiera_tiny": (96, 1, (1, 2, 7, 2), False),
    "hiera_small": (96, 1, (1, 2, 11, 2), False),
    "hiera_base": (96, 1, (2, 3, 16, 3), False),
    "hiera_base_plus": (112, 2, (2, 3, 16, 3), False),
    "hiera_large": (144, 2, (2, 6, 36, 4), False),
    "hiera_huge": (256, 4, (2, 6, 36, 4), False),
    # "GenViT_2427" of the public TurboMedSAM: of TurboViT's kind, not TurboViT.
    "turbovit_like": (64, 1, (1, 2, 8, 2), True),
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "hiera": {
        "image_size": (224, 224),
        "patch_size": 4,
        "embed_dim": (96, 112, 144, 256),
        "depth": ((1, 2), (2, 3, 6), (7, 11, 16, 36), (2, 3, 4)),
        "num_heads": (1, 2, 4),
        "mlp_ratio": (4,),
        "mask_unit_stages": (2,),
        "wide_stem": (False,),
    },
    "turbovit_digit_pairs": {"image_size": (8, 16), "in_chans": 1, "num_classes": 19},
}


def build(
    *,
    name: str = FAMILY,
    embed_dim: Sequence[Any] | None = None,
    depth: Sequence[Sequence[int]] | None = None,
    num_heads: Sequence[Any] | None = None,
    mlp_ratio: Sequence[Any] | None = None,
    mask_unit_stages: Sequence[int] | None = None,
    wide_stem: Sequence[bool] | None = None,
    **fixed: Any,
) -> SearchSpace:
    """The space over the options; those left out depend on the image size, 224x224 unless `fixed` says other.

    embed_dim, num_heads: options of the first stage, which double from stage to stage.  mlp_ratio: options of
    the FFN's neurons, relative to the residual width.
    depth: options of every stage, at least two.  mask_unit_stages: how many stages, from the first on, attend
    within mask units.  wide_stem: whether the stem has `stem_dim` channels instead of the width of stage 0.
    fixed: fields of `HieraConfig`.
    The published Hieras that the space holds, and `turbovit_like`, are its presets.
    Raises UsageError for unknown or impossible options.
    """
    base = defaults(with_sides({"image_size": (224, 224), **fixed})["image_size"])
    depths = checked_depth(base["depth"] if depth is None else depth)
    config = checked_config(FAMILY, fixed, base, len(depths))
    given = {"embed_dim": embed_dim, "num_heads": num_heads, "mlp_ratio": mlp_ratio}
    given |= {"mask_unit_stages": mask_unit_stages, "wide_stem": wide_stem}
    elastic = checked_elastic(given, base, config) | {"depth": depths}
    numbers = asdict(config)
    del numbers["stages"]  # which depth tells
    space = SearchSpace(
        name=name,
        family=FAMILY,
        choices=tuple(_choices(elastic)),
        parts=tuple(_parts(config, elastic)),
        options=numbers | elastic,
    )
    return space.with_presets(_presets(config, elastic))


def default_patch_size(image_size: tuple[int, int]) -> int:
    """Which `patch_size` images of that size get; see `hiera_options.patch_size_of`."""
    return patch_size_of(image_size)


def hiera_config(space: SearchSpace) -> HieraConfig:
    """What no architecture of the space changes."""
    numbers = {f.name: space.options[f.name] for f in fields(HieraConfig) if f.name != "stages"}
    return HieraConfig(stages=len(space.options["depth"]), **numbers)


def plain_config(space: SearchSpace, arch: Architecture) -> dict[str, Any]:
    """The arguments of the plain `Hiera` of an architecture; JSON data."""
    config, values = hiera_config(space), dict(arch.values)

    def by_stage(option: str) -> list[Any]:
        return [_value(values, option, stage) for stage in range(config.stages)]

    widths, ratios = by_stage("embed_dim"), by_stage("mlp_ratio")
    return module_arguments(
        config,
        embed_dim=widths,
        depth=by_stage("depth"),
        num_heads=by_stage("num_heads"),
        mlp_hidden=[hidden_features(width, ratio) for width, ratio in zip(widths, ratios, strict=True)],
        mask_unit_stages=int(arch["mask_unit_stages"]),
        wide_stem=bool(arch["wide_stem"]),
    )


def _value(values: Mapping[str, Any], option: str, stage: int) -> Any:
    """What an option is in a stage, whether chosen per stage or once."""
    name = f"{option}.{stage}"
    return values[name] if name in values else value_in(option, values[option], stage)


def _presets(config: HieraConfig, elastic: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Published networks by name, if the parts that are fixed are as published."""
    if (config.stages, config.q_pool, config.patch_size, config.patch_kernel) != (4, 3, 4, 7):
        return {}
    points = {}
    for name, (width, heads, depth, wide_stem) in PUBLISHED.items():
        if (config.head_dim or width // heads) * heads != width or (wide_stem and config.stem_dim != 96):
            continue
        point: dict[str, Any] = {"embed_dim": width, "num_heads": heads, "mlp_ratio": 4}
        for option in list(point):
            if is_per_stage(elastic[option]):
                point[option] = [value_in(option, point[option], stage) for stage in range(config.stages)]
        points[name] = point | {"depth": list(depth), "mask_unit_stages": 2, "wide_stem": wide_stem}
    return points


def _choices(elastic: Mapping[str, tuple[Any, ...]]) -> Iterator[Choice]:
    for option in ("embed_dim", "depth", "num_heads", "mlp_ratio"):
        if is_per_stage(elastic[option]):
            for stage, values in enumerate(elastic[option]):
                yield Choice(f"{option}.{stage}", values)
        else:
            yield Choice(option, elastic[option])
    # From the smallest to the largest: the fewer stages keep to their mask units, the more is attended to.
    yield Choice("mask_unit_stages", elastic["mask_unit_stages"][::-1])
    yield Choice("wide_stem", elastic["wide_stem"])


def _parts(config: HieraConfig, elastic: Mapping[str, tuple[Any, ...]]) -> Iterator[Part]:
    def named(option: str, stage: int) -> str:
        return f"{option}.{stage}" if is_per_stage(elastic[option]) else option

    def stem(values: Mapping[str, Any]) -> tuple[Layer, ...]:
        return stem_layers(config, _stem_dim(config, values))

    def head(values: Mapping[str, Any]) -> tuple[Layer, ...]:
        return head_layers(config, _value(values, "embed_dim", config.stages - 1))

    yield Part((named("embed_dim", 0), "wide_stem"), stem)
    for stage, depths in enumerate(elastic["depth"]):
        before = tuple(f"depth.{s}" for s in range(stage))
        width = named("embed_dim", stage)
        for within in range(depths[-1]):
            exists = () if within < depths[0] else (f"depth.{stage}",)
            entry = () if within else (named("embed_dim", stage - 1),) if stage else ("wide_stem",)
            attends = dict.fromkeys((*exists, width, named("num_heads", stage), "mask_unit_stages", *entry))
            yield Part(tuple(attends), partial(_attention_part, config, stage, within), before)
            feeds = (*exists, width, named("mlp_ratio", stage))
            yield Part(feeds, partial(_mlp_part, config, stage, within), before)
    yield Part((named("embed_dim", config.stages - 1),), head)


def _attention_part(
    config: HieraConfig, stage: int, within: int, values: Mapping[str, Any]
) -> tuple[Layer, ...]:
    if within >= values.get(f"depth.{stage}", within + 1):
        return ()
    dim_out, heads = _value(values, "embed_dim", stage), _value(values, "num_heads", stage)
    dim = dim_out
    if within == 0:
        dim = _value(values, "embed_dim", stage - 1) if stage else _stem_dim(config, values)
    block = BlockShape(
        name=_block_name(stage, within, values),
        stage=stage,
        first=within == 0,
        local=is_local(stage, within, values["mask_unit_stages"]),
        projects=within == 0 and (stage > 0 or values["wide_stem"]),
        dim=dim,
        dim_out=dim_out,
        heads=heads,
        head_dim=config.head_dim or dim_out // heads,
    )
    return attention_layers(config, block)


def _mlp_part(config: HieraConfig, stage: int, within: int, values: Mapping[str, Any]) -> tuple[Layer, ...]:
    if within >= values.get(f"depth.{stage}", within + 1):
        return ()
    dim, name = _value(values, "embed_dim", stage), _block_name(stage, within, values)
    return mlp_layers(config, name, stage, dim, hidden_features(dim, _value(values, "mlp_ratio", stage)))


def _stem_dim(config: HieraConfig, values: Mapping[str, Any]) -> int:
    return config.stem_dim if values["wide_stem"] else int(_value(values, "embed_dim", 0))


def _block_name(stage: int, within: int, values: Mapping[str, Any]) -> str:
    """Blocks are counted over all stages, as timm does."""
    return f"blocks.{within + sum(values.get(f'depth.{s}', 0) for s in range(stage))}"

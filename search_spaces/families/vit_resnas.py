"""ViT-ResNAS space: residual widths, heads, FFN neurons and optional blocks of a multi-stage transformer.

Per stage one width, per block its heads and FFN neurons; some blocks may be left out. Blocks are counted over
all stages: with six blocks a stage, `num_heads.6` belongs to the first block of the second stage.
Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers" (arXiv 2109.00642).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

from search_spaces.architecture import Architecture
from search_spaces.bounds import DEEPEST, bounded_depth, positive, short
from search_spaces.choices import Choice, Part
from search_spaces.errors import UsageError, did_you_mean
from search_spaces.layers import Layer
from search_spaces.shapes.elastic_vit import ascending
from search_spaces.shapes.vit import with_sides
from search_spaces.shapes.vit_res import (
    ViTResConfig,
    block_layers,
    head_layers,
    module_arguments,
    reduction_layers,
    stem_layers,
)
from search_spaces.space import SearchSpace

FAMILY = "vit_resnas"
OPTIONS = ("embed_dim", "num_heads", "mlp_hidden", "depth", "optional")
STAGES = 3
LAST_GRID = 4  # patches along the shorter side of the last stage, as far as the image allows

_IMAGENET = {
    "image_size": (224, 224),
    "patch_size": 14,
    "in_chans": 3,
    "num_classes": 1000,
    "stem": "conv",
    "stem_dim": 24,
    "stem_norm": "batch",
}
HEAD_DIM = (32, 48, 64)
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "vit_resnas_tiny": _IMAGENET
    | {
        "head_dim": HEAD_DIM,
        "embed_dim": ((160, 176, 192, 224, 256), (320, 352, 384, 448, 512), (640, 704, 768, 896, 1024)),
        "num_heads": ((3, 4, 5, 6), (6, 8, 10, 12), (6, 8, 10, 12)),
        "mlp_hidden": tuple(tuple(range(6 * step, 12 * step + 1, step)) for step in (64, 128, 256)),
        "depth": (6, 6, 6),
        "optional": ((1, 3, 5),) * 3,
    },
    "vit_resnas_small": _IMAGENET
    | {
        "head_dim": HEAD_DIM,
        "embed_dim": ((200, 220, 240, 280, 320), (400, 440, 480, 560, 640), (800, 880, 960, 1120, 1280)),
        "num_heads": ((5, 6, 7, 8), (10, 12, 14, 16), (10, 12, 14, 16)),
        "mlp_hidden": tuple(tuple(range(6 * step, 12 * step + 1, step)) for step in (80, 160, 320)),
        "depth": (7, 7, 7),
        "optional": ((1, 3, 5),) * 3,
    },
    # The hand-made net from which the tiny space was enlarged.
    "vit_res_tiny": _IMAGENET
    | {
        "head_dim": (64, 64, 64),
        "embed_dim": ((192,), (384,), (768,)),
        "num_heads": ((3,), (6,), (12,)),
        "mlp_hidden": ((768,), (1536,), (3072,)),
        "depth": (4, 4, 4),
        "optional": ((), (), ()),
    },
}
# Heads and FFN neurons by stage. None: a block that is left out. Which one it was is not published for the
# tiny net and the last stage of the medium one; here it is the last that may be.
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "embed_dim": [176, 352, 704],
        "num_heads": [[3, 3, 3, 4, 4, None], [10, 8, 8, 8, 10, 10], [10, 10, 10, 8, 8, None]],
        "mlp_hidden": [
            [704, 576, 640, 576, 704, None],
            [1408, 1408, 1280, 1408, 1280, 1024],
            [2560, 1792, 2816, 2816, 2560, None],
        ],
    },
    "small": {
        "embed_dim": [220, 440, 880],
        "num_heads": [
            [5, 5, 7, None, 5, 5, 5],
            [10, 10, 10, 10, 12, None, 12],
            [16, 12, 16, None, 12, None, 14],
        ],
        "mlp_hidden": [
            [880, 880, 800, None, 720, 720, 720],
            [1760, 1440, 1920, 1600, 1600, None, 1440],
            [3200, 3200, 2880, None, 2240, None, 2560],
        ],
    },
    "medium": {
        "embed_dim": [240, 640, 880],
        "num_heads": [[7, 6, 7, 8, 7, 8, 6], [10, 14, 14, 16, 14, 16, 16], [16, 10, 16, 12, 16, None, 14]],
        "mlp_hidden": [
            [960, 960, 800, 960, 880, 880, 800],
            [1120, 1760, 1920, 1760, 1440, 1760, 1920],
            [3200, 3840, 3840, 3200, 3520, None, 3520],
        ],
    },
}
# What the released training says of settings that are here, too (see docs/vit_resnas.md).
PUBLISHED_TRAINING: Mapping[str, Any] = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "lr_floor": 0.01,
    "drop_path": 0.2,
    "betas": (0.9, 0.999),
    "clip": "none",
    "drop_path_by": "network",
    "recalibrate": False,
    "label_smoothing": 0.1,
    "largest_first": 0.0,
    "widening": 0.25,
    "patch_mixup": "published",
    "decay_also": ("positions",),
    "init_std": 0.02,
    "sampling": {"strategy": "multi_architectural", "at_once": 2, "blocks_twice": True, "lot_norms": True},
}


@dataclass(frozen=True)
class Place:
    """Where a block may stand: its stage, its number over all stages, and the choice that leaves it out."""

    stage: int
    index: int
    exists: str | None


def build(
    *,
    name: str = FAMILY,
    embed_dim: Sequence[Sequence[int]] = ((4, 8, 12, 16), (16, 20, 24, 32), (32, 40, 48, 64)),
    num_heads: Sequence[Sequence[int]] = ((1, 2, 3, 4),) * 3,
    mlp_hidden: Sequence[Sequence[int]] = ((16, 32, 48, 64), (32, 64, 96, 128), (64, 128, 192, 256)),
    depth: Sequence[int] = (3, 3, 3),
    optional: Sequence[Sequence[int]] = ((1, 2), (1, 2), (1, 2)),
    **fixed: Any,
) -> SearchSpace:
    """The space over the options, each with an entry per stage; the default sizes are for digit pairs.

    embed_dim: options of the residual width of a stage.
    num_heads, mlp_hidden: options of every block of a stage.  depth: its blocks.  optional: those that may be
    left out, counted from 0 in the stage; of neighbours, one that is left out takes the next with it.
    fixed: fields of `ViTResConfig`.
    The published nets that the space holds are its presets `tiny`, `small` and `medium`.
    Raises UsageError for unknown or impossible options.
    """
    config = _config(fixed)
    given: dict[str, Any] = {"embed_dim": embed_dim, "num_heads": num_heads, "mlp_hidden": mlp_hidden}
    given |= {"depth": depth, "optional": optional}
    for option, value in given.items():
        if not isinstance(value, list | tuple) or len(value) != config.stages:
            raise UsageError(
                f"{option} = {short(value)} is not a list with one entry for each of the {config.stages} "
                "stages.",
                "head_dim has one number for each stage; give one entry of each option.",
            )
    elastic: dict[str, tuple[Any, ...]] = {
        option: tuple(ascending(f"{option} of stage {s}", value) for s, value in enumerate(given[option]))
        for option in ("embed_dim", "num_heads", "mlp_hidden")
    }
    elastic["depth"] = tuple(
        positive(f"depth of stage {s}", value, most=DEEPEST) for s, value in enumerate(depth)
    )
    bounded_depth("depth over all stages", sum(elastic["depth"]))
    elastic["optional"] = tuple(map(_positions, range(config.stages), optional, elastic["depth"]))
    _check_widening(elastic["embed_dim"])
    places = places_of(elastic)
    space = SearchSpace(
        name=name,
        family=FAMILY,
        choices=tuple(_choices(elastic, places)),
        parts=tuple(_parts(config, places)),
        options=asdict(config) | elastic,
    )
    as_published = config.head_dim == HEAD_DIM and (config.stem, config.stem_dim) == ("conv", 24)
    return space.with_presets({key: _flat(net, places) for key, net in PUBLISHED.items() if as_published})


def default_patch_size(image_size: tuple[int, int]) -> int:
    """The largest that leaves a last stage of LAST_GRID patches along the shorter side, or else the smallest.

    It lets three stages fill the image, and is 1 (every pixel a patch) only where nothing else does.
    """
    whole = LAST_GRID * 2 ** (STAGES - 1)
    fitting = [
        p for p in range(2, min(image_size) + 1) if all(s % (p * whole // LAST_GRID) == 0 for s in image_size)
    ]
    large = [p for p in fitting if p * whole <= min(image_size)]
    return max(large, default=min(fitting, default=1))


def places_of(options: Mapping[str, Any]) -> list[Place]:
    """Where blocks may stand, in order, by a space's `options`."""
    stages = [(s, i) for s, depth in enumerate(options["depth"]) for i in range(depth)]
    return [
        Place(stage, index, f"exists.{index}" if i in options["optional"][stage] else None)
        for index, (stage, i) in enumerate(stages)
    ]


def plain_config(space: SearchSpace, arch: Architecture) -> dict[str, Any]:
    """The arguments of the plain `ViTRes` of an architecture; JSON data."""
    values = dict(arch.values)
    per_stage: dict[str, Any] = {
        name: [[values.get(f"{name}.{p.index}") for p in group] for group in _by_stage(space.options)]
        for name in ("num_heads", "mlp_hidden")
    }
    dims = [int(dim) for dim in arch.per_layer("embed_dim")]
    return module_arguments(vit_res_config(space), dims, **per_stage)


def vit_res_config(space: SearchSpace) -> ViTResConfig:
    """What no architecture of the space changes."""
    return ViTResConfig(**{f.name: space.options[f.name] for f in fields(ViTResConfig)})


def _by_stage(options: Mapping[str, Any]) -> list[list[Place]]:
    return [list(group) for _, group in itertools.groupby(places_of(options), key=lambda place: place.stage)]


def _flat(net: Mapping[str, Any], places: Sequence[Place]) -> dict[str, Any]:
    """A published net as `SearchSpace.architecture` takes it."""
    flat = {name: list(itertools.chain(*net[name])) for name in ("num_heads", "mlp_hidden")}
    heads_by_place = zip(places, flat["num_heads"], strict=False)
    exists = {place.exists: heads is not None for place, heads in heads_by_place if place.exists}
    return {"embed_dim": net["embed_dim"], **flat, **exists}


def _config(fixed: Mapping[str, Any]) -> ViTResConfig:
    numbers = [f.name for f in fields(ViTResConfig)]
    for key in fixed:
        if key not in numbers:
            raise UsageError(
                f"The {FAMILY} space has no option '{key}'.", did_you_mean(key, [*numbers, *OPTIONS])
            )
    head_dim = fixed.get("head_dim", ViTResConfig.head_dim)
    if not isinstance(head_dim, list | tuple):
        raise UsageError(f"head_dim = {short(head_dim)} is not a list with one entry per stage.")
    return ViTResConfig(**with_sides({**fixed, "head_dim": tuple(head_dim)}))


def _positions(stage: int, positions: object, depth: int) -> tuple[int, ...]:
    if not isinstance(positions, list | tuple) or not all(
        type(p) is int and 0 <= p < depth for p in positions
    ):
        raise UsageError(
            f"optional of stage {stage} = {short(positions)} is not a list of blocks from 0 to {depth - 1}."
        )
    return tuple(sorted(set(positions)))


def _check_widening(embed_dim: Sequence[Sequence[int]]) -> None:
    for stage, (before, after) in enumerate(itertools.pairwise(embed_dim)):
        if max(before) > min(after):
            raise UsageError(
                f"embed_dim of stage {stage} goes up to {max(before)} and that of the next down to "
                f"{min(after)}: a reduction only adds channels.",
                "Give every stage widths that are at least as large as those of the one before.",
            )


def _choices(elastic: Mapping[str, Any], places: Sequence[Place]) -> Iterator[Choice]:
    for stage, widths in enumerate(elastic["embed_dim"]):
        yield Choice(f"embed_dim.{stage}", widths)
    neighbour: Place | None = None
    for place in places:
        exists = None
        if place.exists:
            follows = neighbour and neighbour.stage == place.stage and neighbour.exists
            yield Choice(place.exists, (False, True), (follows, (True,)) if follows else None)
            exists = (place.exists, (True,))
        for name in ("num_heads", "mlp_hidden"):
            yield Choice(f"{name}.{place.index}", elastic[name][place.stage], exists)
        neighbour = place


def _parts(config: ViTResConfig, places: Sequence[Place]) -> Iterator[Part]:
    def stem(values: Mapping[str, Any]) -> tuple[Layer, ...]:
        return stem_layers(config, values["embed_dim.0"])

    def reduction(stage: int, values: Mapping[str, Any]) -> tuple[Layer, ...]:
        dims = (values[f"embed_dim.{s}"] for s in (stage, stage + 1))
        return reduction_layers(config, stage, *dims)

    def block(place: Place, values: Mapping[str, Any]) -> tuple[Layer, ...]:
        dim, heads, hidden = values.values()
        if heads is None or hidden is None:
            return ()
        return block_layers(config, place.stage, place.index, dim, heads, hidden)

    def head(values: Mapping[str, Any]) -> tuple[Layer, ...]:
        return head_layers(config, values[f"embed_dim.{config.stages - 1}"])

    yield Part(("embed_dim.0",), stem)
    for stage, group in itertools.groupby(places, key=lambda place: place.stage):
        if stage:
            yield Part((f"embed_dim.{stage - 1}", f"embed_dim.{stage}"), partial(reduction, stage - 1))
        for place in group:
            names = (f"embed_dim.{stage}", f"num_heads.{place.index}", f"mlp_hidden.{place.index}")
            yield Part(names, partial(block, place))
    yield Part((f"embed_dim.{config.stages - 1}",), head)

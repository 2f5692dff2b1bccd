"""What can be chosen in a Hiera: the options of a `turbovit` space, checked, and those that are left out."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from search_spaces.bounds import DEEPEST, MOST_STAGES, bounded, bounded_depth, short
from search_spaces.errors import UsageError, did_you_mean
from search_spaces.shapes.elastic_vit import ascending, check_widths
from search_spaces.shapes.hiera import HieraConfig
from search_spaces.shapes.vit import check_image_size, with_sides

DOUBLING = ("embed_dim", "num_heads")  # of a flat list's number, in every stage anew
ELASTIC = ("embed_dim", "depth", "num_heads", "mlp_ratio", "mask_unit_stages", "wide_stem")
LARGE_SIDE = 128  # pixels, from which on an image is large
LARGEST_PATCH = 4  # pixels, as published
SMALLEST_KERNEL = 5  # of the stem: nets for small images learn far faster with it than with 3

# For large images, with four stages, and for small ones.
LARGE: Mapping[str, Any] = {
    "embed_dim": (48, 56, 64, 72, 80, 88, 96),
    "depth": ((1, 2), (1, 2, 3), tuple(range(4, 17)), (1, 2, 3)),
    "num_heads": (1,),
    "mlp_ratio": (2, 3, 4),
    "mask_unit_stages": (1, 2, 3),
    "stem_dim": 96,
}
SMALL: Mapping[str, Any] = {
    "embed_dim": (16, 24, 32),
    "depth": ((1, 2), (1, 2, 3), (1, 2, 3)),
    "num_heads": (2,),
    "mlp_ratio": (1, 2, 4),
    "mask_unit_stages": (1, 2),
    "stem_dim": 48,
}


def defaults(image_size: object) -> Mapping[str, Any]:
    """The options for images of that size, as far as they are left out."""
    sides = image_size if isinstance(image_size, tuple) else ()
    return LARGE if all(isinstance(side, int) and side >= LARGE_SIDE for side in sides) else SMALL


def patch_size_of(image_size: tuple[int, int]) -> int:
    """The patch size of images of that size: the largest up to 4 whose mask units fill them."""
    unit_side = 2 ** (len(defaults(image_size)["depth"]) - 1)
    sizes = range(LARGEST_PATCH, 0, -1)
    fitting = (size for size in sizes if all(side % (size * unit_side) == 0 for side in image_size))
    return next(fitting, 1)


def kernel_of(patch_size: Any) -> Any:
    """The stem's kernel for patches of that size: it reaches into the neighbours."""
    return max(SMALLEST_KERNEL, 2 * patch_size - 1) if type(patch_size) is int else SMALLEST_KERNEL


def checked_config(
    family: str, fixed: Mapping[str, Any], base: Mapping[str, Any], stages: int
) -> HieraConfig:
    """The fixed numbers. Raises UsageError for unknown and impossible ones."""
    numbers = [f.name for f in fields(HieraConfig) if f.name != "stages"]
    for key in fixed:
        if key not in numbers:
            raise UsageError(
                f"The {family} space has no option '{key}'.", did_you_mean(key, [*numbers, *ELASTIC])
            )
    given = with_sides({"image_size": (224, 224), **fixed})
    check_image_size(given["image_size"])
    given.setdefault("patch_size", patch_size_of(given["image_size"]))
    usual = {
        "patch_kernel": kernel_of(given["patch_size"]),
        "in_chans": 3,
        "num_classes": 1000,
        "stem_dim": base["stem_dim"],
        "q_pool": stages - 1,
    }
    return HieraConfig(stages=stages, **(usual | given))


def checked_depth(depth: object) -> tuple[tuple[int, ...], ...]:
    """Options of every stage's depth. Raises UsageError unless there are at least two stages."""
    if not isinstance(depth, list | tuple) or len(depth) < 2:
        raise UsageError(
            f"depth = {short(depth)} is not a list with the options of each of at least two stages.",
            "Four stages are [[1, 2], [1, 2, 3], [4, 6, 8], [1, 2]].",
        )
    bounded("the number of stages", len(depth), most=MOST_STAGES)
    depths = tuple(ascending(f"depth of stage {s}", options, most=DEEPEST) for s, options in enumerate(depth))
    bounded_depth("depth over all stages", sum(max(options) for options in depths))
    return depths


def checked_elastic(
    given: Mapping[str, Any], base: Mapping[str, Any], config: HieraConfig
) -> dict[str, tuple[Any, ...]]:
    """The options of all choices but the depth; None in `given` stands for those of `base`.

    Raises UsageError for options that are no numbers, that do not fit together, and for two that are the same
    network.
    """
    checked = {
        name: _numbers(name, base[name] if given[name] is None else given[name], config.stages)
        for name in ("embed_dim", "num_heads", "mlp_ratio")
    }
    for stage in range(config.stages):
        widths, heads, ratios = (options_of(checked, name, stage) for name in checked)
        check_widths(widths, ratios)
        if config.head_dim is None:
            _check_division(stage, widths, heads)
    return checked | {
        "mask_unit_stages": _mask_unit_stages(given["mask_unit_stages"], base, config),
        "wide_stem": _wide_stem(given["wide_stem"], options_of(checked, "embed_dim", 0), config.stem_dim),
    }


def is_per_stage(options: Sequence[Any]) -> bool:
    """Whether these are the options of one choice per stage, and not those of one for the whole network."""
    return isinstance(options[0], tuple)


def options_of(elastic: Mapping[str, tuple[Any, ...]], name: str, stage: int) -> tuple[Any, ...]:
    """The values that an option can take in a stage."""
    options = elastic[name]
    return options[stage] if is_per_stage(options) else tuple(value_in(name, n, stage) for n in options)


def value_in(name: str, value: Any, stage: int) -> Any:
    """What a choice for the whole network is in a stage: widths and heads double from stage to stage."""
    return value * 2**stage if name in DOUBLING else value


def _numbers(name: str, options: object, stages: int) -> tuple[Any, ...]:
    kinds = (int, float) if name == "mlp_ratio" else (int,)
    if not isinstance(options, list | tuple) or not any(isinstance(n, list | tuple) for n in options):
        return ascending(name, options, kinds=kinds)
    if len(options) != stages:
        raise UsageError(
            f"{name} = {short(options)} has not one entry for each of the {stages} stages.",
            "Give a list of numbers for the whole network, or a list of lists; depth says how many stages.",
        )
    return tuple(ascending(f"{name} of stage {s}", values, kinds=kinds) for s, values in enumerate(options))


def _check_division(stage: int, widths: Sequence[int], heads: Sequence[int]) -> None:
    for width, number in itertools.product(widths, heads):
        if width % number:
            raise UsageError(
                f"A width of {width} in stage {stage} cannot be divided among {number} heads.",
                "Choose other options of embed_dim or num_heads, or give heads a fixed head_dim.",
            )


def _mask_unit_stages(given: object, base: Mapping[str, Any], config: HieraConfig) -> tuple[int, ...]:
    name, most = "mask_unit_stages", config.stages - 1
    if given is None:
        usual = tuple(n for n in base[name] if n <= most)
        return usual if config.units > 1 else usual[-1:]
    options = tuple(given) if isinstance(given, list | tuple) else (given,)
    possible = all(type(n) is int and 0 <= n <= most for n in options)
    if not options or not possible or not all(a < b for a, b in itertools.pairwise(options)):
        raise UsageError(
            f"mask_unit_stages = {short(given)} are not ascending numbers from 0 to {most}.",
            "Behind its first block the last of the stages attends to the whole image.",
        )
    if len(options) > 1 and config.units == 1:
        raise UsageError(
            "The image is a single mask unit: all options of mask_unit_stages are the same network.",
            "Give one option, a smaller patch_size or fewer stages.",
        )
    return options


def _wide_stem(given: object, widths: Sequence[int], stem_dim: int) -> tuple[bool, ...]:
    if given is None:
        return (False, True) if max(widths) <= stem_dim else (False,)
    options = tuple(given) if isinstance(given, list | tuple) else (given,)
    if options not in ((False,), (True,), (False, True)) or not all(type(on) is bool for on in options):
        raise UsageError(f"wide_stem = {short(given)} is neither false, nor true, nor [false, true].")
    if len(options) == 2 and max(widths) > stem_dim:
        raise UsageError(
            f"A wide stem of stem_dim {stem_dim} channels is narrower than stage 0 with {max(widths)}.",
            "Give a stem_dim of at least the largest embed_dim, or one option of wide_stem.",
        )
    return options

"""A network from stage specifications: widths and depths dealt out anew at a fraction of the cost.

The interface that public wrappers of a generative search show: a specification per stage with flags for what
must stay, a target ratio, and a metric; no data. Costs are those of the network as it is built, and so are
the specifications that come back.
Source: the public repository TurboMedSAM (facts only), as `docs/turbovit.md` tells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

import search_spaces
import supernet
from nas.conditions import Condition, distance
from search_spaces import Architecture, Choice, SearchSpace
from search_spaces._errors import UsageError, did_you_mean
from search_spaces._repair import repaired
from search_spaces._restriction import only
from search_spaces._space import Codes

METRICS = {"macs": "macs", "flops": "macs", "params": "params"}  # a ratio of FLOPs is one of MACs
TOLERANCE = 0.02  # of the target
MULTIPLE = 8  # of which widths are that come from one that is
PER_HEAD = 64  # channels of a head, as far as the widths allow
WIDTH_STEPS = 12  # widths on either side of a specification's
NARROWEST, WIDEST = 0.25, 2.0  # of a specification's width and depth
FACTORS, COPIES = 64, 4  # common factors that are tried, and ways from each into the limits

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StageSpec:
    """Width and depth of a stage, and whether they must stay."""

    channels: int
    depth: int
    freeze_channels: bool = False
    freeze_depth: bool = False


@dataclass(frozen=True)
class Reallocated:
    """The network with fresh weights, what it consists of, and its cost over that of the given stages."""

    module: nn.Module
    specs: tuple[StageSpec, ...]
    architecture: Architecture
    space: SearchSpace
    ratio: float


def reallocate(
    specs: Sequence[StageSpec],
    *,
    target_ratio: float,
    metric: str = "macs",
    image_size: tuple[int, int] = (224, 224),
    in_chans: int = 3,
    num_classes: int = 1000,
    seed: int = 0,
) -> Reallocated:
    """A Hiera whose cost is `target_ratio` of that of `specs`, within 2 %; what is frozen stays as it is.

    Of those within reach the one whose free widths and depths have changed most alike.
    Raises UsageError for specifications that make no network and for a ratio that nothing reaches.
    """
    if metric not in METRICS:
        raise UsageError(f"The metric {metric!r} is unknown.", did_you_mean(str(metric), METRICS))
    if (
        isinstance(target_ratio, bool)
        or not isinstance(target_ratio, int | float)
        or not 0 < target_ratio < math.inf
    ):
        raise UsageError(f"target_ratio = {target_ratio!r} is not a positive number.")
    metric = METRICS[metric]
    space, given = _space(specs, image_size=image_size, in_chans=in_chans, num_classes=num_classes)
    whole = int(space.costs(space.encode([given]))[metric][0])
    target = target_ratio * whole
    limits = (
        Condition(metric, ">=", (1 - TOLERANCE) * target),
        Condition(metric, "<=", (1 + TOLERANCE) * target),
    )
    best = _most_even(space, given, limits, seed=seed)
    if best is None:
        raise UsageError(
            f"No widths and depths within reach cost {target_ratio:g} of the given stages' {metric}.",
            "Free more of them, or ask for a ratio nearer to 1.",
        )
    module = supernet.build(only(space, best), seed=seed).shared
    ratio = space.costs(space.encode([best]))[metric][0] / whole
    return Reallocated(module, _as_built(specs, module), best, space, float(ratio))


def _as_built(specs: Sequence[StageSpec], module: nn.Module) -> tuple[StageSpec, ...]:
    config: dict[str, Any] = module.config  # type: ignore[assignment]
    return tuple(
        StageSpec(width, depth, spec.freeze_channels, spec.freeze_depth)
        for spec, width, depth in zip(specs, config["embed_dim"], config["depth"], strict=True)
    )


def _space(specs: Sequence[StageSpec], **sizes: Any) -> tuple[SearchSpace, Architecture]:
    """Free widths and depths around the specifications, and the architecture that these are."""
    if len(specs) < 2:
        raise UsageError(f"{len(specs)} stages make no hierarchical network.", "Give at least two.")
    for number, spec in enumerate(specs):
        if min(spec.channels, spec.depth) < 1:
            raise UsageError(f"Stage {number} ({spec}) has no channels or no blocks.")
    heads = [_heads(spec.channels) for spec in specs]
    space = search_spaces.get(
        "turbovit",
        embed_dim=[_widths(spec, count) for spec, count in zip(specs, heads, strict=True)],
        depth=[_depths(spec) for spec in specs],
        num_heads=[[count] for count in heads],
        mlp_ratio=[4],
        mask_unit_stages=[min(2, len(specs) - 1)],
        wide_stem=[False],
        **sizes,
    )
    point: dict[str, Any] = {
        "embed_dim": [spec.channels for spec in specs],
        "depth": [spec.depth for spec in specs],
        "num_heads": heads,
    }
    point |= {"mlp_ratio": 4, "mask_unit_stages": min(2, len(specs) - 1), "wide_stem": False}
    return space, space.architecture(point)


def _heads(channels: int) -> int:
    """As many heads as divide the channels and leave each at least PER_HEAD."""
    return max(count for count in range(1, max(1, channels // PER_HEAD) + 1) if channels % count == 0)


def _widths(spec: StageSpec, heads: int) -> list[int]:
    """Widths around the specification's, which is one of them: multiples of the heads and of MULTIPLE."""
    if spec.freeze_channels:
        return [spec.channels]
    step = math.lcm(heads, MULTIPLE if spec.channels % MULTIPLE == 0 else 1)
    wanted = spec.channels * np.geomspace(NARROWEST, WIDEST, 2 * WIDTH_STEPS + 1)
    found = {max(step, step * round(width / step)) for width in wanted}
    return sorted({spec.channels, *found})


def _depths(spec: StageSpec) -> list[int]:
    if spec.freeze_depth:
        return [spec.depth]
    return list(range(max(1, round(NARROWEST * spec.depth)), max(2, round(WIDEST * spec.depth)) + 1))


def _most_even(
    space: SearchSpace, given: Architecture, limits: tuple[Condition, ...], *, seed: int
) -> Architecture | None:
    """Of many architectures within the limits the one that has changed most evenly; None if there is none.

    They begin as `given` by one factor, and are moved choice by choice until they keep the limits.
    """

    def outside(codes: Codes) -> Floats:
        return distance(limits, space.costs(codes), len(codes))

    start = space.encode([given])[0]
    logs = [np.log(np.array(c.options, dtype=np.float64)) if _is_free(c) else None for c in space.choices]
    scaled = np.tile(start, (FACTORS * COPIES, 1))
    factors = np.repeat(np.linspace(math.log(NARROWEST), math.log(WIDEST), FACTORS), COPIES)
    for i, options in enumerate(logs):
        if options is not None:
            wanted = options[start[i]] + factors
            scaled[:, i] = np.abs(options - wanted[:, None]).argmin(axis=1)
    codes = repaired(space, scaled, outside, np.random.default_rng(seed))
    codes = codes[outside(codes) == 0]
    if not len(codes):
        return None
    changes = [row[codes[:, i]] - row[start[i]] for i, row in enumerate(logs) if row is not None]
    spread = np.std(changes, axis=0) if changes else np.zeros(len(codes))
    return space.decode(codes[spread.argmin()][None])[0]


def _is_free(choice: Choice) -> bool:
    return len(choice.options) > 1

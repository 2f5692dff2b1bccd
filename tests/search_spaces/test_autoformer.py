"""The AutoFormer spaces: the published nets and the sizes of the released spaces, as computed."""

from math import prod
from typing import Any

import numpy as np
import pytest

import search_spaces
from search_spaces import Architecture, SearchSpace
from search_spaces.shapes.elastic_vit import layer_values


@pytest.mark.parametrize(
    ("name", "preset", "params", "macs"),
    [
        ("autoformer_tiny", "t", 5_867_944, 1_481_938_432),
        ("autoformer_small", "s", 22_891_432, 5_161_400_832),
        ("autoformer_base", "b", 53_691_688, 11_691_179_008),
    ],
)
def test_costs_of_the_published_nets(name: str, preset: str, params: int, macs: int) -> None:
    """Computed: the papers print 5.7, 22.9 and 53.7 M parameters. MACs are those that torch counts."""
    space = search_spaces.get(name)
    cost = space.cost(space.preset(preset))
    assert (cost.params, cost.macs) == (params, macs)
    assert set(space.preset_values) == {preset}


def released_complexity(arch: Architecture) -> float:
    """What the released `get_complexity(196)` returns.

    It adds a token when it enters the blocks and another inside, counts norms and a bias, no last norm, the
    classifier for every token, and for relative positions a number that does not depend on the heads.
    """
    e, n = int(arch["embed_dim"]), 198
    total = e + 196 * 768 * e + 197 * e / 2 + 197 * 1000 * e
    for heads, ratio in zip(*layer_values(arch), strict=True):
        q, f = 64 * heads, int(ratio * e)
        total += 2 * n * e + n * 3 * q * e + 2 * n * n * q + n * q * e + 2 * n * e * f
        total += 2 * 14 * n * n + n * n / 2 + n * q / 2
    return total


@pytest.mark.parametrize(
    ("name", "preset", "counted"),
    [
        ("autoformer_tiny", "t", 1_344_034_362),
        ("autoformer_small", "s", 4_892_144_730),
        ("autoformer_base", "b", 11_236_929_660),
    ],
)
def test_the_releases_own_count_is_another_one(name: str, preset: str, counted: int) -> None:
    """The published nets are the release's, though our MACs are not its number."""
    space = search_spaces.get(name)
    assert released_complexity(space.preset(preset)) == counted
    assert 1.03 < space.cost(space.preset(preset)).macs / counted < 1.11


@pytest.mark.parametrize(
    ("name", "options", "params"),
    [
        ("autoformer_tiny", {"embed_dim": (256,)}, 11_669_224),
        ("autoformer_small", {}, 34_790_440),
        ("autoformer_base", {"embed_dim": (640,)}, 80_160_360),
    ],
)
def test_the_stored_supernets(name: str, options: dict[str, Any], params: int) -> None:
    """The released tiny and base supernets are wider than any net that is drawn from them."""
    space = search_spaces.get(name, **options)
    assert space.cost(space.largest).params == params


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("autoformer_tiny", {"mlp_ratio": (3.5, 4)}, "1.057e+09"),
        ("autoformer_tiny", {}, "2.808e+11"),
        ("autoformer_small", {}, "7.710e+13"),
        ("autoformer_base", {"num_heads": (9, 10)}, "1.011e+13"),
        ("autoformer_base", {}, "6.245e+15"),
    ],
)
def test_sizes_of_the_released_spaces(name: str, options: dict[str, Any], size: str) -> None:
    space = search_spaces.get(name, **options)
    given = space.options
    layer = prod(len(given[choice]) for choice in ("num_heads", "mlp_ratio"))
    assert space.size == len(given["embed_dim"]) * sum(layer**depth for depth in given["depth"])
    assert f"{space.size:.3e}" == size


def closed_form(space: SearchSpace, arch: Architecture) -> int:
    """Parameters by the formula of the reference."""
    e, total = int(arch["embed_dim"]), 0
    for heads, ratio in zip(*layer_values(arch), strict=True):
        q, f = 64 * heads, int(ratio * e)
        total += 3 * q * (e + 1) + e * (q + 1) + f * (e + 1) + e * (f + 1) + 4 * e + 7680
    return total + 769 * e + e + 197 * e + 2 * e + 1000 * e + 1000


@pytest.mark.parametrize("name", ["autoformer_tiny", "autoformer_small", "autoformer_base"])
def test_costs_are_the_closed_form(name: str) -> None:
    space, rng = search_spaces.get(name), np.random.default_rng(0)
    for arch in [*space.presets.values(), *(space.sample(rng) for _ in range(10))]:
        assert space.cost(arch).params == closed_form(space, arch)


def test_relative_positions_reach_from_one_patch_on() -> None:
    plain = search_spaces.get("autoformer", rel_pos=0)
    space = search_spaces.get("autoformer", rel_pos=2)
    arch = space.largest
    tables = len(arch.per_layer("num_heads")) * 4 * (2 * 2 + 2) * 8
    assert space.cost(arch).params - plain.cost(plain.largest).params == tables
    with pytest.raises(ValueError, match="rel_pos = -1"):
        search_spaces.get("autoformer", rel_pos=-1)

"""The ViT-ResNAS spaces against counts of the released code, and closed forms written out here."""

from itertools import chain
from typing import Any

import numpy as np
import pytest

import search_spaces
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.families.vit_resnas import default_patch_size, places_of, plain_config

TINY, SMALL, HAND_MADE = "vit_resnas_tiny", "vit_resnas_small", "vit_res_tiny"
PATCH_HEAD = 1000  # classes, of the head for patches that only the training has


@pytest.mark.parametrize(
    ("name", "preset", "params", "with_patch_head", "macs"),
    [
        (HAND_MADE, "largest", 42_012_736, 42_781_736, 1_794_378_240),
        (TINY, "tiny", 40_793_552, 41_498_552, 1_782_630_272),
        (SMALL, "small", 63_724_108, 64_605_108, 2_845_501_856),
        (SMALL, "medium", 96_442_672, 97_323_672, 4_513_135_936),
        (TINY, "largest", 84_814_464, 85_839_464, 3_497_553_920),
        (SMALL, "largest", 155_318_528, 156_599_528, 6_260_342_784),
        (TINY, "smallest", None, None, 752_489_984),
        (SMALL, "smallest", None, None, 1_470_482_304),
    ],
)
def test_counts_of_the_released_code(
    name: str, preset: str, params: int | None, with_patch_head: int | None, macs: int
) -> None:
    space = search_spaces.get(name)
    arch = space.preset(preset)
    cost = space.cost(arch)
    assert cost.macs == macs
    if params is not None:
        assert cost.params == params
        assert cost.params + PATCH_HEAD * (int(arch["embed_dim.2"]) + 1) == with_patch_head


def test_sizes() -> None:
    assert search_spaces.get(TINY).size == 5**3 * 28**9 * 29**9 == 19_182_900_589_423_791_619_538_944_000
    assert search_spaces.get(SMALL).size == 5**3 * 28**12 * 29**9
    assert f"{search_spaces.get(TINY).size:.3e}" == "1.918e+28"
    assert f"{search_spaces.get(SMALL).size:.3e}" == "4.211e+32"
    assert search_spaces.get(HAND_MADE).size == 1


def test_the_found_nets_are_inside_their_budgets() -> None:
    budgets = {(TINY, "tiny"): 1.7944e9, (SMALL, "small"): 2.9e9, (SMALL, "medium"): 4.6e9}
    shares = []
    for (name, preset), budget in budgets.items():
        space = search_spaces.get(name)
        shares.append(round(space.cost(space.preset(preset)).macs / budget, 4))
    assert shares == [0.9934, 0.9812, 0.9811]


def test_an_older_net_with_a_patch_stem() -> None:
    """The result of an earlier search, with one head width and, it seems, without a head for patches."""
    heads = [[2] * 6, [4, 6, 8, 4, 6], [8, 12, 6, 8, 10]]
    hidden = [
        [576, 704, 512, 640, 640, 640],
        [1280, 1024, 1280, 1536, 1408],
        [2560, 2816, 3072, 2304, 2560],
    ]
    space = search_spaces.get(
        HAND_MADE,
        stem="patch",
        embed_dim=((176,), (352,), (704,)),
        depth=(6, 5, 5),
        num_heads=((2,), (4, 6, 8), (6, 8, 10, 12)),
        mlp_hidden=tuple(tuple(sorted(set(stage))) for stage in hidden),
    )
    arch = space.architecture(
        {"embed_dim": [176, 352, 704], "num_heads": [*chain(*heads)], "mlp_hidden": [*chain(*hidden)]}
    )
    cost = space.cost(arch)
    assert (cost.params, cost.macs) == (39_707_032, 1_608_020_480)


def closed_forms(space: SearchSpace, arch: Architecture) -> tuple[int, int]:
    """Params and MACs by the formulas of the reference, for three stages and a convolutional stem."""
    config = plain_config(space, arch)
    height, width = config["image_size"]
    patch, m, classes, channels = (
        config[name] for name in ("patch_size", "stem_dim", "num_classes", "in_chans")
    )
    e, d = config["embed_dim"], config["head_dim"]
    tokens = [1 + height // (patch << s) * (width // (patch << s)) for s in range(3)]
    rest = (patch // 2) ** 2
    params = 9 * channels * m + 18 * m * m + 6 * m + rest * m * e[0] + e[0] + e[0] + tokens[0] * e[0]
    macs = (9 * channels * m + 18 * m * m) * (height * width // 4) + rest * m * e[0] * (tokens[0] - 1)
    for s in range(3):
        for h, f in zip(config["num_heads"][s], config["mlp_hidden"][s], strict=True):
            if h is not None:
                q, n = h * d[s], tokens[s]
                params += 4 * e[s] + 3 * q * (e[s] + 1) + e[s] * (q + 1) + f * (e[s] + 1) + e[s] * (f + 1)
                macs += n * (4 * e[s] * q + 2 * e[s] * f) + 2 * n * n * q
    for s in range(2):
        patches, a, b = tokens[s + 1] - 1, e[s], e[s + 1]
        params += 2 * a + 9 * a * b + b + a * b + b + patches * b
        macs += patches * 9 * a * b + a * b
    return params + 2 * e[2] + classes * e[2] + classes, macs + classes * e[2]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (TINY, {}),
        (SMALL, {"image_size": (280, 392)}),
        ("vit_resnas", {}),
        ("vit_resnas", {"image_size": 32, "patch_size": 4, "in_chans": 3, "num_classes": 10}),
    ],
)
def test_costs_are_the_closed_forms(name: str, options: dict[str, Any]) -> None:
    space, rng = search_spaces.get(name, **options), np.random.default_rng(0)
    for arch in [*space.presets.values(), *(space.sample(rng) for _ in range(10))]:
        cost = space.cost(arch)
        assert (cost.params, cost.macs) == closed_forms(space, arch)


def test_a_published_net_is_a_preset_where_the_space_holds_it() -> None:
    names = {
        name: set(search_spaces.get(name).preset_values) for name in (TINY, SMALL, HAND_MADE, "vit_resnas")
    }
    assert names == {TINY: {"tiny"}, SMALL: {"small", "medium"}, HAND_MADE: set(), "vit_resnas": set()}
    assert "tiny" not in search_spaces.get(TINY, head_dim=(64, 64, 64)).presets
    assert "small" in search_spaces.get(SMALL, image_size=280, num_classes=10).presets
    removed = [
        i for i, on in enumerate(search_spaces.get(SMALL).preset("small").to_dict()["exists"]) if on is False
    ]
    assert removed == [3, 12, 17, 19]


@pytest.mark.parametrize(
    ("size", "patch"),
    [
        ((224, 224), 14),
        ((32, 32), 2),
        ((64, 64), 4),
        ((8, 8), 2),
        ((8, 16), 2),
        ((12, 12), 3),
        ((4, 4), 1),
        ((7, 7), 1),
    ],
)
def test_patches_of_a_size_that_suits_the_image(size: tuple[int, int], patch: int) -> None:
    assert default_patch_size(size) == patch


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 8, "num_classes": 10},
        {"image_size": (4, 8), "patch_size": 1},
        {"image_size": 24, "patch_size": 3},
        {"image_size": 32, "patch_size": 2, "in_chans": 3, "stem": "patch"},
    ],
)
def test_small_images(options: dict[str, Any]) -> None:
    space = search_spaces.get("vit_resnas", **options)
    assert space.cost(space.smallest).macs < space.cost(space.largest).macs


def stages(count: int, **options: Any) -> SearchSpace:
    """A space with so many stages."""
    widths = tuple((4 << s, 6 << s) for s in range(count))
    given: dict[str, Any] = {
        "image_size": 2 << count,
        "patch_size": 2,
        "head_dim": (4,) * count,
        "embed_dim": widths,
        "num_heads": ((1, 2),) * count,
        "mlp_hidden": ((8, 16),) * count,
        "depth": (2,) * count,
        "optional": ((1,),) * count,
    }
    return search_spaces.get("vit_resnas", **(given | options))


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_any_number_of_stages(count: int) -> None:
    space = stages(count)
    assert space.size == (2 * 4 * 5) ** count
    names = [layer.name for layer in space.layers(space.largest)]
    assert sum(name.endswith(".conv") for name in names) == count - 1


def test_neighbours_that_may_be_left_out_go_together() -> None:
    space = stages(1, depth=(5,), optional=((1, 2, 4),))
    for arch in space.decode(space.all_codes()):
        values = dict(arch.values)
        there = [values.get(f"num_heads.{i}") is not None for i in range(5)]
        assert there[0]
        assert there[3]
        assert there[1] or not there[2]
    four = 4 * (1 + 4 * (1 + 4)) * 4 * (1 + 4)
    assert space.size == 2 * four == len(space.all_codes())


def test_neighbours_in_different_stages_do_not() -> None:
    space = stages(2, depth=(2, 2), optional=((1,), (0,)))
    needs = {choice.name: choice.needs for choice in space.choices}
    assert needs["exists.2"] is None
    assert needs["num_heads.2"] == ("exists.2", (True,))
    assert [place.exists for place in places_of(space.options)] == [None, "exists.1", "exists.2", None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 12}, "both sides must be multiples of 8 (patches of 2, halved 2 times)"),
        ({"embed_dim": ((16, 40), (32, 48), (64,))}, "goes up to 40 and that of the next down to 32"),
        (
            {"embed_dim": ((16,), (32,))},
            "embed_dim = ((16,), (32,)) is not a list with one entry for each of the 3",
        ),
        ({"embed_dim": ((16,), (32,), ())}, "embed_dim of stage 2"),
        ({"num_heads": ((2, 1), (4,), (4,))}, "num_heads of stage 0"),
        ({"mlp_hidden": ((8.5,), (4,), (4,))}, "mlp_hidden of stage 0 must be integers"),
        ({"depth": (2, 0, 2)}, "depth of stage 1 = 0"),
        ({"optional": ((1,), (3,), (1,))}, "optional of stage 1 = (3,) is not a list of blocks from 0 to 2"),
        ({"optional": ((1,), 1, (1,))}, "optional of stage 1"),
        ({"head_dim": 8}, "head_dim = 8"),
        ({"head_dim": ()}, "head_dim"),
        ({"stem": "cnov"}, "stem = 'cnov' is unknown"),
        ({"stem_norm": "layer"}, "stem_norm = 'layer' is unknown"),
        ({"patch_size": 0}, "patch_size"),
        ({"norm_eps": 2.0}, "norm_eps"),
        ({"image_size": (8, 16, 3)}, "image_size"),
        ({"embed_dmi": ((16,),)}, "no option 'embed_dmi'"),
    ],
)
def test_impossible_spaces_are_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        search_spaces.get("vit_resnas", **options)
    assert message in caught.value.message

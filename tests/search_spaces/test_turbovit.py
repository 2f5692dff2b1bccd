"""The TurboViT spaces: costs of the six Hieras, and the closed forms written out here."""

from typing import Any

import numpy as np
import pytest

import search_spaces
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.families.turbovit import default_patch_size, hiera_config, plain_config
from search_spaces.layers import Layer, fvcore_flops
from search_spaces.shapes.hiera_options import LARGE, SMALL

# Name -> params, linear and convolutional MACs, MACs of attention, elements that norms write, timm's GMACs,
# blocks that pool, first global block.
HIERAS: dict[str, tuple[int, int, int, int, float, list[int], int]] = {
    "hiera_tiny": (27_910_216, 4_640_342_016, 260_488_704, 2_672_640, 4.91, [1, 3, 10], 4),
    "hiera_small": (35_008_072, 6_027_608_064, 378_502_656, 3_274_752, 6.42, [1, 3, 14], 4),
    "hiera_base": (51_524_968, 8_802_140_160, 573_060_096, 5_005_824, 9.40, [2, 5, 21], 6),
    "hiera_base_plus": (69_896_616, 11_971_936_256, 668_570_112, 5_840_128, 12.67, [2, 5, 21], 6),
    "hiera_large": (213_739_912, 38_499_139_584, 1_771_902_720, 13_492_224, 40.34, [2, 8, 44], 9),
    "hiera_huge": (672_779_752, 121_582_911_488, 3_150_049_280, 23_986_176, 124.85, [2, 8, 44], 9),
}


def attention_macs(layers: tuple[Layer, ...]) -> int:
    return sum(layer.macs for layer in layers if layer.kind == "attention")


def block_of(name: str) -> int:
    return int(name.split(".")[1])


@pytest.mark.parametrize("name", HIERAS)
def test_costs_of_the_hieras(name: str) -> None:
    params, rest, attention, norms, gmacs, pooled, first_global = HIERAS[name]
    space = search_spaces.get("hiera")
    layers, cost = space.layers(space.preset(name)), space.cost(space.preset(name))
    assert (cost.params, cost.macs) == (params, rest + attention)
    assert attention_macs(layers) == attention
    assert sum(layer.output_elements for layer in layers if layer.kind == "norm") == norms
    assert fvcore_flops(layers) == cost.macs + 5 * norms
    assert round(fvcore_flops(layers) / 1e9, 2) == gmacs
    assert [block_of(layer.name) for layer in layers if layer.name.endswith(".attn.pool")] == pooled
    windows = [layer.shape[0] for layer in layers if layer.kind == "attention"]
    assert windows == [49] * first_global + [1] * (len(windows) - first_global)


def test_presets_are_those_that_a_space_holds() -> None:
    own = {"hiera_tiny", "hiera_small", "hiera_base", "turbovit_like"}
    assert set(search_spaces.get("hiera").preset_values) == set(HIERAS)
    assert set(search_spaces.get("turbovit").preset_values) == own
    assert set(search_spaces.get("turbovit", head_dim=96, num_heads=(1,)).preset_values) == own - {
        "turbovit_like"
    }
    assert set(search_spaces.get("turbovit", stem_dim=112).preset_values) == own - {"turbovit_like"}
    assert not search_spaces.get("turbovit", patch_kernel=5).preset_values
    free = search_spaces.get("turbovit", embed_dim=((96,), (192,), (384,), (768,)))
    assert set(free.preset_values) == own - {"turbovit_like"}
    assert free.cost(free.preset("hiera_tiny")).params == HIERAS["hiera_tiny"][0]


def test_queries_and_keys_of_hiera_tiny() -> None:
    space = search_spaces.get("hiera")
    layers = [x for x in space.layers(space.preset("hiera_tiny")) if x.kind == "attention"]
    shapes = {block_of(layer.name): layer.shape for layer in layers}
    assert shapes[0] == (49, 1, 64, 96)
    assert shapes[1] == (49, 2, 16, 96, 64)
    assert shapes[2] == (49, 2, 16, 96)
    assert shapes[3] == (49, 4, 4, 96, 16)
    assert shapes[4] == (1, 4, 196, 96)
    assert shapes[10] == (1, 8, 49, 96, 196)
    assert shapes[11] == (1, 8, 49, 96)
    config = hiera_config(space)
    assert [config.tokens(stage) for stage in range(4)] == [3136, 784, 196, 49]
    assert [config.tokens(stage) // config.units for stage in range(4)] == [64, 16, 4, 1]


def params_by_block(space: SearchSpace, arch: Architecture) -> dict[int, int]:
    found: dict[int, int] = {}
    for layer in space.layers(arch):
        if layer.name.startswith("blocks."):
            found[block_of(layer.name)] = found.get(block_of(layer.name), 0) + layer.params
    return found


def test_the_public_member_of_the_family() -> None:
    space = search_spaces.get("turbovit")
    arch = space.preset("turbovit_like")
    cost, attention = space.cost(arch), attention_macs(space.layers(arch))
    assert (cost.params, cost.macs - attention, attention) == (13_567_016, 2_279_806_976, 193_328_128)
    blocks = params_by_block(space, arch)
    condensed = {0: 62_400, 1: 181_888, 2: 198_272, 3: 724_224}
    assert blocks == condensed | dict.fromkeys(range(4, 11), 789_760) | {11: 2_890_240, 12: 3_152_384}
    narrow = space.architecture(arch.to_dict() | {"wide_stem": False})
    cost, attention = space.cost(narrow), attention_macs(space.layers(narrow))
    assert (cost.params, cost.macs - attention, attention) == (13_449_512, 2_226_520_064, 193_328_128)
    same, doubling = (lambda d: 12 * d * d + 13 * d), (lambda d: 44 * d * d + 26 * d)
    assert params_by_block(space, narrow) == {0: same(64)} | {
        i: doubling(64 << (s - 1)) if first else same(64 << s)
        for i, (s, first) in enumerate([(1, True), (1, False), (2, True), *[(2, False)] * 7, (3, True)], 1)
    } | {12: same(512)}


def test_size_of_the_space() -> None:
    space = search_spaces.get("turbovit")
    codes = space.all_codes()
    costs = space.costs(codes)
    params, macs = costs["params"], costs["macs"]
    small, cheap = params <= 12_710_000, macs <= 2_206_000_000
    band = (params >= 12_000_000) & (macs >= 2_000_000_000)
    assert space.size == len(codes) == 7 * 2 * (2 * 3 * 13 * 3) * 3 * 3 == 29_484
    assert int((small & cheap).sum()) == 9_016
    assert int((small & cheap & band).sum()) == 156


def test_a_wide_stem_is_never_the_narrow_one() -> None:
    """At width 96 both stems are equally wide; only the wide one projects its first shortcut."""
    space = search_spaces.get("turbovit")
    values = space.preset("hiera_tiny").to_dict()
    narrow, wide = (space.architecture(values | {"wide_stem": on}) for on in (False, True))
    assert narrow.key != wide.key
    assert space.cost(wide).params - space.cost(narrow).params == 96 * 96 + 96
    assert "blocks.0.proj" in {layer.name for layer in space.layers(wide)}
    assert "blocks.0.proj" not in {layer.name for layer in space.layers(narrow)}


def closed_forms(space: SearchSpace, arch: Architecture) -> tuple[int, int]:
    """Params and MACs by the formulas of the reference, block by block."""
    c, side = plain_config(space, arch), 2 ** (len(space.options["depth"]) - 1)
    (height, width), patch = c["image_size"], c["patch_size"]
    tokens, units = height * width // patch**2, height * width // (patch * side) ** 2
    dim = c["stem_dim"] or c["embed_dim"][0]
    kernel = c["patch_kernel"] ** 2 * c["in_chans"]
    params, macs = (kernel + 1 + tokens) * dim, tokens * kernel * dim
    flags = [stage < c["mask_unit_stages"] for stage in range(len(c["depth"]))]
    for stage, depth in enumerate(c["depth"]):
        out, hidden, heads = (c[name][stage] for name in ("embed_dim", "mlp_hidden", "num_heads"))
        inner = heads * c["head_dim"] if c["head_dim"] else out
        for block in range(depth):
            local = flags[stage - 1 if stage and not block else stage]
            after = tokens // 4 if not block and 0 < stage <= c["q_pool"] else tokens
            projects = not block and (stage > 0 or c["stem_dim"] is not None)
            params += 2 * dim + 3 * inner * (dim + 1) + out * (inner + 1) + projects * out * (dim + 1)
            params += 2 * out + hidden * (out + 1) + out * (hidden + 1)
            macs += tokens * dim * (3 * inner + projects * out) + after * out * (inner + 2 * hidden)
            u = units if local else 1
            macs += 2 * u * (after // u) * (tokens // u) * inner
            dim, tokens = out, after
    return params + 2 * dim + c["num_classes"] * (dim + 1), macs + c["num_classes"] * dim


FREE: dict[str, Any] = {
    "embed_dim": ((48, 64), (96, 112), (160, 200, 256), (320,)),
    "num_heads": ((1, 2), (2,), (4, 8), (8,)),
    "mlp_ratio": ((2, 3), (3,), (4,), (1, 4)),
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("turbovit", {}),
        ("hiera", {}),
        ("turbovit_digit_pairs", {}),
        ("turbovit", FREE),
        ("turbovit", {"head_dim": 16, "num_heads": (1, 2, 4), "image_size": (224, 448)}),
        ("turbovit", {"q_pool": 2, "mask_unit_stages": (0, 2)}),
        ("turbovit", {"image_size": 32, "depth": ((1,), (2, 3)), "patch_kernel": 5, "num_classes": 10}),
    ],
)
def test_costs_are_the_closed_forms(name: str, options: dict[str, Any]) -> None:
    space, rng = search_spaces.get(name, **options), np.random.default_rng(0)
    archs = [*space.presets.values(), *(space.sample(rng) for _ in range(20))]
    for arch in archs:
        cost = space.cost(arch)
        assert (cost.params, cost.macs) == closed_forms(space, arch)
    costs = space.costs(space.encode(archs))
    assert costs["macs"].tolist() == [space.cost(arch).macs for arch in archs]


def test_a_list_of_lists_is_a_choice_per_stage() -> None:
    space = search_spaces.get("turbovit", **FREE)
    names = {choice.name for choice in space.choices}
    assert {"embed_dim.0", "embed_dim.3", "num_heads.2", "mlp_ratio.1", "depth.0"} <= names
    assert "embed_dim" not in names
    assert space.size == (2 * 2 * 3) * (2 * 2) * (2 * 2) * (2 * 3 * 13 * 3) * 3 * 2
    config = plain_config(space, space.largest)
    assert (config["embed_dim"], config["num_heads"]) == ([64, 112, 256, 320], [2, 2, 8, 8])
    assert config["mlp_hidden"] == [3 * 64, 3 * 112, 4 * 256, 4 * 320]


@pytest.mark.parametrize(
    ("size", "patch"),
    [
        ((224, 224), 4),
        ((256, 384), 4),
        ((160, 160), 4),
        ((8, 8), 2),
        ((8, 16), 2),
        ((16, 16), 4),
        ((32, 32), 4),
        ((12, 12), 3),
        ((4, 4), 1),
        ((7, 7), 1),
    ],
)
def test_patches_of_a_size_that_suits_the_image(size: tuple[int, int], patch: int) -> None:
    assert default_patch_size(size) == patch


@pytest.mark.parametrize("size", [(8, 8), (8, 16), (32, 32), (64, 64), (96, 96), (128, 128), (224, 224)])
def test_what_is_left_out_depends_on_the_image(size: tuple[int, int]) -> None:
    space = search_spaces.get("turbovit", image_size=size)
    base = LARGE if min(size) >= 128 else SMALL
    assert space.options["depth"] == base["depth"]
    assert space.options["embed_dim"] == base["embed_dim"]
    assert space.options["patch_size"] == default_patch_size(size)
    assert space.cost(space.smallest).macs < space.cost(space.largest).macs


def test_what_is_left_out_follows_what_is_given() -> None:
    two = search_spaces.get("turbovit", image_size=32, depth=((1,), (1,)))
    assert (two.options["mask_unit_stages"], two.options["q_pool"]) == ((1,), 1)
    assert search_spaces.get("turbovit", embed_dim=(96, 128)).options["wide_stem"] == (False,)
    one_unit = search_spaces.get("turbovit", image_size=8, patch_size=2)
    assert one_unit.options["mask_unit_stages"] == (2,)
    assert search_spaces.get("turbovit", image_size=8, wide_stem=True).options["wide_stem"] == (True,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 240, "patch_size": 4}, "both sides must be multiples of 32"),
        ({"image_size": 12, "patch_size": 2}, "both sides must be multiples of 8"),
        ({"image_size": (8, 16, 3)}, "image_size"),
        ({"depth": ((1, 2),)}, "at least two stages"),
        ({"depth": 3}, "depth = 3 is not a list"),
        ({"depth": ((1,), (2, 1))}, "depth of stage 1"),
        ({"embed_dim": ((48,), (96,))}, "embed_dim = ((48,), (96,)) has not one entry for each of the 4"),
        ({"embed_dim": (64, 48)}, "embed_dim"),
        ({"embed_dim": ()}, "embed_dim"),
        ({"num_heads": (5,)}, "A width of 48 in stage 0 cannot be divided among 5 heads"),
        ({"num_heads": ((1,), (1,), (1,), (5,))}, "A width of 384 in stage 3 cannot be divided among 5"),
        ({"mlp_ratio": (0.001,)}, "FFN neurons"),
        ({"mlp_ratio": ((1,), (1,), (1,), (2, 1))}, "mlp_ratio of stage 3"),
        ({"mask_unit_stages": (1, 4)}, "numbers from 0 to 3"),
        ({"mask_unit_stages": (2, 1)}, "ascending"),
        ({"mask_unit_stages": (True,)}, "ascending"),
        (
            {"image_size": 32, "patch_size": 4, "depth": ((1,),) * 4, "mask_unit_stages": (1, 2)},
            "single mask",
        ),
        ({"wide_stem": "yes"}, "wide_stem = 'yes'"),
        ({"wide_stem": (1,)}, "wide_stem"),
        ({"wide_stem": (False, True), "stem_dim": 64}, "narrower than stage 0 with 96"),
        ({"q_pool": 4}, "q_pool = 4 is not from 0 to 3"),
        ({"head_dim": 0}, "head_dim"),
        ({"patch_kernel": 4}, "patch_kernel = 4 is even"),
        ({"patch_size": "4"}, "patch_size"),
        ({"norm_eps": 2.0}, "norm_eps"),
        ({"num_classes": None}, "num_classes"),
        ({"embed_dmi": (64,)}, "no option 'embed_dmi'"),
        ({"stages": 4}, "no option 'stages'"),
    ],
)
def test_impossible_spaces_are_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        search_spaces.get("turbovit", **options)
    assert message in caught.value.message

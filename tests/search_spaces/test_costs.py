"""Costs: the tables equal the sums over layers, exactly, and ViTs have their known parameters."""

import numpy as np
import pytest
from made_spaces import HUGE, nested
from numpy.typing import NDArray

import search_spaces
from search_spaces import Part, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.layers import Layer, cost_of
from search_spaces.space import Codes
from search_spaces.tables import Table, merged, table

FIELDS = ("params", "macs", "activation_bytes", "weight_bytes")


@pytest.fixture(params=[*search_spaces.names(), "nested"])
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return nested() if request.param == "nested" else search_spaces.get(request.param)


def test_tables_equal_sums_over_layers(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    archs = [space.smallest, space.largest, *(space.sample(rng) for _ in range(20))]
    costs = space.costs(space.encode(archs))
    for i, arch in enumerate(archs):
        one = cost_of(space.layers(arch))
        assert space.cost(arch) == one
        assert [int(costs[field][i]) for field in FIELDS] == [getattr(one, field) for field in FIELDS]
        assert one.weight_bytes == 4 * sum(layer.params for layer in space.layers(arch))
        assert one.activation_bytes == 4 * sum(layer.output_elements for layer in space.layers(arch))


def test_vectorised_equals_one_by_one(space: SearchSpace) -> None:
    def features(layer: Layer) -> tuple[float, float]:
        return (1.0, layer.input_elements / 3)

    codes = space.sample_choices(np.random.default_rng(0), 30)
    together = space.totals(codes, features)
    assert together.shape == (30, 2)
    assert (together == np.concatenate([space.totals(code[None], features) for code in codes])).all()
    assert (together[:, 0] == [len(space.layers(arch)) for arch in space.decode(codes)]).all()
    assert space.totals(codes[:0], features).shape == (0, 2)


def test_counts_beyond_a_double_are_exact() -> None:
    space = nested()
    plain = space.preset("plain")
    assert space.cost(plain).params == HUGE + (1 * 2 + 2) + (3 * 2 + 2) + (2 * 2 + 2) + (8 * 3 + 3)
    params = space.costs(space.encode([plain]))["params"]
    assert params.dtype == np.int64
    assert int(params[0]) == space.cost(plain).params
    large = search_spaces.get("matformer_vit_l16")
    assert (
        int(large.costs(large.encode([large.largest]))["macs"][0]) == large.cost(large.largest).macs > 2**31
    )


@pytest.mark.parametrize(
    ("variant", "counts"),
    [
        ("matformer_vit_b16", {"xl": 86_567_656, "l": 58_237_672, "m": 44_072_680, "s": 36_990_184}),
        ("matformer_vit_l16", {"xl": 304_326_632, "l": 203_614_184, "m": 153_257_960, "s": 128_079_848}),
    ],
)
def test_parameters_at_the_four_granularities(variant: str, counts: dict[str, int]) -> None:
    space = search_spaces.get(variant)
    assert {name: space.cost(space.preset(name)).params for name in counts} == counts


@pytest.mark.parametrize("dim", [64, 256, 1024])
def test_weights_per_layer_are_5_6_8_and_12_d_squared(dim: int) -> None:
    space = search_spaces.get("matformer_vit_b16", embed_dim=(dim,), num_heads=(dim // 64,))
    for name, factor in {"s": 5, "m": 6, "l": 8, "xl": 12}.items():
        first = [layer for layer in space.layers(space.preset(name)) if layer.name.startswith("blocks.0.")]
        assert (
            sum(layer.shape[1] * layer.shape[2] for layer in first if layer.kind == "linear")
            == factor * dim**2
        )


def test_vit_b16_macs_are_the_known_ones() -> None:
    space = search_spaces.get("matformer_vit_b16")
    n, d = 197, 768
    block = n * 12 * d * d + 2 * n * n * d
    assert space.cost(space.largest).macs == 196 * 16 * 16 * 3 * d + 12 * block + d * 1000


def test_a_part_of_too_many_choices_is_refused() -> None:
    space = search_spaces.get("matformer_vit_b16")
    names = tuple(choice.name for choice in space.choices)
    wide = SearchSpace("wide", "none", space.choices, (Part(names, lambda _: ()),), {})
    with pytest.raises(UsageError, match="'wide' depends on too many choices"):
        wide.costs(wide.encode([wide.smallest]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": (32, 16)}, "ascending"),
        ({"embed_dim": (16, 16)}, "ascending"),
        ({"depth": ()}, "depth"),
        ({"depth": (0, 1)}, "positive"),
        ({"num_heads": (1.5,)}, "integers"),
        ({"num_heads": ("2",)}, "integers"),
        ({"mlp_ratio": (True,)}, "numbers"),
        ({"mlp_ratio": (0.01, 4)}, "FFN neurons"),
        ({"mlp_ratio": (1, 1.001)}, "FFN neurons"),
        ({"image_size": 15}, "15x15 pixels"),
        ({"image_size": (8, 16, 3)}, "image_size"),
        ({"image_size": "8"}, "image_size"),
        ({"patch_size": 0}, "patch_size"),
        ({"patch_size": 1, "image_size": 8}, "convolutional stem"),
        ({"stem": "cnov"}, "stem = 'cnov'"),
        ({"act": "swish"}, "act = 'swish'"),
        ({"pool": "token"}, "pool = 'token'"),
        ({"head_dim": -8}, "head_dim"),
        ({"per_layer": ("depth",)}, "'depth' cannot be chosen per layer"),
        ({"embed_dmi": (16,)}, "no option 'embed_dmi'"),
    ],
)
def test_impossible_matformers_are_one_sentence(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        search_spaces.get("matformer", **options)
    assert message in caught.value.message


@pytest.mark.parametrize("name", search_spaces.names())
def test_merged_tables_have_the_sums_of_the_parts(name: str) -> None:
    space = search_spaces.get(name)

    def features(layer: Layer) -> tuple[int, int, int]:
        return layer.macs, layer.params, layer.input_elements

    tables = [table(space.name, space.choices, part, features) for part in space.parts]
    codes = space.sample_choices(np.random.default_rng(0), 200)
    assert len(merged(tables)) <= len(tables)
    np.testing.assert_array_equal(_looked_up(merged(tables), codes), _looked_up(tables, codes))


def _looked_up(tables: list[Table], codes: Codes) -> NDArray[np.int64]:
    total = np.zeros((len(codes), 1), dtype=np.int64)
    for values, columns, shape in tables:
        index = np.zeros(len(codes), dtype=np.int64)
        for column, size in zip(columns, shape, strict=True):
            index = index * size + codes[:, column] + 1
        total = total + values[index]
    return total

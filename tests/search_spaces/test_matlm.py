"""Decoders as plain numbers: published sizes to the last parameter, layers left out, costs of decoding."""

import itertools
import json

import numpy as np
import pytest

import search_spaces
from nas.spaces.job_space import exact_metrics
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.families.matlm import decoding, kept_layers, layer_values, memory

LAYERS, VOCABULARY = 16, 256_000
# Table 4 of the paper, in millions as printed: all parameters, and without the embedding, of XL, L, M, S.
PUBLISHED = {
    ("matlm_78m", 256): ((78, 74, 72, 71), (12.6, 8.4, 6.3, 5.3)),
    ("matlm_180m", 512): ((180, 164, 157, 152), (50, 33.7, 25.3, 21.1)),
    ("matlm_310m", 768): ((310, 272, 253, 244), (113, 75, 56, 47)),
    ("matlm_463m", 1024): ((463, 397, 363, 346), (201, 134, 100, 84)),
    ("matlm_850m", 1536): ((850, 696, 620, 582), (453, 302, 227, 189)),
}
# The same without norms and biases, which the table does not count.
EXACT_850M = {"xl": 452_984_832, "l": 301_989_888, "m": 226_492_416, "s": 188_743_680}
RATIOS = {"xl": 4, "l": 2, "m": 1, "s": 0.5}


@pytest.mark.parametrize(("name", "dim"), PUBLISHED)
def test_every_cell_of_the_published_sizes(name: str, dim: int) -> None:
    space = search_spaces.get(name)
    total, beside = PUBLISHED[name, dim]
    for place, (preset, ratio) in enumerate(RATIOS.items()):
        layers = space.layers(space.preset(preset))
        counted = {
            kind: sum(one.params for one in layers if one.kind == kind) for kind in ("linear", "embedding")
        }
        assert counted["embedding"] == VOCABULARY * dim
        assert counted["linear"] == LAYERS * (4 + 2 * ratio) * dim**2
        norms = (2 * LAYERS + 1) * dim
        assert space.cost(space.preset(preset)).params == sum(counted.values()) + norms
        # As printed: cut or rounded to the last digit; the largest of all, 846.2M, stands there as 850M.
        assert counted["linear"] / 1e6 == pytest.approx(beside[place], rel=0.014)
        assert sum(counted.values()) / 1e6 == pytest.approx(total[place], rel=0.01)


def test_the_largest_published_size_is_known_to_the_last_parameter() -> None:
    space = search_spaces.get("matlm_850m")
    for preset, count in EXACT_850M.items():
        layers = space.layers(space.preset(preset))
        assert sum(layer.params for layer in layers if layer.kind == "linear") == count
    assert VOCABULARY * 1536 == 393_216_000


def test_mix_and_match_of_the_paper() -> None:
    """Its table 5: mixes of two granularities of the 850M model, by the parameters beside the embedding."""
    space = search_spaces.get("matlm_850m")
    largest = dict(space.largest.values)
    mixes = {245.4: (1,) * 12 + (2,) * 4, 278.4: (1,) * 5 + (2,) * 11, 377.5: (2,) * 8 + (4,) * 8}
    for millions, ratios in mixes.items():
        arch = space.architecture(largest | {f"mlp_ratio.{i}": ratio for i, ratio in enumerate(ratios)})
        linear = sum(layer.params for layer in space.layers(arch) if layer.kind == "linear")
        assert round(linear / 1e6, 1) == millions


def test_smollm2_has_its_134_515_008_parameters() -> None:
    space = search_spaces.get("smollm2_135m")
    assert space.cost(space.largest).params == 134_515_008
    assert space.size == 5**30


@pytest.mark.parametrize("tied", [True, False])
def test_tied_logits_have_no_weights_of_their_own(tied: bool) -> None:
    space = search_spaces.get("matlm", tied=tied)
    head = space.layers(space.largest)[-1]
    assert (head.name, head.params) == ("head", 0 if tied else 64 * 256)
    assert head.macs == 64 * 64 * 256


def small(**options: object) -> SearchSpace:
    fixed = {"embed_dim": (16,), "num_heads": (2,), "mlp_hidden": (8, 16), "head_dim": 4}
    return search_spaces.get("matlm", **(fixed | options))


def test_layers_are_left_out_in_the_order_that_is_given() -> None:
    space = small(depth=(2, 3, 5), order=(2, 1, 4))
    kept = {
        arch["depth"]: kept_layers(space.options, dict(arch.values))
        for arch in space.decode(space.all_codes())
    }
    assert kept == {2: [0, 3], 3: [0, 3, 4], 5: [0, 1, 2, 3, 4]}
    assert space.size == 2**2 + 2**3 + 2**5
    two = space.architecture({"depth": 2, "embed_dim": 16, "num_heads": 2, "mlp_hidden": [16, None, None, 8]})
    assert layer_values(space, two) == [(0, 2, 16), (3, 2, 8)]
    blocks = {layer.name.split(".")[1] for layer in space.layers(two) if layer.name.startswith("blocks")}
    assert blocks == {"0", "1"}
    from_the_end = small(depth=(2, 3, 5))
    assert from_the_end.options["order"] == (4, 3, 2)


def test_layers_are_left_out_one_by_one() -> None:
    space = small(depth=(4,), optional=(1, 3), per_layer=("num_heads", "mlp_hidden"))
    assert space.size == 2 * 2 * 3 * 3  # a layer that may be left out has one more option than its FFN
    codes = space.all_codes()
    for arch, total in zip(space.decode(codes), space.costs(codes)["params"], strict=True):
        layers = space.layers(arch)
        numbers = sorted({int(layer.name.split(".")[1]) for layer in layers if "blocks" in layer.name})
        assert numbers == list(range(len(layer_values(space, arch))))
        assert total == sum(layer.params for layer in layers)
    least = space.architecture(
        {"exists": [None, False, None, False], "embed_dim": 16, "depth": 4}
        | {"num_heads": [2, None, 2], "mlp_hidden": [8, None, 8]}
    )
    assert [index for index, _, _ in layer_values(space, least)] == [0, 2]


def test_heads_come_in_whole_groups() -> None:
    space = small(num_heads=(3, 6, 9), heads_per_kv=3, depth=(1,))
    shapes = {
        layer.shape
        for arch in space.decode(space.all_codes())
        for layer in space.layers(arch)
        if layer.kind == "causal_attention"
    }
    assert shapes == {(3, 1, 64, 64, 4), (6, 2, 64, 64, 4), (9, 3, 64, 64, 4)}


@pytest.mark.parametrize("context", [1, 7, 300])
def test_one_step_of_decoding_is_counted_at_its_context(context: int) -> None:
    space = small(depth=(3,), heads_per_kv=2, vocabulary=50)
    step = decoding(space, context=context)
    arch = space.largest
    attention = 2 * 2 * context * 4
    projections = 16 * (8 + 4 + 4) + 8 * 16 + 3 * 16 * 16
    assert step.cost(arch).macs == 3 * (attention + projections) + 16 * 50
    assert step.cost(arch).params == space.cost(arch).params
    assert step.choices == space.choices
    codes = space.all_codes()
    assert (step.costs(codes)["macs"] == [step.cost(a).macs for a in space.decode(codes)]).all()


def test_memory_is_that_of_weights_and_of_keys_and_values() -> None:
    space = search_spaces.get("smollm2_135m")
    codes = space.encode([space.smallest, space.largest])
    needed = memory(space, codes, context=512, batch=4, element_bytes=2)
    assert needed["weight_bytes"].tolist() == [2 * space.cost(a).params for a in space.decode(codes)]
    assert needed["kv_bytes"].tolist() == [2 * 30 * 3 * 64 * 512 * 4 * 2] * 2  # heads are not chosen
    assert (needed["memory_bytes"] == needed["weight_bytes"] + needed["kv_bytes"]).all()
    fewer = search_spaces.get("smollm2_135m", depth=(15, 30), num_heads=(3, 9))
    least = memory(fewer, fewer.encode([fewer.smallest]), context=512)
    assert least["kv_bytes"].tolist() == [2 * 15 * 1 * 64 * 512 * 4]


def test_a_job_counts_keys_and_values_in_place_of_activations() -> None:
    space = search_spaces.get("matlm")
    codes = space.all_codes()
    wanted = memory(space, codes, context=space.options["context"])["memory_bytes"]
    assert (exact_metrics(space, codes)["memory_bytes"] == wanted).all()
    both = search_spaces.union({"text": space, "images": search_spaces.get("matformer")})
    images = search_spaces.get("matformer")
    pictures = images.sample_choices(np.random.default_rng(0), 5)
    costs = images.costs(pictures)
    assert exact_metrics(both, both.joined_codes("images", pictures))["memory_bytes"].tolist() == (
        (costs["weight_bytes"] + costs["activation_bytes"]).tolist()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": 0}, "vocabulary = 0 is not a positive integer"),
        ({"context": True}, "context = True is not a positive integer"),
        ({"head_dim": 5}, "head_dim = 5 is odd"),
        ({"heads_per_kv": 3}, "num_heads = 2 is no whole number of groups of 3 heads"),
        ({"mlp_ratio": (1,), "mlp_hidden": (8,)}, "mlp_ratio and mlp_hidden both say how wide FFNs are"),
        ({"mlp_ratio": (0.001, 1)}, "FFN neurons"),
        ({"mlp_hidden": (8.5,)}, "must be integers"),
        ({"per_layer": ("mlp_hidden",)}, "'mlp_hidden' cannot be chosen per layer"),
        ({"order": (0, 0, 1)}, "not a list of different layers from 0 to 3"),
        ({"order": (4,)}, "not a list of different layers from 0 to 3"),
        ({"order": (3,)}, "order names 1 layers, and the smallest depth leaves 3 out"),
        ({"optional": (1,)}, "depth and optional both leave layers out"),
        ({"depth": (2,), "optional": (0, 1)}, "optional names all layers"),
        ({"tied": 1}, "tied = 1 is neither true nor false"),
        ({"act": "swish"}, "act = 'swish' is unknown"),
        ({"norm_eps": "small"}, "norm_eps = 'small' is no number"),
        ({"rope_theta": float("nan")}, "rope_theta = nan is no number"),
        ({"image_size": (8, 8)}, "The matlm space has no option 'image_size'"),
    ],
)
def test_impossible_decoders_are_one_sentence(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        search_spaces.get("matlm", **options)
    assert message in caught.value.message


def test_every_way_to_choose_is_made_of_its_options() -> None:
    ways = itertools.product(
        [{}, {"mlp_hidden": (8, 16)}, {"mlp_ratio": (1, 2)}],
        [{}, {"per_layer": ("num_heads",)}, {"per_layer": ()}],
        [{"depth": (1, 4)}, {"depth": (2, 4), "order": (1, 2)}, {"depth": (4,), "optional": (0, 2)}],
    )
    for ffn, per_layer, depth in ways:
        space = search_spaces.get("matlm", **(ffn | per_layer | depth))
        again = search_spaces.get("matlm", **json.loads(json.dumps(dict(space.options))))
        assert (again.choices, again.options) == (space.choices, space.options)

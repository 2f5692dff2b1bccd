"""The law of search spaces: for every space in the folder, one made by hand, and spaces made at random."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_spaces import nested, spaces
from scipy.stats import chisquare

import search_spaces
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import NotFoundError, UsageError

SPACES = [*search_spaces.names(), "nested"]
SEEDS = st.integers(0, 2**32 - 1)


def small(**options: object) -> SearchSpace:
    """24 architectures: 2 widths x (2 of depth 1, 4 of depth 2) x 2 numbers of heads."""
    defaults = {"embed_dim": (16, 32), "depth": (1, 2), "num_heads": (2, 4), "mlp_ratio": (1, 2)}
    return search_spaces.get("matformer", **(defaults | options))


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return nested() if request.param == "nested" else search_spaces.get(request.param)


def brute_force(space: SearchSpace) -> set[Architecture]:
    names = [choice.name for choice in space.choices]
    points = itertools.product(*(choice.options for choice in space.choices))
    return {space.architecture(dict(zip(names, point, strict=True))) for point in points}


def assert_inside(space: SearchSpace, arch: Architecture) -> None:
    assert space.architecture(json.loads(json.dumps(arch.to_dict()))) == arch
    codes = space.encode([arch])
    assert (space.canonical(codes) == codes).all()
    assert space.decode(codes) == [arch]
    for choice in space.choices:
        active = choice.needs is None or (
            choice.needs[0] in arch and arch[choice.needs[0]] in choice.needs[1]
        )
        assert (choice.name in arch) == active


def mutated(space: SearchSpace, rng: np.random.Generator, arch: Architecture, *, rate: float) -> Architecture:
    """`arch` with each choice redrawn with probability `rate`."""
    codes = space.encode([arch])
    return space.decode(space.redrawn(rng, codes, rng.random(codes.shape) < rate))[0]


def crossed(space: SearchSpace, rng: np.random.Generator, a: Architecture, b: Architecture) -> Architecture:
    """A child of two parents."""
    return space.decode(space.crossed(rng, space.encode([a]), space.encode([b])))[0]


def assert_lawful(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = space.sample(rng), space.sample(rng)
    drawn = space.sample_choices(rng, 4)
    assert drawn.shape == (4, len(space.choices))
    children = [crossed(space, rng, a, b), *(mutated(space, rng, a, rate=rate) for rate in (0.0, 0.3, 1.0))]
    assert children[1] == a
    for arch in (a, b, *space.decode(drawn), *children, *space.uniform(3), *space.presets.values()):
        assert_inside(space, arch)
    codes = rng.integers(0, [len(choice.options) for choice in space.choices], size=(20, len(space.choices)))
    once = space.canonical(codes)
    assert (space.canonical(once) == once).all()


@given(space=spaces(), seed=SEEDS)
def test_any_space_is_lawful(space: SearchSpace, seed: int) -> None:
    assert_lawful(space, seed)


def test_every_space_is_lawful(space: SearchSpace) -> None:
    for seed in range(3):
        assert_lawful(space, seed)


@given(space=spaces())
def test_size_and_keys_match_an_enumeration(space: SearchSpace) -> None:
    found = brute_force(space)
    assert space.size == len(found) == len({arch.key for arch in found})
    assert set(space.decode(space.all_codes())) == found
    assert len(space.all_codes()) == space.size


@pytest.mark.parametrize("per_layer", [(), ("mlp_ratio",), ("num_heads", "mlp_ratio")])
def test_size_of_small_spaces(per_layer: tuple[str, ...]) -> None:
    space = small(per_layer=per_layer)
    assert space.size == len(brute_force(space)) == {0: 16, 1: 24, 2: 40}[len(per_layer)]


def test_size_of_big_spaces_is_exact() -> None:
    assert search_spaces.get("matformer_vit_b16").size == 4**12 == 16_777_216
    assert search_spaces.get("matformer").size == 3 * 3 * (4 + 16 + 64 + 256)
    deep = search_spaces.get("matformer_vit_b16", depth=(12, 100), per_layer=("num_heads", "mlp_ratio"))
    assert deep.size == 4**12 + 4**100
    assert_inside(deep, deep.sample(np.random.default_rng(0)))


def test_the_hand_made_space_has_the_size_counted_by_hand() -> None:
    # conv: 3 (width.1); attention: heads 1, or heads 2, 4 with gated False, or True with 2 slopes.
    assert nested().size == 4 * (3 + 1 + 2 * (1 + 2))


def test_a_gap_in_a_per_layer_list_survives_the_round_trip() -> None:
    space = nested()
    arch = space.architecture({"kind": "attention", "heads": 1, "width": [2, None, 1]})
    assert arch.to_dict() == {"kind": "attention", "heads": 1, "width": [2, None, 1]}
    assert arch.per_layer("width") == (2, 1)
    assert_inside(space, arch)


def test_equal_networks_have_one_key() -> None:
    space = small()
    short = {"embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": [2]}
    same = [
        short | {"mlp_ratio": [2, 1]},
        short | {"mlp_ratio": [2.0, 2]},
        short | {"mlp_ratio": (2,)},
        {"mlp_ratio.0": 2, "num_heads": 2, "depth": 1, "embed_dim": 16},
    ]
    arch = space.architecture(short)
    for values in same:
        assert space.architecture(values) == arch
        assert space.architecture(values).key == arch.key
        assert str(space.architecture(values)) == str(arch)


def test_the_key_is_the_same_in_every_process() -> None:
    arch = small().architecture({"embed_dim": 16, "depth": 2, "num_heads": 4, "mlp_ratio": [1, 2]})
    assert str(arch) == '{"embed_dim": 16, "depth": 2, "num_heads": 4, "mlp_ratio": [1, 2]}'
    assert arch.key == "3qykey74owcg"


def test_an_architecture_reads_like_a_mapping() -> None:
    arch = small().largest
    assert (arch["embed_dim"], arch.per_layer("mlp_ratio")) == (32, (2, 2))
    assert "mlp_ratio.1" in arch
    assert "mlp_ratio.2" not in arch
    assert list(arch) == ["embed_dim", "depth", "num_heads", "mlp_ratio.0", "mlp_ratio.1"]
    with pytest.raises(KeyError):
        arch["mlp_ratio.2"]


def frequencies(archs: list[Architecture], space: SearchSpace) -> list[int]:
    counts = dict.fromkeys(brute_force(space), 0)
    for arch in archs:
        counts[arch] += 1
    return list(counts.values())


def test_sampling_is_uniform_over_architectures() -> None:
    space, rng = small(), np.random.default_rng(0)
    uniform = frequencies([space.sample(rng) for _ in range(2400)], space)
    assert chisquare(uniform).pvalue > 0.001
    by_choice = frequencies(space.decode(space.sample_choices(rng, 2400)), space)
    assert chisquare(by_choice).pvalue < 1e-9
    depths = np.array([arch["depth"] for arch in space.decode(space.sample_choices(rng, 2400))])
    assert abs((depths == 1).mean() - 0.5) < 4 * math.sqrt(0.25 / 2400)


def test_the_same_generator_gives_the_same_draws(space: SearchSpace) -> None:
    def draws(seed: int) -> list[Architecture]:
        rng = np.random.default_rng(seed)
        a, b = space.sample(rng), space.sample(rng)
        return [a, b, mutated(space, rng, a, rate=0.5), crossed(space, rng, a, b)]

    assert draws(3) == draws(3)
    assert space.size == 1 or any(draws(3) != draws(seed) for seed in range(4, 8))


def test_a_child_has_only_its_parents_values() -> None:
    space, rng = search_spaces.get("matformer"), np.random.default_rng(0)
    for _ in range(50):
        a, b = space.sample(rng), space.sample(rng)
        child = crossed(space, rng, a, b)
        for name, value in child.values:
            inherited = [parent[name] for parent in (a, b) if name in parent]
            assert value in inherited or not inherited


def test_mutation_changes_about_its_rate() -> None:
    space, rng = search_spaces.get("matformer_vit_b16"), np.random.default_rng(0)
    changed = [
        sum(
            mutated(space, rng, space.smallest, rate=0.4)[name] != value
            for name, value in space.smallest.values
        )
        for _ in range(300)
    ]
    assert np.mean(changed) == pytest.approx(12 * 0.4 * 3 / 4, abs=0.3)


def test_uniform_goes_from_smallest_to_largest(space: SearchSpace) -> None:
    steps = space.uniform(4)
    assert (steps[0], steps[-1]) == (space.smallest, space.largest)
    for choice in space.choices:
        ranks = [choice.options.index(arch[choice.name]) for arch in steps if choice.name in arch]
        assert ranks == sorted(ranks)
    assert space.uniform(1) == [space.smallest]
    assert len(set(space.uniform(64))) == len(space.uniform(64))


def test_uniform_of_a_matformer_is_its_granularities() -> None:
    space = search_spaces.get("matformer_vit_b16")
    assert space.uniform(4) == [space.preset(name) for name in ("s", "m", "l", "xl")]


def test_presets_are_found_by_name() -> None:
    space = nested()
    assert space.preset("plain").to_dict() == {"kind": "conv", "width": [1, 3, 2]}
    assert space.preset("largest") == space.largest
    with pytest.raises(NotFoundError, match="no preset 'larges'") as caught:
        space.preset("larges")
    assert "largest" in caught.value.hint


def test_listing_a_big_space_is_refused() -> None:
    with pytest.raises(UsageError, match="16777216"):
        search_spaces.get("matformer_vit_b16").all_codes()

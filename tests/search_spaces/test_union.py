"""Several spaces as one: every architecture is one of a member's, with that one's costs and layers."""

import numpy as np
import pytest

import search_spaces
from search_spaces import SearchSpace, described, description, union
from search_spaces.errors import UsageError
from search_spaces.space import INACTIVE
from search_spaces.union import MEMBER, SpaceUnion, joined, taken_apart

SIZES = {"image_size": (8, 8), "in_chans": 1, "num_classes": 10}
COARSE = {"patch_size": 4, "embed_dim": (8, 16), "depth": (1, 2, 3), "num_heads": (1, 2)}
STAGES = {
    "patch_size": 2,
    "embed_dim": [[4, 8], [8], [8, 16]],
    "num_heads": [[1, 2], [1], [1]],
    "mlp_hidden": [[8, 16], [16], [16]],
    "depth": [2, 1, 1],
    "optional": [[0, 1], [], []],
}


@pytest.fixture(scope="module")
def members() -> dict[str, SearchSpace]:
    coarse = search_spaces.get("matformer", **SIZES, **COARSE)
    fine = search_spaces.get("matformer", **SIZES, **(COARSE | {"patch_size": 2}))
    return {"coarse": coarse, "fine": fine, "stages": search_spaces.get("vit_resnas", **SIZES, **STAGES)}


@pytest.fixture(scope="module")
def whole(members: dict[str, SearchSpace]) -> SpaceUnion:
    return union(members)


def test_its_size_is_the_sum(whole: SpaceUnion, members: dict[str, SearchSpace]) -> None:
    assert whole.size == sum(space.size for space in members.values())
    codes = whole.all_codes()
    assert len(codes) == whole.size
    assert len(np.unique(codes, axis=0)) == whole.size
    for name, space in members.items():
        assert whole.is_of(name, codes).sum() == space.size


def test_codes_and_plain_data_go_there_and_back(whole: SpaceUnion) -> None:
    codes = whole.sample_choices(np.random.default_rng(0), 200)
    archs = whole.decode(codes)
    assert (whole.encode(archs) == codes).all()
    assert (whole.canonical(codes) == codes).all()
    assert [whole.architecture(arch.to_dict()) for arch in archs] == archs
    assert set(codes[:, 0]) == {0, 1, 2}
    for name in whole.members:
        own = whole.own_codes(name, codes[whole.is_of(name, codes)])
        assert (own >= INACTIVE).all()
        assert (whole.joined_codes(name, own) == codes[whole.is_of(name, codes)]).all()


def test_costs_and_layers_are_those_of_the_member(whole: SpaceUnion, members: dict[str, SearchSpace]) -> None:
    codes = whole.sample_choices(np.random.default_rng(1), 200)
    costs = whole.costs(codes)
    largest = whole.maxima(codes, lambda layer: (layer.output_elements,))[:, 0]
    for i, arch in enumerate(whole.decode(codes)):
        name, own = whole.own(arch)
        cost = members[name].cost(own)
        assert (costs["params"][i], costs["macs"][i]) == (cost.params, cost.macs)
        assert costs["activation_bytes"][i] == cost.activation_bytes
        assert whole.layers(arch) == members[name].layers(own)
        assert largest[i] == max(layer.output_elements for layer in members[name].layers(own))


def test_equal_choices_of_two_members_are_two_subnets(
    whole: SpaceUnion, members: dict[str, SearchSpace]
) -> None:
    own = members["coarse"].largest
    coarse, fine = joined("coarse", own), joined("fine", own)
    assert coarse.key != fine.key
    assert taken_apart(fine) == ("fine", own)
    assert whole.cost(coarse).macs < whole.cost(fine).macs


def test_mutants_and_children_are_architectures_of_one_member(whole: SpaceUnion) -> None:
    rng = np.random.default_rng(2)
    a, b = whole.sample_choices(rng, 100), whole.sample_choices(rng, 100)
    for codes in (whole.crossed(rng, a, b), whole.redrawn(rng, a, rng.random(a.shape) < 0.3)):
        archs = whole.decode(codes)
        assert [whole.architecture(arch.to_dict()) for arch in archs] == archs


def test_every_member_is_among_those_that_are_looked_at_first(whole: SpaceUnion) -> None:
    first = whole.uniform(4)
    assert [taken_apart(arch)[0] for arch in first[:3]] == ["coarse", "fine", "stages"]
    assert {taken_apart(arch)[0] for arch in whole.largest_of_each} == {"coarse", "fine", "stages"}
    assert whole.cost(whole.largest).macs == max(whole.costs(whole.all_codes())["macs"])
    assert whole.cost(whole.smallest).macs == min(whole.costs(whole.all_codes())["macs"])


def test_a_store_describes_it(whole: SpaceUnion) -> None:
    again = described(description(whole))
    assert isinstance(again, SpaceUnion)
    assert list(again.members) == ["coarse", "fine", "stages"]
    assert again.choices == whole.choices
    assert description(again) == description(whole)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"embed_dim": 8}, f"'{MEMBER}' is missing"),
        ({MEMBER: "fien", "embed_dim": 8}, "There is no supernet 'fien'"),
        ({MEMBER: "fine", "embed_dim": 9}, "embed_dim = 9 is not in space"),
        ({MEMBER: ["fine"]}, "There is no supernet"),
    ],
)
def test_what_is_no_architecture_is_told(whole: SpaceUnion, values: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        whole.architecture(values)

"""Architectures that are parts of another one, in a space of one family and of several supernets."""

import pytest

import search_spaces
from nas.analysis.narrower import alone, check_same_supernet, ffn_choices, is_part, together, uniform
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.union import joined, union

SPACE = search_spaces.get("matlm", embed_dim=[16, 32], depth=[2, 3], num_heads=[2], mlp_hidden=[8, 16, 24])
BOTH = union({"a": SPACE, "b": SPACE})


def arch(*hidden: int, dim: int = 32) -> Architecture:
    values = {"embed_dim": dim, "depth": len(hidden), "num_heads": 2, "mlp_hidden": list(hidden)}
    return SPACE.architecture(values)


def widths(parts: list[Architecture]) -> list[list[int]]:
    return [list(part.to_dict()["mlp_hidden"]) for part in parts]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (arch(8, 24, 16), True),
        (arch(24, 16, 16), True),
        (arch(24, 24, 16), False),  # the target itself
        (arch(24, 24, 24), False),  # wider in a layer
        (arch(8, 8), False),  # other layers
        (arch(8, 8, 8, dim=16), False),  # another width
    ],
)
def test_a_part_differs_in_narrower_ffns_alone(part: Architecture, expected: bool) -> None:
    assert is_part(SPACE, part, arch(24, 24, 16)) == expected
    assert is_part(BOTH, joined("a", part), joined("a", arch(24, 24, 16))) == expected
    assert not is_part(BOTH, joined("b", part), joined("a", arch(24, 24, 16)))


@pytest.mark.parametrize(("space", "name"), [(SPACE, ""), (BOTH, "b")], ids=["one", "several"])
def test_parts_to_try(space: SearchSpace, name: str) -> None:
    target = joined(name, arch(24, 8, 24)) if name else arch(24, 8, 24)
    ffn = ffn_choices(space, target)
    assert ffn == ["mlp_hidden.0", "mlp_hidden.1", "mlp_hidden.2"]
    assert widths(uniform(space, target)) == [[8, 8, 8], [16, 8, 16]]
    single = alone(space, target)
    assert {choice: widths([part])[0] for choice, part in single.items()} == {
        "mlp_hidden.0": [8, 8, 24],
        "mlp_hidden.2": [24, 8, 8],  # layer 1 is as narrow as can be
    }
    some = together(space, target, ["mlp_hidden.2", "mlp_hidden.0", "mlp_hidden.1"])
    assert widths(some) == [[24, 8, 8], [8, 8, 8], [24, 8, 16], [16, 8, 16]]
    assert all(is_part(space, part, target) for part in (*uniform(space, target), *single.values(), *some))
    assert uniform(space, joined(name, arch(8, 8)) if name else arch(8, 8)) == []


def test_where_one_width_is_chosen_for_all_layers_none_is_alone() -> None:
    space = search_spaces.get("matlm", depth=[2], mlp_ratio=[1, 2, 4], per_layer=["num_heads"])
    assert len(uniform(space, space.largest)) == 2
    assert alone(space, space.largest) == {}
    assert together(space, space.largest, []) == []


def test_images_have_no_drafts_and_supernets_none_of_each_other() -> None:
    vision = search_spaces.get("matformer")
    assert ffn_choices(vision, vision.largest) == []
    with pytest.raises(UsageError, match="is of supernet 'b', and the target of 'a'"):
        check_same_supernet(BOTH, joined("b", arch(8, 8)), joined("a", arch(24, 24)))
    check_same_supernet(BOTH, joined("a", arch(8, 8)), joined("a", arch(24, 24)))

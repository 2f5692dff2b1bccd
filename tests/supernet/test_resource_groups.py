"""Groups of like cost: those of SN-Netv2's released rule, exact levels, bins, and a gap that is too wide."""

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from elastic_nets import space as elastic_space

import search_spaces
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.layers import fvcore_flops
from supernet.training.resource_groups import Groups, bin_groups, collapsed, gap_groups, level_groups, macs

PUBLISHED = [1, *[12] * 11, 1]
TINY = {"embed_dim": 192, "depth": 12, "num_heads": 3}
SMALL = {"embed_dim": 384, "depth": 12, "num_heads": 6}


@cache
def two_way(pair: str) -> SearchSpace:
    if pair == "ti_s":
        return search_spaces.get("sn_net_v2_deit3_s_b", anchors=(TINY, SMALL))
    return search_spaces.get(f"sn_net_v2_deit3_{pair}")


def elastic(**options: Any) -> SearchSpace:
    return elastic_space(**({"depth": (2,), "embed_dim": (16,), "num_heads": (4,)} | options))


def sizes(groups: Groups) -> list[int]:
    return [len(group) for group in groups]


def members(groups: Groups) -> list[Architecture]:
    return [arch for group in groups for arch in group]


@pytest.mark.parametrize("pair", ["s_l", "b_l", "s_b"])
def test_a_gap_of_one_gflop_groups_the_published_spaces_as_published(pair: str):
    assert sizes(gap_groups(two_way(pair), 1e9, amount=fvcore_flops)) == PUBLISHED


def test_the_same_gap_lumps_small_anchors_together_and_levels_do_not():
    assert sizes(gap_groups(two_way("ti_s"), 1e9, amount=fvcore_flops)) == [37, 48, 48, 1]
    for pair in ("ti_s", "s_l"):
        assert sizes(level_groups(two_way(pair))) == PUBLISHED


def test_levels_and_a_fitting_gap_are_the_same_groups():
    space = two_way("s_l")
    assert level_groups(space) == gap_groups(space, 1e9)


def test_without_levels_of_its_own_a_family_is_grouped_by_exact_macs():
    space = elastic()
    groups = level_groups(space)
    costs = [{space.cost(arch).macs for arch in group} for group in groups]
    assert all(len(of_group) == 1 for of_group in costs)
    assert [min(c) for c in costs] == sorted({space.cost(arch).macs for arch in members(groups)})
    assert len(set(members(groups))) == len(members(groups)) == space.size > len(groups)


@pytest.mark.parametrize("bins", [1, 2, 5, 40])
def test_bins_have_equal_widths_and_none_is_empty(bins: int):
    space = elastic(depth=(1, 2, 3))
    groups = bin_groups(space, bins)
    costs = [[space.cost(arch).macs for arch in group] for group in groups]
    low, high = costs[0][0], costs[-1][-1]
    assert (low, high) == (space.cost(space.smallest).macs, space.cost(space.largest).macs)
    numbers = [{min(bins - 1, (cost - low) * bins // (high - low)) for cost in group} for group in costs]
    assert all(len(number) == 1 for number in numbers)
    assert [min(number) for number in numbers] == sorted(set.union(*numbers))
    assert len(set(members(groups))) == space.size
    assert sizes(groups)[0] >= 1


def test_one_architecture_is_one_bin():
    space = elastic(mlp_ratio=(4,))
    assert bin_groups(space, 7) == ((space.largest,),)


@pytest.mark.parametrize(
    "grouped",
    [
        level_groups,
        lambda space, **o: bin_groups(space, 3, **o),
        lambda space, **o: gap_groups(space, 1, **o),
    ],
    ids=["levels", "bins", "gap"],
)
def test_what_is_left_out_is_in_no_group(grouped: Any):
    space = two_way("s_l")
    anchors = {space.preset("anchor0"), space.preset("anchor1")}
    kept = members(grouped(space, leave_out=anchors))
    assert len(kept) == len(set(kept)) == space.size - 2
    assert anchors.isdisjoint(kept)
    with pytest.raises(UsageError, match="no subnet that a step could train"):
        grouped(space, leave_out=members(level_groups(space)))


def test_groups_and_members_go_from_cheap_to_dear():
    space = two_way("ti_s")
    costs = [space.cost(arch).macs for arch in members(gap_groups(space, 5e8))]
    assert costs == sorted(costs)


def test_a_space_that_cannot_be_listed_is_refused():
    with pytest.raises(UsageError, match="too many architectures"):
        level_groups(search_spaces.get("matformer_vit_b16"))


def test_a_gap_that_lumps_levels_together_is_told_with_one_that_does_not():
    assert collapsed(two_way("s_l"), 1e9) is None
    space = two_way("ti_s")
    warning = collapsed(space, 1e9)
    assert warning is not None
    assert "gap of 1 GMACs puts the 13 resource levels" in warning
    assert "into 4 groups; a gap below 0.276 GMACs keeps them apart." in warning
    starts = [macs(space.layers(group[0])) for group in level_groups(space)]
    step = min(b - a for a, b in pairwise(starts))
    assert 0.276e9 <= step < 0.277e9
    assert collapsed(space, step - 1) is None
    assert collapsed(space, step) is not None


def test_levels_that_overlap_are_kept_apart_by_no_gap():
    space = elastic(mlp_ratio=(1, 2, 4))

    def levelled(gap: float) -> str | None:
        with pytest.MonkeyPatch.context() as patch:
            level = staticmethod(lambda arch: arch.per_layer("mlp_ratio")[0] % 4)
            patch.setattr("search_spaces.families.matformer.level", level, raising=False)
            return collapsed(space, gap)

    warning = levelled(1e9)
    assert warning is not None
    assert warning.endswith("into 1 group; a gap of no size keeps them apart.")

"""The stitching space's sizes, windows, orders and levels as SN-Net's and SN-Netv2's code makes them.

The released FLOPs and parameters are in `test_stitching_releases.py`.
"""

import itertools
import json
from collections import Counter

import pytest

import search_spaces
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.families.stitching import layout_of, level, published_ids
from search_spaces.layers import fvcore_flops
from search_spaces.shapes.stitches import Stitch, nearest_cuts, window_cuts

DEIT = "sn_net_deit_ti_s_b"
SMALL_LARGE = "sn_net_v2_deit3_s_l"
V1_TEXTS = {
    3: "0[0:1]>1[0:12]",
    24: "0[0:8]>1[7:12]",
    34: "0[0:11]>1[11:12]",
    56: "1[0:7]>2[7:12]",
    62: "1[0:9]>2[9:12]",
}


def flops_and_params(space: SearchSpace, published: int) -> tuple[int, int]:
    arch = published_ids(space)[published]
    return fvcore_flops(space.layers(arch)), space.cost(arch).params


def test_v1_ids_are_those_of_the_release() -> None:
    ids = published_ids(search_spaces.get(DEIT))
    assert {i: ids[i]["stitch"] for i in V1_TEXTS} == V1_TEXTS


def test_a_stitch_ends_with_the_last_norm() -> None:
    space = search_spaces.get(DEIT)
    assert flops_and_params(space, 36)[0] == 1_652_464_512
    assert flops_and_params(space, 24) == (2_759_346_048, 13_076_776)
    assert flops_and_params(space, 56) == (10_048_796_928, 49_298_152)


def test_v1_has_71_members_34_pairs_and_11_layers_a_pair() -> None:
    space = search_spaces.get(DEIT)
    layout = layout_of(space.options)
    assert space.size == len(layout.members) == 71
    assert len(layout.layers) == 22
    assert [(cut.last, cut.first) for cut in layout.layers[6]] == [(6, 7), (7, 6), (7, 7)]
    pairs = Counter((cut.front, cut.end) for layer in layout.layers for cut in layer)
    assert pairs == {(0, 1): 34, (1, 2): 34}
    assert len({fvcore_flops(space.layers(arch)) for arch in published_ids(space).values()}) == 71


@pytest.mark.parametrize(
    ("kernel", "stride", "members", "layers"),
    [(1, 1, 27, 12), (2, 2, 51, 6), (3, 1, 111, 10), (4, 1, 147, 9), (4, 4, 99, 3)],
)
def test_other_windows_give_the_released_codes_numbers(
    kernel: int, stride: int, members: int, layers: int
) -> None:
    space = search_spaces.get(DEIT, kernel=kernel, stride=stride)
    assert space.size == members
    assert len(layout_of(space.options).layers) == 2 * layers


@pytest.mark.parametrize(
    ("kernel", "stride", "members"),
    [(2, 1, 732), (1, 1, 117), (2, 2, 387), (3, 1, 1748), (4, 1, 3035)],
)
def test_all_pairs_of_anchors_and_chains_of_three(kernel: int, stride: int, members: int) -> None:
    space = search_spaces.get(DEIT, kernel=kernel, stride=stride, nearest=False, chains=True)
    assert space.size == members


def test_windows_come_in_the_releases_order() -> None:
    windows = window_cuts(12, kernel=2, stride=1, lengthening=True)
    assert windows[0] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert windows[1] == [(1, 2), (2, 1), (2, 2)]
    assert windows[10] == [(10, 11), (11, 10), (11, 11)]


@pytest.mark.parametrize("depth", [6, 8, 12, 24])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_windows_of_stride_one_have_a_closed_form(depth: int, kernel: int) -> None:
    windows = window_cuts(depth, kernel=kernel, stride=1, lengthening=True)
    assert len(windows) == depth - kernel + 1
    assert sum(map(len, windows)) == depth + 2 * sum(depth - m for m in range(1, kernel))


@pytest.mark.parametrize(("front", "end", "pairs"), [(6, 18, 17), (12, 24, 23), (2, 4, 3), (2, 6, 5)])
def test_unpaired_cuts_keep_their_own_layer(front: int, end: int, pairs: int) -> None:
    layers = nearest_cuts(front, end)
    assert len(layers) == front
    assert sum(map(len, layers)) == pairs
    # The release shifts the layers by one where it drops the pair (0, 0): (1, 3) falls to layer 0 there.
    assert all({j for j, _ in cuts} == {layer} for layer, cuts in enumerate(layers))


def test_swin_is_stitched_inside_its_first_three_stages() -> None:
    space = search_spaces.get("sn_net_swin_t_s_b")
    assert space.size == 41
    stages = Counter()
    for cuts in layout_of(space.options).layers:
        for cut in cuts:
            bounds = [(2, 2, 6, 2), (2, 2, 18, 2), (2, 2, 18, 2)]
            (a, b) = (
                next(s for s, last in enumerate(itertools.accumulate(bounds[anchor])) if block < last)
                for anchor, block in ((cut.front, cut.last), (cut.end, cut.first))
            )
            assert a == b
            stages[cut.front, a] += 1
    assert stages == {(0, 0): 1, (0, 1): 1, (0, 2): 17, (1, 0): 1, (1, 1): 1, (1, 2): 17}


@pytest.mark.parametrize("name", [SMALL_LARGE, "sn_net_v2_deit3_b_l", "sn_net_v2_deit3_s_b"])
def test_v2_has_134_members_in_13_levels(name: str) -> None:
    space = search_spaces.get(name)
    ids = published_ids(space)
    assert space.size == len(ids) == 134
    assert set(range(135)) - set(ids) == {13}
    assert sorted(Counter(map(level, ids.values())).values()) == [1, 1, *[12] * 11]
    assert len({fvcore_flops(space.layers(arch)) for arch in ids.values()}) == 44


def test_v2_ids_are_those_of_the_release() -> None:
    ids = {i: arch["stitch"] for i, arch in published_ids(search_spaces.get(SMALL_LARGE)).items()}
    assert ids[6] == "0[0:5]>1[10:24]"
    assert [ids[i] for i in (14, 15, 16)] == ["1[0:2]>0[1:12]", "1[0:4]>0[2:12]", "1[0:6]>0[3:12]"]
    assert ids[123] == "0[0:6]>1[12:20]>0[10:12]"
    routes = Counter(tuple(s.anchor for s in Stitch.parse(str(text)).segments) for text in ids.values())
    assert routes == {(0,): 1, (1,): 1, (0, 1): 11, (1, 0): 11, (1, 0, 1): 55, (0, 1, 0): 55}


@pytest.mark.parametrize(("small", "large"), [(6, 6), (12, 24), (24, 24), (4, 12), (5, 15), (3, 3)])
def test_v2_at_any_depth_and_ratio(small: int, large: int) -> None:
    """The release hard-codes depth 12 and a ratio of at most 2."""
    anchors = [
        {"embed_dim": 8, "depth": small, "num_heads": 1},
        {"embed_dim": 16, "depth": large, "num_heads": 2},
    ]
    space = search_spaces.get("stitching", anchors=anchors, scheme="v2")
    layout = layout_of(space.options)
    assert space.size == small * (small - 1) + 2
    cuts = [cut for layer in layout.layers for cut in layer]
    assert len(cuts) == len(set(cuts)) == 2 * (small - 1)
    for stitch in filter(None, layout.members):
        assert all(segment.begin < segment.end for segment in stitch.segments)
        # Two blocks of the small net stand for `ratio` blocks of the large one: no stitch skips or repeats.
        share = [(s.end - s.begin) * (large // small if s.anchor == 0 else 1) for s in stitch.segments]
        assert sum(share) == large


def test_the_whole_small_anchor_under_the_large_head_when_asked() -> None:
    space = search_spaces.get(SMALL_LARGE, whole_small=True)
    assert space.size == 135
    assert published_ids(space)[13]["stitch"] == "0[0:12]>1[24:24]"


@pytest.mark.parametrize("name", [DEIT, SMALL_LARGE, "sn_net_swin_t_s_b", "stitching"])
def test_members_are_listed_by_cost_and_read_back(name: str) -> None:
    space = search_spaces.get(name)
    archs = space.decode(space.all_codes())
    macs = [space.cost(arch).macs for arch in archs]
    assert macs == sorted(macs)
    assert space.costs(space.all_codes())["macs"].tolist() == macs
    for arch in archs:
        assert str(Stitch.parse(str(arch["stitch"]))) == arch["stitch"]
    again = search_spaces.get(space.family, **json.loads(json.dumps(dict(space.options))))
    assert published_ids(again) == published_ids(space)


def test_a_stitch_that_there_is_not_brings_close_ones() -> None:
    space = search_spaces.get(DEIT)
    with pytest.raises(UsageError, match=r"stitch = '0\[0:8\]>1\[4:12\]' is not in space") as caught:
        space.architecture({"stitch": "0[0:8]>1[4:12]"})
    assert "There are 71 options; close ones: " in caught.value.hint
    assert len(caught.value.hint) < 120
    with pytest.raises(UsageError, match="is not a stitch"):
        Stitch.parse("0[0:8]>1")

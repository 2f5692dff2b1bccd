"""Ids, FLOPs and parameters of every stitch in the result files of SN-Net and SN-Netv2, row by row."""

import itertools

import pytest

import search_spaces
from search_spaces import SearchSpace
from search_spaces.families.stitching import layout_of, published_ids
from search_spaces.layers import fvcore_flops
from search_spaces.shapes.stitches import Stitch

# FLOPs (as fvcore counts) and parameters by id: stitching_swin/results/stitches_res.txt.
SWIN = [
    *[(4509194496, 28288354), (8768534784, 49606258), (15467826176, 87768224), (8797436160, 49615570)],
    *[(15220458496, 87692407), (8797436160, 49568818), (14619249664, 87165468), (8797436160, 49383154)],
    *[(8442491136, 47606662), (8442491136, 47606662), (8087546112, 45830170), (7732601088, 44053678)],
    *[(7732601088, 44053678), (7377656064, 42277186), (7022711040, 40500694), (7022711040, 40500694)],
    *[(6667766016, 38724202), (6312820992, 36947710), (6312820992, 36947710), (5957875968, 35171218)],
    *[(5602930944, 33394726), (5602930944, 33394726), (5247985920, 31618234), (4893040896, 29841742)],
    *[(14026420224, 85063014), (13753964544, 83684418), (13481508864, 82305822), (13209053184, 80927226)],
    *[(12936597504, 79548630), (12664141824, 78170034), (12391686144, 76791438), (12119230464, 75412842)],
    *[(11846774784, 74034246), (11574319104, 72655650), (11301863424, 71277054), (11029407744, 69898458)],
    *[(10756952064, 68519862), (10484496384, 67141266), (10212040704, 65762670), (9939585024, 64384074)],
    (9667129344, 63005478),
]
# The same of stitching_deit/results/stitches_res.txt.
DEIT = [
    *[(1258411200, 5717416), (4608338304, 22050664), (17582740224, 86567656), (4696010496, 22345960)],
    *[(4316862720, 20571496), (4798437888, 22790824), (4419290112, 21016360), (4040142336, 19241896)],
    *[(4521717504, 21461224), (4142569728, 19686760), (3763421952, 17912296), (4244997120, 20131624)],
    *[(3865849344, 18357160), (3486701568, 16582696), (3968276736, 18802024), (3589128960, 17027560)],
    *[(3209981184, 15253096), (3691556352, 17472424), (3312408576, 15697960), (2933260800, 13923496)],
    *[(3414835968, 16142824), (3035688192, 14368360), (2656540416, 12593896), (3138115584, 14813224)],
    *[(2758967808, 13038760), (2379820032, 11264296), (2861395200, 13483624), (2482247424, 11709160)],
    *[(2103099648, 9934696), (2584674816, 12154024), (2205527040, 10379560), (1826379264, 8605096)],
    *[(2307954432, 10824424), (1928806656, 9049960), (1549658880, 7275496), (2031234048, 9494824)],
    *[(1652086272, 7720360), (17961426432, 88190440), (16505958912, 81102568), (18340574208, 89964904)],
    *[(16885106688, 82877032), (15429639168, 75789160), (17264254464, 84651496), (15808786944, 77563624)],
    *[(14353319424, 70475752), (16187934720, 79338088), (14732467200, 72250216), (13276999680, 65162344)],
    *[(15111614976, 74024680), (13656147456, 66936808), (12200679936, 59848936), (14035295232, 68711272)],
    *[(12579827712, 61623400), (11124360192, 54535528), (12958975488, 63397864), (11503507968, 56309992)],
    *[(10048040448, 49222120), (11882655744, 58084456), (10427188224, 50996584), (8971720704, 43908712)],
    *[(10806336000, 52771048), (9350868480, 45683176), (7895400960, 38595304), (9730016256, 47457640)],
    *[(8274548736, 40369768), (6819081216, 33281896), (8653696512, 42144232), (7198228992, 35056360)],
    *[(5742761472, 27968488), (7577376768, 36830824), (6121909248, 29742952)],
]
# SN-Netv2, S-L, classification/results/stitches_res_s_l.txt: FLOPs of the anchors and of both directions ...
V2_ENDS = [4608338304, 61604135936]
V2_SMALL_LARGE = [
    *[56843745792, 52102230016, 47360714240, 42619198464, 37877682688, 33136166912, 28394651136],
    *[23653135360, 18911619584, 14170103808, 9428588032],
]
V2_LARGE_SMALL = [
    *[9523655552, 14265171328, 19006687104, 23748202880, 28489718656, 33231234432, 37972750208],
    *[42714265984, 47455781760, 52197297536, 56938813312],
]
# ... and of two cuts: rows of 10, 9, ..., 1 ids that all begin alike.
V2_SMALL_IN_LARGE = [
    *[57017547264, 52276031488, 47534515712, 42792999936, 38051484160, 33309968384, 28568452608],
    *[23826936832, 19085421056, 14343905280],
]
V2_LARGE_IN_SMALL = [
    *[9504781184, 14246296960, 18987812736, 23729328512, 28470844288, 33212360064, 37953875840],
    *[42695391616, 47436907392, 52178423168],
]
TOKENS = 197
WIDTHS = {"sn_net_deit_ti_s_b": (192, 384, 768), "sn_net_swin_t_s_b": (96, 96, 128)}


def costs(space: SearchSpace) -> dict[int, tuple[int, int]]:
    archs = published_ids(space)
    return {i: (fvcore_flops(space.layers(arch)), space.cost(arch).params) for i, arch in archs.items()}


def merging_params(dim: int) -> int:
    """A norm of four joined tokens of `dim` channels, and the linear layer behind it."""
    return 2 * 4 * dim + 4 * dim * 2 * dim


def test_ids_and_costs_of_all_41_swin_stitches() -> None:
    """Their released parameters leave out the mergings of the front, which stitches in later stages run."""
    name = "sn_net_swin_t_s_b"
    space = search_spaces.get(name)
    ours, released = costs(space), {}
    for i, arch in published_ids(space).items():
        first = Stitch.parse(str(arch["stitch"])).segments[0]
        whole, dim = ">" not in str(arch["stitch"]), WIDTHS[name][first.anchor]
        stage = 0 if whole else sum(first.end > bound for bound in (2, 4))
        flops, params = ours[i]
        released[i] = flops, params - sum(merging_params(dim * 2**s) for s in range(stage))
    assert released == dict(enumerate(SWIN))


def test_ids_and_costs_of_all_71_deit_stitches() -> None:
    """The release runs no last norm in a stitch, and counts neither class token nor positions."""
    name = "sn_net_deit_ti_s_b"
    space = search_spaces.get(name)
    released = {}
    for i, (flops, params) in costs(space).items():
        segments = Stitch.parse(str(published_ids(space)[i]["stitch"])).segments
        front, end = (WIDTHS[name][s.anchor] for s in (segments[0], segments[-1]))
        cut = len(segments) > 1
        released[i] = flops - cut * 5 * TOKENS * end, params - cut * (TOKENS + 1) * front
    assert released == dict(enumerate(DEIT))


def test_ids_and_flops_of_all_134_stitches_of_v2() -> None:
    rows = range(10, 0, -1)
    there = itertools.chain.from_iterable(V2_SMALL_IN_LARGE[:row] for row in rows)
    back = itertools.chain.from_iterable(V2_LARGE_IN_SMALL[:row] for row in rows)
    released = [*V2_ENDS, *V2_SMALL_LARGE, None, *V2_LARGE_SMALL, *there, *back]
    ours = {i: flops for i, (flops, _) in costs(search_spaces.get("sn_net_v2_deit3_s_l")).items()}
    assert ours == {i: flops for i, flops in enumerate(released) if flops is not None}
    assert len(ours) == 134


def test_members_are_counted_by_stage_and_weights_by_pair() -> None:
    """Numbers of stitching layers are names of weights in stored supernets, so their order never changes."""
    layout = layout_of(search_spaces.get("sn_net_swin_t_s_b").options)
    ids = [str(stitch) for stitch in layout.members[3:9]]
    assert ids == [
        *["0[0:1]>1[1:24]", "1[0:1]>2[1:24]", "0[0:3]>1[3:24]", "1[0:3]>2[3:24]"],
        *["0[0:5]>1[5:24]", "0[0:5]>1[6:24]"],
    ]
    pairs = [(cuts[0].front, cuts[0].end) for cuts in layout.layers]
    assert pairs == [*[(0, 1)] * 8, *[(1, 2)] * 19]
    assert [cuts[0].first for cuts in layout.layers] == [
        *[1, 3, 5, 7, 10, 13, 16, 19],
        *[1, 3, *range(5, 22)],
    ]


@pytest.mark.parametrize("nearest", [True, False])
def test_stages_come_before_pairs_in_any_swins(nearest: bool) -> None:
    depths = [(2, 3, 2), (2, 3, 2), (3, 4, 2)]
    swins = [
        {"kind": "swin", "embed_dim": 24 + 24 * i, "depths": d, "num_heads": (3, 6, 12)}
        for i, d in enumerate(depths)
    ]
    space = search_spaces.get("stitching", anchors=swins, scheme="v1", nearest=nearest, image_size=(112, 112))
    cuts = [s.cuts[0] for s in layout_of(space.options).members[3:] if s is not None]
    bounds = [list(itertools.accumulate(d)) for d in depths]
    order = [(sum(cut.first >= end for end in bounds[cut.end]), cut.front) for cut in cuts]
    assert order == sorted(order)
    assert {stage for stage, _ in order} == {0, 1}

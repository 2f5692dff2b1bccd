"""Spaces that no machine can hold are refused from plain numbers, at once."""

import time
from typing import Any

import pytest

import search_spaces
from search_spaces.bounds import DEEPEST, LARGEST_BYTES, MOST, MOST_STITCHES
from search_spaces.errors import UsageError
from search_spaces.shapes.stitches import window_cuts

SECONDS = (
    60.0  # of CPU on a busy machine; most take milliseconds, and what was refused too late took for ever
)
VIT = {"embed_dim": 64, "depth": 4, "num_heads": 4}
SWIN = {"kind": "swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
MANY = list(range(1, DEEPEST + 1))
HUGE = [10**9, 10**12, 2**63, 10**400, float("inf"), float("nan"), True]
NUMBERS = {
    "matformer": ("embed_dim", "depth", "num_heads", "mlp_ratio", "patch_size", "head_dim", "image_size"),
    "autoformer": ("embed_dim", "depth", "num_heads", "mlp_ratio", "rel_pos", "in_chans"),
    "vit_resnas": ("patch_size", "stem_dim", "num_classes", "image_size"),
    "turbovit": ("embed_dim", "num_heads", "mlp_ratio", "head_dim", "patch_kernel", "image_size"),
    "stitching": ("kernel", "stride", "rank", "image_size", "patch_size"),
    "vit_resnas_small": ("patch_size",),
    "autoformer_base": ("depth", "embed_dim"),
}
LARGE: list[tuple[str, dict[str, Any], str]] = [
    ("matformer", {"depth": [1, 1_000_000]}, "depth"),
    ("matformer", {"depth": MANY, "num_heads": list(range(1, 64))}, "too many options"),
    ("autoformer", {"depth": [1, DEEPEST], "embed_dim": [MOST]}, "'autoformer'"),
    ("matformer", {"embed_dim": [MOST], "mlp_ratio": [MOST], "patch_size": 2}, "parameters"),
    ("matformer", {"image_size": [MOST, MOST], "embed_dim": [4096]}, "activations"),
    ("vit_resnas", {"depth": [1_000_000, 3, 3]}, "depth of stage 0"),
    ("vit_resnas", {"depth": [200, 200, 200]}, "depth over all stages"),
    ("vit_resnas", {"mlp_hidden": [[10**9]] * 3}, "mlp_hidden of stage 0"),
    ("vit_resnas", {"head_dim": [8] * 10_000}, "number of stages"),
    ("turbovit", {"depth": [[1, 10**6]] * 3}, "depth of stage 0"),
    ("turbovit", {"depth": [[1]] * 9_000}, "number of stages"),
    ("stitching", {"anchors": [VIT | {"depth": 10**9}] * 2}, "Anchor 0: depth"),
    ("stitching", {"anchors": [VIT | {"depth": 200}] * 2, "scheme": "v1", "kernel": 200}, "stitches"),
    ("stitching", {"anchors": [VIT] * 5_000}, "number of anchors"),
    ("stitching", {"anchors": [SWIN | {"depths": [2, 2, 10**9, 2]}] * 2}, "depths"),
    ("stitching", {"anchors": [SWIN | {"mlp_ratio": float("inf")}] * 2}, "mlp_ratio"),
]  # fmt: skip


@pytest.mark.parametrize(("space", "options", "named"), LARGE)
def test_what_no_machine_holds_is_refused_before_anything_is_made(
    space: str, options: dict[str, Any], named: str
) -> None:
    begun = time.process_time()
    with pytest.raises(UsageError) as caught:
        search_spaces.get(space, **options)
    assert time.process_time() - begun < SECONDS
    assert named in caught.value.message
    assert len(caught.value.message) < 1_000


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize(("space", "name"), [(space, name) for space in NUMBERS for name in NUMBERS[space]])
def test_impossible_numbers_are_one_sentence(space: str, name: str, value: Any) -> None:
    begun = time.process_time()
    for given in (value, [value], "x", {}, [[]]):
        with pytest.raises(UsageError) as caught:
            search_spaces.get(space, **{name: given})
        assert name in caught.value.message + caught.value.hint
        assert len(caught.value.message) < 1_000
    assert time.process_time() - begun < SECONDS


def test_published_spaces_are_far_from_the_bounds() -> None:
    for name in search_spaces.names():
        space = search_spaces.get(name)
        assert space.cost(space.largest).params * 16 < LARGEST_BYTES / 50
        assert len(space.choices) < 100
    assert search_spaces.get("sn_net_v2_deit3_s_l").size < MOST_STITCHES / 20


@pytest.mark.parametrize("lengthening", [False, True])
@pytest.mark.parametrize(
    ("depth", "kernel", "stride"), [(1, 1, 1), (12, 2, 1), (7, 3, 2), (6, 9, 1), (9, 2, 4)]
)
def test_windows_hold_each_pair_once(depth: int, kernel: int, stride: int, lengthening: bool) -> None:
    seen: set[tuple[int, int]] = set()
    expected = []
    for start in range(0, depth, stride):
        ids = range(start, min(start + kernel, depth))
        pairs = [(j, k) for j in ids for k in ids if (j, k) not in seen and (lengthening or j < k)]
        seen |= set(pairs)
        expected += [pairs] if pairs else []
    assert window_cuts(depth, kernel=kernel, stride=stride, lengthening=lengthening) == expected

"""Swin transformers as plain numbers: released counts, places of flat blocks, sizes that do not fit."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from search_spaces.errors import UsageError
from search_spaces.layers import Layer, cost_of
from search_spaces.shapes.swin import (
    SwinConfig,
    block_layers,
    head_layers,
    place,
    resolution,
    stem_layers,
    width,
)

SMALL: dict[str, Any] = {"depths": (2, 2, 18, 2)}
BASE = SMALL | {"embed_dim": 128, "num_heads": (4, 8, 16, 32)}


def all_layers(config: SwinConfig) -> list[Layer]:
    blocks = range(sum(config.depths))
    inner = [layer for i in blocks for layer in block_layers(config, i, downsample=True)]
    return [*stem_layers(config), *inner, *head_layers(config)]


@pytest.mark.parametrize(
    ("numbers", "params", "flops"),
    [
        ({}, 28_288_354, 4_509_194_496),
        (SMALL, 49_606_258, 8_768_534_784),
        (BASE, 87_768_224, 15_467_826_176),
    ],
    ids=["T", "S", "B"],
)
def test_counts_of_the_release(numbers: dict[str, Any], params: int, flops: int):
    layers = all_layers(SwinConfig(**numbers))
    normed = sum(layer.output_elements for layer in layers if layer.kind == "norm")
    cost = cost_of(layers)
    assert cost.params == params
    assert cost.macs + 5 * normed == flops  # fvcore's, which the release prints


def test_blocks_are_counted_flat_over_the_stages():
    config = SwinConfig(image_size=(224, 448))
    assert [place(config, i) for i in (0, 1, 2, 4, 9, 10)] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 5), (3, 0)]
    assert [width(config, i) for i in (1, 2, 4, 11)] == [96, 192, 384, 768]
    assert [resolution(config, i) for i in (1, 2, 4, 11)] == [(56, 112), (28, 56), (14, 28), (7, 14)]
    with pytest.raises(IndexError):
        place(config, 12)


def test_the_merging_belongs_to_the_first_block_of_a_later_stage():
    config = SwinConfig()
    for index in range(sum(config.depths)):
        block, alone = (block_layers(config, index, downsample=merged) for merged in (True, False))
        more = [layer.name for layer in block if layer not in alone]
        stage = {2: 1, 4: 2, 10: 3}.get(index)
        merging = [f"layers.{stage}.downsample.{part}" for part in ("norm", "reduction")]
        assert more == (merging if stage else [])


def test_json_data_make_the_same_config():
    config = SwinConfig(**BASE)
    again = SwinConfig(**json.loads(json.dumps(asdict(config))))
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ({"image_size": (226, 224)}, "226x224"),
        ({"image_size": 224}, "image_size"),
        ({"image_size": (224,)}, "image_size"),
        ({"image_size": (256, 256)}, "7x7 do not fill the 64x64"),
        ({"image_size": (196, 196), "window_size": 49}, "49x49 tokens of stage 0 cannot be merged"),
        ({"window_size": 5}, "5x5 do not fill"),
        ({"embed_dim": 100}, "3 heads do not divide the 100 channels"),
        ({"num_heads": (3, 6, 12, 36)}, "36 heads do not divide the 768 channels of stage 3"),
        ({"num_heads": (3, 6, 12)}, "4 stages and num_heads 3"),
        ({"depths": (2, 2, 0, 2)}, "depths"),
        ({"depths": ()}, "depths"),
        ({"depths": "2222"}, "depths"),
        ({"embed_dim": 96.0}, "embed_dim"),
        ({"num_classes": 0}, "num_classes"),
        ({"mlp_ratio": 0}, "mlp_ratio"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio"),
        ({"mlp_ratio": "4"}, "mlp_ratio"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(numbers: dict[str, Any], named: str):
    with pytest.raises(UsageError) as caught:
        SwinConfig(**numbers)
    assert named in caught.value.message

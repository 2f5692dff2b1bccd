"""From a job's data and its file to the space, and limits that no subnet can keep."""

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import search_spaces
import supernet
from nas.config import checked_config
from nas.datasets import DataSet
from nas.limits import Limit
from nas.spaces.job_space import check_limits, exact_metrics, probes, resolve
from search_spaces import SearchSpace
from search_spaces.errors import UsageError


@dataclass(frozen=True)
class Images:
    """As much of a data set as a space depends on."""

    input_shape: tuple[int, int, int]
    num_classes: int = 5


def space(shape: tuple[int, int, int], **options: Any) -> SearchSpace:
    config = checked_config({"supernet": {"space": options}}, where="here")
    return resolve(config, cast(DataSet, Images(shape)))


@pytest.mark.parametrize(
    ("size", "patch"),
    [
        ((8, 8), 2),
        ((8, 16), 2),
        ((16, 16), 4),
        ((32, 32), 8),
        ((64, 64), 16),
        ((64, 256), 16),
        ((224, 224), 32),
        ((48, 48), 8),
        ((6, 6), 2),
        ((28, 28), 4),
    ],
)
def test_the_patch_size_leaves_a_grid_of_four(size: tuple[int, int], patch: int):
    assert space((3, *size)).options["patch_size"] == patch


@given(st.integers(4, 64), st.integers(4, 64))
def test_the_default_patches_fit_every_even_image(height: int, width: int):
    found = space((1, 2 * height, 2 * width)).options["patch_size"]
    assert (2 * height) % found == (2 * width) % found == 0
    assert min(2 * height, 2 * width) // found >= 4


def test_sizes_come_from_the_data_and_the_job_file_has_the_last_word():
    found = space((3, 32, 32), patch_size=4, depth=[1, 2])
    assert found.options["image_size"] == (32, 32)
    assert (found.options["in_chans"], found.options["num_classes"]) == (3, 5)
    assert (found.options["patch_size"], found.options["depth"]) == (4, (1, 2))


def test_odd_images_need_a_patch_size():
    with pytest.raises(UsageError, match="15x15") as caught:
        space((1, 15, 15))
    assert "patch_size" in caught.value.hint
    assert space((1, 15, 15), patch_size=5, stem="patch").options["patch_size"] == 5


def test_a_timm_model_brings_its_own_patches():
    init = {"timm": "vit_tiny_patch16_224", "pretrained": False}
    config = checked_config({"supernet": {"init": init}}, where="here")
    found = resolve(config, cast(DataSet, Images((3, 64, 64)))).options
    assert (found["patch_size"], found["stem"], found["image_size"]) == (16, "patch", (64, 64))
    assert (found["embed_dim"], found["depth"], found["num_classes"]) == ((192,), (12,), 5)
    with pytest.raises(UsageError, match="patches of 16x16 pixels, which do not fill an image of 40x40"):
        resolve(config, cast(DataSet, Images((3, 40, 40))))


def test_memory_is_float32_weights_and_activations():
    found = search_spaces.get("matformer")
    codes = probes(found)[:50]
    metrics = exact_metrics(found, codes)
    for i, arch in enumerate(found.decode(codes)):
        cost = found.cost(arch)
        assert metrics["params"][i] == cost.params
        assert metrics["macs"][i] == cost.macs
        assert metrics["memory_bytes"][i] == cost.weight_bytes + cost.activation_bytes
    net = supernet.build(found)
    weights = sum(tensor.nbytes for tensor in net.extract(found.largest).state_dict().values())
    assert found.cost(found.largest).weight_bytes == weights
    assert metrics["memory_bytes"].dtype.kind in "iu"
    assert net(torch.zeros(1, 1, 8, 16), found.largest).shape == (1, 19)


def test_limits_that_none_keeps():
    found = search_spaces.get("matformer")
    measure, parse = partial(exact_metrics, found), Limit.parse
    costs = found.costs(found.all_codes())
    smallest, most = int(costs["params"].min()), int(costs["macs"].max())
    check_limits(found, (parse(f"params<={smallest}"),), measure)
    check_limits(found, (parse("latency_ms<=0"),), measure)  # not known yet
    with pytest.raises(UsageError, match=f"params<={smallest - 1}") as caught:
        check_limits(found, (parse(f"params<={smallest - 1}"),), measure)
    assert "goes from" in caught.value.message
    both = parse(f"params<={smallest}"), parse(f"macs>={most}")
    with pytest.raises(
        UsageError, match=f"keeps params<={smallest} and macs>={most}; the closest has params"
    ):
        check_limits(found, both, measure)
    with pytest.raises(UsageError, match="latency_ms"):
        check_limits(
            found, (parse("latency_ms<1"),), lambda codes: {"latency_ms": np.linspace(1, 2, len(codes))}
        )


def test_a_window_that_chance_does_not_hit_is_found():
    found = search_spaces.get("vit_resnas_small")
    measure, least = partial(exact_metrics, found), found.cost(found.smallest).macs
    window = Limit.parse(f"macs>={1.001 * least}"), Limit.parse(f"macs<={1.012 * least}")
    metrics = measure(probes(found))
    assert not (window[0].mask(metrics) & window[1].mask(metrics)).any()
    check_limits(found, window, measure)
    nowhere = Limit.parse(f"macs>={least + 1}"), Limit.parse(f"macs<={least + 9}")
    with pytest.raises(UsageError, match="was found that keeps macs"):
        check_limits(found, nowhere, measure)


def test_probes_hold_both_ends():
    found = search_spaces.get("matformer")
    codes = probes(found)
    first = found.decode(codes[:16])
    assert first[0] == found.smallest
    assert found.largest in first

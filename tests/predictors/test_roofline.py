"""What is particular to the additive predictor."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from fake_device import FEATURES_IN, measured, mlp, mlp_space

import search_spaces
from predictors import additive
from predictors._measurement import Measurement, measure
from predictors._metrics import score
from predictors._predictor import space_digest
from predictors.devices import torch_cpu
from search_spaces._errors import UsageError
from search_spaces._layers import Layer, attention, conv2d, linear, norm


def named(layer: Layer) -> dict[str, int]:
    values = dict(zip(additive.FEATURES, additive.layer_features(layer), strict=True))
    return {name: value for name, value in values.items() if value}


def test_features_of_each_kind() -> None:
    assert named(linear("fc", 5, 3, 2)) == {
        "launches": 1,
        "linear_macs": 30,
        "gemm_input_elements": 15,
        "gemm_output_elements": 10,
        "params": 8,
    }
    assert named(conv2d("stem", (4, 4), 3, 2, kernel=2, stride=2, bias=False)) == {
        "launches": 1,
        "conv_macs": 96,
        "gemm_input_elements": 48,
        "gemm_output_elements": 8,
        "params": 24,
    }
    assert named(attention("attn", 5, 2, 3, windows=4)) == {
        "launches": 1,
        "attention_macs": 2 * 4 * 2 * 25 * 3,
        "attention_elements": 4 * 4 * 5 * 6,
        "softmax_elements": 4 * 2 * 25,
        "attention_slices": 8,
    }
    assert named(attention("attn", 5, 2, 3, windows=4, keys=7)) == {
        "launches": 1,
        "attention_macs": 2 * 4 * 2 * 5 * 7 * 3,
        "attention_elements": 4 * (5 + 7 + 7 + 5) * 6,
        "softmax_elements": 4 * 2 * 5 * 7,
        "attention_slices": 8,
    }
    assert named(norm("norm", 5, 3)) == {"launches": 1, "norm_elements": 30, "params": 6}
    assert named(Layer("rope", "rotary", (1,), 0, 7, 10, 20)) == {
        "launches": 1,
        "linear_macs": 7,
        "other_elements": 30,
    }


def test_a_plain_layer_list_is_predicted_like_the_architecture() -> None:
    space = search_spaces.get("matformer")
    predictor = additive.Additive(space).fit(*measured(space, 20))
    for arch in space.uniform(4):
        mean, std = predictor.predict(space.encode([arch]))
        assert predictor.predict_layers(space.layers(arch)) == (pytest.approx(mean[0]), pytest.approx(std[0]))


def test_layers_of_other_networks_extrapolate_upwards_and_are_less_certain() -> None:
    space = search_spaces.get("matformer")
    predictor = additive.Additive(space).fit(*measured(space, 20))
    mean, std = predictor.predict_layers(space.layers(space.largest))
    larger_mean, larger_std = predictor.predict_layers(
        search_spaces.get("matformer_vit_b16").layers(search_spaces.get("matformer_vit_b16").largest)
    )
    assert larger_mean > 10 * mean
    assert larger_std / larger_mean > 2 * std / mean
    assert predictor.predict_layers([])[0] >= 0


def test_uncertainty_grows_outside_the_measured_range() -> None:
    space = search_spaces.get("matformer")
    codes, latency_ms = measured(space, 120)
    depth = [choice.name for choice in space.choices].index("depth")
    shallow = codes[:, depth] == 0
    assert shallow.sum() >= 8
    predictor = additive.build(space).fit(codes[shallow], latency_ms[shallow])
    mean, std = predictor.predict(codes)
    assert np.median((std / mean)[codes[:, depth] == 3]) > 1.5 * np.median((std / mean)[shallow])


def test_work_of_a_kind_never_measured_is_uncertain_by_the_whole_latency() -> None:
    space = mlp_space()
    codes = space.sample_choices(np.random.default_rng(0), 20)
    predictor = additive.Additive(space).fit(codes, 1.0 + space.costs(codes)["macs"] * 1e-4)
    known = predictor.predict_layers([linear("fc", 1, 64, 64)])
    mean, std = predictor.predict_layers([linear("fc", 1, 64, 64), attention("attn", 8, 2, 8)])
    assert known[1] < known[0] / 2
    assert std >= mean


def test_coefficients_are_never_negative() -> None:
    space = search_spaces.get("matformer")
    for seed in range(5):
        data = additive.build(space).fit(*measured(space, 12, seed=seed, noise=0.2)).to_json()
        assert isinstance(data["coefficients"], list)
        assert min(data["coefficients"]) >= 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("space", "other", "space is 'other', not 'matformer'"),
        ("version", 0, "version is 0, not 1"),
        ("predictor", "gp", "predictor is 'gp'"),
        ("terms", ["macs"], "terms is"),
        ("coefficients", [1.0], "damaged"),
        ("covariance", None, "damaged"),
        ("noise", float("nan"), "damaged"),
    ],
)
def test_refuses_json_of_something_else(key: str, value: object, message: str) -> None:
    space = search_spaces.get("matformer")
    data = additive.build(space).fit(*measured(space, 12)).to_json()
    with pytest.raises(UsageError, match=message):
        additive.build(space).from_json(data | {key: value})
    with pytest.raises(UsageError, match="None"):
        additive.build(space).from_json({name: item for name, item in data.items() if name != "version"})
    with pytest.raises(UsageError, match="damaged"):
        additive.build(space).from_json({name: item for name, item in data.items() if name != "covariance"})


def test_refuses_json_of_a_space_with_the_same_name_and_other_options() -> None:
    data = (
        additive.build(search_spaces.get("matformer"))
        .fit(*measured(search_spaces.get("matformer"), 12))
        .to_json()
    )
    with pytest.raises(UsageError, match="space_digest"):
        additive.build(search_spaces.get("matformer", depth=(1, 2))).from_json(data)


def test_predictors_of_earlier_versions_stay_valid() -> None:
    """Their digests, from before there were relative positions and whatever comes later."""
    assert space_digest(search_spaces.get("matformer")) == "0d19f70645dce686"
    small = search_spaces.get("matformer", embed_dim=(8, 16), depth=(1, 2), num_heads=(1, 2))
    assert space_digest(small) == "e767f9f6f6cf0916"
    assert space_digest(search_spaces.get("autoformer", rel_pos=2)) != space_digest(
        search_spaces.get("autoformer", rel_pos=0)
    )


def test_many_architectures_are_fast() -> None:
    space = search_spaces.get("matformer")
    predictor = additive.build(space).fit(*measured(space, 20))
    codes = space.sample_choices(np.random.default_rng(0), 100_000)
    start = time.thread_time()
    predictor.predict(codes)
    assert time.thread_time() - start < 1.0


def test_fits_a_real_measurement() -> None:
    space, device = mlp_space(widths=(64, 256, 512, 1024)), torch_cpu.build(batch=64)
    codes = np.unique(space.sample_choices(np.random.default_rng(0), 30), axis=0)[::2][:12]
    archs = space.decode(codes)
    results = measure(
        device,
        {arch.key: (lambda arch=arch: mlp(space, arch)) for arch in archs},
        torch.randn(64, FEATURES_IN),
        seed=0,
        max_rounds=5,
    )
    assert all(isinstance(result, Measurement) for result in results.values())
    latency_ms = np.array([results[arch.key].latency_ms for arch in archs])
    got = score(additive.build(space).fit(codes, latency_ms).predict(codes)[0], latency_ms)
    by_mean = score(np.full(len(codes), latency_ms.mean()), latency_ms)
    assert got.tau > 0.6
    assert got.mape < by_mean.mape / 2


def test_predicting_needs_no_torch_and_nothing_of_the_service() -> None:
    code = (
        "import sys; from predictors import additive; from predictors import _measurement, devices;"
        "print([m for m in ('torch', 'nas', 'supernet') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

"""What is particular to the roofline predictor: features, layer lists, extrapolation, what it saves."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from fake_device import latencies, measured, mlp_space

import search_spaces
from predictors.latency import roofline
from predictors.predictor import space_digest
from predictors.regression.features import (
    FEATURES,
    Workload,
    layer_features,
    network_features,
    space_features,
)
from search_spaces.errors import UsageError
from search_spaces.layers import Layer, attention, conv2d, linear, norm


def named(layer: Layer, workload: Workload = Workload()) -> dict[str, int]:  # noqa: B008 - frozen
    values = dict(zip(FEATURES[:-1], layer_features(layer, workload), strict=True))
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


def test_a_batch_multiplies_work_but_neither_launches_nor_weights() -> None:
    one, eight = named(linear("fc", 5, 3, 2)), named(linear("fc", 5, 3, 2), Workload(batch=8))
    same = ("launches", "params")
    assert eight == {name: value if name in same else 8 * value for name, value in one.items()}


def test_a_tensor_counts_above_each_size_that_it_exceeds() -> None:
    layer = norm("norm", 1024, 192)  # 0.75 MiB in float32
    assert [name for name in named(layer) if name.startswith("bytes")] == [
        "bytes_above_0.25_mib",
        "bytes_above_0.5_mib",
    ]
    assert named(layer)["bytes_above_0.25_mib"] == 1024 * 192 * 4
    assert not [name for name in named(layer, Workload(element_bytes=1)) if name.startswith("bytes")]
    assert named(norm("norm", 1025, 192))["bytes_above_0.75_mib"] == 1025 * 192 * 4


def test_an_attention_without_its_shape_is_refused() -> None:
    with pytest.raises(UsageError, match="attention 'attn' has the shape"):
        layer_features(Layer("attn", "attention", (4,), 0, 1, 1, 1), Workload())


def test_features_of_a_space_are_those_of_its_layers() -> None:
    space = search_spaces.get("vit_resnas")
    codes = space.sample_choices(np.random.default_rng(0), 10)
    rows = space_features(space, codes, Workload(batch=2))
    for row, arch in zip(rows, space.decode(codes), strict=True):
        np.testing.assert_array_equal(row, network_features(space.layers(arch), Workload(batch=2)))


def test_plain_layer_lists_are_fitted_and_predicted_like_architectures() -> None:
    space = search_spaces.get("matformer")
    codes, latency_ms = measured(space, 60)
    networks = [space.layers(arch) for arch in space.decode(codes)]
    of_layers = roofline.fit_layers(networks, latency_ms, workload=Workload(batch=2))
    of_codes = roofline.build(space, batch=2).fit(codes, latency_ms)
    for plain, coded in zip(of_layers.predict(networks), of_codes.predict(codes), strict=True):
        np.testing.assert_allclose(plain, coded)
    with pytest.raises(UsageError, match="at least 3"):
        roofline.fit_layers(networks[:2], latency_ms[:2])


def test_layers_of_other_networks_extrapolate_upwards_and_are_less_certain() -> None:
    space, larger = search_spaces.get("matformer"), search_spaces.get("matformer_vit_b16")
    codes, latency_ms = measured(space, 20)
    predictor = roofline.fit_layers([space.layers(arch) for arch in space.decode(codes)], latency_ms)
    mean, std = predictor.predict([space.layers(space.largest), larger.layers(larger.largest), []])
    assert mean[1] > 10 * mean[0]
    assert std[1] / mean[1] > 2 * std[0] / mean[0]
    assert mean[2] >= 0
    assert [len(array) for array in predictor.predict([])] == [0, 0]


def test_a_deeper_network_than_any_measured_is_extrapolated() -> None:
    space = search_spaces.get("matformer")
    depth = [choice.name for choice in space.choices].index("depth")
    codes, latency_ms = measured(space, 120)
    shallow = codes[:, depth] < 2
    mean, std = roofline.build(space).fit(codes[shallow], latency_ms[shallow]).predict(codes)
    deep = codes[:, depth] == 3
    assert np.abs(mean / latencies(space, codes) - 1)[deep].mean() < 0.04
    assert np.median((std / mean)[deep]) > 1.1 * np.median((std / mean)[shallow])


def test_work_of_a_kind_never_measured_is_uncertain_by_the_whole_latency() -> None:
    space = mlp_space()
    codes = space.sample_choices(np.random.default_rng(0), 20)
    networks = [space.layers(arch) for arch in space.decode(codes)]
    predictor = roofline.fit_layers(networks, 1.0 + space.costs(codes)["macs"] * 1e-4)
    fc = linear("fc", 1, 64, 64)
    mean, std = predictor.predict([[fc], [fc, attention("attn", 8, 2, 8)]])
    assert std[0] < mean[0] / 2
    assert std[1] >= mean[1]


def test_coefficients_are_never_negative() -> None:
    space = search_spaces.get("matformer")
    for seed in range(5):
        model = roofline.build(space).fit(*measured(space, 12, seed=seed, noise=0.2)).to_json()["model"]
        assert min(model["coefficients"]) >= 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("space", "other", "space is 'other', not 'matformer'"),
        ("version", 0, "version is 0, not 1"),
        ("predictor", "gp", "predictor is 'gp'"),
        ("features", ["macs"], "features is"),
        ("batch", 2, "batch is 2, not 1"),
        ("intervals", {"half_width": -1, "typical": 1}, "damaged"),
        ("count", "many", "damaged"),
    ],
)
def test_refuses_json_of_something_else(key: str, value: object, message: str) -> None:
    space = search_spaces.get("matformer")
    data = roofline.build(space).fit(*measured(space, 12)).to_json()
    with pytest.raises(UsageError, match=message):
        roofline.build(space).from_json(data | {key: value})
    with pytest.raises(UsageError, match="None"):
        roofline.build(space).from_json({name: item for name, item in data.items() if name != "version"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("coefficients", [1.0]),
        ("coefficients", [float("nan")] * len(FEATURES)),
        ("covariance", None),
        ("seen", [True]),
        ("errors", 3),
        ("residual", {}),
        ("work_per_ms", [0.0]),
    ],
)
def test_refuses_a_damaged_model(key: str, value: object) -> None:
    space = search_spaces.get("matformer")
    data = roofline.build(space).fit(*measured(space, 12)).to_json()
    with pytest.raises(UsageError, match="damaged"):
        roofline.build(space).from_json(data | {"model": data["model"] | {key: value}})
    without = {name: item for name, item in data["model"].items() if name != key}
    with pytest.raises(UsageError, match="damaged"):
        roofline.build(space).from_json(data | {"model": without})


def test_the_process_on_residuals_is_saved_exactly() -> None:
    space = search_spaces.get("matformer")
    codes, latency_ms = measured(space, 60)
    # A truth that no sum over layers has.
    latency_ms = latency_ms * (1 + 0.2 * np.sin(3 * np.log(latency_ms)))
    predictor = roofline.build(space).fit(codes, latency_ms)
    data = json.loads(json.dumps(predictor.to_json()))
    assert data["model"]["residual"] is not None
    loaded = roofline.build(space).from_json(data)
    np.testing.assert_array_equal(loaded.predict(codes), predictor.predict(codes))
    broken = data["model"]["residual"] | {"length": None}
    with pytest.raises(UsageError, match="damaged"):
        roofline.build(space).from_json(data | {"model": data["model"] | {"residual": broken}})


def test_refuses_json_of_a_space_with_the_same_name_and_other_options() -> None:
    space = search_spaces.get("matformer")
    data = roofline.build(space).fit(*measured(space, 12)).to_json()
    with pytest.raises(UsageError, match="space_digest"):
        roofline.build(search_spaces.get("matformer", depth=(1, 2))).from_json(data)


def test_predictors_of_earlier_versions_stay_valid() -> None:
    """Their digests, from before there were relative positions and whatever comes later."""
    assert space_digest(search_spaces.get("matformer")) == "0d19f70645dce686"
    small = search_spaces.get("matformer", embed_dim=(8, 16), depth=(1, 2), num_heads=(1, 2))
    assert space_digest(small) == "e767f9f6f6cf0916"
    assert space_digest(search_spaces.get("autoformer", rel_pos=2)) != space_digest(
        search_spaces.get("autoformer", rel_pos=0)
    )


def test_many_architectures_are_fast_and_a_fit_is_cheap() -> None:
    space = search_spaces.get("matformer")
    codes, latency_ms = measured(space, 50)
    start = time.thread_time()
    predictor = roofline.build(space).fit(codes, latency_ms)
    fit = time.thread_time() - start
    many = space.sample_choices(np.random.default_rng(0), 100_000)
    start = time.thread_time()
    space.costs(many)
    look_up = time.thread_time() - start
    start = time.thread_time()
    predictor.predict(many)
    assert time.thread_time() - start < 50 * look_up + 0.5
    assert fit < 1.0


def test_predicting_needs_no_torch_and_nothing_of_the_service() -> None:
    code = (
        "import sys; from predictors import accuracy, devices; from predictors.measurement import rounds;"
        "from predictors.latency import auto, lookup_table, mlp;"
        "print([m for m in ('torch', 'nas', 'supernet', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"

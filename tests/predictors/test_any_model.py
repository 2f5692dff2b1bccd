"""Latency of any model on made devices: kernels, several batches, a source, and what is saved."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from predictors.any_model import OfLayers, fit_layers, from_json
from predictors.latency import roofline
from predictors.regression.features import Workload
from predictors.regression.kernels import KERNELS, Run, kernel_features
from predictors.regression.metrics import Floats
from search_spaces.errors import UsageError
from search_spaces.layers import Layer, activation, add, attention, conv2d, linear, norm, pool

Network = list[Layer]

# ns: a device on which nothing costs exactly what it costs relative to the others in general.
PRICES = {
    name: price * {"macs": 0.02, "elements": 0.3, "weights": 0.2, "launches": 5e3}.get(group, 0.0)
    for name, (group, price) in KERNELS.items()
} | {"constant": 1e6}


def vit(depth: int, dim: int, tokens: int = 197) -> Network:
    layers: Network = []
    for i in range(depth):
        layers += [
            norm(f"{i}.norm1", tokens, dim),
            linear(f"{i}.qkv", tokens, dim, 3 * dim),
            attention(f"{i}.attn", tokens, max(1, dim // 64), 64),
            linear(f"{i}.proj", tokens, dim, dim),
            add(f"{i}.add", tokens, dim),
            linear(f"{i}.fc1", tokens, dim, 4 * dim),
            replace(activation(f"{i}.act", tokens, 4 * dim), operator="gelu"),
            linear(f"{i}.fc2", tokens, 4 * dim, dim),
        ]
    return layers


def depthwise(layer: Layer) -> Layer:
    channels = layer.shape[2]
    params = layer.params // channels
    shape = (*layer.shape, channels)
    return replace(layer, shape=shape, params=params, macs=layer.macs // channels)


def mobile(depth: int, width: int, side: int = 28) -> Network:
    layers: Network = []
    for i in range(depth):
        layers += [
            conv2d(f"{i}.expand", (side, side), width, 4 * width, kernel=1, stride=1, bias=False),
            replace(norm(f"{i}.bn", side * side, 4 * width), operator="native_batch_norm"),
            replace(activation(f"{i}.act", side * side, 4 * width), operator="relu"),
            depthwise(conv2d(f"{i}.dw", (side, side), 4 * width, 4 * width, kernel=3, stride=1, bias=False)),
            conv2d(f"{i}.reduce", (side, side), 4 * width, width, kernel=1, stride=1, bias=False),
        ]
    return [*layers, pool("pool", side * side, width)]


def residual(depth: int, width: int, side: int = 28) -> Network:
    layers: Network = []
    for i in range(depth):
        layers += [
            conv2d(f"{i}.conv", (side, side), width, width, kernel=3, stride=1, bias=False),
            replace(norm(f"{i}.bn", side * side, width), operator="native_batch_norm"),
            replace(activation(f"{i}.act", side * side, width), operator="relu"),
            add(f"{i}.add", side * side, width),
        ]
    return layers


VITS = [vit(depth, dim) for depth in (4, 8, 12) for dim in (128, 192, 256, 384)]
# Of several resolutions: else MACs and numbers moved would grow alike, and their prices could not be told.
MOBILES = [mobile(depth, width, side) for depth in (6, 16) for width, side in ((16, 56), (24, 14), (96, 14))]
RESIDUALS = [
    residual(depth, width, side) for depth in (6, 18) for width, side in ((24, 56), (64, 28), (256, 14))
]


def latencies(
    networks: Sequence[Network], odds: dict[str, float] | None = None, workload: Workload | None = None
) -> Floats:
    """ms on a made device whose prices are `odds` times what they are in general."""
    run = Run(workload or Workload())
    prices = np.array([PRICES[name] * (odds or {}).get(name, 1.0) for name in KERNELS])
    return np.array([kernel_features(network, run) @ prices for network in networks]) * 1e-6


def error(predictor: OfLayers, networks: Sequence[Network], truth: Floats, **more: Any) -> float:
    return float(np.abs(predictor.predict(networks, **more)[0] / truth - 1).mean())


def test_kernels_of_layers() -> None:
    def named(layer: Layer, batch: int = 1) -> dict[str, float]:
        values = kernel_features([layer], Run(Workload(batch)))
        row = dict(zip(KERNELS, values, strict=True))
        return {name: value for name, value in row.items() if value and name not in ("launches", "constant")}

    conv = conv2d("c", (4, 4), 8, 8, kernel=3, stride=1, bias=False)
    sides = {"input": 4 * 4 * 8.0, "output": 4 * 4 * 8.0}
    assert named(conv) == {
        "weights": 576.0,
        "convolution_macs": 9216.0,
        **{f"convolution_{side}": n for side, n in sides.items()},
    }
    assert named(depthwise(conv), 2) == {
        "weights": 72.0,
        "depthwise_macs": 2 * 1152.0,
        **{f"depthwise_{side}": 2 * n for side, n in sides.items()},
    }
    grouped = replace(conv, shape=(*conv.shape, 2), macs=conv.macs // 2)
    assert named(grouped)["grouped_macs"] == conv.macs // 2
    assert named(attention("a", 5, 2, 3))["attention_scores"] == 2 * 5 * 5
    assert named(replace(activation("a", 2, 3), operator="relu")) == {"clipped_elements": 12.0}
    assert named(replace(activation("a", 2, 3), operator="silu")) == {"exponential_elements": 12.0}
    assert named(activation("a", 2, 3)) == {"smooth_elements": 12.0}
    assert named(Layer("s", "shift", (2, 3), 0, 0, 6, 6)) == {"shifted_elements": 12.0}
    assert named(pool("p", 9, 3, groups=4)) == {"pooled_elements": 108.0}


def test_weights_that_no_cache_holds_are_streamed() -> None:
    network = [linear("fc", 1, 1000, 1000)]
    place = list(KERNELS).index("streamed_weights")
    assert kernel_features(network, Run(Workload(), 4_004_000))[place] == 0
    assert kernel_features(network, Run(Workload(), 4_003_999))[place] == 1_001_000
    assert kernel_features(network, Run(Workload(element_bytes=2), 4_003_999))[place] == 0
    assert kernel_features(network, Run())[place] == 0


def test_a_family_that_was_never_measured_is_predicted() -> None:
    odds = {"convolution_macs": 1.2, "depthwise_macs": 0.8, "smooth_elements": 1.5}
    for families in ((VITS, MOBILES, RESIDUALS), (RESIDUALS, VITS, MOBILES), (MOBILES, RESIDUALS, VITS)):
        left_out, *measured = families
        networks = [network for family in measured for network in family]
        predictor = fit_layers(networks, latencies(networks, odds))
        assert error(predictor, left_out, latencies(left_out, odds)) < 0.35
        # The sums of a space's features have no price for what was not measured.
        stated = [[replace(layer, operator="") for layer in network] for network in networks]
        by_work = fit_layers(stated, latencies(networks, odds))
        assert by_work.fitted_by == "work"
        assert error(by_work, left_out, latencies(left_out, odds)) > error(
            predictor, left_out, latencies(left_out, odds)
        )


def test_intervals_are_wider_for_a_family_that_was_never_measured() -> None:
    networks = VITS + RESIDUALS
    noise = np.exp(np.random.default_rng(0).normal(0, 0.02, len(networks)))
    predictor = fit_layers(networks, latencies(networks) * noise)
    relative = [std / mean for mean, std in map(predictor.predict, (networks, MOBILES))]
    assert np.median(relative[1]) > 1.2 * np.median(relative[0])


def test_several_batches_are_fitted_and_asked_for() -> None:
    networks = VITS + MOBILES + RESIDUALS
    workloads = [Workload(batch) for batch in (1, 4, 16)] * 8
    truth = np.concatenate([latencies([one], workload=w) for one, w in zip(networks, workloads, strict=True)])
    predictor = fit_layers(networks, truth, workload=workloads)
    asked = latencies(networks, workload=Workload(8))
    assert error(predictor, networks, asked, workload=Workload(8)) < 0.05
    with pytest.raises(UsageError, match="fitted on several batches"):
        predictor.predict(networks)
    one = fit_layers(networks, truth, workload=[Workload(2)] * len(networks))
    assert one.workload == Workload(2)
    with pytest.raises(UsageError, match="24 networks but 2 workloads"):
        fit_layers(networks, truth, workload=workloads[:2])


def test_another_device_s_prices_are_a_beginning_where_they_help() -> None:
    networks = VITS + MOBILES + RESIDUALS
    odds = {"convolution_macs": 4.0, "linear_macs": 0.4}
    source = fit_layers(networks * 3, latencies(networks * 3, odds)).to_json()
    few = [VITS[0], MOBILES[0], RESIDUALS[0], VITS[-1], MOBILES[-1]]
    truth = 3 * latencies(networks, odds)
    alone = fit_layers(few, 3 * latencies(few, odds))
    helped = fit_layers(few, 3 * latencies(few, odds), source=source)
    assert error(helped, networks, truth) < 0.12 < error(alone, networks, truth) / 2
    assert "source" in helped.why
    # Where the other device is nothing like this one, its prices are left.
    plain = fit_layers(few, latencies(few), source=source)
    assert error(plain, networks, latencies(networks)) < 0.01


def test_weights_read_from_memory_have_a_price_where_networks_tell_one() -> None:
    networks = VITS + RESIDUALS
    cache = 16 * 2**20
    streamed = np.array(
        [
            kernel_features(one, Run(Workload(), cache))[list(KERNELS).index("streamed_weights")]
            for one in networks
        ]
    )
    assert 3 < (streamed > 0).sum() < len(networks) - 3
    truth = latencies(networks) + 4e-6 * streamed
    assert "caches" in fit_layers(networks, truth, cache_bytes=cache).why
    blind = fit_layers(networks, truth)
    seeing = fit_layers(networks, truth, cache_bytes=cache)
    assert error(seeing, networks, truth) < error(blind, networks, truth) / 2
    untouched = fit_layers(networks, latencies(networks), cache_bytes=cache)
    np.testing.assert_allclose(
        untouched.predict(networks)[0], fit_layers(networks, latencies(networks)).predict(networks)[0]
    )


def test_saved_and_loaded_it_says_the_same() -> None:
    networks = VITS + MOBILES
    for some in (networks, [[replace(layer, operator="") for layer in one] for one in networks]):
        predictor = fit_layers(some, latencies(some), cache_bytes=2**25)
        loaded = from_json(json.loads(json.dumps(predictor.to_json())))
        np.testing.assert_array_equal(loaded.predict(RESIDUALS), predictor.predict(RESIDUALS))
        assert loaded.to_json() == predictor.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictor": "roofline"}, "no saved predictor of any model"),
        ({"version": 0}, "of another version"),
        ({"columns": []}, "of another version"),
        ({"model": {}}, "damaged"),
        ({"intervals": {"half_width": -1, "typical": 1}}, "damaged"),
        ({"workload": {"batch": "many"}}, "damaged"),
    ],
)
def test_refuses_json_of_something_else(change: dict[str, Any], message: str) -> None:
    data = fit_layers(VITS, latencies(VITS)).to_json()
    with pytest.raises(UsageError, match=message):
        from_json(data | change)


def test_refuses_what_cannot_be_fitted() -> None:
    with pytest.raises(UsageError, match="at least 3"):
        fit_layers(VITS[:2], latencies(VITS[:2]))
    with pytest.raises(UsageError, match="not a positive number"):
        fit_layers(VITS, np.zeros(len(VITS)))
    stated = [[replace(layer, operator="") for layer in one] for one in VITS]
    with pytest.raises(UsageError, match="fitted on stated layers, and these are traced"):
        fit_layers(VITS, latencies(VITS), source=fit_layers(stated, latencies(VITS)).to_json())
    with pytest.raises(UsageError, match="says nothing of traced layers"):
        fit_layers(VITS, latencies(VITS), source={"predictor": "roofline"})


def test_the_roofline_s_module_still_offers_it() -> None:
    assert roofline.fit_layers is fit_layers

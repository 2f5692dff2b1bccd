"""Networks of no space as plain data: built again alike, and nothing else is built of what a store holds."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import search_spaces
import supernet
from nas.measuring.requests import NetworkPlan, build_device, checked_shape, measured, plan_of, request_for
from nas.spaces.described_networks import build_network, described
from predictors.measurement.labels import Failure, Measurement
from search_spaces.errors import UsageError
from supernet.pretrained.subnet_folders import network_classes
from tests import made_device

SHAPE = (1, 8, 8)
TIMM = "vit_tiny_patch16_224"
SIZES: dict[str, Any] = {
    "img_size": [8, 8],
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 10,
}
VIT: dict[str, Any] = {"timm": TIMM, "sizes": SIZES}


def ours() -> Any:
    """A network of this package."""
    options = {"image_size": (8, 8), "in_chans": 1, "num_classes": 10, "patch_size": 4, "head_dim": 8}
    space = search_spaces.get("matformer", embed_dim=(8, 16), depth=(1, 2), num_heads=(1, 2), **options)
    return supernet.build(space).plain(space.largest)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_a_network_of_ours_is_built_again_without_its_weights() -> None:
    module = ours()
    network = described(module, None, {})
    assert network is not None
    assert network == json.loads(json.dumps(network))
    assert network["class"] in network_classes()
    again = build_network(network, SHAPE)
    assert type(again) is type(module)
    assert parameters(again) == parameters(module)
    assert not again.training
    assert again(torch.zeros(2, *SHAPE)).shape == (2, 10)


def test_a_model_of_timm_is_built_again() -> None:
    module = timm.create_model(TIMM, pretrained=False, **SIZES)
    assert described(module, TIMM, SIZES) == VIT
    assert parameters(build_network(VIT, SHAPE)) == parameters(module)


def test_a_folder_of_timm_is_told_by_the_model_s_name_and_sizes(tmp_path: Path) -> None:
    module = timm.create_model(TIMM, pretrained=False, **SIZES)
    sizes = {name: size for name, size in SIZES.items() if name != "num_classes"}
    config = {"architecture": TIMM, "num_classes": 10, "model_args": sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert described(module, f"local-dir:{tmp_path}", {"in_chans": 1}) == VIT
    odd = config | {"model_args": sizes | {"checkpoint_path": "x"}}
    (tmp_path / "config.json").write_text(json.dumps(odd))
    assert described(module, f"local-dir:{tmp_path}", {"in_chans": 1}) is None


def test_what_cannot_be_told_is_none() -> None:
    module = timm.create_model(TIMM, pretrained=False, **SIZES)
    assert described(module, "hf-hub:somebody/model", SIZES) is None
    assert described(module, TIMM, SIZES | {"depth": 2}) is None  # another network
    assert described(torch.nn.Linear(2, 2), None, {}) is None


HOSTILE: list[Any] = [
    None,
    3,
    [],
    {},
    {"timm": TIMM},
    {"timm": 3, "sizes": {}},
    {"timm": "no_such_model", "sizes": {}},
    {"timm": "hf-hub:somebody/model", "sizes": {}},
    {"timm": "local-dir:/etc", "sizes": {}},
    {"timm": "/etc/passwd", "sizes": {}},
    {"timm": TIMM, "sizes": SIZES | {"checkpoint_path": "/tmp/x"}},
    {"timm": TIMM, "sizes": SIZES | {"pretrained": True}},
    {"timm": TIMM, "sizes": [1]},
    {"timm": TIMM, "sizes": SIZES | {"depth": 10**9}},
    {"timm": TIMM, "sizes": SIZES | {"depth": -1}},
    {"timm": TIMM, "sizes": SIZES | {"embed_dim": 10**9}},
    {"timm": TIMM, "sizes": SIZES | {"embed_dim": 90_000, "depth": 10}},
    {"timm": TIMM, "sizes": SIZES | {"embed_dim": float("nan")}},
    {"timm": TIMM, "sizes": SIZES | {"in_chans": 3}},
    {"timm": TIMM, "sizes": SIZES | {"mlp_ratio": "x"}},
    {"class": "Linear", "arguments": {}},
    {"class": "os.system", "arguments": ["true"]},
    {"class": ["x"], "arguments": {}},
    {"class": "PlainViT", "arguments": {"depth": 10**9}},
    {"class": "x" * 200_000, "arguments": {}},
]


@pytest.mark.parametrize("network", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_else_is_built(network: Any) -> None:
    with pytest.raises(UsageError):
        build_network(network, SHAPE)


@pytest.mark.parametrize("count", [10**9, [10**9], [10**6] * 5, -1, "x"])
def test_no_network_of_ours_is_built_that_nobody_can_hold(count: Any) -> None:
    network: Any = described(ours(), None, {})
    (name,) = [name for name in network["arguments"] if name == "depth"] or ["depth"]
    with pytest.raises(UsageError):
        build_network(network | {"arguments": network["arguments"] | {name: count}}, SHAPE)


@pytest.mark.parametrize(
    "shape", [None, 3, [1, 8], [1, 8, 8, 8], [0, 8, 8], [1, 8.0, 8], [1, 8, 10**9], "188"]
)
def test_shapes_that_are_none(shape: Any) -> None:
    with pytest.raises(UsageError):
        checked_shape(shape)


def test_a_plan_of_networks_survives_its_way_to_an_agent_and_is_measured() -> None:
    bad = VIT | {"timm": "no_such_model"}
    plan = NetworkPlan({"0": VIT, "1": bad}, SHAPE, seed=0, rounds=2, max_rounds=2, reference_ms=None)
    assert plan_of(json.loads(json.dumps(request_for(plan)))) == plan
    results = measured(build_device("pi", {"backend": made_device.BACKEND, "batch": 2}), plan)
    assert isinstance(results["0"], Measurement)
    assert isinstance(results["1"], Failure)
    texts = build_device("pi", {"backend": made_device.BACKEND, "batch": 2, "workload": {"prefill": 4}})
    with pytest.raises(UsageError, match="these networks take images"):
        measured(texts, plan)

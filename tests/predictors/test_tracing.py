"""Traced layers against those that our spaces state, and against counts that are known otherwise."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import search_spaces
import supernet
from predictors import layers_of
from predictors.tracing.operators import MOVEMENTS
from search_spaces.errors import UsageError
from search_spaces.layers import Layer

STATED: dict[str, dict[str, Any]] = {
    "matformer": {},
    "autoformer": {"rel_pos": 0, "pool": "token", "fc_norm": False},
    "vit_resnas": {},
    "turbovit": {},
}


def plain_of(name: str, options: dict[str, Any], seed: int) -> tuple[nn.Module, tuple[Layer, ...]]:
    """An extracted subnet without weights, and the layers that its space states."""
    space = search_spaces.get(name, **options)
    arch = space.decode(space.sample_choices(np.random.default_rng(seed), 1))[0]
    with torch.device("meta"):
        return supernet.build(space).plain(arch), space.layers(arch)


def described(layer: Layer) -> tuple[object, ...]:
    """All but the name. Heads that count as windows, and pooled heads one by one, are the same work."""
    shape: tuple[object, ...] = layer.shape
    if layer.kind == "attention":
        shape = (layer.shape[0] * layer.shape[1], *layer.shape[2:])
    elif layer.kind == "pool":
        shape = (layer.shape[0] * layer.shape[2], layer.shape[1])
    sizes = (layer.params, layer.macs, layer.input_elements, layer.output_elements, layer.slices)
    return (layer.kind, shape, *sizes)


@pytest.mark.parametrize("name", STATED)
def test_a_traced_subnet_has_the_layers_that_its_space_states(name: str) -> None:
    for seed in range(2):
        module, stated = plain_of(name, STATED[name], seed)
        layers = layers_of(module, torch.zeros(3, *module.input_shape, device="meta"))
        traced = Counter(described(layer) for layer in layers if layer.kind not in MOVEMENTS)
        assert traced == Counter(map(described, stated))


def test_stitched_swins_have_the_layers_that_their_space_states() -> None:
    swin = {
        "kind": "swin",
        "image_size": (32, 32),
        "patch_size": 2,
        "num_classes": 5,
        "depths": (1, 2),
        "num_heads": (1, 2),
        "window_size": 4,
    }
    space = search_spaces.get("stitching", anchors=[swin | {"embed_dim": width} for width in (8, 16)])
    for arch in (space.smallest, space.largest):
        with torch.device("meta"):
            module = supernet.build(space).plain(arch)
        layers = layers_of(module, torch.zeros(1, 3, 32, 32))
        traced = Counter(described(layer) for layer in layers if layer.kind not in MOVEMENTS)
        assert traced == Counter(map(described, space.layers(arch)))


@pytest.mark.parametrize(
    ("name", "options", "kinds"),
    [
        # Written operator by operator, and stated as one: everything else is equal, and so are the sums.
        ("autoformer", {}, {"attention", "relative_positions", "pool"}),
        ("matlm", {}, {"rotary"}),
    ],
)
def test_what_is_written_operator_by_operator_has_the_same_macs_and_params(
    name: str, options: dict[str, Any], kinds: set[str]
) -> None:
    module, stated = plain_of(name, options, 0)
    of_tokens = {"dtype": torch.long} if name == "matlm" else {}
    layers = layers_of(module, torch.zeros(1, *module.input_shape, **of_tokens))
    assert sum(layer.macs for layer in layers) == sum(layer.macs for layer in stated)
    assert sum(layer.params for layer in layers) == sum(layer.params for layer in stated)
    missing = Counter(map(described, stated)) - Counter(map(described, layers))
    assert {kind for kind, *_ in missing} == kinds


@pytest.mark.parametrize(
    "name",
    [
        *("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "hiera_tiny_224", "convnext_atto"),
        *("efficientnet_b0", "mobilenetv3_small_100", "resnet18", "mvitv2_tiny", "regnety_004"),
    ],
)
def test_models_of_timm_have_the_macs_and_params_that_are_counted_otherwise(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name).eval()
    x = torch.zeros(1, 3, 224, 224, device="meta")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)
    layers = layers_of(model, x)
    assert sum(layer.macs for layer in layers) == counter.get_total_flops() // 2
    assert sum(layer.params for layer in layers) == sum(one.numel() for one in model.parameters())


def test_convolutions_tell_their_groups_and_odd_kernels() -> None:
    convs = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.Conv2d(8, 4, (1, 5), groups=2, stride=2)
    )
    depthwise, odd = layers_of(convs, torch.zeros(2, 8, 10, 10))
    assert (depthwise.name, depthwise.kind, depthwise.shape) == ("0", "conv2d", (10, 10, 8, 8, 3, 1, 8))
    assert (depthwise.macs, depthwise.params) == (10 * 10 * 8 * 9, 72)
    assert (odd.shape, odd.macs) == ((5, 3, 8, 4, 5, 2, 2, 1), 5 * 3 * 4 * 4 * 5)
    assert (odd.input_elements, odd.output_elements, odd.params) == (800, 60, 4 * 4 * 5 + 4)


class Moving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([3, 1, 0]))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x, x, x)[0].roll(1, dims=1)
        x = torch.cat([x, x[:, self.order]], dim=1)
        return nn.functional.silu(x) * x


def test_movements_gates_and_products_are_seen_below_composed_functions() -> None:
    module = Moving()
    module.train()
    layers = layers_of(module, torch.zeros(2, 6, 4))
    kinds = Counter(layer.kind for layer in layers)
    assert kinds["linear"] == 2
    assert kinds["matmul"] == 2
    assert (kinds["softmax"], kinds["shift"], kinds["gather"], kinds["activation"]) == (1, 1, 1, 1)
    assert kinds["copy"] >= 1
    gated = next(layer for layer in layers if layer.kind == "activation")
    assert (gated.operator, gated.input_elements, gated.output_elements) == ("silu", 2 * 36, 36)
    assert sum(layer.macs for layer in layers) == 6 * 4 * 12 + 2 * 6 * 6 * 4 + 6 * 4 * 4
    # The module is as it was: in training, its weights are there, and it has no hooks.
    assert module.training
    assert not module.attention.in_proj_weight.is_meta
    assert not module.attention._forward_hooks


class Sees(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Locked(nn.Module):
    def __deepcopy__(self, memo: object) -> "Locked":
        raise RuntimeError("there is one of it")

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


@pytest.mark.parametrize(
    ("module", "example", "message"),
    [
        (Sees(), torch.zeros(1, 3), "Sees cannot be traced: what it does depends on the numbers"),
        (Locked(), torch.zeros(1, 3), "Locked cannot be traced: it cannot be copied"),
        (nn.Linear(3, 2), torch.zeros(1, 4), r"Linear does not take an input of shape \(4,\)"),
        (nn.Conv2d(3, 2, 3), torch.zeros(1, 4, 8, 8), r"Conv2d does not take an input of shape \(4, 8, 8\)"),
        (nn.Linear(3, 2), "images", "is no batch of samples"),
        (nn.Linear(3, 2), torch.zeros(()), "is no batch of samples"),
        (nn.Identity(), torch.zeros(1, 3), "it computes nothing"),
        (len, torch.zeros(1, 3), "it is no torch module"),
    ],
)
def test_what_cannot_be_traced_is_told_in_one_sentence(module: Any, example: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        layers_of(module, example)

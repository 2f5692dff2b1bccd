"""The plain Swin equals timm's, its costs are the closed forms, and its parts in a row equal the whole."""

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.layers import RmsNorm
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.errors import UsageError
from search_spaces.layers import Layer, cost_of, linear
from search_spaces.shapes.swin import SwinConfig, block_layers, head_layers, resolution, stem_layers, width
from supernet.plain.swin import StitchedSwin, Swin
from supernet.pretrained.timm_swin import swin_config

TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": (2, 3),
    "num_heads": (2, 4),
    "window_size": 4,
    "num_classes": 5,
}
# The second stage is shifted, covered by one window, shifted along one side only, and so on.
TAKEN: dict[str, dict[str, Any]] = {
    "shifted": {},
    "one window": {"patch_size": 4, "window_size": 8},
    "clipped window": {"patch_size": 4, "window_size": 7, "img_size": 28, "depths": (2,), "num_heads": (2,)},
    "shifted along one side": {"img_size": (16, 64)},
    "oblong window": {"img_size": (8, 24), "window_size": 6, "depths": (2,), "num_heads": (2,)},
    "odd window": {"img_size": (24, 12), "window_size": 3, "in_chans": 1},
    "no biases, narrow FFN": {
        "qkv_bias": False,
        "mlp_ratio": 2.5,
        "norm_layer": partial(nn.LayerNorm, eps=1e-3),
    },
    "three stages": {"depths": (1, 2, 2), "num_heads": (1, 2, 8)},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "any size": ({"strict_img_size": False}, "strict_img_size"),
    "dropout": ({"proj_drop_rate": 0.1}, "dropout"),
    "max pooling": ({"global_pool": "max"}, "FastAdaptiveMaxPool"),
    "no pooling": ({"global_pool": ""}, "pooling"),
    "no classes": ({"num_classes": 0}, "num_classes"),
    "other norm": ({"norm_layer": RmsNorm}, "RmsNorm"),
    "norms without biases": ({"norm_layer": partial(nn.LayerNorm, bias=False)}, "norm1.bias"),
    "padded windows": ({"img_size": 40}, "4x4 do not fill the 10x10"),
    "patches with a rest": ({"patch_size": 4, "img_size": 34}, "34x34"),
    "padded merging": ({"img_size": 36, "patch_size": 4, "window_size": 3}, "9x9 tokens of stage 0"),
    "always shifted": ({"img_size": 16, "always_partition": True}, "shift_size"),
    "a window per stage": ({"window_size": (4, 2)}, "window_size"),
    "other head width": ({"head_dim": 4}, "heads"),
    "FFN ratio per stage": ({"mlp_ratio": (4, 2)}, "layers.1.blocks.0.mlp.fc1"),
    "flat patches": ({"patch_size": (2, 4)}, "square"),
}


def timm_model(**options: Any) -> SwinTransformer:
    """With all weights random, those too that start at zero or one: none can be forgotten."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SwinTransformer(**(TINY | options)).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, mean=0.1, std=0.3)
    return model


def plain_of(model: SwinTransformer) -> Swin:
    plain = Swin(**json.loads(json.dumps(swin_config("own", model)))).eval()
    plain.load_state_dict(model.state_dict(), strict=True)
    return plain


def images(config: dict[str, Any], batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, config["in_chans"], *config["image_size"], generator=generator)


def layers_of(config: SwinConfig, begin: int, end: int, *, stem: bool, head: bool) -> Iterator[Layer]:
    """Of a part: its first block takes tokens of its own resolution."""
    yield from stem_layers(config) if stem else ()
    for index in range(begin, end):
        yield from block_layers(config, index, downsample=index > begin)
    yield from head_layers(config) if head else ()


def counted(module: nn.Module, x: Tensor) -> tuple[int, float]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x)
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() / 2


@pytest.fixture(scope="module")
def whole() -> Swin:
    return plain_of(timm_model(depths=(2, 3, 1), num_heads=(2, 4, 4)))


@pytest.mark.parametrize("options", TAKEN.values(), ids=TAKEN)
@torch.no_grad()
def test_the_outputs_and_names_are_timms(options: dict[str, Any]):
    model = timm_model(**options).double()
    plain = plain_of(model).double()
    assert list(plain.state_dict()) == list(model.state_dict())
    assert not list(plain.buffers())
    x = images(plain.config, 3).double()
    expected = model(x)
    assert expected.std(dim=0).min() > 1e-4
    torch.testing.assert_close(plain(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", TAKEN.values(), ids=TAKEN)
def test_costs_are_those_of_the_module(options: dict[str, Any]):
    plain = plain_of(timm_model(**options))
    config = SwinConfig(**plain.config)
    layers = list(layers_of(config, 0, sum(config.depths), stem=True, head=True))
    cost = cost_of(layers)
    assert (cost.params, cost.macs) == counted(plain, images(plain.config, 1))
    parameters = {name: parameter.numel() for name, parameter in plain.named_parameters()}
    for layer in layers:
        own = [count for name, count in parameters.items() if name.rpartition(".")[0] == layer.name]
        assert parameters.get(layer.name, sum(own)) == layer.params
    assert len({layer.name for layer in layers}) == len(layers)


@pytest.mark.parametrize("name", ["tiny", "base"])
def test_published_models_without_their_weights(name: str):
    name = f"swin_{name}_patch4_window7_224"
    with torch.device("meta"):
        model = timm.create_model(name)
        plain = Swin(**swin_config(name, model))
        x = torch.zeros(1, 3, 224, 224)
    config = SwinConfig(**plain.config)
    assert config == SwinConfig(embed_dim=config.embed_dim, depths=config.depths, num_heads=config.num_heads)
    cost = cost_of(layers_of(config, 0, sum(config.depths), stem=True, head=True))
    assert (cost.params, cost.macs) == counted(plain, x)


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_with_something_else_is_refused(case: str):
    options, named = REFUSED[case]
    with torch.device("meta"):
        model = SwinTransformer(**(TINY | options))
    with pytest.raises(UsageError) as caught:
        swin_config("own_model", model)
    assert "own_model" in caught.value.message
    assert named in caught.value.message


def test_another_class_is_refused():
    with torch.device("meta"):
        other = timm.create_model("swinv2_tiny_window8_256")
    with pytest.raises(UsageError, match="it is a SwinTransformerV2"):
        swin_config("own_model", other)


@pytest.mark.parametrize(
    ("path", "other", "named"),
    [
        ("layers.1.blocks.0.mlp.act", nn.SiLU(), "SiLU"),
        ("layers.1.blocks.0.mlp.act", nn.GELU(approximate="tanh"), "approximate"),
        ("layers.0.blocks.1.norm2", nn.LayerNorm(16, eps=1e-6), "epsilon"),
    ],
)
def test_a_model_with_one_other_module_is_refused(path: str, other: nn.Module, named: str):
    model = timm_model()
    model.set_submodule(path, other)
    with pytest.raises(UsageError, match=named):
        swin_config("own_model", model)


def test_stages_are_the_stem_every_block_and_the_head(whole: Swin):
    names = [name for name, _ in whole.stages()]
    blocks = [f"layers.{stage}.blocks.{i}" for stage, depth in enumerate((2, 3, 1)) for i in range(depth)]
    assert names == ["stem", *blocks, "head"]
    assert whole.block_list == [whole.get_submodule(name) for name in blocks]
    x = torch.randn(1, 8, 8, 32)
    assert whole.block_list[2](x).shape == x.shape


@pytest.mark.parametrize("cut", [1, 3, 4])
@torch.no_grad()
def test_two_parts_in_a_row_are_the_whole(whole: Swin, cut: int):
    front = deepcopy(whole).keep(0, cut, stem=True, head=False)
    end = deepcopy(whole).keep(cut, 6, stem=False, head=True)
    x = images(whole.config)
    assert torch.equal(end(front(x)), whole(x))
    both = front.state_dict() | end.state_dict()
    assert both.keys() == whole.state_dict().keys()
    assert not front.state_dict().keys() & end.state_dict().keys()
    assert [name for part in (front, end) for name, _ in part.stages()] == [
        name for name, _ in whole.stages()
    ]


@torch.no_grad()
def test_a_part_that_begins_with_a_stage_takes_merged_tokens(whole: Swin):
    front = deepcopy(whole).keep(0, 2, stem=True, head=False)
    end = deepcopy(whole).keep(2, 6, stem=False, head=True)
    merge = whole.layers[1].downsample
    left_out = {f"layers.1.downsample.{name}" for name in merge.state_dict()}
    x = images(whole.config)
    assert torch.equal(end(merge(front(x))), whole(x))
    assert front.state_dict().keys() | end.state_dict().keys() == whole.state_dict().keys() - left_out


@torch.no_grad()
def test_a_part_may_have_no_blocks(whole: Swin):
    only_head = deepcopy(whole).keep(6, 6, stem=False, head=True)
    assert [name for name, _ in only_head.stages()] == ["head"]
    front = deepcopy(whole).keep(0, 6, stem=True, head=False)
    x = images(whole.config)
    assert torch.equal(only_head(front(x)), whole(x))


def two_anchors() -> list[dict[str, Any]]:
    first: dict[str, Any] = swin_config("own", timm_model())
    return [first, first | {"embed_dim": 24, "depths": [2, 4], "num_heads": [3, 6]}]


@pytest.mark.parametrize(
    "segments",
    [
        [[0, 0, 2], [1, 1, 6]],
        [[0, 0, 3], [1, 4, 6]],
        [[1, 0, 3], [0, 2, 4], [1, 4, 6]],
        [[0, 0, 5], [1, 6, 6]],
    ],
)
def test_stitched_costs_are_sums_of_layers(segments: list[list[int]]):
    anchors = two_anchors()
    net = StitchedSwin(**json.loads(json.dumps({"anchors": anchors, "segments": segments}))).eval()
    assert net.config == {"anchors": anchors, "segments": segments}
    configs = [SwinConfig(**anchor) for anchor in anchors]
    layers: list[Layer] = []
    for i, (anchor, begin, end) in enumerate(segments):
        config, last = configs[anchor], i == len(segments) - 1
        if i:
            front, _, before = segments[i - 1]
            rows, columns = resolution(configs[front], before - 1)
            n_in, n_out = width(configs[front], before - 1), width(config, min(begin, 5))
            layers.append(linear(f"stitches.{i - 1}", rows * columns, n_in, n_out))
        layers += layers_of(config, begin, end, stem=i == 0, head=last)
    cost = cost_of(layers)
    assert (cost.params, cost.macs) == counted(net, images(anchors[0], 1))
    names = [name for name, _ in net.stages()]
    assert [name for name in names if name.startswith("stitches")] == [
        f"stitches.{i}" for i in range(len(segments) - 1)
    ]
    for name in names:
        assert name.endswith((".stem", ".head")) or isinstance(net.get_submodule(name), nn.Module)


@torch.no_grad()
def test_an_anchor_stitched_to_itself_by_identity_is_the_anchor(whole: Swin):
    net = StitchedSwin(anchors=[whole.config], segments=[[0, 0, 1], [0, 1, 4], [0, 4, 6]]).eval()
    state = whole.state_dict()
    for name, parameter in net.named_parameters():
        if name.startswith("segments."):
            parameter.copy_(state[name.split(".", 2)[2]])
        else:
            parameter.copy_(torch.eye(len(parameter)) if parameter.ndim == 2 else torch.zeros(len(parameter)))
    x = images(whole.config)
    assert torch.equal(net(x), whole(x))


def test_it_runs_with_the_weights_of_another(whole: Swin):
    with torch.device("meta"):
        empty = Swin(**whole.config).eval()
    x = images(whole.config)
    with torch.no_grad():
        assert torch.equal(functional_call(empty, whole.state_dict(), (x,)), whole(x))


def test_it_can_be_trained_after_inference_of_the_same_size():
    net = Swin(**(two_anchors()[1] | {"image_size": [16, 48]}))
    x = images(net.config, 1)
    with torch.inference_mode():
        net(x)
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_tracing_leaves_nothing_behind():
    net = Swin(**(two_anchors()[0] | {"image_size": [16, 32], "depths": [2], "num_heads": [2]})).eval()
    x = images(net.config)
    traced = torch.export.export(net, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(traced(x), net(x), rtol=1e-5, atol=1e-5)

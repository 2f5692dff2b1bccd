"""The stitching supernet: what a stitch computes, what is shared, and the published sizes."""

from typing import Any

import pytest
import torch
from torch import Tensor

import search_spaces
import supernet
from search_spaces import Architecture
from search_spaces.errors import UsageError
from search_spaces.families.stitching import stitch_of
from supernet.families.stitching import Stitching
from supernet.plain.vit import StitchedViT, ViT
from supernet.pretrained.timm_anchors import read_anchor

SMALL = {"embed_dim": 8, "depth": 3, "num_heads": 2}
LARGE = {"embed_dim": 16, "depth": 6, "num_heads": 4}
CONFIGURED: dict[str, dict[str, Any]] = {
    "v2": {"anchors": [SMALL, LARGE]},
    "v2 low rank": {"anchors": [SMALL, LARGE], "rank": 2},
    "v1 chains": {
        "anchors": [SMALL, {**SMALL, "embed_dim": 12}, {**SMALL, "embed_dim": 16}],
        "chains": True,
        "nearest": False,
    },
    "v1 unpaired": {"anchors": [SMALL, LARGE], "scheme": "v1"},
    "whole small": {"anchors": [SMALL, LARGE], "whole_small": True},
    "trained anchors": {"anchors": [SMALL, LARGE], "originals": False},
    "class token and LayerScale": {
        "anchors": [SMALL, LARGE],
        "class_token": True,
        "pool": "token",
        "fc_norm": False,
        "layer_scale": True,
    },
}
configured = pytest.mark.parametrize("options", CONFIGURED.values(), ids=CONFIGURED.keys())


def stitched(options: dict[str, Any], *, seed: int = 0) -> Stitching:
    net = supernet.build(search_spaces.get("stitching", **options), seed=seed)
    assert isinstance(net, Stitching)
    with torch.no_grad():  # an update of low rank begins at zero, where mistakes do not show
        for name, parameter in net.shared.stitches.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    return net.eval()


def archs_of(net: Stitching) -> list[Architecture]:
    return net.space.decode(net.space.all_codes())


def by_hand(net: Stitching, arch: Architecture, x: Tensor) -> Tensor:
    """The front's blocks, the linear map, the end's blocks, the end's norm and head."""
    stitch = stitch_of(arch)
    kept = net.shared.originals if len(stitch.segments) == 1 and net.shared.originals else net.shared.anchors
    vits = [vit for vit in kept if isinstance(vit, ViT)]
    x = vits[stitch.segments[0].anchor].embed(x)
    for i, segment in enumerate(stitch.segments):
        if i:
            layer = net.shared.stitches[net._layer_of[stitch.cuts[i - 1]]]
            x = x @ layer.merged().T + layer.bias
        for block in vits[segment.anchor].block_list[segment.begin : segment.end]:
            x = block(x)
    return vits[stitch.segments[-1].anchor].classify(x)


@configured
@torch.no_grad()
def test_a_stitch_is_front_blocks_a_linear_layer_and_end_blocks(options: dict[str, Any]) -> None:
    net = stitched(options)
    x = net.example_input(2)
    for arch in archs_of(net):
        assert torch.allclose(net(x, arch), by_hand(net, arch, x), atol=1e-5)


@configured
@torch.no_grad()
def test_every_member_is_extracted_exactly(options: dict[str, Any]) -> None:
    net = stitched(options)
    x = net.example_input(2)
    for arch in archs_of(net):
        module = net.extract(arch)
        assert torch.equal(module(x), net(x, arch))
        assert sum(p.numel() for p in module.parameters()) == net.space.cost(arch).params
        assert isinstance(module, ViT if len(stitch_of(arch).segments) == 1 else StitchedViT)
        assert not any("lora" in name for name in module.state_dict())


@torch.no_grad()
def test_equal_anchors_and_identity_layers_give_the_anchor() -> None:
    net = stitched({"anchors": [LARGE, LARGE], "originals": False})
    net.load_anchors(dict.fromkeys(range(2), net.shared.anchors[0].state_dict()))
    for layer in net.shared.stitches:
        layer.set(torch.eye(16), torch.zeros(16))
    x = net.example_input(3)
    expected = net(x, net.space.preset("anchor0"))
    for arch in archs_of(net):
        assert torch.allclose(net(x, arch), expected, atol=1e-5)


@torch.no_grad()
def test_the_last_norm_is_applied() -> None:
    net = stitched(CONFIGURED["class token and LayerScale"])
    arch = net.space.architecture({"stitch": "0[0:1]>1[2:6]"})
    x = net.example_input(2)
    before = net(x, arch)
    net.shared.anchors[1].norm.weight.mul_(3)
    assert not torch.allclose(net(x, arch), before, atol=1e-3)


@torch.no_grad()
def test_the_originals_stay_when_the_shared_anchors_change() -> None:
    net = stitched({"anchors": [SMALL, LARGE]})
    x, anchor, stitch = net.example_input(2), net.space.preset("anchor1"), net.space.uniform(3)[1]
    before = net(x, anchor), net(x, stitch)
    for parameter in net.shared.anchors.parameters():
        parameter.add_(0.1)
    assert torch.equal(net(x, anchor), before[0])
    assert not torch.equal(net(x, stitch), before[1])
    assert net.frozen == {net.space.preset("anchor0"), anchor}


@torch.no_grad()
def test_without_originals_the_anchors_are_the_shared_ones() -> None:
    net = stitched({"anchors": [SMALL, LARGE], "originals": False})
    x, anchor = net.example_input(2), net.space.preset("anchor1")
    before = net(x, anchor)
    for parameter in net.shared.anchors.parameters():
        parameter.add_(0.1)
    assert not torch.equal(net(x, anchor), before)
    assert not net.frozen


def test_a_low_rank_update_leaves_the_frozen_weight_alone() -> None:
    net = stitched({"anchors": [SMALL, LARGE], "rank": 2})
    arch = net.space.architecture({"stitch": "0[0:1]>1[2:6]"})
    net(net.example_input(2), arch).square().sum().backward()
    layer = net.shared.stitches[0]
    assert not isinstance(layer.weight, torch.nn.Parameter)
    assert {name for name, p in layer.named_parameters() if p.grad is not None} == {
        "bias",
        "lora_a",
        "lora_b",
    }
    scaled = layer.lora_b @ layer.lora_a / 2
    assert torch.equal(layer.merged(), layer.weight + scaled)


@torch.no_grad()
def test_the_update_begins_at_the_layer_that_was_set() -> None:
    layer = stitched({"anchors": [SMALL, LARGE], "rank": 2}).shared.stitches[0]
    weight, bias = torch.randn(16, 8), torch.randn(16)
    layer.set(weight, bias)
    assert torch.equal(layer.merged(), weight)
    assert torch.equal(layer.bias, bias)


def test_weights_of_another_width_are_refused_in_one_sentence() -> None:
    net, other = (
        stitched({"anchors": [SMALL, LARGE]}),
        stitched({"anchors": [SMALL, {**LARGE, "embed_dim": 24}]}),
    )
    with pytest.raises(UsageError, match=r"do not fit anchor 1 .*size mismatch") as caught:
        net.load_anchors({i: anchor.state_dict() for i, anchor in enumerate(other.shared.anchors)})
    assert "\n" not in caught.value.message


# -- computed sizes, without weights -------------------------------------------------------------------------

NUMEL = {
    "sn_net_v2_deit3_s_l": (11_133_056, 2_089_088, 337_567_312),
    "sn_net_v2_deit3_b_l": (20_746_496, 2_658_560, 411_706_576),
    "sn_net_v2_deit3_s_b": (8_492_160, 1_709_184, 117_136_976),
}


def counted(net: Stitching) -> tuple[int, int, int]:
    """Numbers of the stitching layers, of their trained part, and of layers and anchors together."""
    trained = sum(p.numel() for p in net.shared.stitches.parameters())
    layers = trained + sum(b.numel() for b in net.shared.stitches.buffers())
    return layers, trained, layers + sum(p.numel() for p in net.shared.anchors.parameters())


def on_meta(name: str, **options: Any) -> Stitching:
    with torch.device("meta"):
        net = supernet.build(search_spaces.get(name, **options))
    assert isinstance(net, Stitching)
    return net


@pytest.mark.parametrize("name", NUMEL)
def test_sizes_of_v2_supernets(name: str) -> None:
    """The release has a layer for the whole small anchor, too, which no member of its space uses."""
    assert counted(on_meta(name, whole_small=True, originals=False)) == NUMEL[name]


def test_sizes_at_rank_16() -> None:
    for name, layers in {"sn_net_v2_deit3_s_l": 9_578_624, "sn_net_v2_deit3_b_l": 18_768_128}.items():
        assert counted(on_meta(name, rank=16, whole_small=True, originals=False))[0] == layers


def test_size_of_the_v1_supernet() -> None:
    layers, trained, together = counted(on_meta("sn_net_deit_ti_s_b", originals=False))
    assert layers == trained == 4_067_712
    assert together == 118_403_448


TIMM = {
    "sn_net_deit_ti_s_b": [f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")],
    "sn_net_v2_deit3_s_l": [f"deit3_{size}_patch16_224" for size in ("small", "large")],
    "sn_net_v2_deit3_b_l": [f"deit3_{size}_patch16_224" for size in ("base", "large")],
    "sn_net_swin_t_s_b": [f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base")],
}


@pytest.mark.parametrize("name", TIMM)
def test_the_named_spaces_are_of_timms_models(name: str) -> None:
    named = search_spaces.get(name)
    sizes = {"image_size": (224, 224), "in_chans": 3, "num_classes": 1000}
    read = [read_anchor(model, pretrained=False, sizes=sizes).numbers for model in TIMM[name]]
    options = {key: value for key, value in named.options.items() if key != "anchors"}
    again = search_spaces.get("stitching", **options, anchors=read)
    assert again.options["anchors"] == named.options["anchors"]
    assert again.choices == named.choices

"""Swins in folders: a stitch loads from its own file, a whole anchor in timm, too."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import search_spaces
import supernet
from nas.config import AnchorsInit
from nas.exported.folder import export, timm_config
from nas.spaces.initial import load_folder
from nas.spaces.pretrained import load_anchors
from supernet.families.stitching import Stitching
from supernet.plain.swin import StitchedSwin, Swin

NUMBERS: dict[str, Any] = {"kind": "swin", "patch_size": 2, "num_heads": [1, 2], "window_size": 4}
SIZES: dict[str, Any] = {"image_size": (16, 16), "in_chans": 3, "num_classes": 5}


@pytest.fixture(scope="module")
def net() -> Stitching:
    anchors = [NUMBERS | {"embed_dim": 8, "depths": [3, 1]}, NUMBERS | {"embed_dim": 12, "depths": [3, 2]}]
    built = supernet.build(search_spaces.get("stitching", anchors=anchors, scheme="v1", **SIZES), seed=1)
    assert isinstance(built, Stitching)
    return built.eval()


@torch.no_grad()
def test_a_stitched_swin_is_a_folder_that_loads(net: Stitching, tmp_path: Path) -> None:
    arch = net.space.architecture({"stitch": "0[0:1]>1[1:5]"})
    module, x = net.extract(arch), net.example_input(3)
    assert timm_config(module) is None
    info = {"subnet": "k", "architecture": arch.to_dict()}
    export("safetensors", module, tmp_path / "it", example=x, info=info)
    loaded = load_folder(tmp_path / "it")
    assert isinstance(loaded, StitchedSwin)
    assert torch.equal(loaded(x), net(x, arch))


@torch.no_grad()
def test_a_whole_swin_is_a_folder_for_timm_and_an_anchor_again(net: Stitching, tmp_path: Path) -> None:
    arch, x = net.space.preset("anchor1"), net.example_input(3)
    module = net.extract(arch)
    assert isinstance(module, Swin)
    info = {"subnet": "k", "architecture": arch.to_dict()}
    export("safetensors", module, tmp_path / "it", example=x, info=info)
    twin = timm.create_model(f"local-dir:{tmp_path / 'it'}", pretrained=True).eval()
    assert torch.allclose(twin(x), net(x, arch), atol=1e-5)
    init = AnchorsInit.model_validate({"anchors": [{"checkpoint": str(tmp_path / "it")}] * 2})
    again = supernet.build(search_spaces.get("stitching", anchors=[{"kind": "swin"} | module.config] * 2))
    assert isinstance(again, Stitching)
    load_anchors(again, init, SIZES, {}, seed=0)
    assert torch.equal(again.eval()(x, again.space.preset("anchor0")), net(x, arch))

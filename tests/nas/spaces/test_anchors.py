"""From a job file's anchors to a stitching space, to weights, and what is said of models that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import small_timm_weights
import timm
import torch
from safetensors.torch import save_file

import search_spaces
import supernet
from nas.config import AnchorsInit, JobConfig, checked_config
from nas.datasets import DataSet
from nas.exported.folder import export
from nas.jobs import check
from nas.spaces.job_space import data_sizes, resolve
from nas.spaces.pretrained import load_anchors
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from supernet.families.stitching import Stitching

SIZES: dict[str, Any] = {"image_size": (16, 16), "in_chans": 3, "num_classes": 7}
PRETRAINED = small_timm_weights.PRETRAINED


class Images:
    """As much of a data set as anchors depend on."""

    def __init__(self, num_classes: int = 7) -> None:
        self.input_shape, self.num_classes = (3, 16, 16), num_classes


def job(anchors: list[dict[str, Any]], **space: Any) -> JobConfig:
    supernet_section = {"family": "stitching", "init": {"anchors": anchors}, "space": space}
    return checked_config({"supernet": supernet_section}, where="here")


def space_of(anchors: list[dict[str, Any]], *, classes: int = 7, **space: Any) -> SearchSpace:
    return resolve(job(anchors, **space), cast(DataSet, Images(classes)))


def extracted(folder: Path, *, dim: int, classes: int = 7) -> dict[str, Any]:
    """An anchor in a folder as `nas extract` writes it, with FFNs that differ."""
    net = supernet.build(
        search_spaces.get(
            "matformer", **SIZES | {"num_classes": classes}, patch_size=4, stem="patch",
            embed_dim=(dim,), depth=(3,), num_heads=(2,), mlp_ratio=(1, 2),
        )
    )  # fmt: skip
    arch = net.space.architecture({"embed_dim": dim, "depth": 3, "num_heads": 2, "mlp_ratio": [1, 2, 1]})
    info = {"subnet": arch.key, "architecture": arch.to_dict()}
    export("safetensors", net.extract(arch), folder, example=net.example_input(2), info=info)
    return {"checkpoint": str(folder)}


def timms(folder: Path, *, dim: int, classes: int = 7) -> dict[str, Any]:
    """An anchor in a folder as timm writes it for a model hub."""
    arguments = {"img_size": 16, "patch_size": 4, "embed_dim": dim, "depth": 3, "num_heads": 2}
    arguments |= {"class_token": False, "global_pool": "avg", "num_classes": classes}
    model = timm.create_model("vit_tiny_patch16_224", **arguments)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    pretrained = {"num_classes": classes, "input_size": [3, 16, 16], "first_conv": "patch_embed.proj"}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": classes, "model_args": arguments}
    (folder / "config.json").write_text(
        json.dumps(config | {"pretrained_cfg": pretrained | {"classifier": "head"}})
    )
    return {"checkpoint": str(folder)}


def trained(dim: int, **numbers: Any) -> dict[str, Any]:
    return {"vit": {"embed_dim": dim, "depth": 3, "num_heads": 2, "stem": "patch", "patch_size": 4} | numbers}


@torch.no_grad()
def test_anchors_from_three_places_become_one_supernet(tmp_path: Path) -> None:
    anchors = [extracted(tmp_path / "a", dim=8), timms(tmp_path / "b", dim=12), trained(16)]
    space = space_of(anchors)
    assert space.options["scheme"] == "v1"
    assert [anchor["embed_dim"] for anchor in space.options["anchors"]] == [8, 12, 16]
    assert space.options["anchors"][0]["mlp_hidden"] == [8, 16, 8]
    net = supernet.build(space).eval()
    assert isinstance(net, Stitching)
    init = job(anchors).supernet.init
    assert isinstance(init, AnchorsInit)
    own = {key: value + 1 for key, value in net.shared.anchors[2].state_dict().items()}
    load_anchors(net, init, SIZES, {2: own}, seed=0)
    x = net.example_input(2)
    twin = timm.create_model(f"local-dir:{tmp_path / 'b'}", pretrained=True).eval()
    assert torch.allclose(net(x, space.preset("anchor1")), twin(x), atol=1e-5)
    assert torch.equal(net.shared.originals[2].state_dict()["head.bias"], own["head.bias"])


def test_pretrained_weights_of_timm_are_taken(tmp_path: Path) -> None:
    weights = small_timm_weights.save_weights(tmp_path)
    anchors = [{"timm": PRETRAINED}, {"timm": PRETRAINED}]
    net = supernet.build(space_of(anchors))
    assert isinstance(net, Stitching)
    init = job(anchors).supernet.init
    assert isinstance(init, AnchorsInit)
    load_anchors(net, init, SIZES, {}, seed=0)
    for name, tensor in net.shared.anchors[1].state_dict().items():
        assert torch.equal(tensor, weights[name])


Made = Callable[[Path], list[dict[str, Any]]]
BAD: dict[str, tuple[Made, str]] = {
    "token grids": (
        lambda at: [trained(8), trained(16, patch_size=2)],
        r"different token grids: 0 \+ 16 tokens in anchor 0, 0 \+ 64 tokens in anchor 1",
    ),
    "class tokens": (
        lambda at: [trained(8), trained(16, class_token=True)],
        r"0 \+ 16 tokens in anchor 0, 1 \+ 16 tokens in anchor 1",
    ),
    "classes of a folder": (
        lambda at: [extracted(at / "a", dim=8, classes=5), trained(16)],
        "has num_classes 5, the data 7",
    ),
    "an unknown timm name": (
        lambda at: [{"timm": "deit3_smal_patch16_224"}, trained(16)],
        "timm has no model 'deit3_smal_patch16_224'",
    ),
    "another kind of model": (
        lambda at: [{"timm": "resnet18", "pretrained": False}, trained(16)],
        "timm's 'resnet18' is no transformer that can be stitched",
    ),
    "no folder": (lambda at: [{"checkpoint": str(at / "none")}, trained(16)], "There is no folder"),
    "the wrong order": (lambda at: [trained(16), trained(8)], r"Anchor 0 .* is larger than anchor 1"),
    "an unknown number": (lambda at: [trained(8, widht=3), trained(16)], "Anchor 0 has no number 'widht'"),
    "no width": (lambda at: [{"vit": {"depth": 2}}, trained(16)], "Anchor 0: embed_dim = None"),
}


@pytest.mark.parametrize(("made", "words"), BAD.values(), ids=BAD.keys())
def test_anchors_that_do_not_fit_are_refused_in_one_sentence(made: Made, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        space_of(made(tmp_path))
    assert "\n" not in caught.value.message


def test_anchors_of_different_pretraining_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ["vit_small_patch16_224.augreg_in21k_ft_in1k", "vit_base_patch16_384.augreg_in21k_ft_in1k"]
    with pytest.raises(UsageError, match=r"on images of different sizes: '.*' on 224x224, '.*' on 384x384"):
        space_of([{"timm": name} for name in models], classes=1000)
    models = ["vit_small_patch16_224.augreg_in21k_ft_in1k", "vit_base_patch16_224.augreg_in21k"]
    with pytest.raises(UsageError, match=r"for different classes: '.*' for 1000, '.*' for 21843"):
        space_of([{"timm": name} for name in models], classes=1000)


def test_a_classifier_of_other_classes_is_no_original(tmp_path: Path) -> None:
    small_timm_weights.save_weights(tmp_path)
    anchors = [{"timm": PRETRAINED}, {"timm": PRETRAINED}]
    with pytest.raises(UsageError, match="classifies 7 classes and the data has 5") as caught:
        space_of(anchors, classes=5)
    assert "originals: false" in caught.value.hint
    assert space_of(anchors, classes=5, originals=False).size > 2


def test_weights_that_cannot_be_had_are_told_of(tmp_path: Path) -> None:
    small_timm_weights.SOURCE.file = tmp_path / "none.safetensors"
    anchors = [{"timm": PRETRAINED}, {"timm": PRETRAINED}]
    init = job(anchors).supernet.init
    assert isinstance(init, AnchorsInit)
    net = supernet.build(space_of(anchors))
    assert isinstance(net, Stitching)
    with pytest.raises(UsageError, match=f"cannot load the pretrained weights of '{PRETRAINED}'"):
        load_anchors(net, init, SIZES, {}, seed=0)


def test_a_folder_of_timm_whose_weights_do_not_fit_is_told_of(tmp_path: Path) -> None:
    anchors = [timms(tmp_path / "a", dim=12), timms(tmp_path / "b", dim=16)]
    net = supernet.build(space_of(anchors))
    assert isinstance(net, Stitching)
    init = job(anchors).supernet.init
    assert isinstance(init, AnchorsInit)
    weights = tmp_path / "b" / "model.safetensors"
    for content, words in {
        (tmp_path / "a" / "model.safetensors").read_bytes(): "size mismatch for .*",
        b"damaged": "(?i:header)",
    }.items():
        weights.write_bytes(content)
        with pytest.raises(UsageError, match=rf"weights of '{tmp_path / 'b'}': .*{words}") as caught:
            load_anchors(net, init, SIZES, {}, seed=0)
        assert "\n" not in caught.value.message


def test_a_stitching_job_needs_anchors_and_only_it_takes_them() -> None:
    config = checked_config({"data": "digits", "supernet": {"family": "stitching"}}, where="here")
    with pytest.raises(UsageError, match="needs the models that it joins"):
        check(config)
    anchors = [trained(8), trained(16)]
    config = checked_config({"data": "digits", "supernet": {"init": {"anchors": anchors}}}, where="here")
    with pytest.raises(UsageError, match="A matformer job joins no models"):
        check(config)
    for init in ({"checkpoint": "folder"}, {"timm": "vit_tiny_patch16_224"}):
        section = {"family": "stitching", "init": init}
        with pytest.raises(UsageError, match="needs the models that it joins"):
            check(checked_config({"data": "digits", "supernet": section}, where="here"))


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a word for a number": ({"kernel": "a", "scheme": "v1"}, "kernel = 'a' is not a whole number"),
    "true for a number": ({"rank": True}, "rank = True is not a whole number from 0 to 100,000"),
    "null for a number": ({"stride": None}, "stride = None is not a whole number from 1 to 100,000"),
    "a word for a switch": ({"originals": "false"}, "originals = 'false' is neither true nor false"),
    "zero for a switch": ({"originals": 0}, "originals = 0 is neither true nor false"),
    "an unknown scheme": ({"scheme": "v3"}, "scheme = 'v3' is unknown"),
    "an unknown option": ({"kernal": 3}, "The stitching space has no option 'kernal'"),
    "an option of v1": ({"kernel": 3}, "'kernel' means something in scheme v1 only, and this is v2"),
    "an option of v2": ({"scheme": "v1", "whole_small": True}, "in scheme v2 only, and this is v1"),
    "anchors twice": ({"anchors": [{}, {}]}, "'anchors' is no option of supernet.space in a job"),
    "a name": ({"name": "x"}, "'name' is no option of supernet.space in a job"),
    "a switch of all anchors": ({"qkv_bias": "no"}, "qkv_bias = 'no' is neither true nor false"),
    "an epsilon": ({"norm_eps": "abc"}, "norm_eps = 'abc' is not a number between 0 and 1"),
}


@pytest.mark.parametrize(("options", "words"), OPTIONS.values(), ids=OPTIONS.keys())
def test_wrong_options_are_refused_in_one_sentence(options: dict[str, Any], words: str) -> None:
    section = {"family": "stitching", "init": {"anchors": [trained(8), trained(16)]}, "space": options}
    with pytest.raises(UsageError, match=words) as caught:
        resolve(checked_config({"supernet": section}, where="here"), cast(DataSet, Images()))
    assert "\n" not in caught.value.message


NUMBERS: dict[str, tuple[dict[str, Any], str]] = {
    "mlp_ratio": ({"mlp_ratio": "4"}, "Anchor 0: mlp_ratio = '4' is not a possible number"),
    "a huge mlp_ratio": ({"mlp_ratio": 1e300}, "Anchor 0: mlp_ratio = 1e.300 is not a possible number"),
    "mlp_hidden": ({"mlp_hidden": 4}, "Anchor 0: mlp_hidden = 4 is not a list of positive integers"),
    "stem_channels": ({"stem_channels": 3}, "Anchor 0: stem_channels = 3 is not a list"),
    "kind": ({"kind": ["vit"]}, "Anchor 0 is of the unknown kind"),
    "two kinds": ({"kind": "swin"}, "Anchor 0"),
    "heads": ({"num_heads": 3}, "embed_dim 8 is not a multiple of num_heads 3"),
}


@pytest.mark.parametrize(("numbers", "words"), NUMBERS.values(), ids=NUMBERS.keys())
def test_wrong_numbers_of_an_anchor_are_refused(numbers: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        space_of([trained(8, **numbers), trained(16)])
    assert "\n" not in caught.value.message


LATE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "lr_scale": ({"lr_scale": {"anchor": 0.1}}, {}, "no trained weights are called 'anchor'"),
    "largest_first": ({"largest_first": 0.5}, {}, "largest subnet keeps the weights"),
    "unequal layers": ({}, {"num_heads": [1, 2, 1, 1]}, "Anchor 0 cannot be trained by the job"),
}


@pytest.mark.parametrize(("train", "numbers", "words"), LATE.values(), ids=LATE.keys())
def test_what_would_fail_late_is_found_before_the_job(
    train: dict[str, Any], numbers: dict[str, Any], words: str
) -> None:
    first = trained(8, depth=4, patch_size=2)
    first["vit"] |= numbers
    anchors = [first, trained(16, depth=4, patch_size=2)]
    tree = {
        "data": "digits",
        "supernet": {"family": "stitching", "init": {"anchors": anchors}},
        "train": train,
    }
    with pytest.raises(UsageError, match=words):
        check(checked_config(tree, where="here"))


def test_original_anchors_are_not_trained_by_mistake() -> None:
    anchors = [trained(8, depth=4, patch_size=2), trained(16, depth=4, patch_size=2)]
    tree = {"data": "digits", "supernet": {"family": "stitching", "init": {"anchors": anchors}}}
    assert check(checked_config(tree, where="here")).size == 14
    tree["train"] = {"sampling": {"strategy": "single_path"}}
    with pytest.raises(UsageError, match="would train the original anchors"):
        check(checked_config(tree, where="here"))


def test_the_family_brings_its_own_training_defaults() -> None:
    plain, own = JobConfig(), job([trained(8), trained(16)])
    assert (plain.train.largest_first, plain.train.sampling.strategy) == (0.25, "single_path")
    assert (own.train.largest_first, own.train.sampling.strategy) == (0.0, "resource_constrained")
    assert own.train.lr < plain.train.lr
    given = {"train": {"lr": 0.5, "sampling": {"paths": 2}}, "supernet": {"family": "stitching"}}
    config = checked_config(given, where="here")
    assert (config.train.lr, config.train.sampling.paths) == (0.5, 2)
    assert config.train.sampling.strategy == "resource_constrained"
    assert data_sizes(cast(DataSet, Images())) == SIZES

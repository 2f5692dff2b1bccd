"""A whole stitching job, as small as can be: two anchors trained by the job, and everything between them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import nas
from nas import checkpoints, pipeline
from nas.jobs import measure
from nas.progress import Silent
from nas.results.extraction import export, load_supernet
from nas.spaces.initial import load_folder
from nas.spaces.job_space import space_of
from nas.store import Store
from search_spaces.families.stitching import stitch_of
from supernet.families.stitching import Stitching
from supernet.plain.vit import StitchedViT
from supernet.training.trainer import Training

ANCHOR = {"steps": 20, "warmup": 2, "batch_size": 16}
CONFIG: dict[str, Any] = {
    "name": "stitched",
    "data": "digits",
    "supernet": {
        "family": "stitching",
        "init": {
            "anchors": [
                {"vit": {"embed_dim": 8, "depth": 4, "num_heads": 1, "mlp_ratio": 2}, **ANCHOR},
                {"vit": {"embed_dim": 12, "depth": 4, "num_heads": 2, "mlp_ratio": 2}, **ANCHOR},
            ],
            "images": 48,
        },
        "space": {"rank": 2},
    },
    "train": {"steps": 12, "batch_size": 16, "warmup": 2, "threads": 1, "checkpoint_every": 5},
    "objectives": ["accuracy", "params"],
    "devices": {"cpu": {"batch": 4}},
    "predictor": {"samples": 14, "rounds": 2, "max_rounds": 2},
    "search": {"evaluations": 50, "batch": 5, "finalists": 5},
    "execution": {"workers": 1},
}
MEMBERS = 14


def url_in(folder: Path) -> str:
    return f"sqlite:///{folder / 'store.sqlite'}"


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> nas.JobHandle:
    return nas.run(CONFIG, store=url_in(tmp_path_factory.mktemp("stitched")))


def test_every_member_is_evaluated_once(handle: nas.JobHandle) -> None:
    space = space_of(handle.store, handle.job)
    found = handle.store.evaluations(handle.job, "search")
    stitches = [evaluation.subnet.architecture["stitch"] for evaluation in found]
    assert sorted(stitches) == sorted(map(str, space.choices[0].options))
    assert len(stitches) == space.size == MEMBERS
    assert [stage.name for stage in handle.store.stages(handle.job)] == [
        *("space", "latency", "anchor-0", "anchor-1", "train", "search", "finalists")
    ]
    assert not handle.store.artifacts(handle.job, "checkpoint")
    last = {
        kind: handle.store.events(handle.job, kind)[-1].step for kind in ("anchor-0", "anchor-1", "train")
    }
    assert last == {"anchor-0": 20, "anchor-1": 20, "train": 12}


def test_the_original_anchors_are_those_that_were_trained_apart(handle: nas.JobHandle) -> None:
    net = load_supernet(handle.store, handle.job)
    assert isinstance(net, Stitching)
    for i in range(2):
        (artifact,) = handle.store.artifacts(handle.job, f"anchor-{i}")
        for name, tensor in checkpoints.load(handle.store, artifact).items():
            assert torch.equal(net.shared.originals[i].state_dict()[name], tensor)
        moved = zip(net.shared.anchors[i].parameters(), net.shared.originals[i].parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in moved)


@torch.no_grad()
def test_a_stitch_is_taken_out_as_a_folder(handle: nas.JobHandle, tmp_path: Path) -> None:
    net = load_supernet(handle.store, handle.job)
    arch = net.space.uniform(3)[1]
    assert len(stitch_of(arch).segments) > 1
    export(handle.store, handle.job, arch.key, tmp_path / "stitch")
    module = load_folder(tmp_path / "stitch")
    assert isinstance(module, StitchedViT)
    x = net.example_input(3)
    assert torch.equal(module(x), net(x, arch))
    assert measure(tmp_path / "stitch", {"name": "here", "batch": 2})["measured_ms"] > 0
    names = set(load_file(tmp_path / "stitch" / "model.safetensors"))
    assert {"segments.0.patch_embed.convs.0.weight", "stitches.0.weight"} <= names
    assert not any("lora" in name or name.startswith("anchors") for name in names)


def test_an_anchor_is_taken_out_as_a_plain_vit(handle: nas.JobHandle, tmp_path: Path) -> None:
    key = space_of(handle.store, handle.job).preset("anchor1").key
    export(handle.store, handle.job, key, tmp_path / "anchor")
    assert type(load_folder(tmp_path / "anchor")).__name__ == "ViT"


@pytest.mark.parametrize("steps", [27, pytest.param(47, marks=pytest.mark.slow)])
def test_a_training_cut_off_anywhere_ends_with_the_same_weights(
    handle: nas.JobHandle, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many optimiser steps of the job: in the second anchor, and in the stitches."""
    done = 0
    optimise = Training._optimise

    def dying(self: Training, *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += 1
        if done > steps:
            raise RuntimeError("the power fails")
        return optimise(self, *args, **kwargs)

    monkeypatch.setattr(Training, "_optimise", dying)
    with pytest.raises(RuntimeError, match="power"):
        nas.run(CONFIG, store=url_in(tmp_path))
    monkeypatch.setattr(Training, "_optimise", optimise)
    with Store.open(url_in(tmp_path)) as store:
        pipeline.run(store, store.job("stitched"), progress=Silent())
        expected = load_supernet(handle.store, handle.job).state_dict()
        for name, tensor in load_supernet(store, store.job("stitched")).state_dict().items():
            assert torch.equal(tensor, expected[name]), name

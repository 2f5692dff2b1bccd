"""Jobs over Hieras: a whole one, sizes that suit the data, weights of timm in, subnets out to timm."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from small_timm_weights import HIERA, save_hiera_weights
from tiny_job import untrained_in

import nas
import search_spaces
import supernet
from nas import datasets, jobs
from nas.config import checked_config
from nas.results import extraction
from nas.spaces.initial import initialise, load_folder
from nas.spaces.job_space import resolve
from search_spaces.errors import UsageError
from supernet.plain.hiera import Hiera

SPACE: dict[str, Any] = {"image_size": (8, 8), "in_chans": 1, "num_classes": 10, "embed_dim": (8, 16)}
JOB: dict[str, Any] = {
    "name": "hierarchical",
    "data": "digits",
    "supernet": {"family": "turbovit"},
    "train": {"steps": 6, "batch_size": 16, "warmup": 2, "threads": 1},
    "devices": {"cpu": {"batch": 4}},
    "constraints": ["macs<=2000000"],
    "predictor": {"samples": 10, "rounds": 2, "max_rounds": 2},
    "search": {"searcher": "random", "evaluations": 8, "batch": 4, "finalists": 2},
    "execution": {"workers": 1},
}


def job(**section: Any) -> Any:
    return checked_config({"data": "digits", "supernet": {"family": "turbovit"} | section}, where="here")


@pytest.mark.slow
def test_a_job_needs_to_name_the_family_only(tmp_path: Path) -> None:
    handle = nas.run(JOB, store=f"sqlite:///{tmp_path / 'store.sqlite'}")
    member = handle.front().members[0]
    extraction.export(handle.store, handle.job, member.subnet, tmp_path / "subnet")
    module = load_folder(tmp_path / "subnet")
    assert isinstance(module, Hiera)
    assert sum(p.numel() for p in module.parameters()) == member.params
    net = extraction.load_supernet(handle.store, handle.job)
    x = net.example_input(3)
    with torch.no_grad():
        assert torch.equal(module(x), net(x, net.space.architecture(dict(member.architecture))))


def test_sizes_come_from_the_data() -> None:
    space = resolve(job(), datasets.build("digits"))
    assert (space.options["image_size"], space.options["in_chans"]) == ((8, 8), 1)
    assert (space.options["patch_size"], space.options["patch_kernel"]) == (2, 5)
    assert len(space.options["depth"]) == 3
    given = resolve(job(space={"depth": [[1], [1, 2]], "patch_size": 2}), datasets.build("digits"))
    assert (given.options["patch_size"], given.options["mask_unit_stages"]) == (2, (1,))
    pairs = checked_config({"data": "digit_pairs", "supernet": {"family": "turbovit"}}, where="here")
    assert resolve(pairs, datasets.build("digit_pairs")).options["image_size"] == (8, 16)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"space": {"patch_size": 4}}, "both sides must be multiples of 16"),
        ({"variant": "hiera"}, "both sides must be multiples of 32"),
        ({"init": {"timm": "vit_tiny_patch16_224"}}, "is a VisionTransformer, not a Hiera"),
        ({"init": {"timm": "hiera_tiny_224"}}, "both sides must be multiples of 32"),
        ({"family": "matformer", "init": {"timm": "hiera_tiny_224"}}, "is a Hiera, not a plain Vision"),
        ({"family": "vit_resnas", "init": {"timm": "hiera_tiny_224"}}, "weights of another model"),
    ],
)
def test_what_does_not_fit_is_one_sentence(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(job(**section), datasets.build("digits"))
    assert message in caught.value.message


def test_pretrained_weights_for_other_channels_and_classes(tmp_path: Path) -> None:
    pretrained = save_hiera_weights(tmp_path)
    config = job(init={"timm": HIERA, "pretrained": True})
    space = jobs.check(config)
    assert space.family == "turbovit"
    assert space.options["mlp_ratio"] == ((0.25, 0.5, 1, 2),) * 2
    net = supernet.build(space)
    assert initialise(net, config.supernet, seed=4)
    found = net.shared.state_dict()
    fitted = {"patch_embed.proj.weight", "head.fc.weight", "head.fc.bias"}
    assert all(torch.equal(found[name], pretrained[name]) for name in found.keys() - fitted)
    grey = pretrained["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    assert torch.allclose(found["patch_embed.proj.weight"], grey, atol=1e-6)
    assert found["head.fc.weight"].shape == (10, 16)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(UsageError, match=f"pretrained weights of '{HIERA}'"):
        jobs.check(config)
    jobs.check(job(init={"timm": HIERA, "pretrained": False}))


@torch.no_grad()
def test_timm_loads_a_subnet_that_it_can_express(tmp_path: Path) -> None:
    space = search_spaces.get("turbovit", **SPACE)
    made = untrained_in(f"sqlite:///{tmp_path / 'store.sqlite'}", space)
    values = space.smallest.to_dict() | {"depth": [1, 2, 1], "mlp_ratio": 2}
    archs = [space.architecture(values | {"wide_stem": wide}) for wide in (False, True)]
    keys = made.looked_at(*archs)
    for key, arch, folder in zip(keys, archs, ("evenly", "condensed"), strict=True):
        extraction.export(made.store, made.job, key, tmp_path / folder)
        net = extraction.load_supernet(made.store, made.job)
        x = net.example_input(3)
        assert torch.equal(load_folder(tmp_path / folder)(x), net(x, arch))
    twin = timm.create_model(f"local-dir:{tmp_path / 'evenly'}", pretrained=True).eval()
    x = net.example_input(3)
    torch.testing.assert_close(twin(x), net(x, archs[0]), rtol=1e-5, atol=1e-5)
    other = timm.create_model(f"local-dir:{tmp_path / 'evenly'}", pretrained=True, num_classes=3)
    assert other.head.fc.weight.shape == (3, 32)
    assert "import timm" in (tmp_path / "evenly" / "README.md").read_text()
    assert "import timm" not in (tmp_path / "condensed" / "README.md").read_text()


@torch.no_grad()
def test_an_extracted_subnet_is_nested_again(tmp_path: Path) -> None:
    space = search_spaces.get("turbovit", **SPACE)
    made = untrained_in(f"sqlite:///{tmp_path / 'store.sqlite'}", space)
    arch = space.uniform(3)[1]
    (key,) = made.looked_at(arch)
    extraction.export(made.store, made.job, key, tmp_path / "subnet")
    config = job(init={"checkpoint": str(tmp_path / "subnet")})
    again = supernet.build(jobs.check(config)).eval()
    assert initialise(again, config.supernet, seed=0)
    x = again.example_input(2)
    assert torch.equal(again(x, again.space.largest), load_folder(tmp_path / "subnet")(x))
    with pytest.raises(UsageError, match="it is a Hiera, and only a ViT can be nested"):
        resolve(
            job(family="matformer", init={"checkpoint": str(tmp_path / "subnet")}), datasets.build("digits")
        )

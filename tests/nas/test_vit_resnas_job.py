"""A whole ViT-ResNAS job, as small as can be: widening, sorting, mixed patches, evolution in a window."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import nas
import supernet
from nas import datasets, searchers
from nas.config import checked_config
from nas.jobs import check, measure
from nas.measuring.latency import Latency, stored_predictor
from nas.progress import Silent
from nas.results.extraction import export, load_supernet
from nas.search.objectives import Objectives
from nas.search.stage import problem
from nas.spaces.initial import load_folder
from nas.spaces.job_space import resolve, space_of
from nas.training.finetuning import finetune
from nas.training.supernets import finished, strategy
from search_spaces.errors import UsageError
from supernet.plain.vit_res import ViTRes
from supernet.training.strategies import MultiArchitectural
from supernet.training.trainer import Training

LOW, HIGH = 60_000, 100_000
CONFIG: dict[str, Any] = {
    "name": "multi-stage",
    "data": "digits",
    "supernet": {
        "family": "vit_resnas",
        "space": {
            "head_dim": [4, 4, 8],
            "embed_dim": [[4, 8], [8, 12], [16, 24]],
            "num_heads": [[1, 2]] * 3,
            "mlp_hidden": [[8, 16], [16, 32], [32, 64]],
            "depth": [2, 2, 2],
            "optional": [[1], [1], [1]],
            "stem_dim": 4,
            "stem_norm": "batch",
        },
    },
    "train": {
        "steps": 24,
        "batch_size": 16,
        "warmup": 2,
        "threads": 1,
        "checkpoint_every": 9,
        "largest_first": 0.0,
        "widening": 0.5,
        "sort_every": 4,
        "patch_mixup": True,
        "ema": 0.9,
        "sampling": {"strategy": "multi_architectural", "paths": 2},
    },
    "devices": {"cpu": {"batch": 4}},
    "constraints": [f"macs>={LOW}", f"macs<={HIGH}"],
    "predictor": {"samples": 14, "rounds": 2, "max_rounds": 2},
    "search": {
        "searcher": "evolution",
        "options": {"initial": 10, "parents": 4, "mutants": 4, "crossovers": 4},
        "evaluations": 24,
        "batch": 6,
        "finalists": 4,
    },
    "execution": {"workers": 1},
}


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> nas.JobHandle:
    return nas.run(CONFIG, store=f"sqlite:///{tmp_path_factory.mktemp('job') / 'store.sqlite'}")


def test_the_search_stays_in_the_window_and_repeats_nothing(handle: nas.JobHandle) -> None:
    found = handle.store.evaluations(handle.job, "search")
    assert len(found) == len({row.subnet.key for row in found}) == 24
    assert all(LOW <= row.subnet.macs <= HIGH for row in found)


def test_a_window_of_latency_works_like_one_of_costs(handle: nas.JobHandle) -> None:
    space, device = space_of(handle.store, handle.job), handle.store.devices()[0]
    predictor = stored_predictor(handle.store, handle.job, space, device)
    assert predictor is not None
    drawn = space.sample_choices(np.random.default_rng(0), 2000)
    low, high = np.quantile(predictor.predict(drawn)[0], [0.30, 0.33])
    limits = [f"latency_ms>={low}", f"latency_ms<={high}"]
    config = checked_config(CONFIG | {"constraints": limits}, where="here")
    objectives = Objectives(config.objectives, space, Latency(device, predictor))
    searcher, codes = searchers.build("evolution", problem(config, objectives)), space.encode([])
    for _ in range(20):
        code = searcher.ask(1)
        searcher.tell(code, np.array([[0.5, predictor.predict(code)[0][0]]]))
        codes = np.concatenate([codes, code])
    times = predictor.predict(codes)[0]
    assert len(np.unique(codes, axis=0)) == 20
    assert (times >= low).all()
    assert (times <= high).all()


def test_an_extracted_subnet_is_the_supernets(handle: nas.JobHandle, tmp_path: Path) -> None:
    member = handle.front().members[0]
    net = load_supernet(handle.store, handle.job)
    x = torch.randn(3, 1, 8, 8)
    files = export(handle.store, handle.job, member.subnet, tmp_path / "subnet")
    module = load_folder(tmp_path / "subnet")
    assert isinstance(module, ViTRes)
    with torch.no_grad():
        expected = net(x, net.space.architecture(dict(member.architecture)))
        assert torch.equal(module(x), expected)
    assert sum(p.numel() for p in module.parameters()) == member.params
    assert (tmp_path / "subnet" / "modeling.py") in files
    told = measure(tmp_path / "subnet", {"name": "it", "backend": "torch_cpu", "threads": 1, "batch": 2})
    assert told["measured_ms"] > 0


def test_nothing_of_the_training_is_left_in_the_weights(handle: nas.JobHandle) -> None:
    net = load_supernet(handle.store, handle.job)
    (artifact,) = handle.store.artifacts(handle.job, "supernet")
    assert load_file(handle.store.artifact_root / artifact.path).keys() == net.shared.state_dict().keys()
    assert not any("patch_head" in name for name in net.shared.state_dict())


def test_a_subnet_with_batch_statistics_can_be_retrained(handle: nas.JobHandle) -> None:
    key = handle.front().members[-1].subnet
    finetune(handle.store, handle.job, [key], progress=Silent(), steps=6)
    member = next(m for m in handle.front().members if m.subnet == key)
    assert member.finetuned is not None
    tuned = handle.extract(key, weights="finetuned").state_dict()
    before = handle.extract(key).state_dict()
    running = [name for name in tuned if "running" in name]
    assert len(running) == 6
    assert all(not torch.equal(tuned[name], before[name]) for name in running)


def test_what_the_job_file_says_reaches_the_training(handle: nas.JobHandle) -> None:
    config = checked_config(CONFIG, where="here")
    made = config.train
    assert (made.widening, made.sort_every, made.patch_mixup) == (0.5, 4, True)
    how = strategy(config.train.sampling, supernet.build(space_of(handle.store, handle.job)))
    assert how == MultiArchitectural(2)


def test_batch_statistics_are_those_of_the_averaged_weights_on_training_images(handle: nas.JobHandle) -> None:
    config, data = checked_config(CONFIG, where="here"), datasets.build("digits")
    net = supernet.build(space_of(handle.store, handle.job))
    training = Training(net, MultiArchitectural(2), config.train, seed=0)
    list(training.run(lambda step: data.train_batch(0, step, 16), until=6))
    before = training.weights()
    after = finished(training, data)
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        same = torch.equal(tensor, before[name])
        assert same != ("running" in name or "num_batches" in name), name
    x = torch.cat(
        [training.mixed(*data.train_batch(0, step, 16), step).inputs for step in range(-1, -17, -1)]
    )
    assert not torch.equal(x[:16], data.train_batch(0, -1, 16)[0])
    y = torch.nn.functional.conv2d(x, after["patch_embed.convs.0.weight"], stride=2, padding=1)
    torch.testing.assert_close(after["patch_embed.norms.0.running_mean"], y.mean(dim=(0, 2, 3)))


def job(**supernet: Any) -> Any:
    return checked_config({"data": "digits", "supernet": supernet}, where="here")


def test_a_variant_lies_below_the_options_and_the_data_above_it() -> None:
    space = resolve(
        job(family="autoformer", variant="autoformer_tiny", space={"patch_size": 4}), datasets.build("digits")
    )
    assert space.options["embed_dim"] == (192, 216, 240)
    assert (space.options["image_size"], space.options["num_classes"]) == ((8, 8), 10)
    assert space.options["patch_size"] == 4
    family = resolve(job(family="vit_resnas"), datasets.build("digits"))
    assert family.options["patch_size"] == 2


@pytest.mark.parametrize(
    ("supernet", "message"),
    [
        ({"family": "vit_resnas", "variant": "vit_resnas_tiny"}, "both sides must be multiples of 56"),
        ({"family": "vit_resnas", "variant": "matformer_vit_b16"}, "has no space called 'matformer_vit_b16'"),
        (
            {"variant": "matformer_vit_b16", "init": {"timm": "vit_tiny_patch16_224"}},
            "both say what the network is",
        ),
        (
            {"family": "vit_resnas", "init": {"timm": "vit_tiny_patch16_224"}},
            "weights of another model",
        ),
        (
            {"family": "autoformer", "init": {"timm": "vit_tiny_patch16_224"}},
            "weights of another model",
        ),
        ({"family": "autoformer", "init": {"checkpoint": "x"}}, "There is no folder 'x'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(supernet: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(job(**supernet), datasets.build("digits"))
    assert message in caught.value.message


def test_a_family_that_cannot_begin_so_names_those_that_can() -> None:
    init = {"timm": "vit_tiny_patch16_224"}
    with pytest.raises(UsageError) as caught:
        resolve(job(family="vit_resnas", init=init), datasets.build("digits"))
    assert "matformer (plain ViTs) or turbovit (Hieras)." in caught.value.hint
    with pytest.raises(UsageError) as caught:
        resolve(job(family="vit_resnas", init={"anchors": [init, init]}), datasets.build("digits"))
    assert caught.value.hint == "Set supernet.family: stitching."


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("search", {"options": {"parents": 1}}, "parents = 1"),
        ("search", {"searcher": "random", "options": {"parents": 4}}, "no option 'parents'"),
        ("train", {"patch_mixup": True}, None),
    ],
)
def test_the_check_before_a_job_finds_it(section: str, values: dict[str, Any], message: str | None) -> None:
    tree = CONFIG | {section: CONFIG[section] | values}
    if message is None:
        check(checked_config(tree, where="here"))
        return
    with pytest.raises(UsageError, match=message):
        check(checked_config(tree, where="here"))


def test_patch_mixup_of_a_family_without_patches_is_refused_before_it_runs() -> None:
    config = checked_config({"data": "digits", "train": {"patch_mixup": True}}, where="here")
    with pytest.raises(UsageError, match="no labels for patches"):
        check(config)


def test_a_window_that_nothing_meets_is_refused_before_it_runs() -> None:
    space = resolve(checked_config(CONFIG, where="here"), datasets.build("digits"))
    macs = np.unique(space.costs(space.all_codes())["macs"])
    gap = int(np.diff(macs).argmax())
    limits = [f"macs>={macs[gap] + 1}", f"macs<={macs[gap + 1] - 1}"]
    config = checked_config(CONFIG | {"constraints": limits}, where="here")
    with pytest.raises(UsageError, match=r"was found that keeps macs.* the closest has macs"):
        check(config)

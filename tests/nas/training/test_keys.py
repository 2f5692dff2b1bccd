"""What the key of a supernet depends on: a table over all fields of the job file."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from nas import datasets
from nas.config import AnchorsInit, DeviceConfig, JobConfig, checked_config
from nas.spaces.job_space import resolve
from nas.spaces.preprocessing import prepared
from nas.training import keys
from nas.training.keys import supernet_key
from supernet.training.recipe import Recipe, Sampling, Teacher

BASE: dict[str, Any] = {
    "data": {"name": "digits"},
    "supernet": {"space": {"embed_dim": [8, 16], "depth": [1, 2], "num_heads": [1, 2], "mlp_ratio": [1, 2]}},
    "train": {"steps": 60, "batch_size": 32, "warmup": 10},
}
SAME, OTHER = False, True
ANCHORS = {"anchors": [{"vit": {"embed_dim": 8, "depth": 2, "num_heads": 2}}] * 2}
JOINED = {"supernet": {"family": "stitching", "init": ANCHORS, "space": {"rank": 2}}}
# Field -> what is set (with what else that needs), and whether the key is another one then.
FIELDS: dict[str, tuple[dict[str, Any], bool]] = {
    "name": ({"name": "x"}, SAME),
    "seed": ({"seed": 1}, OTHER),
    "reuse": ({"reuse": False}, SAME),  # such a job has no key
    "data.name": ({"data": {"name": "digit_pairs"}}, OTHER),
    "supernet.family": ({"supernet.family": "autoformer"}, OTHER),
    "supernet.variant": ({"supernet": {"variant": "matformer"}}, OTHER),
    "supernet.space": ({"supernet.space.depth": [1, 3]}, OTHER),
    "supernet.init": (JOINED, OTHER),
    "supernet.use": ({"supernet": {"use": "x"}, "train": {}}, OTHER),  # is not asked for its key
    "train.steps": ({"train.steps": 61}, OTHER),
    "train.batch_size": ({"train.batch_size": 16}, OTHER),
    "train.optimizer": ({"train.optimizer": "adamw"}, OTHER),
    "train.muon.lr": ({"train.muon": {"lr": 0.1}}, OTHER),
    "train.muon.momentum": ({"train.muon": {"momentum": 0.9}}, OTHER),
    "train.muon.weight_decay": ({"train.muon": {"weight_decay": 0.2}}, OTHER),
    "train.schedule": ({"train.schedule": "linear"}, OTHER),
    "train.lr": ({"train.lr": 0.1}, OTHER),
    "train.lr_scale": ({"train.lr_scale": {"head": 0.5}}, OTHER),
    "train.weight_decay": ({"train.weight_decay": 0.1}, OTHER),
    "train.betas": ({"train.betas": [0.9, 0.99]}, OTHER),
    "train.warmup": ({"train.warmup": 11}, OTHER),
    "train.clip": ({"train.clip": 2.0}, OTHER),
    "train.label_smoothing": ({"train.label_smoothing": 0.1}, OTHER),
    "train.largest_first": ({"train.largest_first": 0.5}, OTHER),
    "train.widening": ({"train.widening": 0.1}, OTHER),
    "train.sort_every": ({"train.sort_every": 5, "train.widening": 0.1}, OTHER),
    "train.patch_mixup": ({"train.patch_mixup": True}, OTHER),
    "train.drop_path": ({"train.drop_path": 0.1}, OTHER),
    "train.drop_path_by": ({"train.drop_path_by": "equal", "train.drop_path": 0.1}, OTHER),
    "train.dropout": ({"train.dropout": 0.1}, OTHER),
    "train.recalibrate": ({"train.recalibrate": False}, OTHER),
    "train.tf32": ({"train.tf32": True}, OTHER),
    "train.channels_last": ({"train.channels_last": True}, OTHER),
    "train.compile": ({"train.compile": True}, OTHER),
    "train.checkpoint_activations": ({"train.checkpoint_activations": True}, SAME),
    "train.mixup": ({"train.mixup": 0.8}, OTHER),
    "train.cutmix": ({"train.cutmix": 1.0}, OTHER),
    "train.lr_floor": ({"train.lr_floor": 0.01}, OTHER),
    "train.layer_decay": ({"train.layer_decay": 0.75}, OTHER),
    "train.accumulate": ({"train.accumulate": 2}, OTHER),
    "train.decay_also": ({"train.decay_also": ["tokens"]}, OTHER),
    "train.init_std": ({"train.init_std": 0.02}, OTHER),
    "train.ema": ({"train.ema": 0.9}, OTHER),
    "train.precision": ({"train.precision": "bf16"}, OTHER),
    "train.recipe": ({"train.recipe": "own"}, SAME),  # the values that it stands for are there
    "train.device": ({"train.device": "cpu"}, SAME),
    "train.checkpoint_every": ({"train.checkpoint_every": 7}, SAME),
    "train.threads": ({"train.threads": 1}, SAME),
    "train.loaders": ({"train.loaders": 2}, SAME),
    "train.workers": ({"train.workers": 2}, SAME),  # but for rounding, as threads and devices
    "train.sampling.strategy": ({"train.sampling.strategy": "joint"}, OTHER),
    "train.sampling.smallest": ({"train.sampling.smallest": 0.3}, OTHER),
    "train.sampling.largest": ({"train.sampling.largest": 0.3}, OTHER),
    "train.sampling.random": ({"train.sampling.random": 3}, OTHER),
    "train.sampling.weights": ({"train.sampling.weights": [1.0, 2.0]}, OTHER),
    "train.sampling.distill": ({"train.sampling.distill": True}, OTHER),
    "train.sampling.distill_after": ({"train.sampling.distill_after": 0.5}, OTHER),
    "train.sampling.paths": ({"train.sampling.paths": 2}, OTHER),
    "train.sampling.at_once": (
        {"train.sampling.strategy": "multi_architectural", "train.sampling.at_once": 2},
        OTHER,
    ),
    "train.sampling.blocks_twice": (
        {"train.sampling.strategy": "multi_architectural", "train.sampling.blocks_twice": True},
        OTHER,
    ),
    "train.sampling.lot_norms": (
        {"train.sampling.strategy": "multi_architectural", "train.sampling.lot_norms": True},
        OTHER,
    ),
    "train.sampling.bins": (
        {"train.sampling.strategy": "resource_constrained", "train.sampling.bins": 3},
        OTHER,
    ),
    "train.sampling.gap_gmacs": (
        {"train.sampling.strategy": "resource_constrained", "train.sampling.gap_gmacs": 0.1},
        OTHER,
    ),
    "train.teacher": ({"train.teacher": {"timm": "vit_tiny_patch16_224"}}, OTHER),
    "baselines": ({"baselines": [{"timm": "resnet10t", "pretrained": False}]}, SAME),
    # It is no part of the key, but the steps that it becomes are.
    "budget": ({"budget": "1h", "train": {"batch_size": 32, "warmup": 10}}, OTHER),
    "objectives": ({"objectives": ["accuracy", "params"]}, SAME),
    "quality": ({"quality": "balanced_accuracy"}, SAME),
    "quality_on": ({"quality_on": "cpu"}, SAME),
    "constraints": ({"constraints": ["params<=6000"]}, SAME),
    **{
        f"devices.{field}": ({"devices": {"cpu": {field: value}}}, SAME)
        for field, value in {
            "backend": "torch_cpu",
            "threads": 2,
            "batch": 8,
            "precision": "bf16",
            "digest": "a" * 64,
            "one_of": "all",
        }.items()
    },
    "devices.workload.prefill": ({"devices": {"cpu": {"workload": {"prefill": 8}}}}, SAME),
    "devices.workload.decode.context": (
        {"devices": {"cpu": {"workload": {"decode": {"context": 8}}}}},
        SAME,
    ),
    "devices.agent": ({"devices": {"cpu": {"backend": "remote", "agent": "pi"}}}, SAME),
    **{
        f"predictor.{field}": ({f"predictor.{field}": value}, SAME)
        for field, value in {
            "name": "flops",
            "samples": 14,
            "rounds": 2,
            "max_rounds": 12,
            "source": "other",
            "max_age": 1.0,
        }.items()
    },
    **{
        f"search.{field}": ({f"search.{field}": value}, SAME)
        for field, value in {
            "searcher": "random",
            "options": {},
            "evaluations": 24,
            "batch": 6,
            "population": 6,
            "finalists": 6,
            "images": 100,
            "racing": None,
            "latency_margin": 2.0,
            "measure_above": None,
            "seed": 3,
            "source": "other",
            "start": "sensitivity",
        }.items()
    },
    "search.stop.gain": ({"search.stop": {"gain": 0.01}}, SAME),
    "search.stop.patience": ({"search.stop": {"patience": 4}}, SAME),
    **{
        f"finalists.train.{field}": ({"finalists.train": {field: value}}, SAME)
        for field, value in {
            "how": "alone",
            "steps": 0.25,
            "lr": 0.3,
            "largest": 0.2,
            "teacher": "largest",
        }.items()
    },
    "finalists.device_images": ({"finalists.device_images": 7}, SAME),
    **{
        f"execution.{field}": ({f"execution.{field}": value}, SAME)
        for field, value in {"workers": 1, "threads": 2, "cache_mib": 0, "siblings": False}.items()
    },
    "execution.engine": ({"execution.engine": "ray"}, SAME),
    "execution.address": ({"execution.engine": "ray", "execution.address": "auto"}, SAME),
    "store.patience": ({"store.patience": 1.0}, SAME),
    "notify.url": ({"notify": {"url": "https://example.org/hook"}}, SAME),
    "notify.command": ({"notify": {"command": ["true"]}}, SAME),
}


def fields(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The dotted names of all that can be set, section by section; of a section that may be left out, too."""
    for name, info in model.model_fields.items():
        inner = [kind for kind in (info.annotation, *get_args(info.annotation)) if is_section(kind)]
        if inner and name != "init":
            yield from fields(inner[-1], f"{path}{name}.")
        else:
            yield f"{path}{name}"


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def with_values(tree: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    for path, value in values.items():
        first, _, rest = path.partition(".")
        tree = {**tree, first: with_values(tree.get(first) or {}, {rest: value}) if rest else value}
    return tree


def key_of(values: dict[str, Any]) -> str:
    config = prepared(checked_config(with_values(BASE, values), where="here"))
    data = datasets.build(config.data.name, **config.data.options)
    return supernet_key(config, resolve(config, data), data)


@pytest.fixture(scope="module")
def base() -> str:
    return key_of({})


def test_the_table_knows_every_field_of_the_job_file() -> None:
    devices = {f"devices.{name}" for name in fields(DeviceConfig)}  # they stand under names of their own
    assert set(fields(JobConfig)) - {"devices", "supernets"} | devices == set(FIELDS)


def test_each_of_several_supernets_has_the_key_of_a_job_with_it_alone(base: str) -> None:
    several = {"supernets": [{"family": "autoformer"}, BASE["supernet"]]}
    config = checked_config({"data": BASE["data"], "train": BASE["train"]} | several, where="here")
    alone = prepared(config.each["matformer"])
    data = datasets.build(alone.data.name, **alone.data.options)
    assert supernet_key(alone, resolve(alone, data), data) == base


@pytest.mark.parametrize("field", FIELDS)
def test_the_key_changes_with_what_the_weights_depend_on_and_with_nothing_else(field: str, base: str) -> None:
    values, differs = FIELDS[field]
    assert (key_of(values) != base) is differs


def test_all_that_is_said_of_a_teacher_is_in_the_key(base: str) -> None:
    teachers = [{}, {"timm": "x"}, {"timm": "y"}, {"timm": "x", "weight": 0.3}, {"timm": "x", "hard": False}]
    keys = {key_of({"train.teacher": teacher} if teacher else {}) for teacher in teachers}
    assert base in keys
    assert len(keys) == len(teachers)


@pytest.mark.parametrize(
    "values",
    [
        {"train.lr": Recipe().lr, "train.sampling": {"strategy": Sampling().strategy}},
        {"train.precision": "auto", "train.device": "cpu"},
        {"data": "digits"},
        {"data": {"name": "digits", "split_seed": 0}},
        {"supernet.init": "scratch"},
    ],
)
def test_a_default_that_is_written_down_changes_nothing(values: dict[str, Any], base: str) -> None:
    assert key_of(values) == base


def test_options_and_splits_of_the_data_are_in_the_key(base: str) -> None:
    assert key_of({"data": {"name": "digits", "split_seed": 1}}) != base


def test_anchors_and_how_they_are_trained_are_in_the_key() -> None:
    longer = {"anchors": [{**ANCHORS["anchors"][0], "steps": 10, "warmup": 2}, ANCHORS["anchors"][1]]}
    joined = with_values(JOINED, {"supernet.init": longer})
    assert len({key_of(JOINED), key_of(joined)}) == 2


def test_weights_to_begin_with_are_known_by_their_files(tmp_path: Path) -> None:
    def init(folder: Path, content: bytes) -> Any:
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_bytes(content)
        return keys._init(AnchorsInit.model_validate({"anchors": [{"checkpoint": str(folder)}] * 2}))

    first = init(tmp_path / "a", b"one")
    assert init(tmp_path / "b", b"one") == first
    assert init(tmp_path / "a", b"two") != first
    assert keys._timm(f"local-dir:{tmp_path / 'b'}") == {"folder": first[0][0]["checkpoint"]}


def test_the_version_is_in_the_key(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "WEIGHTS_VERSION", keys.WEIGHTS_VERSION + 1)
    assert key_of({}) != base


def test_another_process_makes_the_same_key(base: str) -> None:
    code = "import sys; sys.path[:0] = sys.argv[1].split(':'); import test_keys; print(test_keys.key_of({}))"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    paths = ":".join([str(Path(__file__).parent), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-c", code, paths], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == base


# Keys leave defaults out, so that a field that comes later changes none. A default that changes would give
# another training the same key: raise WEIGHTS_VERSION, then write the new default down here.
DEFAULTS_OF_VERSION_1: dict[type[BaseModel], dict[str, Any]] = {
    Recipe: {
        "steps": 2000,
        "batch_size": 64,
        "lr": 3e-3,
        "lr_scale": {},
        "weight_decay": 0.05,
        "betas": [0.9, 0.98],
        "warmup": 150,
        "clip": 1.0,
        "label_smoothing": 0.05,
        "largest_first": 0.25,
        "widening": 0.0,
        "sort_every": None,
        "patch_mixup": False,
        "decay_also": [],
        "init_std": None,
        "teacher": None,
        "ema": None,
        "precision": "fp32",
    },
    Sampling: {
        "strategy": "single_path",
        "smallest": 0.1,
        "largest": 0.2,
        "random": 2,
        "weights": None,
        "distill": False,
        "distill_after": 0.4,
        "paths": 4,
        "at_once": None,
        "blocks_twice": False,
        "bins": None,
        "gap_gmacs": None,
    },
    Teacher: {"weight": 0.5, "hard": True},
}


@pytest.mark.parametrize("section", DEFAULTS_OF_VERSION_1)
def test_no_default_has_changed_since_this_version(section: type[BaseModel]) -> None:
    assert keys.WEIGHTS_VERSION == 1
    made = section() if section is not Teacher else Teacher(timm="x")
    now = made.model_dump(mode="json")
    assert {name: now[name] for name in DEFAULTS_OF_VERSION_1[section]} == DEFAULTS_OF_VERSION_1[section]

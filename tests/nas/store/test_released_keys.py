"""By which keys and names released versions know what they made: digests from the code of their time."""

import hashlib
import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nas.config import checked_config
from nas.config.components import as_stored
from nas.store.migrations import released_keys
from nas.training.retrain import recipe_of, retraining

STORES = Path(__file__).parents[2] / "released_stores"
WIDENED = {
    "widening": 0.25,
    "patch_mixup": True,
    "sort_every": 50,
    "sampling": {"strategy": "multi_architectural"},
}
TRAINED = {"vit": {"embed_dim": 4, "depth": 4, "num_heads": 1, "mlp_ratio": 2.0}, "steps": 10, "lr": 1}
ANCHORS = [
    {**TRAINED, "warmup": 2, "batch_size": 16},
    {"timm": "vit_tiny_patch16_224"},
    {"checkpoint": '/tmp/ü"'},
]
# Of section `train`: no job of their time has them.
SINCE = (
    *("optimizer", "muon", "schedule", "lr_floor", "layer_decay", "accumulate", "drop_path"),
    *("mixup", "cutmix", "loaders", "drop_path_by", "dropout", "recalibrate", "tf32"),
    *("channels_last", "checkpoint_activations", "compile"),
)
IN_SAMPLING_SINCE = ("lot_norms",)
TEACHER = {"timm": "some", "weight": 0.25, "hard": False}


def digest(values: Any, characters: int = 16) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:characters]


def train_inputs(tree: dict[str, Any]) -> dict[str, Any]:
    stored = checked_config(tree, where="here").model_dump(mode="json")
    for field in SINCE:
        del stored["train"][field]
    for field in IN_SAMPLING_SINCE:
        del stored["train"]["sampling"][field]
    job = as_stored(stored, where="here")
    inputs = {"train": job.train.inputs(), "init": job.supernet.inputs()["init"], "seed": job.seed}
    return released_keys.stage_inputs("train", inputs)


@pytest.mark.parametrize(
    ("tree", "section"),
    [
        ({}, "44bb1bf73b12e392"),
        ({"supernet": {"family": "autoformer"}}, "44bb1bf73b12e392"),
        ({"supernet": {"family": "stitching"}}, "608a4d1624197e87"),
        ({"supernet": {"family": "vit_resnas"}, "train": WIDENED}, "f55da251c86282f0"),
    ],
)
def test_fields_that_came_late_left_no_trace(tree: dict[str, Any], section: str) -> None:
    assert digest(train_inputs(tree)["train"]) == section


def test_late_fields_that_were_used_are_in_the_key() -> None:
    train = {"decay_also": ["positions"], "init_std": 0.02, "widening": 0.5, "sort_every": 5}
    kept = train_inputs({"supernet": {"family": "vit_resnas"}, "train": train})["train"]
    assert train.items() <= kept.items()
    section = {"searcher": "evolution", "options": {"mutation": 0.2}, "racing": None, "latency_margin": 0.0}
    assert released_keys.stage_inputs("search", {"search": section}) == {"search": section}


@pytest.mark.parametrize(
    ("init", "key"),
    [
        ("scratch", "80f9118e29a6158a"),
        ({"timm": "vit_tiny_patch16_224"}, "9e85e4f6e6f1bcd0"),
        ({"timm": "local-dir:/a'b", "pretrained": False}, "43d38de017cc678f"),
        ({"checkpoint": "/tmp/x"}, "87380e048f58d6eb"),
        ({"anchors": ANCHORS, "images": 48}, "087c2d3e596eacaf"),
    ],
    ids=["scratch", "timm", "folder", "checkpoint", "anchors"],
)
def test_where_the_weights_began_was_the_text_of_a_model(init: Any, key: str) -> None:
    family = "stitching" if isinstance(init, dict) and "anchors" in init else "matformer"
    tree = {"supernet": {"family": family, "init": init}}
    config = checked_config(tree, where="here").supernet.model_dump(mode="json", exclude={"use"})
    space = digest(["space", released_keys.stage_inputs("space", {"config": config}), {}], 64)
    assert digest(["train", train_inputs(tree), {"space": space}]) == key


def test_a_job_measured_elsewhere_was_known_by_all_fields() -> None:
    section = {"name": "roofline", "samples": 12, "rounds": 2, "max_rounds": 2}
    for stored in (section, section | {"source": None}):
        inputs = released_keys.stage_inputs("device-3", {"predictor": stored})
        assert inputs == {"predictor": section | {"source": None}}
        assert released_keys.stage_inputs("latency", {"predictor": stored}) == {"predictor": section}


@pytest.mark.parametrize(
    ("tree", "from_scratch", "steps", "lrs", "numbers"),
    [
        ({}, True, None, (), "a60a0f3a100a993c"),
        (
            {
                "supernet": {"family": "vit_resnas"},
                "train": {"recipe": "published", "clip": 1.0, "teacher": TEACHER},
            },
            *(False, None, (0.001,), "6cfa0930cba3de82"),
        ),
        (
            {
                "supernet": {"family": "autoformer"},
                "train": {"recipe": "published", "clip": 1.0, "ema": 0.99, "lr_scale": {"head": 2}},
                "seed": 3,
            },
            *(True, 40, (1e-3,), "1f64cae98ab0e0b7"),
        ),
        ({"supernet": {"family": "stitching"}}, False, 30, (), "f80bf1f1f738754c"),
    ],
)
def test_the_numbers_of_a_retraining(
    tree: dict[str, Any], from_scratch: bool, steps: int | None, lrs: tuple[float, ...], numbers: str
) -> None:
    config = checked_config(tree, where="here")
    how = retraining(config, from_scratch=from_scratch, steps=steps, lrs=lrs)
    recipe = recipe_of(config, how, how.lrs[0]).model_dump(mode="json")
    assert digest(released_keys.retraining(recipe) | {"seed": config.seed}) == numbers


@pytest.mark.parametrize("schema", ["0001", "0002", "0003"])
def test_stored_jobs_train_with_adamw_whatever_new_ones_do(schema: str, tmp_path: Path) -> None:
    with tarfile.open(STORES / f"{schema}.tar.xz") as archive:
        archive.extract("store.sqlite", tmp_path, filter="data")
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as connection:
        configs = [json.loads(text) for (text,) in connection.execute("SELECT config FROM jobs")]
    assert len(configs) == 7
    for config in configs:
        assert not config["train"].keys() & set(SINCE)
        train = as_stored(config, where="here").train
        assert (train.optimizer, train.muon, train.schedule) == ("adamw", None, "cosine")
        assert train.inputs() == config["train"]

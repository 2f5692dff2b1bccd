"""What the training stage makes of a job file before the first step: recipe, strategy, teacher, images."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import timm
import torch
from safetensors.torch import save_file

import supernet
from nas import datasets
from nas.config import JobConfig, checked_config
from nas.job_run import Run
from nas.spaces.job_space import resolve
from nas.training.supernets import CLEAN_BATCH, begin_training, clean_images, strategy
from search_spaces import SearchSpace
from supernet.training.strategies import ResourceConstrained

ANCHORS = [{"vit": {"embed_dim": dim, "depth": 4, "num_heads": 2}} for dim in (8, 12)]
DATA = datasets.build("digits")


def config(**train: Any) -> JobConfig:
    section = {"family": "stitching", "init": {"anchors": ANCHORS}}
    return checked_config({"data": "digits", "supernet": section, "train": train}, where="here")


class Asked:
    """As much of a `Run` as the stage needs before the first step."""

    def __init__(self, job: JobConfig) -> None:
        self.config, self.warnings, self.shown = job, list[str](), list[tuple[int, int]]()
        self.progress = SimpleNamespace(update=lambda done, total: self.shown.append((done, total)))

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def check_stop(self) -> None:
        """Nobody asks it to stop."""


def space(job: JobConfig) -> SearchSpace:
    return resolve(job, DATA)


def teacher_folder(folder: Path) -> dict[str, torch.Tensor]:
    """A small classifier of digits as timm writes it; its weights."""
    arguments = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 1}
    model = timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=10, **arguments)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    pretrained = {"num_classes": 10, "input_size": [1, 8, 8], "first_conv": "patch_embed.proj"}
    described = {"architecture": "vit_tiny_patch16_224", "num_classes": 10, "model_args": arguments}
    described["pretrained_cfg"] = pretrained | {"classifier": "head"}
    (folder / "config.json").write_text(json.dumps(described))
    weights: dict[str, torch.Tensor] = model.state_dict()
    return weights


def test_the_recipe_is_the_train_section(tmp_path: Path) -> None:
    teacher_folder(tmp_path / "teacher")
    job = config(lr=0.02, teacher={"timm": f"local-dir:{tmp_path / 'teacher'}", "weight": 0.25})
    training = begin_training(cast(Run, Asked(job)), space(job), DATA)
    assert training.recipe is job.train


def test_the_groups_of_the_strategy_follow_the_sampling_section() -> None:
    counts = {}
    for name, sampling in {"levels": {}, "bins": {"bins": 2}, "gap": {"gap_gmacs": 1}}.items():
        job = config(sampling=sampling | {"paths": 3})
        made = strategy(job.train.sampling, supernet.build(space(job)))
        assert isinstance(made, ResourceConstrained)
        assert made.paths == 3
        assert sum(map(len, made.groups)) == 12  # the 14 members without the two original anchors
        counts[name] = len(made.groups)
    assert counts == {"levels": 3, "bins": 2, "gap": 1}


def test_a_gap_that_lumps_levels_together_is_warned_of() -> None:
    job = config(sampling={"gap_gmacs": 1})
    run = Asked(job)
    begin_training(cast(Run, run), space(job), DATA)
    assert len(run.warnings) == 1
    assert "into 1 group" in run.warnings[0]


def test_the_teacher_of_the_job_file_teaches(tmp_path: Path) -> None:
    weights = teacher_folder(tmp_path / "teacher")
    job = config(teacher={"timm": f"local-dir:{tmp_path / 'teacher'}"})
    training = begin_training(cast(Run, Asked(job)), space(job), DATA)
    assert training._teacher is not None
    assert not training._teacher.training
    for name, tensor in training._teacher.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert begin_training(cast(Run, Asked(config())), space(job), DATA)._teacher is None


@pytest.mark.parametrize("count", [1, CLEAN_BATCH, CLEAN_BATCH + 5, 10**6])
def test_as_many_clean_images_as_asked_for_or_as_there_are(count: int) -> None:
    job = config()
    run, net = Asked(job), supernet.build(space(job))
    images = torch.cat(list(clean_images(cast(Run, run), net, DATA, count)))
    there = DATA.sizes["train"]
    assert len(images) == min(count, there)
    assert len(run.warnings) == (count > there)
    assert torch.equal(images[:1], DATA.clean_batch(job.seed, 0, CLEAN_BATCH)[:1])
    assert run.shown[0] == (0, min(count, there))

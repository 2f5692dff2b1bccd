"""The published recipes: each passes all checks, and trains two steps at its full size, of few images.

Weights that would have to be downloaded are random here, those of teachers, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from imagenet_tree import make_imagenet
from torch import Tensor

from nas import datasets
from nas.cli import main
from nas.config import JobConfig, load_config
from nas.spaces.job_space import resolve
from nas.spaces.preprocessing import prepared
from nas.training.supernets import training_of
from supernet.training import teachers
from supernet.training.trainer import Batches, Training

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
SEVERAL = ("vit_resnas_tiny", "vit_resnas_small", "sn_net_deit", "sn_net_swin", "sn_net_v2_deit3")
WANTED = {
    *("matformer_vit_b16", "autoformer_tiny", "autoformer_small", "autoformer_base"),
    *("vit_resnas_tiny", "vit_resnas_small", "sn_net_deit", "sn_net_swin", "sn_net_v2_deit3"),
    *("hiera", "turbovit"),
}
MEMBERS = {"sn_net_deit": 71, "sn_net_swin": 41, "sn_net_v2_deit3": 134}  # all are evaluated
SMALL = [
    *("train.steps=2", "train.batch_size=2", "train.warmup=1", "train.accumulate=1", "train.loaders=0"),
    *("train.device=cpu", "train.threads=2", "train.checkpoint_every=1000"),
]


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_imagenet(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(autouse=True)
def _random_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    create: Callable[..., Any] = teachers.create

    def untrained(name: str, *, pretrained: bool, **sizes: Any) -> Any:
        torch.manual_seed(0)
        return create(name, pretrained=False, **sizes)

    monkeypatch.setattr(teachers, "create", untrained)


def settings(name: str, imagenet: Path) -> list[str]:
    """That the images are these, and weights random that would be downloaded."""
    init = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["supernet"].get("init", {})
    for one in init.get("anchors", [init]):
        if "pretrained" in one:
            one["pretrained"] = False
    random = [f"supernet.init={yaml.safe_dump(init, default_flow_style=True, width=10_000)}"] if init else []
    return [f"data.root={imagenet}", *random]


def loaded(name: str, imagenet: Path, also: Sequence[str] = ()) -> JobConfig:
    return load_config(RECIPES / f"{name}.yaml", [*settings(name, imagenet), *also], environment={})


@dataclass(frozen=True)
class Begun:
    """A training before its first step, its batches by their numbers, and images of the first."""

    training: Training
    batches: Batches
    example: Tensor


def begun(config: JobConfig) -> Begun:
    """As stage `train` begins it, without a store."""
    data = datasets.build(config.data.name, **config.data.options)
    progress = SimpleNamespace(update=lambda *_, **__: None)
    run: Any = SimpleNamespace(
        config=config, stage=str, warn=print, check_stop=lambda: None, progress=progress, store=None
    )
    job = training_of(run, resolve(config, data), data, {})
    training = job.begin()
    job.start(training)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        return data.train_batch(config.seed, step, config.train.batch_size)

    return Begun(training, batches, batches(0)[0])


def test_there_is_a_recipe_of_each_paper():
    assert set(NAMES) == WANTED


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_passes_all_checks(name: str, imagenet: Path, capsys: pytest.CaptureFixture[str]):
    words = [word for one in settings(name, imagenet) for word in ("--set", one)]
    assert main(["validate", str(RECIPES / f"{name}.yaml"), *words]) == 0
    assert "image_size: 224" in capsys.readouterr().out
    search = loaded(name, imagenet).search
    assert search.evaluations == MEMBERS.get(name, search.evaluations)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_had_is_said(name: str):
    text = (RECIPES / f"{name}.yaml").read_text()
    assert "# Not to be had here: ImageNet" in text
    if "pretrained: true" in text:
        assert "To be downloaded" in text.replace("\n# ", " ")
        assert any(
            licence in text for licence in ("Apache-2.0 by timm's card", "MIT by timm's card", "CC-BY-NC-4.0")
        )
    assert f"nas run examples/recipes/{name}.yaml" in text


def test_an_epoch_is_that_of_a_million_images(imagenet: Path):
    epochs = {
        "matformer_vit_b16": (300, None),
        **{f"autoformer_{size}": (500, 20) for size in ("tiny", "small", "base")},
        **{f"vit_resnas_{size}": (120, 5) for size in ("tiny", "small")},
        **{f"sn_net_{anchors}": (50, 5) for anchors in ("deit", "swin", "v2_deit3")},
        "turbovit": (300, 5),
    }
    for name, (total, warm) in epochs.items():
        train = loaded(name, imagenet).train
        each = 1_281_167 // train.batch_size
        assert train.steps == total * each, name
        assert train.warmup == (10_000 if warm is None else warm * each), name


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", NAMES)
def test_two_steps_at_full_size(name: str, imagenet: Path):
    few = [*SMALL, *(["train.sampling.paths=2"] if name in SEVERAL else [])]
    if name.startswith("sn_net"):
        few.append("supernet.init.images=2")
    job = begun(prepared(loaded(name, imagenet, few)))
    assert job.example.shape == (2, 3, 224, 224)
    before = {key: p.detach().clone() for key, p in job.training.supernet.shared.named_parameters()}
    (last,) = job.training.run(job.batches)
    assert last["step"] == 2
    assert 0 < last["loss"] < 100
    moved = [
        key
        for key, p in job.training.supernet.shared.named_parameters()
        if not torch.equal(p.detach(), before[key])
    ]
    assert len(moved) > len(before) / 20
    assert all(bool(p.isfinite().all()) for p in job.training.supernet.parameters())

"""Images are prepared as the pretrained model knows them, from the job file to the extracted folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from image_trees import CLASSES, make_tree, save
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf
from torch import Tensor

import supernet
from nas import datasets, jobs, pipeline
from nas.cli import main
from nas.config import AnchorsInit, JobConfig, checked_config
from nas.datasets import image_folder
from nas.images.centre import at_centre, shape_of
from nas.images.preprocessing import DEFAULTS
from nas.progress import Silent
from nas.results.extraction import export
from nas.spaces.job_space import data_sizes, resolve, space_of
from nas.spaces.preprocessing import given_normalisation, prepared, remarks
from nas.spaces.pretrained import load_anchors
from nas.store import Store
from search_spaces.errors import UsageError
from supernet.families.stitching import Stitching
from supernet.normalisation import Normalisation, folded
from supernet.training.teachers import load_teacher

HALF, IMAGENET = ((0.5,) * 3, (0.5,) * 3), (DEFAULTS.mean, DEFAULTS.std)
ARGUMENTS: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = make_tree(tmp_path / "images")
    for label, name in enumerate(CLASSES):  # not all are of one shape
        save(root / name / "0.png", seed=50 + label, size=(57, 31))
        save(root / name / "1.png", seed=60 + label, size=(33, 90))
    return root


def timms(
    folder: Path, normal: tuple[tuple[float, ...], tuple[float, ...]] = HALF, *, dim: int = 16, **more: Any
) -> str:
    """A folder that timm wrote, of a model that was trained with this mean and std."""
    torch.manual_seed(dim)
    arguments = ARGUMENTS | {"embed_dim": dim}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **arguments)
    told = {"mean": normal[0], "std": normal[1], "crop_pct": 0.9, "interpolation": "bicubic"} | more
    save_for_hf(
        model,
        folder,
        model_config={"pretrained_cfg": told},
        model_args=arguments,
        safe_serialization=True,
        data_config={name: told[name] for name in ("mean", "std", "crop_pct", "interpolation")},
    )
    return str(folder)


def job(tree: Path, init: Any, data: dict[str, Any] | None = None, **sections: Any) -> JobConfig:
    family = "stitching" if isinstance(init, dict) and "anchors" in init else "matformer"
    section = {"family": family, "init": init, "space": sections.pop("space", {})}
    images = {"name": "image_folder", "root": str(tree), "image_size": 16} | (data or {})
    return checked_config({"data": images, "supernet": section} | sections, where="here")


@pytest.mark.parametrize("key", ["timm", "checkpoint"])
def test_the_models_own_images_are_taken(tree: Path, tmp_path: Path, key: str) -> None:
    folder = timms(tmp_path / "model")
    config = job(tree, {key: f"local-dir:{folder}" if key == "timm" else folder})
    made = prepared(config)
    assert made.data.options["mean"] == made.data.options["std"] == [0.5] * 3
    assert made.data.options["interpolation"] == "bicubic"
    assert made.data.options["crop"] == 0.9
    assert remarks(config) == []
    assert prepared(made) == made
    assert given_normalisation(made) == Normalisation(*HALF)


def test_without_a_model_they_are_the_defaults(tree: Path) -> None:
    options = prepared(job(tree, "scratch")).data.options
    assert options["mean"] == list(IMAGENET[0])
    assert (options["interpolation"], options["crop"]) == ("bilinear", 1.0)
    assert remarks(job(tree, "scratch")) == []


def test_a_job_without_these_options_keeps_what_it_had(tree: Path) -> None:
    config = job(tree, "scratch")
    before = datasets.build("image_folder", **config.data.options)
    assert given_normalisation(config) is None
    explicit = {"mean": IMAGENET[0], "std": IMAGENET[1]}
    assert before.digest == datasets.build("image_folder", **config.data.options | explicit).digest
    now = datasets.build("image_folder", **prepared(config).data.options)
    assert now.digest != before.digest


def test_other_values_than_the_models_are_remarked(tree: Path, tmp_path: Path) -> None:
    init = {"timm": f"local-dir:{timms(tmp_path / 'model')}"}
    given = {"mean": [0.485, 0.456, 0.406], "crop": 1.0}
    found = remarks(job(tree, init, given))
    assert len(found) == 2
    assert "data.mean is [0.485, 0.456, 0.406]" in found[0]
    assert "[0.5, 0.5, 0.5]" in found[0]
    assert "data.crop is 1.0" in found[1]
    assert prepared(job(tree, init, given)).data.options["mean"] == given["mean"]
    assert remarks(job(tree, init, {"mean": "auto"})) == []


def test_data_with_a_way_of_their_own_are_remarked(tmp_path: Path) -> None:
    init = {"timm": f"local-dir:{timms(tmp_path / 'model')}"}
    (found,) = remarks(checked_config({"data": "digits", "supernet": {"init": init}}, where="here"))
    assert "'digits'" in found
    assert "[0.5, 0.5, 0.5]" in found


def test_a_config_that_says_nonsense_is_a_usage_error(tree: Path, tmp_path: Path) -> None:
    timms(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["pretrained_cfg"] |= {"std": [0, 0, 0]}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="normalise no image"):
        prepared(job(tree, {"checkpoint": str(tmp_path / "model")}))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("crop", "mode"), [(1.0, "center"), (0.9, "center"), (0.875, "squash")])
def test_the_report_split_is_timms_own_transform(
    tree: Path, interpolation: str, crop: float, mode: str
) -> None:
    data = image_folder.build(
        root=str(tree), image_size=16, mean=HALF[0], std=HALF[1],
        interpolation=interpolation, crop=crop, crop_mode=mode,
    )  # fmt: skip
    transform = create_transform(
        (3, 16, 16), interpolation=interpolation, mean=HALF[0], std=HALF[1], crop_pct=crop, crop_mode=mode
    )
    assert torch.allclose(report_images(data), by_timm(data, transform), atol=1e-6)


@pytest.mark.parametrize("size", [(24, 32), (32, 24), (16, 48)])
@pytest.mark.parametrize(("channels", "mode"), [(1, "center"), (3, "center"), (1, "squash")])
def test_rectangles_and_grey_images_are_timms_own(
    tree: Path, size: tuple[int, int], channels: int, mode: str
) -> None:
    save(tree / "ant" / "2.png", seed=70, size=(1, 1))
    save(tree / "bee" / "2.png", seed=71, size=(300, 5))
    normal = ((0.2, 0.4, 0.9), (0.5, 0.25, 0.3))
    data = image_folder.build(
        root=str(tree), image_size=size, in_chans=channels, mean=normal[0], std=normal[1],
        interpolation="bicubic", crop=0.9, crop_mode=mode, report=0.5,
    )  # fmt: skip
    told = data.preprocessing
    transform = create_transform(
        data.input_shape, interpolation="bicubic", mean=told.mean, std=told.std, crop_pct=0.9, crop_mode=mode
    )
    paths = [file.path for file in data._splits["report"]]
    expected = torch.stack([transform(Image.open(p).convert("L" if channels == 1 else "RGB")) for p in paths])
    assert torch.allclose(report_images(data), expected, atol=1e-6)


def test_of_an_endless_strip_only_the_middle_is_resized(tmp_path: Path) -> None:
    strip = Image.new("L", (60_000, 1), 40)
    strip.paste(200, (30_000, 0, 60_000, 1))
    found = at_centre(strip, (64, 64), shape_of("bicubic", 0.9, "center"))
    assert found.size == (64, 64)
    left, right = found.getpixel((0, 32)), found.getpixel((63, 32))
    assert left + right == pytest.approx(240, abs=2)
    assert left < 100 < right


@pytest.mark.parametrize(
    "options",
    [{"interpolation": "cubic"}, {"crop": 0}, {"crop": 1.5}, {"crop": True}, {"crop_mode": "border"}],
)
def test_wrong_options_are_usage_errors(tree: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        image_folder.build(root=str(tree), **options)


def report_images(data: image_folder.ImageFolder) -> Tensor:
    return torch.cat([x for x, _ in data.batches("report", 5)])


def by_timm(data: image_folder.ImageFolder, transform: Any) -> Tensor:
    files = data._splits["report"]
    return torch.stack([transform(Image.open(file.path).convert("RGB")) for file in files])


def test_a_folded_convolution_sees_what_its_model_knows() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 5, 4, 4)
    pixels, given, own = (
        torch.rand(2, 3, 8, 8),
        Normalisation(*IMAGENET),
        Normalisation((0.1, 0.5, 0.4), (0.5,) * 3),
    )

    def normalised(how: Normalisation) -> Tensor:
        mean, std = (torch.tensor(values)[:, None, None] for values in (how.mean, how.std))
        return (pixels - mean) / std

    state = {f"patch_embed.proj.{name}": weights for name, weights in conv.state_dict().items()}
    made = folded("it", state, given, own)
    weight, bias = (made[f"patch_embed.proj.{name}"] for name in ("weight", "bias"))
    found = torch.nn.functional.conv2d(normalised(given), weight, bias, 4)
    assert torch.allclose(found, conv(normalised(own)), atol=1e-5)
    assert not torch.allclose(conv(normalised(given)), conv(normalised(own)), atol=1e-2)
    for missing, reason in (("weight", "pads"), ("bias", "no bias")):
        without = {key: value for key, value in state.items() if not key.endswith(missing)}
        with pytest.raises(UsageError, match=f"'it'.*{reason}"):
            folded("it", without, given, own)


@torch.no_grad()
def test_anchors_that_disagree_see_their_own_images_each(tree: Path, tmp_path: Path) -> None:
    first, second = timms(tmp_path / "a", HALF), timms(tmp_path / "b", IMAGENET, dim=24)
    init = {"anchors": [{"checkpoint": first}, {"timm": f"local-dir:{second}"}]}
    config = job(tree, init, space={"originals": True})
    assert not [line for line in remarks(config) if "mean" in line]
    net, data = stitched(prepared(config))
    for name, folder, normal in (("anchor0", first, HALF), ("anchor1", second, IMAGENET)):
        own = image_folder.build(**data.data.options | {"mean": normal[0], "std": normal[1]})
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        given = report_images(image_folder.build(**data.data.options))
        assert torch.allclose(net(given, net.space.preset(name)), model(report_images(own)), atol=1e-4)


def test_anchors_of_an_older_job_are_as_they_were(tree: Path, tmp_path: Path) -> None:
    folders = [timms(tmp_path / "a", HALF), timms(tmp_path / "b", IMAGENET, dim=24)]
    init = {"anchors": [{"checkpoint": folder} for folder in folders]}
    net, _ = stitched(job(tree, init))
    for i, folder in enumerate(folders):
        weights = load_file(Path(folder) / "model.safetensors")["patch_embed.proj.weight"]
        assert torch.equal(net.shared.anchors[i].patch_embed.proj.weight, weights)
    given = job(tree, init, {"mean": [0, 0, 0], "std": [1, 1, 1]})
    assert len([line for line in remarks(given) if "data.mean" in line]) == 2
    net, _ = stitched(prepared(given))
    assert torch.equal(net.shared.anchors[1].patch_embed.proj.weight, weights)


def stitched(config: JobConfig) -> tuple[Stitching, JobConfig]:
    data = datasets.build(config.data.name, **config.data.options)
    net = supernet.build(resolve(config, data)).eval()
    assert isinstance(net, Stitching)
    init = config.supernet.init
    assert isinstance(init, AnchorsInit)
    load_anchors(net, init, data_sizes(data), {}, seed=0, given=given_normalisation(config))
    return net, config


@torch.no_grad()
def test_a_teacher_sees_images_as_in_its_own_training(tmp_path: Path) -> None:
    name, pixels = f"local-dir:{timms(tmp_path / 'model')}", torch.rand(2, 3, 16, 16)
    sizes: dict[str, Any] = {"in_chans": 3, "num_classes": 3, "image_size": (16, 16)}
    model = timm.create_model(name, pretrained=True).eval()
    teacher = load_teacher(name, **sizes, given=Normalisation((0.0,) * 3, (1.0,) * 3))
    assert torch.allclose(teacher(pixels), model((pixels - 0.5) / 0.5), atol=1e-5)
    for given in (None, Normalisation(*HALF)):
        assert torch.equal(load_teacher(name, **sizes, given=given)(pixels), model(pixels))


@pytest.mark.slow
def test_a_job_keeps_its_images_and_its_folder_tells_of_them(tree: Path, tmp_path: Path) -> None:
    timms(tmp_path / "model")
    config = job(
        tree,
        {"checkpoint": str(tmp_path / "model")},
        space={"mlp_ratio": [1, 2, 3, 4]},
        train={"steps": 2, "batch_size": 4, "warmup": 1, "threads": 1},
        predictor={"samples": 10, "rounds": 2, "max_rounds": 2},
        search={"evaluations": 4, "batch": 4, "population": 2, "finalists": 2, "measure_above": None},
        execution={"workers": 1},
        constraints=[],
    )
    jobs.check(config)
    with Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        made = jobs.create(store, config, name="a|b <img>")
        assert made.config["data"]["mean"] == [0.5] * 3
        pipeline.run(store, made, progress=Silent())
        shutil.rmtree(tmp_path / "model")
        pipeline.run(store, store.job(made.id), progress=Silent())
        space = space_of(store, made)
        folder = tmp_path / "out"
        export(store, made, space.largest.to_dict(), folder)
    told = json.loads((folder / "config.json").read_text())
    assert told["label_names"] == list(CLASSES)
    assert told["elastiform"]["classes"] == list(CLASSES)
    assert told["elastiform"]["preprocessing"]["crop_pct"] == 0.9
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    data = image_folder.build(**{k: v for k, v in made.config["data"].items() if k != "name"})
    transform = create_transform(**resolve_model_data_config(model))
    assert torch.allclose(report_images(data), by_timm(data, transform), atol=1e-6)
    card = (folder / "README.md").read_text()
    assert "a\\|b \\<img\\>" in card
    assert "0 ant; 1 bee; 2 cat" in card
    again = prepared(job(tree, {"checkpoint": str(folder)}))
    assert again.data.options["mean"] == [0.5] * 3
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_run_and_validate_tell_of_other_values(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.json"
    init = {"timm": f"local-dir:{timms(tmp_path / 'model')}"}
    file.write_text(
        json.dumps({"data": {"name": "image_folder", "root": str(tree)}, "supernet": {"init": init}})
    )
    monkeypatch.setattr("nas.jobs.check", lambda *_: None)
    assert main(["validate", str(file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["data"]["std"] == [0.5] * 3
    assert "warning" not in err
    assert main(["validate", str(file), "--set", "data.std=[1, 1, 1]"]) == 0
    out, err = capsys.readouterr()
    assert "warning: data.std is [1, 1, 1]" in err

    def created(*_: object, **__: object) -> None:
        raise UsageError("far enough")

    monkeypatch.setattr("nas.jobs.create", created)
    store = f"sqlite:///{tmp_path / 'store.sqlite'}"
    assert main(["run", str(file), "--set", "data.std=[1, 1, 1]", "--store", store]) == 2
    assert "warning: data.std is [1, 1, 1]" in capsys.readouterr().err

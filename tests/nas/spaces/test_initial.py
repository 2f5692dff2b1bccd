"""Where weights begin: an extracted folder is checked before it is believed, and nests as it was."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from small_timm_weights import PRETRAINED, SOURCE, save_weights
from timm.models import save_for_hf
from tiny_job import untrained_job

import search_spaces
import supernet
from nas import datasets, jobs
from nas.config import checked_config
from nas.results import extraction
from nas.spaces.initial import initialise, load_folder
from nas.spaces.job_space import resolve
from search_spaces.errors import UsageError
from supernet.pretrained.timm_vit import load_timm, space_options

SUMS = "SHA256SUMS"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extracted subnet with equal layers."""
    return extracted(tmp_path_factory.mktemp("extracted"), [2, 2])


def extracted(root: Path, ratios: list[float], **options: Any) -> Path:
    made = untrained_job(f"sqlite:///{root / 'store.sqlite'}", **options)
    values = {"embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": ratios}
    (key,) = made.looked_at(made.space.architecture(values))
    extraction.export(made.store, made.job, key, root / "subnet")
    made.store.close()
    return root / "subnet"


def job(folder: Path, **space: Any) -> dict[str, Any]:
    return {"data": "digits", "supernet": {"init": {"checkpoint": str(folder)}, "space": space}}


@pytest.mark.parametrize("options", [{}, {"stem": "conv", "patch_size": 4, "stem_dim": 4, "stem_norm": True}])
def test_the_largest_architecture_is_the_extracted_subnet(tmp_path: Path, options: dict[str, Any]):
    folder = extracted(tmp_path, [2, 2], **options)
    config = checked_config(job(folder), where="here")
    space = resolve(config, datasets.build("digits"))
    net = supernet.build(space, seed=5)
    x = net.example_input(4)
    with torch.inference_mode():
        expected = load_folder(folder)(x)
        assert not torch.equal(net(x, space.largest), expected)
        assert initialise(net, config.supernet, seed=0)
        assert torch.equal(net(x, space.largest), expected)
    assert space.size == 4**2
    assert space.smallest.per_layer("mlp_ratio") == (0.25, 0.25)


def test_a_narrow_subnet_has_fewer_options(tmp_path: Path):
    folder = extracted(tmp_path, [0.5, 0.5])
    space = resolve(checked_config(job(folder), where="here"), datasets.build("digits"))
    assert space.options["mlp_ratio"] == (1 / 8, 2 / 8, 4 / 8)


def test_from_scratch_nothing_is_loaded(folder: Path):
    config = checked_config({"data": "digits"}, where="here")
    net = supernet.build(resolve(config, datasets.build("digits")))
    before = {name: tensor.clone() for name, tensor in net.shared.state_dict().items()}
    assert not initialise(net, config.supernet, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.shared.state_dict().items())


def test_a_folder_that_does_not_fit_is_refused_before_the_job_is_made(folder: Path, tmp_path: Path):
    jobs.check(checked_config(job(folder, depth=[1, 2]), where="here"))
    with pytest.raises(UsageError, match="does not fit"):
        jobs.check(checked_config(job(folder, depth=[1, 2, 3]), where="here"))
    with pytest.raises(UsageError, match="image_size"):
        jobs.check(checked_config(job(folder) | {"data": "digit_pairs"}, where="here"))
    with pytest.raises(UsageError, match="differ"):
        jobs.check(checked_config(job(extracted(tmp_path, [2, 1])), where="here"))


def rehash(folder: Path) -> None:
    """Hashes as one writes them who has changed the files on purpose; timm's folders have none."""
    if not (folder / SUMS).exists():
        return
    names = [line.partition("  ")[2] for line in (folder / SUMS).read_text().splitlines()]
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}" for name in names]
    (folder / SUMS).write_text("\n".join(lines) + "\n")


def flip(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def config(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tree = json.loads((folder / "config.json").read_text())
        tree["elastiform"] = change(tree["elastiform"])
        (folder / "config.json").write_text(json.dumps(tree))
        rehash(folder)

    return damage


def truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:100])
    rehash(folder)


def without_a_hash(folder: Path) -> None:
    lines = (folder / SUMS).read_text().splitlines()
    (folder / SUMS).write_text("\n".join(line for line in lines if "safetensors" not in line))
    flip("model.safetensors")(folder)


def whole_config(text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "config.json").write_text(text)
        rehash(folder)

    return damage


def pipe(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def argument(**changed: Any) -> Callable[[Path], None]:
    return config(lambda own: own | {"arguments": own["arguments"] | changed})


def not_finite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["blocks.1.mlp.fc1.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    rehash(folder)


def endless_zeros(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(2**40)


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"changed {name}": flip(name) for name in ("model.safetensors", "config.json", "modeling.py", SUMS)},
    **{f"no {name}": remove(name) for name in ("model.safetensors", "config.json", "modeling.py", SUMS)},
    "no hash of the weights": without_a_hash,
    "cut weights": truncated,
    "another class": config(lambda own: own | {"class": "os.system"}),
    "no arguments": config(lambda own: {"class": "ViT"}),
    "a list": config(lambda own: [1, 2]),
    "unknown argument": config(lambda own: own | {"arguments": own["arguments"] | {"x": 1}}),
    "other sizes": config(lambda own: own | {"arguments": own["arguments"] | {"embed_dim": 16}}),
    "null": whole_config("null"),
    "a number": whole_config('{"elastiform": 3}'),
    "nested": whole_config("[" * 100_000),
    "deep": whole_config('{"elastiform": ' + '{"a": ' * 5000 + "1" + "}" * 5000 + "}"),
    "no UTF-8": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{}"),
    "a long config": whole_config(" " * 5_000_000 + "{}"),
    "no patches": argument(patch_size=0),
    "no classes": argument(num_classes=-1),
    "wide": argument(embed_dim=10**9),
    "wider": argument(embed_dim=10**30),
    "deep net": argument(num_heads=[2] * 10_000, mlp_hidden=[16] * 10_000),
    "deep swin": config(lambda own: own | {"class": "Swin", "arguments": {"depths": [10**9]}}),
    "class of a list": config(lambda own: own | {"class": ["ViT"]}),
    "arguments in a list": config(lambda own: own | {"arguments": [1]}),
    **{f"a pipe {name}": pipe(name) for name in ("model.safetensors", "config.json", "modeling.py", SUMS)},
    "not a number": not_finite,
    "endless zeros": endless_zeros,
    "unequal lists": config(lambda own: own | {"arguments": own["arguments"] | {"num_heads": [2]}}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_sentence(name: str, folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    DAMAGES[name](copy)
    with pytest.raises(UsageError) as caught:
        load_folder(copy)
    assert str(copy) in caught.value.message
    assert "\n" not in caught.value.message
    with pytest.raises(UsageError):
        jobs.check(checked_config(job(copy), where="here"))


def test_weights_that_are_no_numbers_are_named(folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    not_finite(copy)
    with pytest.raises(UsageError, match=r"'blocks.1.mlp.fc1.bias' of the subnet in .* not all finite"):
        load_folder(copy)


TINY: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
TINY |= {"in_chans": 1}


@pytest.fixture
def timms(tmp_path: Path) -> Path:
    """A folder that timm wrote."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY)
    save_for_hf(model, tmp_path / "timms", model_args=TINY, safe_serialization=True)
    return tmp_path / "timms"


def test_a_folder_that_timm_wrote_is_a_checkpoint_too(timms: Path):
    config = checked_config(job(timms), where="here")
    space = jobs.check(config)
    net = supernet.build(space, seed=5)
    assert initialise(net, config.supernet, seed=0)
    model = timm.create_model(f"local-dir:{timms}", pretrained=True).eval()
    x = net.example_input(3)
    with torch.inference_mode():
        assert torch.allclose(net(x, space.largest), model(x), atol=1e-5)


TIMMS_DAMAGES: dict[str, Callable[[Path], Any]] = {
    "null": lambda folder: (folder / "config.json").write_text("null"),
    "nested": lambda folder: (folder / "config.json").write_text("[" * 100_000),
    "no architecture": lambda folder: (folder / "config.json").write_text("{}"),
    "another architecture": lambda folder: (folder / "config.json").write_text('{"architecture": 3}'),
    "no patches": lambda folder: (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"patch_size": 4', '"patch_size": 0')
    ),
    "a pipe": pipe("model.safetensors"),
    "a pipe config": pipe("config.json"),
    "cut": lambda folder: os.truncate(folder / "model.safetensors", 100),
    "not a number": not_finite,
}


@pytest.mark.parametrize("name", TIMMS_DAMAGES)
def test_damage_of_timms_folder_is_one_sentence(name: str, timms: Path):
    TIMMS_DAMAGES[name](timms)
    by_name = {"data": "digits", "supernet": {"init": {"timm": f"local-dir:{timms}"}}}
    with pytest.raises(UsageError) as caught:
        jobs.check(checked_config(by_name, where="here"))
    assert str(timms) in caught.value.message
    assert "\n" not in caught.value.message
    with pytest.raises(UsageError):
        jobs.check(checked_config(job(timms), where="here"))


@pytest.mark.parametrize("name", ["./models/mine", "timm/vit_tiny_patch16_224", "local_dir:mine"])
def test_a_name_with_a_place_is_told_how_to_write_it(name: str):
    with pytest.raises(UsageError) as caught:
        jobs.check(checked_config({"data": "digits", "supernet": {"init": {"timm": name}}}, where="here"))
    assert "local-dir:FOLDER" in str(caught.value.hint)
    assert "hf-hub:OWNER/NAME" in str(caught.value.hint)


def test_the_folders_code_is_never_run(folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit\n")
    rehash(copy)
    assert load_folder(copy).state_dict().keys() == load_folder(folder).state_dict().keys()
    assert not (tmp_path / "ran").exists()


def test_no_folder_at_all(tmp_path: Path):
    with pytest.raises(UsageError, match="no folder"):
        load_folder(tmp_path / "none")


@pytest.fixture
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a small model that timm loads as it loads downloaded ones."""
    return save_weights(tmp_path_factory.mktemp("weights"))


def test_pretrained_weights_for_other_images_and_classes(pretrained: dict[str, torch.Tensor]):
    tree = {"data": "digits", "supernet": {"init": {"timm": PRETRAINED}}}
    config = checked_config(tree, where="here")
    space = jobs.check(config)
    net = supernet.build(space)
    assert initialise(net, config.supernet, seed=4)
    found = net.shared.state_dict()
    same = found.keys() - {"pos_embed", "patch_embed.proj.weight", "head.weight", "head.bias"}
    assert len(same) > 20
    assert all(torch.equal(found[name], pretrained[name]) for name in same)
    # 16x16 RGB images became 8x8 grey ones: the grid of positions is resampled, the colours are summed.
    grid = pretrained["pos_embed"][:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    resampled = torch.nn.functional.interpolate(grid, (2, 2), mode="bicubic", antialias=True)
    assert torch.allclose(found["pos_embed"][:, 1:], resampled.flatten(2).transpose(1, 2), atol=1e-6)
    assert torch.equal(found["pos_embed"][:, 0], pretrained["pos_embed"][:, 0])
    grey = pretrained["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    assert torch.allclose(found["patch_embed.proj.weight"], grey, atol=1e-6)
    assert found["head.weight"].shape == (10, 16)
    again = supernet.build(space, seed=9)
    initialise(again, config.supernet, seed=4)
    assert torch.equal(again.shared.state_dict()["head.weight"], found["head.weight"])


def test_pretrained_weights_as_they_are(pretrained: dict[str, torch.Tensor]):
    net = supernet.build(search_spaces.get("matformer", **space_options(PRETRAINED, pretrained=True)))
    load_timm(net, PRETRAINED, pretrained=True)
    found = net.shared.state_dict()
    assert found.keys() == pretrained.keys()
    assert all(torch.equal(found[name], pretrained[name]) for name in found)


def test_pretrained_weights_are_missed_before_the_job_is_made(pretrained: dict[str, torch.Tensor]):
    tree = {"data": "digits", "supernet": {"init": {"timm": PRETRAINED}}}
    SOURCE.file.unlink()
    with pytest.raises(UsageError, match=f"pretrained weights of '{PRETRAINED}'"):
        jobs.check(checked_config(tree, where="here"))
    tree["supernet"]["init"]["pretrained"] = False  # type: ignore[index]
    jobs.check(checked_config(tree, where="here"))


def test_a_space_that_is_not_the_models_is_refused_before_the_job_is_made():
    init = {"timm": PRETRAINED, "pretrained": False}
    for space in ({"embed_dim": [16, 32]}, {"depth": [1, 2, 3]}, {"mlp_ratio": [0.25, 0.5, 1, 2]}):
        tree = {"data": "digits", "supernet": {"init": init, "space": space}}
        with pytest.raises(UsageError, match="do not fit the largest net"):
            jobs.check(checked_config(tree, where="here"))

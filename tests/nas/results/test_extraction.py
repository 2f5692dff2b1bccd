"""The folder that `nas extract` writes: complete, loadable without this package, right to the last bit."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny_job import Untrained, untrained_job
from torch import nn

import nas
from nas.errors import ConflictError, JobFailedError
from nas.exported import folder as writing
from nas.exported.forms import Packing
from nas.exporters import safetensors as exporter
from nas.results import extraction
from nas.spaces.initial import load_folder
from search_spaces import Architecture
from search_spaces.errors import NotFoundError, UsageError
from supernet.plain.vit import ViT

ROOT = Path(__file__).parents[3]
FILES = {"model.safetensors", "config.json", "README.md", "modeling.py", "infer.py", "SHA256SUMS"}
FILES |= {"preprocessor_config.json"}
OURS = ("nas", "search_spaces", "supernet", "predictors", "dashboards")
WITHOUT_US = f"""
import importlib.util, sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]
for name in {OURS!r}:
    assert importlib.util.find_spec(name) is None, name
"""
LOGITS = f"""
import torch
from safetensors.torch import save_file
assert not set(sys.modules) & set({OURS!r})
generator = torch.Generator().manual_seed(1)
x = torch.randn(3, 1, 8, 8, generator=generator)
with torch.inference_mode():
    save_file({{"logits": model.eval()(x)}}, sys.argv[1])
"""


def images() -> torch.Tensor:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def logits_elsewhere(folder: Path, blocks: list[str], out: Path) -> torch.Tensor:
    """What a Python without our packages computes after the code blocks of the model card."""
    script = "\n".join([WITHOUT_US, *blocks, LOGITS])
    ran = subprocess.run(
        [sys.executable, "-c", script, str(out)],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return load_file(out)["logits"]


def supernet_logits(handle: nas.JobHandle | Untrained, key: str) -> torch.Tensor:
    net = extraction.load_supernet(handle.store, handle.job)
    arch = net.space.architecture(handle.store.subnet(handle.job, key).architecture)
    with torch.inference_mode():
        return net(images(), arch)


def code_blocks(folder: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)


@pytest.fixture
def made(tmp_path: Path) -> Untrained:
    """A job of which timm can express some subnets."""
    return untrained_job(f"sqlite:///{tmp_path / 'store' / 'store.sqlite'}")


def uniform(made: Untrained, *, dim: int = 16, heads: int = 2, ratio: float = 2) -> Architecture:
    return made.space.architecture(
        {"embed_dim": dim, "depth": 2, "num_heads": heads, "mlp_ratio": [ratio] * 2}
    )


def mixed(made: Untrained) -> Architecture:
    return made.space.architecture({"embed_dim": 16, "depth": 2, "num_heads": 1, "mlp_ratio": [2, 0.5]})


def test_the_folder_is_complete_and_its_card_loads_it(tiny_job: nas.JobHandle, tmp_path: Path):
    key = tiny_job.front().knee().subnet
    folder = tmp_path / "deep" / "subnet"
    files = extraction.export(tiny_job.store, tiny_job.job, key, folder)
    assert {file.name for file in files} == {file.name for file in folder.iterdir()} == FILES
    assert all(file.parent == folder for file in files)
    assert [path.name for path in folder.parent.iterdir()] == ["subnet"]
    moved = shutil.move(folder, tmp_path / "elsewhere")
    ran = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=moved, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0
    assert ran.stdout.count(": OK") == len(FILES) - 1
    blocks = code_blocks(moved)
    assert len(blocks) == 1
    assert "timm" not in blocks[0]
    found = logits_elsewhere(moved, blocks, tmp_path / "logits.safetensors")
    assert torch.equal(found, supernet_logits(tiny_job, key))
    with torch.inference_mode():
        assert torch.equal(tiny_job.extract(key)(images()), found)


def test_the_card_tells_how_good_and_how_fast_it_is(tiny_job: nas.JobHandle, tmp_path: Path):
    member = tiny_job.front().knee()
    extraction.export(tiny_job.store, tiny_job.job, member.subnet, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "config.json").read_text())["elastiform"]
    assert stored["architecture"] == member.architecture
    expected = {
        "subnet": member.subnet,
        "job": "tiny",
        "data": "digits",
        "params": member.params,
        "macs": member.macs,
        "accuracy": member.quality,
        "accuracy_stderr": member.stderr,
        "latency_ms": member.measured_ms,
        "batch": 8,
    }
    assert {name: stored[name] for name in expected} == expected
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(str(value) in card for value in expected.values())


def test_timm_loads_what_it_can_express(made: Untrained, tmp_path: Path):
    (key,) = made.looked_at(uniform(made))
    folder = tmp_path / "out"
    extraction.export(made.store, made.job, key, folder)
    expected = supernet_logits(made, key)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(model(images()), expected)
    plain, with_timm = code_blocks(folder)
    assert "timm" not in plain
    assert torch.equal(logits_elsewhere(folder, [with_timm], tmp_path / "timm"), expected)
    other = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)
    assert other.get_classifier().out_features == 3
    stored = load_folder(folder).state_dict()
    assert all(
        torch.equal(found, stored[name]) for name, found in other.state_dict().items() if "head" not in name
    )


@pytest.mark.parametrize(
    "options",
    [
        {"class_token": True, "pool": "token", "fc_norm": False, "norm_eps": 1e-5, "pre_norm": True},
        {"gated": True, "act": "silu", "layer_scale": True, "class_token": True, "reg_tokens": 2},
    ],
)
def test_timm_loads_other_kinds_of_vision_transformers(options: dict[str, Any], tmp_path: Path):
    made = untrained_job(f"sqlite:///{tmp_path / 'store' / 'store.sqlite'}", **options)
    (key,) = made.looked_at(uniform(made))
    extraction.export(made.store, made.job, key, tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(model(images()), supernet_logits(made, key))


def test_what_timm_cannot_express_has_no_word_of_it(made: Untrained, tmp_path: Path):
    (key,) = made.looked_at(mixed(made))
    extraction.export(made.store, made.job, key, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()).keys() == {"id2label", "elastiform"}
    assert "timm" not in (tmp_path / "out" / "README.md").read_text()
    module = load_folder(tmp_path / "out")
    assert isinstance(module, ViT)
    assert module.config["mlp_hidden"] == [32, 8]


def test_no_bytecode_is_left_behind(made: Untrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (key,) = made.looked_at(mixed(made))
    extraction.export(made.store, made.job, key, tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES


def test_an_existing_folder(made: Untrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (key,) = made.looked_at(mixed(made))
    full, empty, file = tmp_path / "full", tmp_path / "empty", tmp_path / "file"
    full.mkdir()
    (full / "mine").write_text("precious")
    file.write_text("precious")
    for taken in (full, file):
        with pytest.raises(ConflictError, match=str(taken)):
            extraction.export(made.store, made.job, key, taken)
    assert [path.name for path in full.iterdir()] == ["mine"]
    assert file.read_text() == "precious"
    empty.mkdir()
    monkeypatch.chdir(empty)
    extraction.export(made.store, made.job, key, Path("."))
    assert {path.name for path in empty.iterdir()} == FILES


def test_a_wrong_weight_is_found_and_nothing_is_left(
    made: Untrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (key,) = made.looked_at(mixed(made))

    def wrong(tensors: dict[str, torch.Tensor], path: Path) -> None:
        tensors["head.bias"] = tensors["head.bias"].clone()
        tensors["head.bias"][3] += 1e-6
        save_file(tensors, path)

    monkeypatch.setattr(exporter, "save_tensors", wrong)
    with pytest.raises(JobFailedError, match="differ"):
        extraction.export(made.store, made.job, key, tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []


def test_weights_that_are_no_numbers_are_found(made: Untrained, tmp_path: Path):
    net = extraction.load_supernet(made.store, made.job)
    module = net.extract(mixed(made))
    with torch.no_grad():
        module.get_parameter("head.bias").fill_(torch.nan)
    info = {"subnet": "k", "architecture": {}}
    with pytest.raises(JobFailedError):
        writing.export("safetensors", module, tmp_path / "out", example=images(), info=info)
    assert not (tmp_path / "out").exists()


def test_an_error_half_way_leaves_nothing(made: Untrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (key,) = made.looked_at(mixed(made))
    (tmp_path / "new" / "out").mkdir(parents=True)

    def full(module: nn.Module, *_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "card", full)
    with pytest.raises(JobFailedError, match="No space"):
        extraction.export(made.store, made.job, key, tmp_path / "new" / "out")
    assert [path.name for path in (tmp_path / "new").rglob("*")] == ["out"]


def test_what_is_not_there(made: Untrained, tmp_path: Path):
    (key,) = made.looked_at(mixed(made))
    for arguments, named in ((("nobody",), "nobody"), ((key, "onyx"), "onyx")):
        packing = Packing([(*arguments, "safetensors")[1]])
        with pytest.raises(NotFoundError, match=named):
            extraction.export(made.store, made.job, arguments[0], tmp_path / "out", packing=packing)
    assert not (tmp_path / "out").exists()
    begun = made.store.create_job("begun", config={}, seed=0, provenance={})
    with pytest.raises(NotFoundError, match="begun"):
        extraction.load_supernet(made.store, begun)
    with pytest.raises(NotFoundError, match="begun"):
        extraction.space_of(made.store, begun)


def test_the_stores_own_folder_is_no_place(made: Untrained) -> None:
    root = Path(str(made.store.artifact_root))
    (key,) = made.looked_at(mixed(made))
    for write in (
        lambda target: extraction.export(made.store, made.job, key, target),
        lambda target: extraction.export_front(made.store, made.job, target),
    ):
        with pytest.raises(UsageError, match=r"where the store keeps its files"):
            write(root / "subnets" / "mine")
    assert not (root / "subnets").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """One sentence for a parent that is a file (a full disk ends the same way), and nothing is left."""
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "out"
    with pytest.raises(JobFailedError, match="cannot be written"):
        writing.export("safetensors", nn.Linear(1, 1), target, example=torch.zeros(1, 1), info={})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

"""Folders in every format: checked when they are written, run by their own `infer.py`, verified later."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nas.errors import JobFailedError
from nas.exported import folder as writing
from nas.exported import forms
from nas.exported.classifying import classified
from nas.exported.folder import export
from nas.exported.forms import EXPORTERS, Form
from nas.exported.sums import check_data, verify
from search_spaces.errors import UsageError
from search_spaces.registry import load, names
from supernet.plain.decoder import Decoder
from supernet.plain.vit import ViT
from supernet.pretrained.hf_folders import read_folder
from supernet.pretrained.subnet_folders import load_folder

CLASSES = list("abcde")
IMAGES: dict[str, Any] = {
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "crop_mode": "center",
}
INFO: dict[str, Any] = {"subnet": "k", "architecture": {}, "classes": CLASSES, "preprocessing": IMAGES}
FORMATS = names(EXPORTERS)
OF_IMAGES = [name for name in FORMATS if not load(EXPORTERS, name).LAST_ONLY]


def vit(hidden: tuple[int, ...] = (32, 24), seed: int = 0) -> ViT:
    torch.manual_seed(seed)
    sizes: Any = {"image_size": (16, 16), "in_chans": 3, "num_classes": 5, "patch_size": 4}
    module = ViT(**sizes, head_dim=8, embed_dim=16, num_heads=[2, 2], mlp_hidden=list(hidden)).eval()
    return randomised(module)


def randomised(module: Any) -> Any:
    with torch.no_grad():
        for weights in module.parameters():
            nn.init.normal_(weights, std=0.2)
    return module


def decoder(**others: Any) -> Decoder:
    torch.manual_seed(0)
    sizes: Any = {"vocabulary": 256, "context": 12, "embed_dim": 16, "num_heads": [4, 4], "head_dim": 4}
    module = Decoder(**sizes | {"mlp_hidden": [24, 24], "heads_per_kv": 2} | others)
    return randomised(module.eval())


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))


def written(format: str, folder: Path, *, module: nn.Module | None = None, **others: Any) -> Path:
    module = vit() if module is None else module
    export(format, module, folder, example=images(), info=INFO, **others)
    return folder


def run_infer(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", folder / "infer.py", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=folder.parent,
        check=False,
    )


@pytest.mark.parametrize("format", [pytest.param(name, marks=pytest.mark.slow) for name in OF_IMAGES])
def test_a_folder_classifies_an_image_file_by_itself_and_by_us(format: str, tmp_path: Path) -> None:
    folder, picture = written(format, tmp_path / "it"), tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(picture)
    x = (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        shares = vit()(x[None]).softmax(dim=-1)[0]
    expected = CLASSES[int(shares.argmax())]
    ran = run_infer(folder, "picture.png", "--top", 1)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"picture.png: {expected} {float(shares.max()):.1%}\n"
    if format == "torch_export":
        with pytest.raises(UsageError, match=r"run by what it brings"):
            classified(folder, [picture], 1)
    else:
        ((_, ((name, share),)),) = classified(folder, [picture], 1)
        assert (name, share) == (expected, pytest.approx(float(shares.max()), abs=1e-4))
    assert set(verify(folder).values()) == {"ok"}
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {str(i): name for i, name in enumerate(CLASSES)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "precision"),
    [(name, one) for name in OF_IMAGES for one in load(EXPORTERS, name).TOLERANCES if one != "fp32"],
)
def test_smaller_precisions_are_smaller_and_near(format: str, precision: str, tmp_path: Path) -> None:
    module = vit((256, 256))
    whole = written(format, tmp_path / "fp32", module=module)
    half = written(format, tmp_path / precision, module=module, form=Form(precision))

    def weight(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.iterdir())

    assert weight(half) < weight(whole)
    assert f"| precision | {precision} |" in (half / "README.md").read_text()


@pytest.mark.slow
def test_int8_is_judged_by_its_quality_and_calibrated(tmp_path: Path) -> None:
    outputs = []

    def judge(run: forms.Run) -> dict[str, Any]:
        outputs.append(run(images().numpy()))
        return {"accuracy_of_the_file": 0.5}

    module = vit((256, 256))
    for name, calibration in (("dynamic", None), ("static", images(16))):
        folder = tmp_path / name
        form = Form("int8", calibration=calibration)
        written("onnx", folder, module=module, form=form, judge=judge)
        assert "| accuracy of the file | 0.5 |" in (folder / "README.md").read_text()
    with torch.no_grad():
        expected = module(images()).numpy()
    for given in outputs:
        assert 0 < np.abs(given - expected).max() < 0.2 * np.abs(expected).max()
    assert np.abs(outputs[0] - outputs[1]).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("others", "kind"),
    [
        ({}, "LlamaForCausalLM"),
        ({"qkv_bias": True, "tied": False}, "Qwen2ForCausalLM"),
        ({"qk_norm": True}, "Qwen3ForCausalLM"),
        ({"mlp_hidden": [24, 8]}, "ElastiformForCausalLM"),
        ({"qkv_bias": True, "qk_norm": True}, "ElastiformForCausalLM"),
    ],
)
def test_a_decoder_for_transformers(others: dict[str, Any], kind: str, tmp_path: Path) -> None:
    module, folder = decoder(**others), tmp_path / "it"
    info = {"subnet": "k", "architecture": {}, "tokenizer": "bytes"}
    export("hf", module, folder, example=module.example_input(3), info=info)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [kind]
    assert (folder / "modeling_elastiform.py").exists() == ("auto_map" in config) == kind.startswith("Elasti")
    if "auto_map" not in config:
        twin = read_folder(folder).load()
        x = module.example_input(2)
        with torch.no_grad():
            torch.testing.assert_close(twin(x), module(x), atol=1e-6, rtol=0)
    ran = run_infer(folder, "ab", "--tokens", 3)
    assert ran.returncode == 0, ran.stderr
    ids = torch.tensor([list(b"ab")])
    for _ in range(3):
        with torch.no_grad():
            ids = torch.cat([ids, module(ids)[:, -1:].argmax(dim=-1)], dim=1)
    assert ran.stdout == bytes(ids[0].tolist()).decode(errors="replace") + "\n"


def test_a_stock_network_is_loaded_by_transformers_as_it_is(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    module = vit((32, 32))
    model = transformers.AutoModelForImageClassification.from_pretrained(
        written("safetensors", tmp_path / "it", module=module)
    ).eval()
    with torch.no_grad():
        assert torch.equal(model(images()).logits, module(images()))
    assert model.config.id2label == dict(enumerate(CLASSES))


def test_our_own_source_takes_the_weights_of_a_folder_for_transformers(tmp_path: Path) -> None:
    module = vit()
    loaded = load_folder(written("hf", tmp_path / "it", module=module))
    with torch.no_grad():
        assert torch.equal(loaded(images()), module(images()))


def test_the_table_of_formats_says_what_the_contracts_hold() -> None:
    """Every family goes through every format in tests/test_contracts.py, within these tolerances."""
    page = (Path(__file__).parents[3] / "docs" / "export.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page if line.startswith("|")]
    first = next(i for i, row in enumerate(rows) if row[0] == "family")
    families, formats = names("supernet.families"), rows[first][1:]
    assert formats == FORMATS
    table = {row[0]: dict(zip(formats, row[1:], strict=True)) for row in rows[first + 2 :][: len(families)]}
    tolerances = {name: load(EXPORTERS, name).TOLERANCES["fp32"] for name in FORMATS}
    cells = {name: f"within {most:g}" if most else "exact" for name, most in tolerances.items()}
    of_images = cells | dict.fromkeys(set(FORMATS) - set(OF_IMAGES), "refused: for language models")
    assert table == {family: cells if family == "matlm" else of_images for family in families}


def test_damage_is_noticed(tmp_path: Path) -> None:
    folder = written("safetensors", tmp_path / "it")
    for name in ("README.md", "modeling.py"):  # which are whoever's has the folder
        (folder / name).write_text((folder / name).read_text() + "\n")
    check_data(folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    ran = run_infer(folder, "picture.png")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"'{folder}' is damaged: model.safetensors by its SHA256SUMS. Extract it again.\n"
    (folder / "infer.py").unlink()
    (folder / "more.txt").write_text("more")
    states = verify(folder)
    assert {name: state for name, state in states.items() if state != "ok"} == {
        "README.md": "damaged",
        "modeling.py": "damaged",
        "model.safetensors": "damaged",
        "infer.py": "missing",
        "more.txt": "not listed",
    }
    with pytest.raises(UsageError, match=r"is damaged: README.md, infer.py, model.safetensors, modeling.py"):
        classified(folder, [], 1)
    with pytest.raises(UsageError, match=r"has no SHA256SUMS") as several:
        classified(tmp_path, [], 1)
    assert several.value.hint == "Name one of the folders in it: it."


def test_other_outputs_are_refused_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = load(EXPORTERS, "safetensors")
    monkeypatch.setattr(exporter, "write", lambda module, *args, **how: WRITE(vit(seed=1), *args, **how))
    with pytest.raises(JobFailedError, match=r"outputs differ from the supernet's by"):
        written("safetensors", tmp_path / "it")
    assert list(tmp_path.iterdir()) == []


WRITE = load(EXPORTERS, "safetensors").write


def test_a_check_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "LONGEST", 0.01)
    with pytest.raises(JobFailedError, match=r"The exported infer.py has not ended within 0.01 s"):
        written("safetensors", tmp_path / "it")
    assert list(tmp_path.iterdir()) == []


def test_what_a_format_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"'openvino' has no precision 'bf16'") as refused:
        forms.check_form("openvino", Form("bf16"), calibrated=False)
    assert refused.value.hint == "It has fp32, fp16. 'bf16' is one of hf, safetensors, torch_export."
    with pytest.raises(UsageError, match=r"nothing to calibrate"):
        forms.check_form("onnx", Form("fp16"), calibrated=True)
    monkeypatch.setattr(load(EXPORTERS, "onnx"), "MODULES", ("onnx", "no_such_module"))
    with pytest.raises(UsageError, match=r"needs no_such_module, which is not installed") as lacking:
        forms.exporter("onnx")
    assert lacking.value.hint == "`pip install 'elastiform[onnxruntime]'`."


@pytest.mark.parametrize("opset", [17, 99])
def test_an_opset_that_cannot_be_written(opset: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"--opset {opset} cannot be written"):
        written("onnx", tmp_path / "it", form=Form(opset=opset))
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_a_precision_cannot_hold(tmp_path: Path) -> None:
    module = vit()
    with torch.no_grad():
        module.get_parameter("head.bias").fill_(1e6)
    with pytest.raises(UsageError, match=r"'head.bias' of the subnet in fp16 are not all finite"):
        written("safetensors", tmp_path / "it", module=module, form=Form("fp16"))
    assert list(tmp_path.iterdir()) == []

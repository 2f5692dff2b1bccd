"""Exported files timed as they stand, beside the front's latency of their subnet."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas.errors import JobFailedError
from nas.exported import folder as writing
from nas.exported.folder import export
from nas.exported.forms import EXPORTERS, Form, Packing
from nas.exported.sums import verify, write_sums
from nas.measuring.folders.timed import card_figures, compared_line, measure_file
from nas.measuring.requests import build_device
from predictors.measurement import rounds
from search_spaces.errors import NotFoundError, UsageError
from search_spaces.registry import load, names
from supernet.plain.decoder import Decoder
from supernet.plain.vit import ViT

FORMATS = [name for name in names(EXPORTERS) if load(EXPORTERS, name).DEVICES]
FAST = ("safetensors",)


@pytest.fixture(autouse=True)
def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a file's outputs are right is asked elsewhere, in fresh processes."""
    monkeypatch.setattr(writing, "_checked", lambda *_, **__: "not checked")


def vit(heads: list[int] | None = None) -> ViT:
    torch.manual_seed(0)
    sizes: Any = {"image_size": (16, 16), "in_chans": 3, "num_classes": 5, "patch_size": 4, "head_dim": 8}
    return ViT(**sizes, embed_dim=16, num_heads=heads or [2, 2], mlp_hidden=[32, 32]).eval()


def decoder(**others: Any) -> Decoder:
    torch.manual_seed(0)
    sizes: Any = {"vocabulary": 256, "context": 12, "embed_dim": 16, "num_heads": [4, 4], "head_dim": 4}
    return Decoder(**sizes | {"mlp_hidden": [24, 24], "heads_per_kv": 2} | others).eval()


def on_front(backend: str, name: str = "pi", **options: Any) -> dict[str, Any]:
    """A latency as a job's front has it, of a device that is here."""
    device = build_device(name, {"backend": backend, "batch": 4, **options})
    fingerprint = json.loads(json.dumps(device.fingerprint()))
    figures = {"device": name, "measured_ms": 2.0, "spread_ms": 0.1, "reference_ms": 3.0}
    return figures | {"fingerprint": fingerprint}


def written(
    format: str, folder: Path, *measured: dict[str, Any], module: nn.Module | None = None, **others: Any
) -> Path:
    module = vit() if module is None else module
    info = {"subnet": "k", "architecture": {}, "measured": list(measured)}
    example: Any = module.example_input(3)
    export(format, module, folder, example=example, info=info, **others)
    return folder


@pytest.mark.parametrize(
    "format", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in FORMATS]
)
def test_a_file_is_timed_as_it_stands_beside_the_front(format: str, tmp_path: Path) -> None:
    backend = load(EXPORTERS, format).DEVICES[0]
    module = decoder() if load(EXPORTERS, format).LAST_ONLY else vit()
    folder = written(format, tmp_path / format, on_front(backend), module=module)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    timed = measure_file(folder, format, {}, trust=True)
    assert 0 < timed["measured_ms"] < 1000
    assert (timed["format"], timed["precision"]) == (format, "fp32")
    assert (timed["device"]["backend"], timed["device"]["batch"]) == (backend, 4)
    assert timed["front"]["differs"] == ""
    assert timed["front"]["file_over_front"] == pytest.approx(timed["measured_ms"] / 2.0)
    line = compared_line(timed["front"])
    assert line.startswith("2 ms on 'pi' of the front, the file takes ")
    assert line.endswith(" times that; the same device")
    inside = measure_file(tmp_path, format, {"batch": 2}, trust=True)  # by the folder around it
    assert inside["device"]["batch"] == 2
    assert inside["front"]["file_over_front"] is None
    assert "batch was 4 and is 2" in inside["front"]["differs"]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("format", "others"),
    [
        pytest.param("onnx", {}, marks=pytest.mark.slow),
        pytest.param("hf", {}, marks=pytest.mark.slow),  # transformers' Llama
        pytest.param("hf", {"mlp_hidden": [24, 8]}, marks=pytest.mark.slow),  # our own module
        ("safetensors", {}),
    ],
)
def test_a_text_is_as_long_as_on_the_front(format: str, others: dict[str, Any], tmp_path: Path) -> None:
    backend = load(EXPORTERS, format).DEVICES[0]
    front = on_front(backend, workload={"prefill": 5})
    folder = written(format, tmp_path / "it", front, module=decoder(**others))
    timed = measure_file(folder, format, {})
    assert timed["device"]["workload"] == {"prefill": 5}
    assert timed["front"]["differs"] == ""
    with pytest.raises(UsageError, match="The file has no step of decoding"):
        measure_file(folder, format, {"workload": {"decode": {"context": 8}}})
    with pytest.raises(UsageError, match="The text has 13 tokens, and the network takes 12"):
        measure_file(folder, format, {"workload": {"prefill": 13}})


def test_a_step_of_decoding_on_the_front_compares_with_no_file(tmp_path: Path) -> None:
    front = on_front("torch_cpu", workload={"decode": {"context": 8}})
    timed = measure_file(written("safetensors", tmp_path / "it", front, module=decoder()), "safetensors", {})
    assert "workload" not in timed["device"]
    assert timed["front"]["file_over_front"] is None
    assert "workload was" in compared_line(timed["front"])
    assert "predicted_ms" not in timed["front"]


def test_what_was_predicted_of_an_exported_subnet_is_told_with_its_interval(tmp_path: Path) -> None:
    front = on_front("torch_cpu") | {"predicted_ms": 2.5, "predicted_low_ms": 2.25, "predicted_high_ms": 2.75}
    timed = measure_file(written("safetensors", tmp_path / "it", front), "safetensors", {})
    assert (timed["front"]["predicted_ms"], timed["front"]["interval_ms"]) == (2.5, [2.25, 2.75])
    line = compared_line(timed["front"])
    assert line.startswith(
        "2 ms on 'pi' of the front (predicted 2.5, 90 % from 2.25 to 2.75), the file takes "
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_is_that_of_the_file(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the device has none like it, the file's own numbers are run all the same."""
    seen = []
    prepared = rounds.Session.visit

    def visit(self: Any, name: str, factory: Any, place: Any) -> None:
        seen.extend(parameter.dtype for parameter in factory().parameters())
        prepared(self, name, factory, place)

    monkeypatch.setattr(rounds.Session, "visit", visit)
    folder = written("safetensors", tmp_path / "it", form=Form(precision))
    timed = measure_file(folder, "safetensors", {"batch": 1})
    assert timed["device"]["precision"] == {"bf16": "bf16", "fp16": "fp32"}[precision]
    assert set(seen) == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert timed["front"] is None
    with pytest.raises(UsageError, match=rf"The file is in {precision}, and is timed as it is"):
        measure_file(folder, "safetensors", {"precision": "int8"})


@pytest.mark.slow
def test_a_step_of_decoding_is_timed_where_a_file_has_one(tmp_path: Path) -> None:
    """Of a GGUF file in four bits, beside a front's step; its card tells it."""
    pytest.importorskip("xllamacpp")
    front = on_front("llama_cpp", precision="q4_0", workload={"decode": {"context": 8}})
    module, form = decoder(embed_dim=32, head_dim=8, mlp_hidden=[32, 64]), Form("q4_0")
    folder = written("gguf", tmp_path / "it", front, module=module, form=form, timer=card_figures)
    timed = measure_file(folder, "gguf", {})
    assert timed["device"]["workload"] == {"decode": {"context": 8}}
    assert (timed["device"]["precision"], timed["front"]["differs"]) == ("q4_0", "")
    text = measure_file(folder, "gguf", {"workload": {"prefill": 12}})
    assert text["device"]["workload"] == {"prefill": 12}
    assert text["front"]["file_over_front"] is None
    assert (
        "| file against front | 2 ms on 'pi' of the front, the file takes "
        in (folder / "README.md").read_text()
    )


@pytest.mark.slow
def test_int8_is_timed_beside_a_calibrator_in_int8(tmp_path: Path) -> None:
    folder = written("onnx", tmp_path / "it", on_front("torch_cpu"), form=Form("int8"))
    timed = measure_file(folder, "onnx", {})
    assert (timed["device"]["precision"], timed["device"]["batch"]) == ("int8", 4)
    assert "backend was 'torch_cpu' and is 'onnxruntime_cpu'" in timed["front"]["differs"]
    assert timed["front"]["file_over_front"] > 0  # the same batch, elsewhere
    assert measure_file(folder, "onnx", {"backend": "openvino_cpu"})["device"]["precision"] == "fp32"


def test_the_label_is_under_the_calibrator_of_the_front_where_the_device_is_the_same(tmp_path: Path) -> None:
    """Twice the clean time is twice the latency."""
    front = on_front("torch_cpu")
    labels = []
    for number, reference_ms in enumerate((3.0, 3000.0)):
        folder = written("safetensors", tmp_path / str(number), front | {"reference_ms": reference_ms})
        labels.append(measure_file(folder, "safetensors", {})["measured_ms"])
    assert labels[1] > 100 * labels[0]


def test_the_card_tells_both(tmp_path: Path) -> None:
    two = on_front("torch_cpu"), on_front("torch_cpu", "lab", precision="bf16")
    folder = written("safetensors", tmp_path / "it", *two, timer=card_figures)
    card = (folder / "README.md").read_text()
    for name in ("pi", "lab"):
        assert f"| latency of the file ms@{name} | " in card
        assert f"| file against front@{name} | 2 ms on '{name}' of the front, the file takes " in card
    assert set(verify(folder).values()) == {"ok"}
    plain = (written("safetensors", tmp_path / "plain", *two) / "README.md").read_text()
    assert "| latency of the file | not timed (nas measure DIR --format safetensors does it; " in plain


def test_what_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written("safetensors", tmp_path / "it")
    with pytest.raises(NotFoundError, match="no network in the format 'onnx' in"):
        measure_file(tmp_path, "onnx", {})
    with pytest.raises(UsageError, match="holds a network in the format 'safetensors', not 'onnx'") as other:
        measure_file(folder, "onnx", {})
    assert other.value.hint == "Try --format safetensors."
    with pytest.raises(UsageError, match="is not timed on 'openvino_cpu'") as elsewhere:
        measure_file(folder, "safetensors", {"backend": "openvino_cpu"})
    assert elsewhere.value.hint == "It is on torch_cpu and torch_compile and torch_cuda."
    with pytest.raises(UsageError, match="A workload is for language models"):
        measure_file(folder, "safetensors", {"workload": {"prefill": 4}})
    with monkeypatch.context() as patched:
        patched.setattr(load(EXPORTERS, "safetensors"), "MODULES", ("no_such_module",))
        with pytest.raises(UsageError, match="needs no_such_module, which is not installed") as lacking:
            measure_file(folder, "safetensors", {})
    assert lacking.value.hint == "`pip install no_such_module`."
    (folder / "modeling.py").write_text("print(1)")
    with pytest.raises(UsageError, match=r"is damaged: modeling\.py"):
        measure_file(folder, "safetensors", {})


def test_a_file_that_may_run_code_is_for_who_trusts_it(tmp_path: Path) -> None:
    folder = written("torch_export", tmp_path / "it")
    with pytest.raises(UsageError, match="is not loaded just so: torch does not promise") as refused:
        measure_file(folder, "torch_export", {})
    assert refused.value.hint == "With --trust it is: if you wrote it, or trust who did."


@pytest.mark.parametrize(
    "change",
    [
        {"input_shape": [3, 16, 10**9]},
        {"input_shape": []},
        {"precision": 8},
        {"measured": [{"device": "pi", "measured_ms": float("inf"), "fingerprint": {}}]},
        {"arguments": {"vocabulary": -1}},
    ],
)
def test_what_a_folder_says_may_be_anything(change: dict[str, Any], tmp_path: Path) -> None:
    folder = written("safetensors", tmp_path / "it")
    config = json.loads((folder / "config.json").read_text())
    config["elastiform"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    write_sums(folder)
    with pytest.raises(UsageError, match="does not say what its file takes"):
        measure_file(folder, "safetensors", {})


@pytest.mark.slow
def test_other_networks_than_the_weights_are_not_built(tmp_path: Path) -> None:
    """transformers makes what its part of config.json says: that has to be the network of the weights."""
    folder = written("hf", tmp_path / "it")
    config = json.loads((folder / "config.json").read_text())
    config["model_args"]["depth"] = 10_000
    (folder / "config.json").write_text(json.dumps(config))
    write_sums(folder)
    with pytest.raises(UsageError, match="is not that of its weights"):
        measure_file(folder, "hf", {})


@pytest.mark.slow
def test_a_file_that_its_runtime_cannot_read_fails(tmp_path: Path) -> None:
    folder = written("onnx", tmp_path / "it")
    (folder / "model.onnx").write_bytes(b"no graph")
    write_sums(folder)
    with pytest.raises(JobFailedError, match="could not be timed: UsageError: onnxruntime cannot load"):
        measure_file(folder, "onnx", {})


def test_formats_name_devices_that_there_are() -> None:
    for name in FORMATS:
        assert set(load(EXPORTERS, name).DEVICES) <= set(names("predictors.devices"))
    assert {"hf", "onnx", "openvino", "safetensors", "torch_export"} <= set(FORMATS)


def test_a_format_without_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written("safetensors", tmp_path / "it")
    monkeypatch.setattr(load(EXPORTERS, "safetensors"), "DEVICES", ())
    with pytest.raises(UsageError, match="'safetensors' is timed by no device of `nas devices`") as refused:
        measure_file(folder, "safetensors", {})
    assert refused.value.hint.startswith("Those in gguf, hf, onnx, ")
    with pytest.raises(UsageError, match="is timed by no device"):
        Packing(timer=card_figures).checked()
    card = (written("safetensors", tmp_path / "other") / "README.md").read_text()
    assert "not timed (no device of" in card

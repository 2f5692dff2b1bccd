"""Models of no space on a device: what names stand for, what is kept, what is predicted."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import search_spaces
import supernet
from nas.errors import DamagedError
from nas.measuring import devices
from nas.measuring.models import fitted
from nas.measuring.models.named import listed, named
from nas.progress import Silent
from nas.store import Store
from predictors.runtimes.host import last_cache_bytes
from search_spaces.errors import NASError, NotFoundError, UsageError
from supernet.pretrained.weight_files import CONFIG
from tests import made_device

CODE = """
import torch
from torch import nn

def build(width=8, depth=1):
    layers = [nn.Linear(width, width), nn.ReLU()] * depth
    return nn.Sequential(*layers), torch.zeros(1, width)

def small(): return build(16)
def middling(): return build(32, 2)
def large(): return build(64, 3)
def wide(): return build(96)
def number(): return 3
def fails(): raise RuntimeError("no luck.")
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "code.py").write_text(CODE, encoding="utf-8")
    return str(tmp_path / "code.py")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(devices, "CALIBRATION_SECONDS", 0.0)
    with Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}") as opened:
        devices.add(opened, "lab", {"backend": made_device.BACKEND, "batch": 2})
        yield opened


def fit(store: Store, code: str, *functions: str, **more: Any) -> dict[str, Any]:
    names = [f"{code}:{function}" for function in functions]
    return fitted.fit(store, "lab", names, progress=Silent(), rounds=2, max_rounds=2, **more)


def test_models_are_measured_once_and_others_predicted(store: Store, code: str) -> None:
    data = fit(store, code, "build", "small", "middling", "large")
    assert [one["model"] for one in data["models"]] == [
        f"{code}:{name}" for name in ("build", "small", "middling", "large")
    ]
    assert (data["device"], data["batch"], data["failures"]) == ("lab", 2, [])
    answer = fitted.predict(store, "lab", f"{code}:wide")
    assert answer["input_shape"] == [96]
    assert (answer["params"], answer["macs"], answer["batch"]) == (96 * 97, 96 * 96, 2)
    low, high = answer["interval_ms"]
    assert 0 <= low < answer["predicted_ms"] < high
    assert answer["models"] == 4
    # What was measured stays, and more of it makes a new predictor; the old file is gone.
    again = fit(store, code, "build", "wide")
    assert [one["measured_ms"] for one in again["models"][:4]] == [
        one["measured_ms"] for one in data["models"]
    ]
    assert len(again["models"]) == 5
    assert fitted.predict(store, "lab", f"{code}:wide")["models"] == 5
    assert [one.kind for one in store.all_artifacts()] == ["device_models"]
    assert store.orphans() == []


def test_an_interrupted_fit_goes_on(store: Store, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, seen, most = fitted.measure, [], 2

    def interrupted(*args: Any, **more: Any) -> Any:
        if len(seen) == most:
            raise KeyboardInterrupt
        seen.append(list(args[1]))
        return measure(*args, **more)

    monkeypatch.setattr(fitted, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(store, code, "build", "small", "middling")
    with pytest.raises(NotFoundError, match="Device 'lab' has no predictor of models"):
        fitted.predict(store, "lab", f"{code}:wide")
    most = 9
    fit(store, code, "build", "small", "middling")
    assert seen == [[f"{code}:{name}"] for name in ("build", "small", "middling")]


def test_what_was_kept_and_is_damaged_is_measured_anew(store: Store, code: str) -> None:
    fit(store, code, "build", "small", "middling")
    path = store.device_file(store.device("lab"))
    assert path is not None
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(DamagedError):
        fitted.predict(store, "lab", f"{code}:wide")
    assert len(fit(store, code, "build", "small", "large")["models"]) == 3
    assert fitted.predict(store, "lab", f"{code}:wide")["models"] == 3


def test_times_follow_the_calibrator(store: Store, code: str) -> None:
    fit(store, code, "build", "small", "middling")
    before = fitted.predict(store, "lab", f"{code}:wide")["predicted_ms"]
    row = store.device("lab")
    assert row.reference_ms is not None
    store.set_reference(row.id, 2 * row.reference_ms, replace=True)
    assert fitted.predict(store, "lab", f"{code}:wide")["predicted_ms"] == pytest.approx(2 * before)
    data = fit(store, code, "build")
    assert fitted.predict(store, "lab", f"{code}:build")["models"] == len(data["models"]) == 3


def test_another_device_is_a_beginning(store: Store, code: str) -> None:
    fit(store, code, "build", "small", "middling", "large")
    devices.add(store, "fast", {"backend": made_device.BACKEND, "batch": 2, "speed": 3.0})
    names = [f"{code}:{name}" for name in ("build", "small", "large")]
    options: dict[str, Any] = {"progress": Silent(), "rounds": 2, "max_rounds": 2}
    assert "source" in fitted.fit(store, "fast", names, source="lab", **options)["why"]
    devices.add(store, "bare", {"backend": made_device.BACKEND, "batch": 3})
    with pytest.raises(NotFoundError, match="'bare' has no predictor"):
        fitted.fit(store, "fast", names, source="bare", **options)


def test_a_device_with_a_workload_has_other_inputs(store: Store, code: str) -> None:
    workload = {"prefill": 8}
    devices.add(store, "texts", {"backend": made_device.BACKEND, "batch": 2, "workload": workload})
    with pytest.raises(UsageError, match="'texts' runs texts of its workload"):
        fitted.fit(store, "texts", [f"{code}:build"], progress=Silent())


def test_what_cannot_be_measured_is_left_out_with_its_reason(
    store: Store, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = made_device.MadeDevice.prepare

    def picky(device: Any, module: Any, example: Any) -> Any:
        if getattr(module, "0", None) is not None and module[0].in_features == 64:
            raise RuntimeError("too large")
        return prepare(device, module, example)

    monkeypatch.setattr(made_device.MadeDevice, "prepare", picky)
    data = fit(store, code, "build", "small", "large", "middling")
    (failure,) = data["failures"]
    assert failure["model"] == f"{code}:large"
    assert "too large" in failure["reason"]
    assert len(data["models"]) == 3
    devices.add(store, "few", {"backend": made_device.BACKEND, "batch": 4})
    with pytest.raises(NASError, match="Only 0 models are measured on 'few'"):
        fitted.fit(store, "few", [f"{code}:large"], progress=Silent(), rounds=2, max_rounds=2)


def test_folders_are_told_by_their_config(tmp_path: Path) -> None:
    space = search_spaces.get("matformer")
    with torch.device("meta"):
        module: Any = supernet.build(space).plain(space.smallest)
    inner = tmp_path / "net" / "onnx"
    inner.mkdir(parents=True)
    section = {"class": type(module).__name__, "arguments": module.config, "format": "onnx"}
    (inner / CONFIG).write_text(json.dumps({"elastiform": section}), encoding="utf-8")
    model = named(str(tmp_path / "net"))
    assert model.input_shape == tuple(module.input_shape)
    assert sum(layer.macs for layer in fitted.traced(model)) == space.cost(space.smallest).macs
    (inner / CONFIG).write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no network that can be built"):
        named(str(tmp_path / "net"))


def test_a_model_of_timm_is_traced_without_weights() -> None:
    model = named("timm:resnet10t")
    assert model.input_shape == (3, 176, 176)
    assert sum(layer.params for layer in fitted.traced(model)) == 5_435_488


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("resnet18", NotFoundError, "There is no model 'resnet18'"),
        ("timm:resnet1", UsageError, "timm has no model 'resnet1'"),
        ("nowhere.py:build", NotFoundError, "There is no file 'nowhere.py'"),
        ("CODE:other", NotFoundError, "has no function 'other'"),
        ("CODE:number", UsageError, "returns neither a module"),
        ("CODE:fails", UsageError, "failed: RuntimeError: no luck"),
    ],
)
def test_bad_names_are_told_in_one_sentence(name: str, kind: type[NASError], message: str, code: str) -> None:
    with pytest.raises(kind, match=message):
        named(name.replace("CODE", code))


def test_code_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name", encoding="utf-8")
    with pytest.raises(UsageError, match=r"cannot be run: ModuleNotFoundError"):
        named(f"{tmp_path / 'broken.py'}:build")


def test_several_models_are_named_at_once() -> None:
    names = listed(["timm:resnet18,resnet34", "folder", "timm:resnet18", "timm:vit_tiny_patch16_*"])
    assert names[:3] == ["timm:resnet18", "timm:resnet34", "folder"]
    assert "timm:vit_tiny_patch16_224" in names[3:]
    with pytest.raises(UsageError, match="timm has no model 'nothing"):
        listed(["timm:nothing_*"])


def test_the_last_cache_is_the_kernel_s(tmp_path: Path) -> None:
    for index, (level, size) in enumerate([("1", "48K"), ("3", "32768K"), ("2", "1024K")]):
        folder = tmp_path / "cpu0" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        (folder / "level").write_text(level, encoding="ascii")
        (folder / "size").write_text(f"{size}\n", encoding="ascii")
    assert last_cache_bytes(tmp_path) == 32 * 2**20
    assert last_cache_bytes(tmp_path / "cpu0") is None

"""The models that `any_model.py` measures, by family, and their measurements: one JSON file each."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import predictors
from nas.measuring.devices import clean_reference_ms
from nas.measuring.requests import build_device
from predictors.measurement.rounds import Failure, measure
from search_spaces.layers import Layer

# timm's names; none has pretrained weights here.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "plain ViT": (
        *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch32_224", "vit_small_patch32_224"),
        *("deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "vit_base_patch16_224"),
        *("vit_medium_patch16_gap_240", "eva02_tiny_patch14_224", "mixer_s32_224", "mixer_s16_224"),
    ),
    "Swin": (
        *("swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", "swin_s3_tiny_224"),
        *("swinv2_tiny_window8_256", "swinv2_cr_tiny_224"),
    ),
    "pyramid ViT": (
        *("hiera_tiny_224", "hiera_small_224", "mvitv2_tiny", "pvt_v2_b0", "pvt_v2_b1", "pvt_v2_b2"),
        *("twins_svt_small", "twins_pcpvt_small", "davit_tiny", "tiny_vit_5m_224", "nest_tiny"),
    ),
    "ConvNeXt": (
        *("convnext_atto", "convnext_femto", "convnext_pico", "convnext_nano", "convnext_tiny"),
        *("convnextv2_atto", "convnextv2_femto", "convnextv2_pico"),
    ),
    "EfficientNet": (
        *("efficientnet_b0", "efficientnet_b1", "efficientnet_lite0", "efficientnetv2_rw_t"),
        *("tf_efficientnetv2_b0", "mnasnet_100", "fbnetc_100"),
    ),
    "MobileNet": (
        *("mobilenetv2_100", "mobilenetv2_140", "mobilenetv3_large_100", "mobilenetv3_small_100"),
        *("mobilenetv4_conv_small", "mobilenetv4_conv_medium", "ghostnet_100"),
    ),
    "ResNet": (
        *("resnet10t", "resnet18", "resnet26", "resnet34", "resnet50", "resnext50_32x4d", "seresnet50"),
        *("regnety_004", "regnety_016", "regnetx_008", "densenet121"),
    ),
    "hybrid": (
        *("levit_128", "levit_192", "efficientformer_l1", "mobilevit_xs", "mobilevit_s", "mobilevitv2_100"),
        *("coatnet_0_rw_224", "poolformer_s12", "edgenext_small", "fastvit_t8", "repvit_m1"),
    ),
}
DEVICES: Mapping[str, Mapping[str, Any]] = {
    "torch": {"backend": "torch_cpu", "batch": 1},
    "torch8": {"backend": "torch_cpu", "batch": 8},
    "onnxruntime": {"backend": "onnxruntime_cpu", "batch": 1},
}


@dataclass(frozen=True)
class Measured:
    """A model on a device: its layers, and its latency in ms with the standard error."""

    name: str
    family: str
    layers: list[Layer]
    latency_ms: float
    stderr_ms: float


def model(name: str) -> nn.Module:
    """timm's model with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: nn.Module = timm.create_model(name, pretrained=False).eval()
    return made


def input_shape(made: Any) -> tuple[int, int, int]:
    """What the model was made for."""
    channels, height, width = made.pretrained_cfg["input_size"]
    return channels, height, width


def measure_missing(folder: Path, device_name: str, families: list[str]) -> None:
    """Measures every model that the folder has no file of, each in a session of its own."""
    device = build_device(device_name, DEVICES[device_name])
    clean = folder / f"{device_name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not clean.exists():
        data = {"fingerprint": device.fingerprint(), "reference_ms": clean_reference_ms(device)}
        clean.write_text(json.dumps(data), encoding="utf-8")
    reference_ms = json.loads(clean.read_text(encoding="utf-8"))["reference_ms"]
    for _, name in _of(families):
        path = _path(folder, device_name, name)
        if path.exists():
            continue
        shape = input_shape(model(name))
        example = torch.randn(device.batch, *shape, generator=torch.Generator().manual_seed(0))
        result = measure(
            device, {name: partial(model, name)}, example, seed=0, reference_ms=reference_ms, extras=False
        )[name]
        path.write_text(json.dumps(asdict(result) | {"shape": shape}), encoding="utf-8")
        outcome = result.reason if isinstance(result, Failure) else f"{result.latency_ms:.1f} ms"
        print(f"{device_name} {name}: {outcome}", flush=True)


def load(folder: Path, device_name: str, families: list[str]) -> Iterator[Measured]:
    """All models that were measured on the device."""
    for family, name in _of(families):
        path = _path(folder, device_name, name)
        data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if "latency_ms" in data:
            layers = traced(name, tuple(data["shape"]))
            yield Measured(name, family, layers, data["latency_ms"], data["stderr_ms"])


def traced(name: str, shape: tuple[int, ...]) -> list[Layer]:
    """The model's layers; no weights are made."""
    with torch.device("meta"):
        made = model(name)
        return predictors.layers_of(made, torch.empty(1, *shape))


def _of(families: list[str]) -> Iterator[tuple[str, str]]:
    for family in families:
        for name in FAMILIES[family]:
            yield family, name


def _path(folder: Path, device_name: str, name: str) -> Path:
    return folder / f"{device_name}-{name}.json"

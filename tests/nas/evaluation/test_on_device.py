"""Scores of networks by the backends of devices, on parts of a split, in the device's batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import supernet
from nas import datasets
from nas.evaluation.on_device import batches_at, compared, device_scores, module_scores, places_of
from search_spaces import Architecture, get
from search_spaces.errors import UsageError
from search_spaces.registry import load

IMAGES = 300


class Counting:
    """A device that keeps what it was given."""

    name, batch = "counting", 7

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    @contextmanager
    def computing(self, module: nn.Module, example: Tensor) -> Iterator[Any]:
        assert len(example) == self.batch

        def compute(x: Tensor) -> Tensor:
            self.given.append(x)
            with torch.inference_mode():
                return module(x)

        yield compute


@pytest.fixture(scope="module")
def network() -> nn.Module:
    space = get("matformer", image_size=(8, 8), patch_size=4, in_chans=1, num_classes=10, stem="patch")
    arch: Architecture = space.smallest
    return supernet.build(space, seed=3).extract(arch)


def test_examples_go_through_in_the_devices_batches_the_last_one_filled_with_its_own(
    network: nn.Module,
) -> None:
    data, device = datasets.build("digits"), Counting()
    scores = device_scores(device, network, data, "report", range(IMAGES))  # type: ignore[arg-type]
    assert len(device.given) == -(-IMAGES // 7)
    assert {len(x) for x in device.given} == {7}
    left = IMAGES % 7
    assert torch.equal(device.given[-1][left:], device.given[-1][: 7 - left])
    assert scores.tolist() == module_scores(network, data, "report", range(IMAGES), batch=64).tolist()


def test_a_number_of_examples_is_drawn_from_all_of_the_split(network: nn.Module) -> None:
    data = datasets.build("digits")
    assert places_of(data, "report", None) == places_of(data, "report", IMAGES) == range(IMAGES)
    some = places_of(data, "report", 90)
    assert some == places_of(data, "report", 90)
    assert list(some) == sorted(set(some))
    assert len(some) == 90
    assert max(some) > 200
    ((x, labels),) = data.batches("report", IMAGES)
    parts = list(batches_at(data, "report", some, 8))
    assert torch.equal(torch.cat([part for part, _ in parts]), x[list(some)])
    assert torch.equal(torch.cat([part for _, part in parts]), labels[list(some)])
    assert {len(part) for part, _ in parts[:-1]} == {8}
    whole = module_scores(network, data, "report", range(IMAGES), batch=64)
    assert module_scores(network, data, "report", some, batch=64).tolist() == whole[list(some)].tolist()


def test_differences_are_paired_and_know_of_shared_items() -> None:
    data = datasets.build("digit_pairs", pairs=400)
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.8
    worse = right & (rng.random(400) < 0.95)
    both = compared("accuracy", worse, right, data, "report", range(400))
    assert both.difference == pytest.approx(worse.mean() - right.mean())
    assert both.qualities["accuracy"].value == pytest.approx(worse.mean())
    assert 0 < both.stderr < both.qualities["accuracy"].stderr
    same = compared("accuracy", right, right, data, "report", range(400))
    assert (same.difference, same.stderr > 0) == (0.0, True)
    some = places_of(data, "report", 100)
    part = compared("balanced_accuracy", worse[list(some)], right[list(some)], data, "report", some)
    assert part.qualities["accuracy"].count == 100
    assert part.difference < 0.05


def test_losses_are_compared_by_what_they_are_told_per() -> None:
    count, rng = 80, np.random.default_rng(1)
    of_bytes = torch.from_numpy(rng.integers(20, 60, count))
    data: Any = SimpleNamespace(
        task="language",
        sizes={"report": count},
        sources=lambda split: None,
        counts=lambda split: {"bytes": of_bytes, "tokens": of_bytes // 2},
    )
    nats = rng.uniform(20, 40, count).astype(np.float32)
    both = compared("bits_per_byte", nats + np.float32(0.5), nats, data, "report", range(count))
    told = both.qualities["bits_per_byte"].value
    plain = compared("bits_per_byte", nats, nats, data, "report", range(count)).qualities["bits_per_byte"]
    assert both.difference == pytest.approx(told - plain.value, rel=1e-3)
    assert both.difference > 2 * both.stderr


@pytest.mark.parametrize(
    ("backend", "precision"),
    [("torch_cpu", "fp32"), ("torch_cpu", "bf16"), ("onnxruntime_cpu", "int8"), ("openvino_cpu", "fp32")],
)
def test_backends_tell_the_quality_of_a_subnet(backend: str, precision: str, network: nn.Module) -> None:
    data = datasets.build("digits")
    device = load("predictors.devices", backend).build(batch=50, precision=precision)
    with device.session():
        scores = device_scores(device, network, data, "report", range(IMAGES))
    plain = module_scores(network, data, "report", range(IMAGES), batch=50)
    both = compared("accuracy", scores, plain, data, "report", range(IMAGES))
    assert both.qualities["accuracy"].count == IMAGES
    assert abs(both.difference) < 0.1
    assert precision != "fp32" or both.difference == 0.0


def test_a_backend_that_tells_no_outputs(network: nn.Module) -> None:
    class Mute:
        name, batch = "mute", 8

    data = datasets.build("digits")
    with pytest.raises(UsageError, match="The backend of 'mute' tells no outputs"):
        device_scores(Mute(), network, data, "report", range(8))  # type: ignore[arg-type]

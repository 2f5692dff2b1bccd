"""Fashion-MNIST: what its files become, how it is augmented, and files that are none."""

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from idx_files import make_idx, write_idx

from nas.datasets import build
from nas.datasets.fashion_mnist import CLASSES, MEAN, ROOT, STD, FashionMNIST
from search_spaces.errors import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_idx(tmp_path_factory.mktemp("fashion"))


def made(folder: Path, **options: Any) -> FashionMNIST:
    dataset = build("fashion_mnist", root=str(folder), **({"search": 50, "report": 100} | options))
    assert isinstance(dataset, FashionMNIST)
    return dataset


def pixels(inputs: torch.Tensor) -> set[bytes]:
    whole = (inputs * STD + MEAN).mul(255).round().to(torch.uint8)
    return {image.numpy().tobytes() for image in whole}


def test_the_training_file_is_divided_and_the_test_file_reported_on(folder: Path) -> None:
    dataset = made(folder)
    assert dataset.sizes == {"train": 250, "search": 50, "report": 100}
    searched = pixels(torch.cat([inputs for inputs, _ in dataset.batches("search", 32)]))
    trained = pixels(torch.cat([dataset.clean_batch(0, step, 50) for step in range(5)]))
    assert len(searched) == 50
    assert len(trained) == 250, "one epoch shows every image once"
    assert not searched & trained


def test_packed_and_plain_files_are_the_same(folder: Path, tmp_path: Path) -> None:
    plain = made(make_idx(tmp_path / "plain", packed=False))
    assert plain.digest == made(folder).digest
    assert made(folder, split_seed=1).digest != plain.digest


def test_an_augmented_image_is_a_part_of_its_own_or_of_its_mirror(folder: Path) -> None:
    clean, (moved, _) = made(folder).clean_batch(3, 1, 40), made(folder).train_batch(3, 1, 40)
    black = ((torch.zeros(()) - MEAN) / STD).item()
    shifts = set()
    for image, source in zip(moved, clean, strict=True):
        fits = [
            (down, right, mirror)
            for mirror in (False, True)
            for down in range(5)
            for right in range(5)
            if torch.equal(image, _window(source, down, right, mirror=mirror, black=black))
        ]
        assert len(fits) == 1
        shifts |= set(fits)
    assert len(shifts) > 20
    assert torch.equal(made(folder, augmentation="none").train_batch(3, 1, 40)[0], clean)


def _window(source: torch.Tensor, down: int, right: int, *, mirror: bool, black: float) -> torch.Tensor:
    padded = torch.nn.functional.pad(source, (2,) * 4, value=black)
    window = padded[:, down : down + 28, right : right + 28]
    return window.flip(2) if mirror else window


BROKEN = {
    "no label for an image": lambda at: write_idx(at / "train-labels-idx1-ubyte.gz", np.zeros(299)),
    "another size": lambda at: write_idx(at / "train-images-idx3-ubyte.gz", np.zeros((300, 32, 32))),
    "an eleventh class": lambda at: write_idx(at / "t10k-labels-idx1-ubyte.gz", np.full(100, 10)),
    "cut off": lambda at: (at / "train-images-idx3-ubyte.gz").write_bytes(
        (at / "train-images-idx3-ubyte.gz").read_bytes()[:1000]
    ),
    "too long": lambda at: write_long(at / "t10k-images-idx3-ubyte.gz"),
    "no gzip": lambda at: (at / "t10k-images-idx3-ubyte.gz").write_bytes(b"a shopping list"),
    "no IDX": lambda at: (at / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"a shopping list")),
    "a head that promises too much": lambda at: (at / "t10k-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(bytes((0, 0, 8, 3)) + b"\xff" * 12)
    ),
    "gone": lambda at: (at / "train-images-idx3-ubyte.gz").unlink(),
    "a pipe": lambda at: pipe(at / "train-images-idx3-ubyte.gz"),
}


def write_long(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"more"))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_none_is_named(damage: Any, tmp_path: Path) -> None:
    folder = make_idx(tmp_path)
    damage(folder)
    with pytest.raises(UsageError) as caught:
        made(folder)
    assert str(folder) in caught.value.message
    assert "dataset-fashion-mnist" in caught.value.hint


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("search", 300),
        ("search", 0),
        ("report", 101),
        ("augmentation", "rotate"),
        ("split_seed", 0.5),
        ("root", 3),
    ],
)
def test_wrong_options_are_named(folder: Path, option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option):
        build("fashion_mnist", **({"root": str(folder), "search": 50, "report": 100} | {option: value}))


@pytest.mark.skipif(not Path(ROOT).is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_files_are_read() -> None:
    dataset = build("fashion_mnist")
    assert dataset.sizes == {"train": 55_000, "search": 5_000, "report": 10_000}
    counts = dataset.labels("report").bincount()
    assert counts.tolist() == [1_000] * len(CLASSES)
    ((inputs, _),) = dataset.batches("search", 5_000)
    assert inputs.mean().abs() < 0.02
    assert (inputs.std() - 1).abs() < 0.02

"""Fashion-MNIST: 70,000 grey images of clothes (28x28 pixels, 10 classes); nothing is downloaded.

It is read from the four IDX files, packed or not, that Debian's package `dataset-fashion-mnist` installs and
that other sources have under the same names.
Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms" (arXiv 1708.07747).
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.artifacts import open_regular
from nas.images.digits import digest
from nas.images.preprocessing import Preprocessing
from nas.images.seeds import mixed_seed
from search_spaces.bounds import positive, short
from search_spaces.errors import NotHereError, UsageError

ROOT = "/usr/share/datasets/fashion-mnist"
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
SIDE = 28
MEAN, STD = 0.2860, 0.3530  # of the 60,000 training images
FILES = {"train": "train", "report": "t10k"}  # what the files of a split are called
UBYTE = 8  # the type of an IDX file whose numbers are unsigned bytes
MOST = 1_000_000  # images of a file
AUGMENTATIONS = ("shift", "none")
SHIFT = 2  # pixels, at most, to each side
HINT = "Install Debian's dataset-fashion-mnist, or give the folder with the four IDX files as data.root."


def build(
    *,
    root: str = ROOT,
    split_seed: int = 0,
    search: int = 5_000,
    report: int = 10_000,
    augmentation: str = "shift",
) -> "FashionMNIST":
    """The images of the IDX files in `root`, `search` of the training file's set apart for the search.

    root: the folder with the files.  split_seed: by which images are set apart.
    search: how many of the training file are for the search.  report: how many of the test file, all of them
    by default.  augmentation: of training images; `shift` is
    up to two pixels to each side and a horizontal flip, `none` nothing.
    Raises UsageError for a file that is missing or none, and for options that are wrong.
    """
    if augmentation not in AUGMENTATIONS:
        raise UsageError(f"augmentation = {short(augmentation)} is neither 'shift' nor 'none'.")
    if type(split_seed) is not int or not -(2**63) <= split_seed < 2**64:
        raise UsageError(f"split_seed = {short(split_seed)} is not an integer of 64 bits.")
    if not isinstance(root, str | Path):
        raise UsageError(f"root = {short(root)} is not a path.", HINT)
    folder = Path(root).expanduser()
    images, labels = _pairs(folder, FILES["train"])
    tests, test_labels = _pairs(folder, FILES["report"])
    positive("search", search, most=len(images) - 1)
    positive("report", report, most=len(tests))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(mixed_seed(split_seed, 0)))
    some = torch.randperm(len(tests), generator=torch.Generator().manual_seed(mixed_seed(split_seed, 1)))
    parts = {"search": order[:search], "train": order[search:]}
    return FashionMNIST(
        {name: (images[part], labels[part]) for name, part in parts.items()}
        | {"report": (tests[some[:report]], test_labels[some[:report]])},
        shifted=augmentation == "shift",
    )


class FashionMNIST:
    """Grey images as unsigned bytes, normalised when they are asked for."""

    name = "fashion_mnist"
    input_shape = (1, SIDE, SIDE)
    num_classes = len(CLASSES)
    classes = CLASSES
    preprocessing = Preprocessing((MEAN,), (STD,))

    def __init__(self, splits: dict[str, tuple[Tensor, Tensor]], *, shifted: bool) -> None:
        self._splits, self._shifted = splits, shifted
        self.sizes = {name: len(labels) for name, (_, labels) in splits.items()}
        self.digest = digest(*(tensor for name in sorted(splits) for tensor in splits[name]))

    def train_batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Images and labels of batch `step` over shuffled epochs."""
        images, labels = self._chosen(seed, step, size)
        if self._shifted:
            images = _shifted(images, torch.Generator().manual_seed(mixed_seed(seed, step)))
        return _normalised(images), labels

    def clean_batch(self, seed: int, step: int, size: int) -> Tensor:
        """The images of `train_batch` as they are."""
        return _normalised(self._chosen(seed, step, size)[0])

    def batches(self, split: str, size: int, images: slice | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        pixels, labels = (part[images or slice(None)] for part in self._splits[split])
        return zip(map(_normalised, pixels.split(size)), labels.split(size), strict=True)

    def sources(self, split: str) -> None:
        return None

    def labels(self, split: str) -> Tensor:
        return self._splits[split][1]

    def _chosen(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        images, labels = self._splits["train"]
        places = torch.arange(step * size, (step + 1) * size)
        epochs, rows = places // len(images), places % len(images)
        chosen = torch.empty_like(places)
        for epoch in epochs.unique().tolist():
            generator = torch.Generator().manual_seed(mixed_seed(seed, -1 - epoch))
            order = torch.randperm(len(images), generator=generator)
            chosen[epochs == epoch] = order[rows[epochs == epoch]]
        return images[chosen], labels[chosen]


def _normalised(images: Tensor) -> Tensor:
    return (images.to(torch.float32) / 255 - MEAN) / STD


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Up to SHIFT pixels to each side, black coming in, and half of them mirrored."""
    count = len(images)
    top, left = torch.randint(2 * SHIFT + 1, (2, count, 1), generator=generator) + torch.arange(SIDE)
    mirrored = torch.rand(count, generator=generator) < 0.5
    left = torch.where(mirrored[:, None], left.flip(1), left)
    padded = F.pad(images, (SHIFT,) * 4)
    return padded[torch.arange(count)[:, None, None], :, top[:, :, None], left[:, None, :]].movedim(-1, 1)


def _pairs(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 28, 28) and labels (n,) of the files whose names begin so. Raises UsageError."""
    images = _idx(folder, f"{name}-images-idx3-ubyte", dims=3)
    labels = _idx(folder, f"{name}-labels-idx1-ubyte", dims=1).to(torch.int64)
    if images.shape[1:] != (SIDE, SIDE) or len(images) != len(labels):
        raise UsageError(
            f"The files '{name}-*' in '{folder}' hold images {tuple(images.shape)} and {len(labels)} labels; "
            f"Fashion-MNIST has a label for each image of {SIDE}x{SIDE} pixels.",
            HINT,
        )
    if int(labels.max()) >= len(CLASSES):
        raise UsageError(
            f"The labels of '{name}-*' in '{folder}' go up to {int(labels.max())}; there are 10.", HINT
        )
    return images[:, None], labels


def _idx(folder: Path, name: str, *, dims: int) -> Tensor:
    """The numbers of an IDX file of unsigned bytes, packed or not. Raises UsageError."""
    path = next((path for path in (folder / f"{name}.gz", folder / name) if path.exists()), None)
    if path is None:
        raise NotHereError(f"There is no '{name}' or '{name}.gz' in '{folder}'.", HINT)
    try:
        with open_regular(path) as raw, gzip.open(raw) if path.suffix == ".gz" else raw as file:
            head = file.read(4 + 4 * dims)
            shape = np.frombuffer(head, dtype=">u4", offset=4, count=dims).tolist()
            if head[:4] != bytes((0, 0, UBYTE, dims)) or not 0 < shape[0] <= MOST or math.prod(shape) > 2**31:
                raise ValueError("its head is not that of an IDX file of unsigned bytes")
            numbers = np.frombuffer(file.read(math.prod(shape) + 1), dtype=np.uint8)
            return torch.from_numpy(numbers.reshape(shape).copy())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UsageError(f"'{path}' cannot be read: {' '.join(str(error).split())}.", HINT) from error

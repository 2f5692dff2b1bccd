"""Single handwritten digits (8x8 pixels, 10 classes) from scikit-learn; nothing is downloaded.

Too easy to compare architectures on (the front is flat); quick enough for tests.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from nas.images.digits import SIDE, augment, digest, source_digits, split_indices
from nas.images.preprocessing import UNCHANGED
from nas.images.seeds import mixed_seed


def build(*, split_seed: int = 0) -> "Digits":
    """1,197 digits to train on, 300 to search on, 300 to report on.

    split_seed: by which they are divided.
    """
    return Digits(split_seed)


class Digits:
    """Augmented digits for training, untouched ones for search and report."""

    name = "digits"
    input_shape = (1, SIDE, SIDE)
    num_classes = 10
    classes = tuple(map(str, range(num_classes)))
    preprocessing = UNCHANGED

    def __init__(self, split_seed: int) -> None:
        images, labels = source_digits()
        indices = split_indices(split_seed)
        self._splits = {name: (images[i], labels[i]) for name, i in indices.items()}
        self.sizes = {name: len(i) for name, i in indices.items()}
        self.digest = digest(images, labels, *indices.values())

    def train_batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(mixed_seed(seed, step))
        images, labels = self._drawn(generator, size)
        return augment(images, generator), labels

    def clean_batch(self, seed: int, step: int, size: int) -> Tensor:
        return self._drawn(torch.Generator().manual_seed(mixed_seed(seed, step)), size)[0]

    def batches(self, split: str, size: int, images: slice | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = (part[images or slice(None)] for part in self._splits[split])
        return zip(inputs.split(size), labels.split(size), strict=True)

    def _drawn(self, generator: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
        images, labels = self._splits["train"]
        chosen = torch.randint(len(images), (size,), generator=generator)
        return images[chosen], labels[chosen]

    def sources(self, split: str) -> None:
        return None

    def labels(self, split: str) -> Tensor:
        return self._splits[split][1]

"""Two augmented handwritten digits side by side (8x16 pixels); the label is their sum (19 classes).

Nothing is downloaded. Width, depth and FFN size all matter on this task: the embedded default.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from nas.images.digits import NOISE, SIDE, augment, digest, source_digits, split_indices
from nas.images.preprocessing import UNCHANGED
from nas.images.seeds import mixed_seed
from search_spaces.bounds import positive

PAIRS = 1800
MOST_PAIRS = 1_000_000
EMPTY_SHARE = 0.3


def build(*, split_seed: int = 0, pairs: int = PAIRS) -> "DigitPairs":
    """`pairs` fixed pairs for search and report each, from 300 digits of their own; endless ones to train on.

    split_seed: by which digits are divided and pairs drawn.  pairs: how many search and report have each.
    Raises UsageError when `pairs` is not a positive integer, or above MOST_PAIRS.
    """
    positive("pairs", pairs, most=MOST_PAIRS)
    return DigitPairs(split_seed, pairs)


class DigitPairs:
    """Pairs of digits of one split; held-out pairs are augmented once, with a fixed seed.

    In 30 % of the training pairs one side is empty and the other digit alone is the sum, which teaches single
    digits and shortens the start of the training. The held-out pairs are all complete.
    """

    name = "digit_pairs"
    input_shape = (1, SIDE, 2 * SIDE)
    num_classes = 19
    classes = tuple(map(str, range(num_classes)))
    preprocessing = UNCHANGED

    def __init__(self, split_seed: int, pairs: int) -> None:
        self._images, self._labels = source_digits()
        self._indices = split_indices(split_seed)
        self._fixed = {
            split: self._draw(split, torch.Generator().manual_seed(mixed_seed(split_seed, number)), pairs)
            for number, split in enumerate(("search", "report"))
        }
        self.sizes = {"train": len(self._indices["train"]) ** 2, "search": pairs, "report": pairs}
        fixed = [tensor for split in self._fixed.values() for tensor in split]
        self.digest = digest(self._images, self._labels, *self._indices.values(), *fixed)

    def _draw(self, split: str, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, labels and the ids (count, 2) of the digits."""
        indices = self._indices[split]
        chosen = indices[torch.randint(len(indices), (count, 2), generator=generator)]
        sides = augment(self._images[chosen.flatten()], generator).unflatten(0, (count, 2))
        return torch.cat([sides[:, 0], sides[:, 1]], dim=-1), self._labels[chosen].sum(dim=1), chosen

    def train_batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(mixed_seed(seed, step))
        inputs, sums, chosen = self._draw("train", generator, size)
        emptied = torch.rand(size, generator=generator) < EMPTY_SHARE
        side = torch.randint(2, (size,), generator=generator)
        pixels = torch.arange(2 * SIDE) // SIDE == side[:, None]
        empty = (emptied[:, None] & pixels)[:, None, None, :]
        noise = NOISE * torch.randn(inputs.shape, generator=generator)
        left = self._labels[chosen][torch.arange(size), 1 - side]
        return torch.where(empty, noise, inputs), torch.where(emptied, left, sums)

    def clean_batch(self, seed: int, step: int, size: int) -> Tensor:
        """Complete pairs, augmented as the held-out ones are."""
        return self._draw("train", torch.Generator().manual_seed(mixed_seed(seed, step)), size)[0]

    def batches(self, split: str, size: int, images: slice | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = (part[images or slice(None)] for part in self._fixed[split][:2])
        return zip(inputs.split(size), labels.split(size), strict=True)

    def sources(self, split: str) -> Tensor:
        return self._fixed[split][2]

    def labels(self, split: str) -> Tensor:
        return self._fixed[split][1]

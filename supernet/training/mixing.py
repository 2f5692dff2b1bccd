"""Mixed images with a label for every patch: patch-mixup, and the training-only head that learns from it.

The first half of a batch gets parts of other images, cut along the patches of the network's last stage, so
that every patch has a class of its own; the second half is blended with other images as a whole.
Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers" (arXiv 2109.00642).
Ours: boxes and blends are drawn for each image, boxes cover any share, and no image is its own partner.
`published_mixup` follows the released rule.
What is drawn is drawn for whole batches, whichever of their examples a process has.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.errors import UsageError
from supernet.distribution import Part
from supernet.global_draws import seeded
from supernet.initialisation import init_weights
from supernet.nested import prefix_slice
from supernet.plain.layers import Network
from supernet.supernet import Supernet
from supernet.training.lesson import Lesson

BLEND = 0.8  # of the Beta distribution


class PatchHead(nn.Module):
    """A classifier of patches (B, P, D) for the training only; of its inputs, too, a subnet has the first D.

    grid: rows and columns of the patches.
    """

    def __init__(
        self, dim: int, classes: int, grid: tuple[int, int], *, seed: int, std: float | None = None
    ) -> None:
        super().__init__()
        self.grid, self.classes = grid, classes
        self.patch_head = nn.Linear(dim, classes)
        init_weights(self, torch.Generator().manual_seed(seed), std=std)

    @classmethod
    def of(cls, supernet: Supernet, *, seed: int, std: float | None = None) -> Self:
        """The one for a supernet; `std` of its weights as in `init_weights`.

        Raises UsageError for a family whose networks give no patches.
        """
        whole: Any = supernet.shared
        if not hasattr(whole, "with_patches"):
            raise UsageError(
                f"The networks of family '{supernet.space.family}' have no labels for patches.",
                "Set train.patch_mixup: false; the networks of vit_resnas have.",
            )
        head: nn.Linear = whole.head
        made = cls(head.in_features, head.out_features, whole.patch_grid, seed=seed, std=std)
        return made.to(head.weight.device)

    def forward(self, patches: Tensor) -> Tensor:
        """Logits (B, P, classes)."""
        weight = prefix_slice(self.patch_head.weight, (self.classes, patches.shape[-1]))
        return F.linear(patches, weight, self.patch_head.bias)


@dataclass(frozen=True)
class Mixture:
    """How the images of a batch are mixed.

    partners: with which other one each is, (B,).  kept: which share of each patch is its own, (B, rows,
    columns).
    """

    partners: NDArray[np.int64]
    kept: NDArray[np.float32]


def patch_mixup(count: int, *, grid: tuple[int, int], rng: np.random.Generator) -> Mixture:
    """Every one of `count` images with another one of its half of the batch.

    grid: rows and columns of the patches that have labels.
    """
    half, rest = count // 2, count - count // 2
    partners = np.concatenate([_shifted(rng, half), half + _shifted(rng, rest)])
    cut = _boxes(rng, half, grid)
    blend = rng.beta(BLEND, BLEND, size=(rest, 1, 1))
    kept = np.concatenate([~cut, np.broadcast_to(blend, (rest, *grid))])
    return Mixture(partners, kept.astype(np.float32))


def published_mixup(count: int, *, grid: tuple[int, int], rng: np.random.Generator) -> Mixture:
    """As `patch_mixup`, by the released rule: one box and one blend a half, partners that may be the image.

    There a half is that of a GPU's 128 images, here that of a lot (`MultiArchitectural.at_once`).
    """
    half, rest = count // 2, count - count // 2
    partners = np.concatenate([rng.permutation(half), half + rng.permutation(rest)])
    kept = np.empty((count, *grid))
    kept[:half] = ~published_box(rng, grid)
    kept[half:] = rng.beta(BLEND, BLEND)
    return Mixture(partners, kept.astype(np.float32))


def in_lots(mix: Callable[..., Mixture], count: int, lots: int, **how: Any) -> Mixture:
    """The blocks into which a batch falls, each mixed apart by `mix`, which takes `how`, too."""
    ends = [count * i // lots for i in range(lots + 1)]
    mixtures = [mix(b - a, **how) for a, b in pairwise(ends)]
    partners = [start + one.partners for start, one in zip(ends, mixtures, strict=False)]
    return Mixture(np.concatenate(partners), np.concatenate([one.kept for one in mixtures]))


def whole_mixup(
    images: Tensor, labels: Tensor, *, mixup: float, cutmix: float, classes: int, rng: np.random.Generator
) -> Lesson:
    """Mixup and CutMix of a batch with itself in reverse order, by timm's code, one of them a batch.

    images, labels: of the batch, or of any of its examples with those in their places from the end.
    mixup, cutmix: alpha of the Beta distributions; 0 for neither.
    Source: Zhang et al. (arXiv 1710.09412), Yun et al. (arXiv 1905.04899), as DeiT trains (arXiv 2012.12877).
    """
    from timm.data.mixup import Mixup  # noqa: PLC0415 - timm takes long to import

    mixing: Any = Mixup(  # type: ignore[no-untyped-call]
        mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=classes
    )
    with seeded(int(rng.integers(2**32))):  # timm draws from numpy's own generator
        mixed, shares = mixing(images.clone(), labels)
    return Lesson(mixed, shares)


def classes_of(shared: nn.Module) -> int:
    """How many classes the networks inside tell apart."""
    network = next(module for module in shared.modules() if isinstance(module, Network))
    classifier = network.get_submodule(network.classifier)
    assert isinstance(classifier, nn.Linear)
    return classifier.out_features


def published_box(rng: np.random.Generator, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """A rectangle of patches (rows, columns) by the released rule, with its bounds as they are there.

    Its area is uniform below the whole, its height uniform below the last but one row; a box that leaves a
    row or column free never reaches the last one.
    """
    rows, columns = grid
    area = int(rows * columns * rng.random())
    high = _below(rng, 1, max(1, min(rows, area) - 1))
    wide = area // high
    if wide > columns:
        high, wide = area // columns, columns
    top, left = _below(rng, 0, rows - high), _below(rng, 0, columns - wide)
    box = np.zeros(grid, dtype=np.bool_)
    box[top : top + high, left : left + wide] = True
    return box


def _below(rng: np.random.Generator, low: int, high: int) -> int:
    """A random whole number from `low` to `high - 1`, or `low` where there is none."""
    return int(rng.integers(low, max(high, low + 1)))


def mixed(images: Tensor, labels: Tensor, mixture: Mixture, *, classes: int, part: Part) -> Lesson:
    """The images (n, C, height, width) that a process has, mixed; labels: (n,).

    The patches of the mixture divide the images' sides. Of an image whose partner it does not have it makes
    what nobody may look at.
    """
    places = np.asarray(part.places)
    kept = mixture.kept[places]
    partners = np.searchsorted(places, mixture.partners[places]).clip(max=len(places) - 1)
    grid = kept.shape[1:]
    share = torch.from_numpy(kept).to(images.device)[:, None]  # of its own in every patch: n 1 R S
    height, width = (side // cells for side, cells in zip(images.shape[2:], grid, strict=True))
    pixels = share.repeat_interleave(height, 2).repeat_interleave(width, 3).to(images.dtype)
    other = torch.from_numpy(partners).to(images.device)
    hot = F.one_hot(labels, classes).float()[:, None]  # n 1 classes
    shares = share.flatten(2).transpose(1, 2)  # n patches 1
    patch_labels = shares * hot + (1 - shares) * hot[other]
    inputs = pixels * images + (1 - pixels) * images[other]
    return Lesson(inputs, patch_labels.mean(dim=1), patch_labels)


def _shifted(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """A random partner for each, never itself where there are two."""
    order = rng.permutation(count)
    partner = np.empty(count, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def _boxes(rng: np.random.Generator, count: int, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Rectangles of patches (count, rows, columns); the share that they cover is uniform but for rounding."""
    side = np.sqrt(rng.random(count))
    inside = np.ones((count, *grid), dtype=np.bool_)
    for axis, cells in enumerate(grid, start=1):
        length = np.rint(cells * side).astype(np.int64)
        start = rng.integers(0, cells - length + 1)
        places = np.arange(cells)
        within = (places >= start[:, None]) & (places < (start + length)[:, None])
        inside &= within[:, :, None] if axis == 1 else within[:, None, :]
    return inside

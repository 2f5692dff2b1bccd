"""Data sets: one file each, `build(**options) -> DataSet`.

A data set is split once into three: `train` teaches the supernet, `search` chooses subnets, `report` tells
how good the chosen ones are.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from nas.progress import Progress
from search_spaces import registry

if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["SPLITS", "DataSet", "build", "described", "labels_of", "names", "prepared", "sentence"]

MOST_REASONS = 6
SPLITS = ("search", "report")
LABELS_AT_ONCE = 256


class DataSet(Protocol):
    """Labelled images in three disjoint splits.

    input_shape: (channels, height, width).  sizes: examples by split name.
    digest: SHA-256 (hex) of what the splits are made of; equal digests mean equal data and equal splits.

    One that is made of files may have more.  former_digest, otherwise: the digest by an older rule, and why
    jobs of that rule saw other inputs, "" if they did not.  manifest(): a row [name, SHA-256, split, whether
    it is used] for each file.  facts: what `described` adds.
    A data set may have `classes`, their names by label, and `preprocessing`, how its images become inputs
    (`nas.images.preprocessing.Preprocessing`): extracted subnets carry both.
    """

    name: str
    input_shape: tuple[int, int, int]
    num_classes: int
    sizes: dict[str, int]
    digest: str

    def train_batch(self, seed: int, step: int, size: int) -> "tuple[Tensor, Tensor]":
        """Augmented inputs (size, *input_shape) and labels (size,); a pure function of its arguments."""

    def clean_batch(self, seed: int, step: int, size: int) -> "Tensor":
        """Training images (size, *input_shape), prepared as the held-out splits prepare theirs.

        Like `train_batch` a pure function of its arguments.
        """

    def batches(
        self, split: str, size: int, images: slice | None = None
    ) -> "Iterator[tuple[Tensor, Tensor]]":
        """The `search` or `report` split, or these of its examples, in a fixed order, nothing random.

        Of `search` every first part is a sample of the whole: a search looks at growing parts.
        """

    def sources(self, split: str) -> "Tensor | None":
        """The ids (examples, k) of the source items each example was made from, if examples share items.

        Their outcomes are then correlated, which the standard error takes into account. None: independent
        examples.
        """

    def labels(self, split: str) -> "Tensor":
        """The labels (examples,) of `search` or `report`, in the order of `batches`."""


def names() -> list[str]:
    """The data sets that there are."""
    return registry.names(__name__)


def build(name: str, **options: Any) -> DataSet:
    """The data set of that name.

    Raises NotFoundError for an unknown name, UsageError for unknown, missing or wrong options.
    """
    dataset: DataSet = registry.call(__name__, name, **options)
    return dataset


def prepared(name: str, options: Mapping[str, Any], progress: Progress) -> DataSet:
    """`build`, after the module's `prepare`, if it has one, has shown how far it is with what takes long.

    Raises what `build` raises.
    """
    begun: list[int] = []

    def update(done: int, total: int) -> None:
        if not begun:
            progress.stage("images")
        begun.append(done)
        progress.update(done, total)

    prepare = getattr(registry.load(__name__, name), "prepare", None)
    if prepare is not None and "root" in options:
        prepare(update, **options)
    return build(name, **options)


def labels_of(data: DataSet, split: str) -> "Tensor":
    """The labels (examples,) of a split; of a data set of somebody else that has no `labels`, read off its
    batches.
    """
    if hasattr(data, "labels"):
        return data.labels(split)
    import torch  # noqa: PLC0415 - the names of the data sets are told without it

    return torch.cat([labels for _, labels in data.batches(split, LABELS_AT_ONCE)])


def described(data: DataSet) -> dict[str, Any]:
    """What a data set is made of, as plain data.

    name, digest, sizes (images by split), num_classes, and as far as the data set says: classes (their names
    by label), preprocessing (how images become inputs) and its `facts`.
    facts: smallest and largest ([class, images]), left_out (files by reason), notes (sentences).
    """
    facts = {"name": data.name, "digest": data.digest, "sizes": data.sizes, "num_classes": data.num_classes}
    classes, preprocessing = getattr(data, "classes", None), getattr(data, "preprocessing", None)
    return {
        **facts,
        **({} if classes is None else {"classes": list(classes)}),
        **({} if preprocessing is None else {"preprocessing": preprocessing.to_dict()}),
        **getattr(data, "facts", {}),
    }


def sentence(description: dict[str, Any]) -> str:
    """`described` in the one line with which a job begins; also of jobs that knew less."""
    sizes = description.get("sizes", {})
    images = ", ".join(f"{sizes[name]:,} {name}" for name in ("train", "search", "report") if name in sizes)
    parts = [f"{description['num_classes']} classes"] if "num_classes" in description else []
    parts += [f"images: {images}"] if images else []
    if "smallest" in description:
        (small, least), (large, most) = description["smallest"], description["largest"]
        unequal = f"from {least:,} ({small}) to {most:,} ({large}) a class"
        parts.append(unequal if least < most else f"{most:,} a class")
    if left_out := description.get("left_out"):
        reasons = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
        some = ", ".join(f"{count:,} {reason}" for reason, count in reasons[:MOST_REASONS])
        parts.append(f"left out: {some}{', ...' if len(reasons) > MOST_REASONS else ''}")
    return f"Data {description['name']}: {'; '.join(parts)}."

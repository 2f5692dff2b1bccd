"""Data sets: one file each, `build(**options) -> DataSet`.

A data set is split once into three: `train` teaches the supernet, `search` chooses subnets, `report` tells
how good the chosen ones are.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from search_spaces import _registry

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = ("search", "report")


class DataSet(Protocol):
    """Labelled images in three disjoint splits.

    input_shape: (channels, height, width).  sizes: examples by split name.
    digest: SHA-256 (hex) of what the splits are made of; equal digests mean equal data and equal splits.
    A data set may have `classes`, their names by label, and `preprocessing`, how its images become inputs
    (`nas.datasets._preprocessing.Preprocessing`): extracted subnets carry both.
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


def names() -> list[str]:
    """The data sets that there are."""
    return _registry.names(__name__)


def build(name: str, **options: Any) -> DataSet:
    """The data set of that name.

    Raises NotFoundError for an unknown name, UsageError for unknown, missing or wrong options.
    """
    dataset: DataSet = _registry.call(__name__, name, **options)
    return dataset


def told_of(data: DataSet) -> dict[str, Any]:
    """The names of the classes and how images become inputs, as JSON data, as far as the data set says."""
    classes, preprocessing = getattr(data, "classes", None), getattr(data, "preprocessing", None)
    return {
        **({} if classes is None else {"classes": list(classes)}),
        **({} if preprocessing is None else {"preprocessing": preprocessing.to_dict()}),
    }


__all__ = ["SPLITS", "DataSet", "build", "names", "told_of"]

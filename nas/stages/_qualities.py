"""The quality of subnets on a split: accuracy with its standard error, from who evaluates them."""

from collections.abc import Sequence

import torch

from nas.datasets import DataSet
from nas.evaluation import Evaluator
from search_spaces import Architecture
from supernet._evaluate import Quality, quality


def qualities(
    evaluator: Evaluator,
    data: DataSet,
    archs: Sequence[Architecture],
    split: str,
    images: int | None = None,
) -> list[Quality]:
    """Accuracy of each architecture on the first `images` examples of the split; None: on all of them."""
    if not archs:
        return []
    part = slice(images)
    sources = data.sources(split)
    known = None if sources is None else sources[part]
    return [quality(torch.from_numpy(hits), known) for hits in evaluator.correct(archs, split, part)]

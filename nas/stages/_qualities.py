"""The quality of subnets on a split: accuracy with its standard error, from who evaluates them."""

from collections.abc import Sequence

import torch

from nas.datasets import DataSet
from nas.evaluation import Evaluator, Failed
from search_spaces import Architecture
from supernet._evaluate import Quality, quality


def qualities(
    evaluator: Evaluator, data: DataSet, archs: Sequence[Architecture], split: str
) -> list[Quality | Failed]:
    """Accuracy of each architecture on all of the split, or why it could not be told."""
    sources = data.sources(split)
    found = evaluator.correct(archs, split) if archs else []
    return [h if isinstance(h, Failed) else quality(torch.from_numpy(h), sources) for h in found]

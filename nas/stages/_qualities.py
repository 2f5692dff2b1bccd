"""The quality of subnets on a split: accuracy with its standard error, from who evaluates them."""

from collections.abc import Sequence

import torch

from nas.datasets import DataSet
from nas.evaluation import Evaluator
from search_spaces import Architecture
from supernet._evaluate import Quality, quality


def qualities(
    evaluator: Evaluator, data: DataSet, archs: Sequence[Architecture], split: str
) -> list[Quality]:
    """Accuracy of each architecture on all of the split."""
    sources = data.sources(split)
    found = evaluator.correct(archs, split) if archs else []
    return [quality(torch.from_numpy(hits), sources) for hits in found]

"""The quality of subnets on a split, with its standard error, from who evaluates them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nas.conditions import ACCURACY, BALANCED
from nas.datasets import DataSet, labels_of
from nas.evaluation import Evaluator, Failed, Hits
from nas.stages._estimates import Images
from nas.stages._run import Run
from search_spaces import Architecture
from supernet._evaluate import Quality, quality


def classes_of(data: DataSet, split: str, metric: str) -> Tensor | None:
    """The labels of a split where the metric counts all classes the same."""
    return labels_of(data, split) if metric == BALANCED else None


def searched_images(run: Run, data: DataSet) -> Images:
    """The images that the job's search looks at."""
    count = min(run.config.search.images or data.sizes["search"], data.sizes["search"])
    sources, classes = data.sources("search"), classes_of(data, "search", run.config.quality)
    return Images(count, sources, None if classes is None else classes[:count])


def qualities(
    evaluator: Evaluator, data: DataSet, archs: Sequence[Architecture], split: str
) -> list[Mapping[str, Quality] | Failed]:
    """Accuracy and balanced accuracy of each architecture on all of the split, by their names; or why these
    could not be told.
    """
    if not archs:
        return []
    sources, labels = data.sources(split), labels_of(data, split)

    def told(hits: Hits) -> Mapping[str, Quality]:
        right = torch.from_numpy(hits)
        return {ACCURACY: quality(right, sources), BALANCED: quality(right, sources, labels)}

    return [one if isinstance(one, Failed) else told(one) for one in evaluator.correct(archs, split)]


def baseline(data: DataSet) -> dict[str, Any]:
    """What needs no learning, on the report split: the commonest class and its share, and how many classes
    are there.
    """
    labels, counts = labels_of(data, "report").cpu().unique(return_counts=True)
    commonest = int(counts.argmax())
    names = getattr(data, "classes", None)
    label = int(labels[commonest])
    return {
        "examples": int(counts.sum()),
        "classes": len(counts),
        "majority": int(counts[commonest]) / int(counts.sum()),
        "majority_class": str(names[label]) if names else str(label),
    }

"""The quality of subnets on a split, with its standard error, from who evaluates them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nas.datasets import DataSet, labels_of
from nas.evaluation import Evaluator, Failed
from nas.evaluation.estimates import Images
from nas.job_run import Run
from search_spaces import Architecture
from supernet import tasks
from supernet.evaluation.scores import Quality, quality

Qualities = Mapping[str, Quality]
# Says of architectures with which qualities they do on all of a split, or why that could not be told; those
# that have no weights of the kind that it is about are left out.
Evaluate = Callable[[Sequence[Architecture], str], Mapping[Architecture, Qualities | Failed]]


def classes_of(data: DataSet, split: str, metric: str) -> Tensor | None:
    """The labels of a split where the metric counts all classes the same."""
    balanced = [kind.name for kind in tasks.get().qualities if kind.balanced]
    return labels_of(data, split) if metric in balanced else None


def searched_images(run: Run, data: DataSet) -> Images:
    """The images that the job's search looks at."""
    count = min(run.config.search.images or data.sizes["search"], data.sizes["search"])
    sources, classes = data.sources("search"), classes_of(data, "search", run.config.quality)
    return Images(count, sources, None if classes is None else classes[:count])


def evaluating(evaluator: Evaluator, data: DataSet) -> Evaluate:
    """Evaluates with the weights that the evaluator has."""
    return lambda archs, split: dict(zip(archs, qualities(evaluator, data, archs, split), strict=True))


def qualities(
    evaluator: Evaluator, data: DataSet, archs: Sequence[Architecture], split: str
) -> list[Qualities | Failed]:
    """All qualities of each architecture on all of the split, by their names; or why it could not be told."""
    if not archs:
        return []
    answers = evaluator.correct(archs, split)
    return [
        one if isinstance(one, Failed) else qualities_of(torch.from_numpy(one), data, split)
        for one in answers
    ]


def qualities_of(hits: Tensor, data: DataSet, split: str) -> Qualities:
    """All qualities, by their names, of who classifies these of all examples of a split right: (N,)."""
    sources, labels = data.sources(split), labels_of(data, split)
    classes = {kind.name: labels if kind.balanced else None for kind in tasks.get().qualities}
    return {name: quality(hits, sources, counted) for name, counted in classes.items()}


def baseline(data: DataSet) -> dict[str, Any]:
    """What needs no learning, on the report split: the commonest class and its share, and how many classes
    are there.
    """
    facts = tasks.get().baseline(labels_of(data, "report"))
    names, label = getattr(data, "classes", None), facts["majority_class"]
    return facts | {"majority_class": str(names[label]) if names else str(label)}

"""The quality of subnets on a split, with its standard error, from who evaluates them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nas.datasets import DataSet, counts_of, targets_of, task_of
from nas.evaluation import Evaluator, Failed
from nas.evaluation.estimates import Examples
from nas.job_run import Run
from nas.limits import kind_of
from search_spaces import Architecture
from supernet.evaluation.scores import Quality, quality_of

Qualities = Mapping[str, Quality]
# Says of architectures with which qualities they do on all of a split, or why that could not be told; those
# that have no weights of the kind that it is about are left out.
Evaluate = Callable[[Sequence[Architecture], str], Mapping[Architecture, Qualities | Failed]]


def classes_of(data: DataSet, split: str, metric: str) -> Tensor | None:
    """The labels of a split where the metric counts all classes the same."""
    return targets_of(data, split) if kind_of(metric).balanced else None


def sizes_of(data: DataSet, split: str, metric: str) -> Tensor | None:
    """How much each example of a split has of what the metric is told per."""
    per = kind_of(metric).per
    return counts_of(data, split)[per] if per else None


def searched_examples(run: Run, data: DataSet) -> Examples:
    """The examples that the job's search looks at."""
    metric, examples = run.config.quality, data.sizes["search"]
    count = min(run.config.search.images or examples, examples)
    classes, sizes = classes_of(data, "search", metric), sizes_of(data, "search", metric)
    return Examples(
        count,
        data.sources("search"),
        None if classes is None else classes[:count],
        sizes=None if sizes is None else sizes[:count],
        kind=kind_of(metric),
    )


def evaluating(evaluator: Evaluator, data: DataSet) -> Evaluate:
    """Evaluates with the weights that the evaluator has."""
    return lambda archs, split: dict(zip(archs, qualities(evaluator, data, archs, split), strict=True))


def qualities(
    evaluator: Evaluator, data: DataSet, archs: Sequence[Architecture], split: str
) -> list[Qualities | Failed]:
    """All qualities of each architecture on all of the split, by their names; or why it could not be told."""
    if not archs:
        return []
    answers = evaluator.scored(archs, split)
    return [
        one if isinstance(one, Failed) else qualities_of(torch.from_numpy(one), data, split)
        for one in answers
    ]


def qualities_of(scores: Tensor, data: DataSet, split: str) -> Qualities:
    """All qualities, by their names, of who has these scores on all examples of a split: (N,)."""
    return {kind.name: one_quality(kind.name, scores, data, split) for kind in task_of(data).qualities}


def one_quality(metric: str, scores: Tensor, data: DataSet, split: str) -> Quality:
    """One quality of who has these scores on all examples of a split: (N,)."""
    return quality_of(
        kind_of(metric),
        scores,
        sources=data.sources(split),
        classes=classes_of(data, split, metric),
        counts=counts_of(data, split),
    )


def baseline(data: DataSet) -> dict[str, Any]:
    """What needs no learning, on the report split, as the task tells it; classes by their names."""
    facts = task_of(data).baseline(targets_of(data, "report"), counts_of(data, "report"))
    if "majority_class" not in facts:
        return facts
    names, label = getattr(data, "classes", None), facts["majority_class"]
    return facts | {"majority_class": str(names[label]) if names else str(label)}

"""Quality of many architectures with shared weights: a trie over their steps computes equal prefixes once."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from search_spaces import Architecture
from supernet import tasks
from supernet.evaluation.prefix_cache import PrefixCache
from supernet.evaluation.standard_errors import MeanErrors
from supernet.evaluation.steps import Step, Steps, shared_steps
from supernet.supernet import Supernet

Path = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """A quality of a task, with its standard error over `count` examples."""

    value: float
    stderr: float
    count: int


def scored(
    supernet: Supernet,
    archs: Sequence[Architecture],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    task: tasks.Task | None = None,
    siblings: bool = False,
    steps: Steps | None = None,
    cache: PrefixCache | None = None,
    ids: Iterable[Hashable] | None = None,
) -> dict[Architecture, Tensor]:
    """For each architecture the scores `(examples,)` of the task, by default of classification: who is right.

    Each gets bit for bit what it would get alone, whichever others are there and whatever the cache holds.
    siblings: FFNs that differ only in width run as one, which changes logits by rounding (1e-6) against the
    extracted network.  steps: of the supernet, to be used again as long as its weights stay as they are.
    cache: of activations, which holds as long; needs `ids`, one for each batch, that tell its examples.
    """
    if (cache is None) != (ids is None):
        raise ValueError("A cache needs the ids of the batches, and nothing else does.")
    descent = Descent(steps or shared_steps(supernet), siblings=siblings, cache=cache)
    task = task or tasks.get()
    scores: dict[Architecture, list[Tensor]] = {arch: [] for arch in archs}
    numbered = zip(batches, repeat(None) if ids is None else ids, strict=ids is not None)
    with torch.inference_mode():
        for (x, targets), batch in numbered:
            for arch, outputs in descent.run(x, list(scores), batch=batch):
                scores[arch].append(task.scores(outputs, targets))
    return {arch: torch.cat(parts) for arch, parts in scores.items()}


def losses(
    supernet: Supernet,
    archs: Sequence[Architecture],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    task: tasks.Task,
) -> Tensor:
    """The task's loss of each architecture on each batch, (architectures, batches), in double precision.

    What architectures have in common in front is computed once, as for `scored`.
    """
    descent = Descent(shared_steps(supernet), siblings=False, cache=None)
    columns = []
    with torch.inference_mode():
        for number, (x, targets) in enumerate(batches):
            by_arch = {
                arch: float(task.loss(outputs, targets))
                for arch, outputs in descent.run(x, list(dict.fromkeys(archs)), batch=number)
            }
            columns.append([by_arch[arch] for arch in archs])
    return torch.tensor(columns, dtype=torch.float64).T


def quality(scores: Tensor, sources: Tensor | None = None, classes: Tensor | None = None) -> Quality:
    """Mean of `scores` (examples,) and its standard error.

    sources: ids (examples, k) of the items an example was made from. Examples that share an item are
    correlated, which the error takes into account (`MeanErrors`).
    classes: labels (examples,) for balanced accuracy, the mean of the accuracies of the classes.
    """
    values = scores.double().cpu()
    values = values if classes is None else values * class_weights(classes)
    (error,) = MeanErrors.over(len(values), sources, classes).of_means(values[:, None]).tolist()
    return Quality(float(values.mean()), error, len(values))


def quality_of(
    kind: tasks.QualityKind,
    scores: Tensor,
    *,
    sources: Tensor | None = None,
    classes: Tensor | None = None,
    counts: Mapping[str, Tensor] | None = None,
) -> Quality:
    """A quality of a task from the scores (examples,) of all examples of a split.

    sources: as of `quality`.  classes: labels, which count where it is balanced.  counts: of what the scores
    are sums, (examples,) each, by their names: one of them divides the sum of the scores.
    """
    if not kind.per:
        return quality(scores, sources, classes if kind.balanced else None)
    assert counts is not None, "the data of the task have counts"
    value = ratio(kind.scale * scores.double().cpu(), counts[kind.per], sources)
    if kind.exponential:
        whole = float(torch.tensor(value.value, dtype=torch.float64).exp())
        return Quality(whole, whole * value.stderr, value.count)
    return value


def ratio(sums: Tensor, sizes: Tensor, sources: Tensor | None = None) -> Quality:
    """What sums (examples,) are per size (examples,). sources: as of `quality`."""
    sums, sizes = sums.double().cpu(), sizes.double().cpu()
    value = sums.sum() / sizes.sum()
    # The error of a ratio, to the first order: that of the mean of what is left of the sums (Cochran,
    # "Sampling Techniques", 1977, chapter 6).
    residuals = (sums - value * sizes) / sizes.mean()
    (error,) = MeanErrors.over(len(sums), sources).of_means(residuals[:, None]).tolist()
    return Quality(float(value), error, len(sums))


def class_weights(labels: Tensor) -> Tensor:
    """What each example (n,) counts in a mean in which all classes that are there count the same; mean 1."""
    _, places, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    return (len(labels) / (len(counts) * counts.double()))[places]


class _Node:
    """A value behind the first steps of some architectures, computed when it is first needed.

    path: the examples and the way of computing, then the keys of the steps.  takers: children that have yet
    to take the value; behind the last one it is let go.
    """

    __slots__ = ("macs", "parent", "path", "siblings", "step", "takers", "value")

    def __init__(self, path: Path, parent: "_Node | None" = None, step: Step | None = None) -> None:
        self.path, self.parent, self.step = path, parent, step
        self.takers = 0
        self.value: Any = None
        self.siblings: Any = None  # what computes its children, if they are FFNs that do it together
        self.macs = 0  # of the widest of these so far


class Descent:
    """Depth first through tries, counting the work: `macs`, per example.

    siblings: FFNs that differ only in their width run as one.  cache: of values behind steps, which a batch
    of examples finds by its id.
    """

    def __init__(self, steps: Steps, *, siblings: bool, cache: PrefixCache | None) -> None:
        self._steps, self._siblings, self._cache = steps, siblings, cache
        self.macs = 0

    def run(
        self, x: Any, archs: Sequence[Architecture], *, batch: Hashable
    ) -> Iterator[tuple[Architecture, Any]]:
        """Each architecture with its output for the inputs x, whose id is `batch`; in the trie's order."""
        root = _Node(((batch, self._siblings),))
        root.value = x
        return self._below(root, [(arch, self._steps.path(arch)) for arch in archs])

    def _below(
        self, node: _Node, members: Sequence[tuple[Architecture, Path]]
    ) -> Iterator[tuple[Architecture, Any]]:
        depth = len(node.path) - 1
        groups: dict[Hashable, list[tuple[Architecture, Path]]] = {}
        for arch, path in members:
            if depth == len(path):
                yield arch, self._value(node)
            else:
                groups.setdefault(path[depth], []).append((arch, path))
        node.takers = len(groups)
        # From the narrowest FFN to the widest: each adds what the one before lacks.
        steps = sorted(((self._steps[key], key) for key in groups), key=lambda pair: len(pair[0].chunks))
        for step, key in steps:
            yield from self._below(_Node((*node.path, key), node, step), groups[key])

    def _value(self, node: _Node) -> Any:
        if node.value is None:
            if self._cache is not None:
                node.value = self._cache.get(node.path)
            if node.value is None:
                node.value = self._computed(node)
                if self._cache is not None and node.step is not None:
                    # What the step alone costs: counting all steps before it, too, saved less work.
                    self._cache.put(node.path, node.value, size=node.value.nbytes, cost=node.step.macs)
        return node.value

    def _computed(self, node: _Node) -> Any:
        parent, step = node.parent, node.step
        assert parent is not None
        assert step is not None
        if self._siblings and step.chunks:
            if parent.siblings is None:
                parent.siblings = self._steps.siblings(self._value(parent))
            self.macs += step.macs - parent.macs
            parent.macs = step.macs
            value = parent.siblings.output(step.chunks)
        else:
            self.macs += step.macs
            value = step.run(self._value(parent))
        parent.takers -= 1
        if not parent.takers:
            parent.value = None
        return value

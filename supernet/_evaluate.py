"""Quality of many architectures with shared weights: a trie over the stages computes equal prefixes once."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces import Architecture
from supernet._base import Supernet
from supernet._standard_errors import MeanErrors

Stage = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Quality:
    """Accuracy with its standard error over `count` examples."""

    value: float
    stderr: float
    count: int


def correct(
    supernet: Supernet, archs: Sequence[Architecture], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[Architecture, Tensor]:
    """For each architecture which examples it classifies right: booleans `(examples,)`."""
    paths = {arch: list(supernet.eval().steps(arch)) for arch in archs}
    hits: dict[Architecture, list[Tensor]] = {arch: [] for arch in paths}
    with torch.inference_mode():
        for x, labels in batches:
            for arch, logits in _descend(x, paths, depth=0):
                hits[arch].append(logits.argmax(dim=-1) == labels)
    return {arch: torch.cat(parts) for arch, parts in hits.items()}


def _descend(
    x: Tensor, paths: dict[Architecture, list[tuple[Hashable, Stage]]], *, depth: int
) -> Iterable[tuple[Architecture, Tensor]]:
    """Logits of all architectures below one node of the trie; each distinct next stage runs once."""
    groups: dict[Hashable, dict[Architecture, list[tuple[Hashable, Stage]]]] = {}
    for arch, steps in paths.items():
        if depth == len(steps):
            yield arch, x
        else:
            groups.setdefault(steps[depth][0], {})[arch] = steps
    for members in groups.values():
        _, stage = next(iter(members.values()))[depth]
        yield from _descend(stage(x), members, depth=depth + 1)


def quality(hits: Tensor, sources: Tensor | None = None) -> Quality:
    """Mean of `hits` (examples,) and its standard error.

    sources: ids (examples, k) of the items an example was made from. Examples that share an item are
    correlated, which the error takes into account (`MeanErrors`).
    """
    values = hits.double().cpu()
    (error,) = MeanErrors.over(len(values), sources).of_means(values[:, None]).tolist()
    return Quality(float(values.mean()), error, len(values))

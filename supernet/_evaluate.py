"""Quality of many architectures with shared weights: a trie over the stages computes equal prefixes once."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces import Architecture
from supernet._base import Supernet

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
    correlated; the error is then the dyadic-robust one (Aronow, Samii and Assenova 2015): products of
    residuals summed over all pairs of examples that share an item. It is never taken below the error of
    independent examples.
    """
    values = hits.double().cpu()
    mean, count = values.mean(), len(values)
    residuals = values - mean
    variance = residuals.square().sum() / count**2
    if sources is not None:
        variance = torch.maximum(variance, _shared_products(residuals, sources.cpu()) / count**2)
    return Quality(float(mean), float(variance.sqrt()), count)


def _shared_products(residuals: Tensor, sources: Tensor) -> Tensor:
    """Products of residuals summed over all ordered pairs of examples that share an item, each pair once.

    By inclusion and exclusion: the pairs that share one item, less those that share two, and so on; each of
    these is a sum of squared sums over the examples with the same items.
    """
    ids = sources.sort(dim=1).values
    repeated = F.pad(ids[:, 1:] == ids[:, :-1], (1, 0))
    unshared = ids.min() - 1 - torch.arange(ids.numel()).view_as(ids)
    items, ids = torch.where(repeated, unshared, ids).unique(return_inverse=True)
    ids = ids.sort(dim=1).values
    total = residuals.new_zeros(())
    for size in range(1, ids.shape[1] + 1):
        subsets = combinations(range(ids.shape[1]), size)
        keys = [_mixed_radix(ids[:, columns], len(items)) for columns in subsets]
        groups, group = torch.cat(keys).unique(return_inverse=True)
        sums = residuals.new_zeros(len(groups)).index_add_(0, group, residuals.repeat(len(keys)))
        total += (-1) ** (size + 1) * sums.square().sum()
    return total


def _mixed_radix(ids: Tensor, base: int) -> Tensor:
    """One number (examples,) for each row of `ids` (examples, k), all below `base`."""
    return (ids * base ** torch.arange(ids.shape[1])).sum(dim=1)

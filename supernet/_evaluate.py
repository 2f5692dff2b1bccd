"""Quality of many architectures with shared weights: a trie over their steps computes equal prefixes once."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, repeat

import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces import Architecture
from supernet._base import Supernet
from supernet._prefix_cache import PrefixCache
from supernet._steps import Steps, shared_steps
from supernet._trie import Descent


@dataclass(frozen=True, slots=True)
class Quality:
    """Accuracy with its standard error over `count` examples."""

    value: float
    stderr: float
    count: int


def correct(
    supernet: Supernet,
    archs: Sequence[Architecture],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    siblings: bool = False,
    steps: Steps | None = None,
    cache: PrefixCache | None = None,
    ids: Iterable[Hashable] | None = None,
) -> dict[Architecture, Tensor]:
    """For each architecture which examples it classifies right: booleans `(examples,)`.

    Each gets bit for bit what it would get alone, whichever others are there and whatever the cache holds.
    siblings: FFNs that differ only in width run as one, which changes logits by rounding (1e-6) against the
    extracted network.  steps: of the supernet, to be used again as long as its weights stay as they are.
    cache: of activations, which holds as long; needs `ids`, one for each batch, that tell its images.
    """
    if (cache is None) != (ids is None):
        raise ValueError("A cache needs the ids of the image batches, and nothing else does.")
    descent = Descent(steps or shared_steps(supernet), siblings=siblings, cache=cache)
    hits: dict[Architecture, list[Tensor]] = {arch: [] for arch in archs}
    numbered = zip(batches, repeat(None) if ids is None else ids, strict=ids is not None)
    with torch.inference_mode():
        for (x, labels), batch in numbered:
            for arch, logits in descent.run(x, list(hits), batch=batch):
                hits[arch].append(logits.argmax(dim=-1) == labels)
    return {arch: torch.cat(parts) for arch, parts in hits.items()}


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

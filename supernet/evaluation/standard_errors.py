"""Standard errors of means over examples that may share the items they were made from."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class MeanErrors:
    """Standard errors over these examples: what they share is worked out once, for any number of means.

    groups: (sign, groups of each example by the items that it shares (examples x subsets,), their number).
    strata: (examples,) the class of each where it is given how many examples a class has; only what the
    examples of one class differ in is then chance.
    Source: the dyadic-robust error of Aronow, Samii and Assenova (2015): products of residuals summed over
    all pairs of examples that share an item. Never below the error of independent examples.
    """

    count: int
    groups: tuple[tuple[int, Tensor, int], ...] = ()
    strata: Tensor | None = None

    @classmethod
    def over(cls, count: int, sources: Tensor | None = None, strata: Tensor | None = None) -> Self:
        """Of means over `count` examples. sources: ids (count, k) of their items; None: they share none.

        strata: labels (count,); None: how many examples a class has is chance as everything else.
        """
        places = None if strata is None else strata.cpu().unique(return_inverse=True)[1]
        return cls(count, () if sources is None else tuple(_groups(sources.cpu())), places)

    def of_means(self, values: Tensor) -> Tensor:
        """The standard errors (k,) of the means of columns (count, k)."""
        residuals = values - self._centres(values)
        total = residuals.square().sum(dim=0)
        if self.groups:
            total = torch.maximum(total, self._shared_products(residuals))
        return total.sqrt() / self.count

    def _centres(self, values: Tensor) -> Tensor:
        """What residuals are counted from: the mean of all (k,), or those of the strata (count, k)."""
        if self.strata is None:
            return values.mean(dim=0)
        sums = values.new_zeros(int(self.strata.max()) + 1, values.shape[1])
        sums.index_add_(0, self.strata, values)
        return (sums / self.strata.bincount()[:, None])[self.strata]

    def _shared_products(self, residuals: Tensor) -> Tensor:
        """Products of residuals summed over all ordered pairs of examples that share an item, each pair once.

        By inclusion and exclusion: the pairs that share one item, less those that share two, and so on; each
        of these is a sum of squared sums over the examples with the same items.
        """
        total = residuals.new_zeros(residuals.shape[1])
        for sign, group, count in self.groups:
            sums = residuals.new_zeros(count, residuals.shape[1])
            sums.index_add_(0, group, residuals.repeat(len(group) // self.count, 1))
            total += sign * sums.square().sum(dim=0)
        return total


def _groups(sources: Tensor) -> Iterator[tuple[int, Tensor, int]]:
    ids = sources.sort(dim=1).values
    repeated = F.pad(ids[:, 1:] == ids[:, :-1], (1, 0))
    unshared = ids.min() - 1 - torch.arange(ids.numel()).view_as(ids)
    items, ids = torch.where(repeated, unshared, ids).unique(return_inverse=True)
    ids = ids.sort(dim=1).values
    for size in range(1, ids.shape[1] + 1):
        subsets = combinations(range(ids.shape[1]), size)
        keys = [_mixed_radix(ids[:, columns], len(items)) for columns in subsets]
        groups, group = torch.cat(keys).unique(return_inverse=True)
        yield (-1) ** (size + 1), group, len(groups)


def _mixed_radix(ids: Tensor, base: int) -> Tensor:
    """One number (examples,) for each row of `ids` (examples, k), all below `base`."""
    return (ids * base ** torch.arange(ids.shape[1])).sum(dim=1)

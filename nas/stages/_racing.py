"""Racing: subnets see growing parts of the search split, and stop once they are clearly worse than the front.

Two subnets see the same images, so that their difference is told by those on which they disagree: it is clear
long before either's quality is. Who stays close to the front gets all images.
Source of the idea: Maron and Moore, "Hoeffding races" (1993); the paired test is that of matched pairs, with
the adjustment of Agresti and Min (2005), and standard errors that respect shared source items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import moocore
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.evaluation import Evaluator, Hits
from nas.stages._estimates import whole_quality
from nas.stages._objectives import QUALITY
from search_spaces import Architecture
from supernet._evaluate import Quality
from supernet._standard_errors import MeanErrors

Floats = NDArray[np.float64]

PARTS = (16, 8, 4, 2, 1)  # one over the share of the images after each rung
FEWEST = 64  # images of the first rung: below, the normal distribution says little about a few disagreements


def rungs(images: int) -> tuple[int, ...]:
    """How many images have been seen after each rung of a race; the last: all."""
    return tuple(seen for seen in (-(-images // part) for part in PARTS) if seen >= min(FEWEST, images))


@dataclass(frozen=True, eq=False)
class Raced:
    """A quality, and the hits on the first images of the split that tell it."""

    quality: Quality
    hits: Hits


@dataclass(frozen=True, eq=False)
class _Front:
    """The best of those that have seen all images: hits (subnets, images), costs (subnets, costs)."""

    hits: Hits
    costs: Floats

    def with_more(self, hits: Hits, costs: Floats) -> "_Front":
        """Without those that another beats."""
        hits, costs = np.concatenate([self.hits, hits]), np.concatenate([self.costs, costs])
        points = np.column_stack([1 - hits.mean(axis=1), costs])
        best = moocore.is_nondominated(points, keep_weakly=True)
        return _Front(hits[best], costs[best])


class Race:
    """Evaluates batches on the search split, each against the front of all before; nothing in it is random.

    seen: images after each rung (`rungs`); a single one evaluates all of a batch on all of it.
    rate: the probability with which a subnet as good as the best that costs no more is stopped in some rung;
    0: none is ever stopped.
    sources: ids (images, k) of the items that images were made from; None: they share none.
    """

    def __init__(
        self, evaluator: Evaluator, seen: Sequence[int], *, rate: float, sources: Tensor | None = None
    ) -> None:
        self._evaluator, self._seen = evaluator, tuple(seen)
        # Bonferroni: each of the rungs at which a subnet can be stopped has its share of the error.
        tests = len(self._seen) - 1
        self._deviations = -NormalDist().inv_cdf(rate / tests) if tests and rate else np.inf
        self._errors = lru_cache(None)(
            lambda count: MeanErrors.over(count, None if sources is None else sources[:count])
        )
        self._front: _Front | None = None
        self._sum, self._whole = np.zeros(self.images), 0

    @property
    def images(self) -> int:
        """That the whole race is about."""
        return self._seen[-1]

    def remember(self, hits: Sequence[Hits], objectives: Sequence[Mapping[str, float | None]]) -> None:
        """What a batch was told to be; those that have seen all images are raced against from now on."""
        names = [name for name in (objectives[0] if objectives else {}) if name != QUALITY]
        costs = np.array([[values[name] for name in names] for values in objectives], dtype=np.float64)
        known = [i for i, seen in enumerate(hits) if len(seen) == self.images and np.isfinite(costs[i]).all()]
        if not known:
            return
        whole, costs = np.array([hits[i] for i in known]), costs[known]
        self._sum, self._whole = self._sum + whole.sum(axis=0), self._whole + len(whole)
        front = self._front or _Front(whole[:0], costs[:0])
        self._front = front.with_more(whole, costs)

    def run(self, archs: Sequence[Architecture], costs: Floats) -> list[Raced]:
        """Evaluates a batch. costs: (batch, costs) as they are known before, all minimised."""
        hits = np.zeros((len(archs), self.images), dtype=np.bool_)
        counts = np.zeros(len(archs), dtype=np.int64)
        alive, start = list(range(len(archs))), 0
        for stop in self._seen:
            found = self._evaluator.correct([archs[i] for i in alive], "search", slice(start, stop))
            hits[alive, start:stop], counts[alive], start = found, stop, stop
            if stop < self.images:
                worse = self._clearly_worse(hits[alive, :stop], costs[alive])
                alive = [i for i, is_worse in zip(alive, worse, strict=True) if not is_worse]
            if not alive:
                break
        return self._raced(hits, counts)

    def _clearly_worse(self, hits: Hits, costs: Floats) -> NDArray[np.bool_]:
        """Which of the batch are worse than the best on these images that costs no more."""
        stop = hits.shape[1]
        rivals, rival_costs = hits, costs
        if self._front is not None:
            rivals = np.concatenate([hits, self._front.hits[:, :stop]])
            rival_costs = np.concatenate([costs, self._front.costs])
        cheap = (rival_costs[None, :, :] <= costs[:, None, :]).all(axis=2)
        best = np.where(cheap, rivals.sum(axis=1), -1).argmax(axis=1)
        ahead = torch.from_numpy(rivals[best].T.astype(np.float64) - hits.T)
        # Half an image more in each cell of the fourfold table: few disagreements must not look certain.
        error = np.sqrt(self._errors(stop).of_means(ahead).square().numpy() + 1 / stop**2)
        return ahead.mean(dim=0).numpy() > self._deviations * error

    def _raced(self, hits: Hits, counts: NDArray[np.int64]) -> list[Raced]:
        whole = hits[counts == self.images]
        seen = self._whole + len(whole)
        ease = (self._sum + whole.sum(axis=0)) / max(seen, 1)
        return [
            Raced(whole_quality(row[:count], ease, self._errors), row[:count])
            for row, count in zip(hits, counts, strict=True)
        ]

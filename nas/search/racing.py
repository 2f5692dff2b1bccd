"""Racing: subnets see growing parts of the search split, and the promising ones see most of it.

Two subnets see the same images, so that their difference is told by those on which they disagree: it is clear
long before either's quality is. After each part those stop that are clearly worse than the front. Of the
others at most half, a quarter, ... of the batch go on: those most likely better than the front, by their
lead over it in standard errors. What else the others are is left to the accuracy predictor, which knows how
sure each quality is.
Sources of the idea: Maron and Moore, "Hoeffding races" (1993); Jamieson and Talwalkar, "Non-stochastic best
arm identification" (2016), for the halving. The paired test is that of matched pairs, adjusted as by Agresti
and Min (2005), with standard errors that respect shared source items.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import moocore
import numpy as np
import torch
from numpy.typing import NDArray

from nas.datasets import DataSet
from nas.evaluation import Evaluator, Failed, Hits
from nas.evaluation.estimates import Images
from nas.evaluation.qualities import searched_images
from nas.job_run import Run
from nas.limits import ACCURACY
from nas.search.objectives import Objectives
from nas.store import Evaluation, NewEvaluation
from search_spaces import Architecture
from supernet.evaluation.scores import Quality

Floats = NDArray[np.float64]

PARTS = (16, 8, 4, 2, 1)  # one over the share of the images after each rung
NONE: Hits = np.zeros(0, dtype=np.bool_)
FEWEST = 64  # images of the first rung: below, the normal distribution says little about a few disagreements


def rungs(images: int) -> tuple[int, ...]:
    """How many images have been seen after each rung of a race; the last: all."""
    return tuple(seen for seen in (-(-images // part) for part in PARTS) if seen >= min(FEWEST, images))


@dataclass(frozen=True, eq=False)
class Raced:
    """A quality, and the hits on the first images of the split that tell it; or why there is neither."""

    quality: Quality | None
    hits: Hits
    reason: str | None = None

    @property
    def value(self) -> float | None:
        """The quality alone."""
        return None if self.quality is None else self.quality.value


@dataclass(frozen=True, eq=False)
class _Rivals:
    """Subnets with their hits (n, images), qualities (n,) and costs (n, costs), all of these minimised."""

    hits: Hits
    values: Floats
    costs: Floats

    def joined(self, other: "_Rivals") -> "_Rivals":
        """These and others."""
        return _Rivals(
            np.concatenate([self.hits, other.hits]),
            np.concatenate([self.values, other.values]),
            np.concatenate([self.costs, other.costs]),
        )

    def unbeaten(self) -> "_Rivals":
        """Those that no other beats."""
        best = moocore.is_nondominated(np.column_stack([-self.values, self.costs]), keep_weakly=True)
        return _Rivals(self.hits[best], self.values[best], self.costs[best])


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


class Race:
    """Evaluates batches on the search split, each against the front of all before; nothing in it is random.

    `run` shows a batch its first parts, `more` shows the next part to some that were stopped, and `remember`
    takes note of what came of them: of this batch, or of all that an interrupted race has stored.

    seen: images after each rung (`rungs`); a single one evaluates all of a batch on all of it.
    rate: the probability with which a subnet as good as the best that costs no more is taken for clearly
    worse in some rung. (Halving stops others, too, which are not said to be worse.)
    counted: all images, and what each counts; None: all the same, and they share no source item.
    quality: the name under which an evaluation's objectives tell it.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        seen: Sequence[int],
        *,
        rate: float,
        counted: Images | None = None,
        quality: str = ACCURACY,
    ) -> None:
        self._evaluator, self._seen, self._quality = evaluator, tuple(seen), quality
        self._counted = counted or Images(self.images)
        # Bonferroni: each of the rungs at which a subnet can be stopped has its share of the error.
        self._deviations = -NormalDist().inv_cdf(rate / max(1, len(self._seen) - 1))
        self._fronts: dict[int, _Rivals] = {}  # by the images that their members have seen at least
        self._sum, self._whole = np.zeros(self.images), 0

    @property
    def images(self) -> int:
        """That the whole race is about."""
        return self._seen[-1]

    def remember(self, hits: Sequence[Hits], objectives: Sequence[Mapping[str, float | None]]) -> None:
        """What a batch was told to be, which later ones are raced against."""
        for stop in self._seen:
            rows = [(h, row) for h, row in zip(hits, objectives, strict=True) if len(h) >= stop]
            rows = [(h, row) for h, row in rows if all(map(_finite, row.values()))]
            if not rows:
                continue
            values = np.array([row[self._quality] for _, row in rows], dtype=np.float64)
            names = [name for name in rows[0][1] if name != self._quality]
            costs = np.array([[row[name] for name in names] for _, row in rows], dtype=np.float64)
            new = _Rivals(np.array([h[:stop] for h, _ in rows]), values, costs)
            front = self._fronts.get(stop)
            self._fronts[stop] = (new if front is None else front.joined(new)).unbeaten()
            if stop == self.images:
                self._sum, self._whole = self._sum + new.hits.sum(axis=0), self._whole + len(new.hits)

    def run(self, archs: Sequence[Architecture], costs: Floats) -> list[Raced]:
        """Evaluates a batch. costs: (batch, costs) as they are known before, all minimised."""
        hits = np.zeros((len(archs), self.images), dtype=np.bool_)
        counts = np.zeros(len(archs), dtype=np.int64)
        alive, start, failed = np.arange(len(archs)), 0, dict[int, Raced]()
        for rung, stop in enumerate(self._seen):
            seen = self._evaluator.correct([archs[i] for i in alive.tolist()], "search", slice(start, stop))
            part = dict(zip(alive.tolist(), seen, strict=True))
            failed |= {i: Raced(None, NONE, one.reason) for i, one in part.items() if isinstance(one, Failed)}
            counts[list(failed)], alive = 0, np.array([i for i in part if i not in failed], dtype=np.int64)
            for i in alive.tolist():
                hits[i, start:stop] = part[i]
            counts[alive], start = stop, stop
            if stop < self.images and len(alive):
                leads = self._leads(hits[alive, :stop], costs[alive])
                best = np.argsort(-leads, kind="stable")[: -(-len(archs) // 2 ** (rung + 1))]
                alive = np.sort(alive[best[leads[best] >= -self._deviations]])
            if not len(alive):
                break
        return self._raced(hits, counts, failed)

    def next_stop(self, seen: int) -> int:
        """How many images those have seen after the next part that have seen so many, but not all."""
        return next(stop for stop in rungs(self.images) if stop > seen)

    def more(self, archs: Sequence[Architecture], hits: Sequence[Hits]) -> list[Raced]:
        """Shows the next part to subnets whose hits on equally many first images are known.

        Those that have now seen all images count with those before them; no front is raced against.
        """
        start = len(hits[0])
        seen = self._evaluator.correct(archs, "search", slice(start, self.next_stop(start)))
        longer: list[Hits | Failed] = [
            part if isinstance(part, Failed) else np.concatenate([first, part])
            for first, part in zip(hits, seen, strict=True)
        ]
        whole = [one for one in longer if not isinstance(one, Failed) and len(one) == self.images]
        self._sum, self._whole = self._sum + sum(whole, np.zeros(self.images)), self._whole + len(whole)
        return [
            Raced(None, NONE, one.reason)
            if isinstance(one, Failed)
            else Raced(self._counted.qualities(one[None], self._ease())[0], one)
            for one in longer
        ]

    def _leads(self, hits: Hits, costs: Floats) -> Floats:
        """How far each of a batch is ahead of the best other that costs no more, in standard errors.

        Where there is no such other it is taken to be clearly ahead.
        """
        count, stop = hits.shape
        values = np.array([quality.value for quality in self._counted.qualities(hits, self._ease())])
        rivals = _Rivals(hits, values, costs)
        if stop in self._fronts:
            rivals = rivals.joined(self._fronts[stop])
        cheap: Hits = np.all(rivals.costs[None, :, :] <= costs[:, None, :], axis=2)
        cheap[np.arange(count), np.arange(count)] = False
        best = np.where(cheap, rivals.values, -np.inf).argmax(axis=1)
        ahead = torch.from_numpy(self._counted.weighed(hits.astype(np.float64) - rivals.hits[best]).T)
        # Half an image more in each cell of the fourfold table: few disagreements must not look certain.
        image = np.mean(self._counted.weighed(np.ones(stop)) ** 2)
        error = np.sqrt(self._counted.errors(stop).of_means(ahead).square().numpy() + image / stop**2)
        leads: Floats = np.where(cheap.any(axis=1), ahead.mean(dim=0).numpy() / error, self._deviations)
        return leads

    def _ease(self) -> Floats:
        """The share (images,) of those that have seen all images which classify each of them right."""
        ease: Floats = self._sum / max(self._whole, 1)
        return ease

    def _raced(self, hits: Hits, counts: NDArray[np.int64], failed: Mapping[int, Raced]) -> list[Raced]:
        whole = hits[counts == self.images]
        ease = (self._sum + whole.sum(axis=0)) / max(self._whole + len(whole), 1)
        raced = dict(failed)
        for count in self._seen:
            same = np.flatnonzero(counts == count)
            qualities = self._counted.qualities(hits[same, :count], ease)
            raced |= {i: Raced(q, hits[i, :count]) for i, q in zip(same.tolist(), qualities, strict=True)}
        return [raced[i] for i in range(len(hits))]


def race_of(
    run: Run, objectives: Objectives, data: DataSet, pool: Evaluator, stored: Sequence[Evaluation]
) -> Race:
    """The race of a job, as it stands after the stored evaluations.

    Without `search.racing`, and where it is not kept which images all subnets so far classify right, each
    sees all images at once.
    """
    config, counted = run.config, searched_images(run, data)
    hits, good = run.store.hits(run.lease.job, "search"), [e for e in stored if e.state == "ok"]
    with_hits = [e for e in good if e.subnet.key in hits]
    races = len(with_hits) == len(good) and config.quality in config.objectives
    rate = config.search.racing if races else None
    seen = (counted.count,) if rate is None else rungs(counted.count)
    race = Race(pool, seen, rate=rate or 0.5, counted=counted, quality=config.quality)
    race.remember([hits[e.subnet.key] for e in with_hits], [raced_by(objectives, e) for e in with_hits])
    return race


def raced_by(objectives: Objectives, row: NewEvaluation | Evaluation) -> dict[str, float | None]:
    """The quality and the objectives of an evaluation."""
    return {name: row.objectives.get(name) for name in (objectives.quality, *objectives.names)}

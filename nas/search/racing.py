"""Racing: subnets see growing parts of the search split, and the promising ones see most of it.

Two subnets see the same examples, so that their difference is told by those on which they differ: it is clear
long before either's quality is. After each part those stop that are clearly worse than the front. Of the
others at most half, a quarter, ... of the batch go on: those most likely better than the front, by their
lead over it in standard errors. What else the others are is left to the accuracy predictor, which knows how
sure each quality is.
Sources of the idea: Maron and Moore, "Hoeffding races" (1993); Jamieson and Talwalkar, "Non-stochastic best
arm identification" (2016), for the halving. The paired test of losses is that of the mean of their
differences, the one of right and wrong that of matched pairs, adjusted as by Agresti and Min (2005), both
with standard errors that respect shared source items.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.datasets import DataSet
from nas.evaluation import Evaluator, Failed, Scores
from nas.evaluation.estimates import Examples
from nas.evaluation.qualities import searched_examples
from nas.job_run import Run
from nas.limits import ACCURACY
from nas.search.objectives import Objectives
from nas.store import Evaluation, NewEvaluation
from search_spaces import Architecture
from supernet.evaluation.scores import Quality

Floats = NDArray[np.float64]

PARTS = (16, 8, 4, 2, 1)  # one over the share of the examples after each rung
NONE: Scores = np.zeros(0, dtype=np.bool_)
FEWEST = 64  # examples of the first rung: the normal distribution says little about a few disagreements


def rungs(examples: int) -> tuple[int, ...]:
    """How many examples have been seen after each rung of a race; the last: all."""
    return tuple(seen for seen in (-(-examples // part) for part in PARTS) if seen >= min(FEWEST, examples))


@dataclass(frozen=True, eq=False)
class Raced:
    """A quality, and the scores on the first examples of the split that tell it; or why there is neither."""

    quality: Quality | None
    scores: Scores
    reason: str | None = None

    @property
    def value(self) -> float | None:
        """The quality alone."""
        return None if self.quality is None else self.quality.value


@dataclass(frozen=True, eq=False)
class _Rivals:
    """Subnets with their scores (n, examples), gains (n,) and costs (n, costs), all of these minimised.

    gains: qualities as far as more is better, and else the negatives.
    """

    scores: Scores
    gains: Floats
    costs: Floats

    def joined(self, other: "_Rivals") -> "_Rivals":
        """These and others."""
        return _Rivals(
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.gains, other.gains]),
            np.concatenate([self.costs, other.costs]),
        )

    def unbeaten(self) -> "_Rivals":
        """Those that no other beats."""
        best = moocore.is_nondominated(np.column_stack([-self.gains, self.costs]), keep_weakly=True)
        return _Rivals(self.scores[best], self.gains[best], self.costs[best])


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


class Race:
    """Evaluates batches on the search split, each against the front of all before; nothing in it is random.

    `run` shows a batch its first parts, `more` shows the next part to some that were stopped, and `remember`
    takes note of what came of them: of this batch, or of all that an interrupted race has stored.

    seen: examples after each rung (`rungs`); a single one evaluates all of a batch on all of it.
    rate: the probability with which a subnet as good as the best that costs no more is taken for clearly
    worse in some rung. (Halving stops others, too, which are not said to be worse.)
    counted: all examples, and what each counts; None: all the same, and they share no source item.
    quality: the name under which an evaluation's objectives tell it.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        seen: Sequence[int],
        *,
        rate: float,
        counted: Examples | None = None,
        quality: str = ACCURACY,
    ) -> None:
        self._evaluator, self._seen, self._quality = evaluator, tuple(seen), quality
        self._counted = counted or Examples(self.examples)
        self._sign = self._counted.kind.sign
        # Bonferroni: each of the rungs at which a subnet can be stopped has its share of the error.
        self._deviations = -NormalDist().inv_cdf(rate / max(1, len(self._seen) - 1))
        self._fronts: dict[int, _Rivals] = {}  # by the examples that their members have seen at least
        self._sum, self._whole = np.zeros(self.examples), 0

    @property
    def examples(self) -> int:
        """That the whole race is about."""
        return self._seen[-1]

    def remember(self, scores: Sequence[Scores], objectives: Sequence[Mapping[str, float | None]]) -> None:
        """What a batch was told to be, which later ones are raced against."""
        for stop in self._seen:
            rows = [(one, row) for one, row in zip(scores, objectives, strict=True) if len(one) >= stop]
            rows = [(one, row) for one, row in rows if all(map(_finite, row.values()))]
            if not rows:
                continue
            gains = self._sign * np.array([row[self._quality] for _, row in rows], dtype=np.float64)
            names = [name for name in rows[0][1] if name != self._quality]
            costs = np.array([[row[name] for name in names] for _, row in rows], dtype=np.float64)
            new = _Rivals(np.array([one[:stop] for one, _ in rows]), gains, costs)
            front = self._fronts.get(stop)
            self._fronts[stop] = (new if front is None else front.joined(new)).unbeaten()
            if stop == self.examples:
                self._sum = self._sum + new.scores.sum(axis=0, dtype=np.float64)
                self._whole += len(new.scores)

    def run(self, archs: Sequence[Architecture], costs: Floats) -> list[Raced]:
        """Evaluates a batch. costs: (batch, costs) as they are known before, all minimised."""
        scores: Scores = np.zeros((len(archs), self.examples), dtype=np.bool_)
        counts = np.zeros(len(archs), dtype=np.int64)
        alive, start, failed = np.arange(len(archs)), 0, dict[int, Raced]()
        for rung, stop in enumerate(self._seen):
            seen = self._evaluator.scored([archs[i] for i in alive.tolist()], "search", slice(start, stop))
            part = dict(zip(alive.tolist(), seen, strict=True))
            failed |= {i: Raced(None, NONE, one.reason) for i, one in part.items() if isinstance(one, Failed)}
            counts[list(failed)], alive = 0, np.array([i for i in part if i not in failed], dtype=np.int64)
            for i, one in part.items():
                if not isinstance(one, Failed):
                    scores = scores.astype(one.dtype, copy=False)  # of the first
                    scores[i, start:stop] = one
            counts[alive], start = stop, stop
            if stop < self.examples and len(alive):
                leads = self._leads(scores[alive, :stop], costs[alive])
                best = np.argsort(-leads, kind="stable")[: -(-len(archs) // 2 ** (rung + 1))]
                alive = np.sort(alive[best[leads[best] >= -self._deviations]])
            if not len(alive):
                break
        return self._raced(scores, counts, failed)

    def next_stop(self, seen: int) -> int:
        """How many examples those have seen after the next part that have seen so many, but not all."""
        return next(stop for stop in rungs(self.examples) if stop > seen)

    def more(self, archs: Sequence[Architecture], scores: Sequence[Scores]) -> list[Raced]:
        """Shows the next part to subnets whose scores on equally many first examples are known.

        Those that have now seen all examples count with those before them; no front is raced against.
        """
        start = len(scores[0])
        seen = self._evaluator.scored(archs, "search", slice(start, self.next_stop(start)))
        longer: list[Scores | Failed] = [
            part if isinstance(part, Failed) else np.concatenate([first, part])
            for first, part in zip(scores, seen, strict=True)
        ]
        whole = [one for one in longer if not isinstance(one, Failed) and len(one) == self.examples]
        self._sum, self._whole = self._sum + sum(whole, np.zeros(self.examples)), self._whole + len(whole)
        return [
            Raced(None, NONE, one.reason)
            if isinstance(one, Failed)
            else Raced(self._counted.qualities(one[None], self._ease())[0], one)
            for one in longer
        ]

    def _leads(self, scores: Scores, costs: Floats) -> Floats:
        """How far each of a batch is ahead of the best other that costs no more, in standard errors.

        Where there is no such other it is taken to be clearly ahead.
        """
        count, stop = scores.shape
        values = np.array([quality.value for quality in self._counted.qualities(scores, self._ease())])
        rivals = _Rivals(scores, self._sign * values, costs)
        if stop in self._fronts:
            rivals = rivals.joined(self._fronts[stop])
        cheap: NDArray[np.bool_] = np.all(rivals.costs[None, :, :] <= costs[:, None, :], axis=2)
        cheap[np.arange(count), np.arange(count)] = False
        best = np.where(cheap, rivals.gains, -np.inf).argmax(axis=1)
        ahead, error = self._counted.leads(scores, rivals.scores[best])
        # Two networks that say the same are as good as each other, and that is certain.
        sure = np.divide(ahead, error, out=np.zeros_like(ahead), where=error > 0)
        leads: Floats = np.where(cheap.any(axis=1), sure, self._deviations)
        return leads

    def _ease(self) -> Floats:
        """The mean score (examples,) of those that have seen all: where they are right, a share of them."""
        ease: Floats = self._sum / max(self._whole, 1)
        return ease

    def _raced(self, scores: Scores, counts: NDArray[np.int64], failed: Mapping[int, Raced]) -> list[Raced]:
        whole = scores[counts == self.examples]
        ease = (self._sum + whole.sum(axis=0, dtype=np.float64)) / max(self._whole + len(whole), 1)
        raced = dict(failed)
        for count in self._seen:
            same = np.flatnonzero(counts == count)
            qualities = self._counted.qualities(scores[same, :count], ease)
            raced |= {i: Raced(q, scores[i, :count]) for i, q in zip(same.tolist(), qualities, strict=True)}
        return [raced[i] for i in range(len(scores))]


def race_of(
    run: Run, objectives: Objectives, data: DataSet, pool: Evaluator, stored: Sequence[Evaluation]
) -> Race:
    """The race of a job, as it stands after the stored evaluations.

    Without `search.racing`, and where it is not kept what all subnets so far have scored, each sees all
    examples at once.
    """
    config, counted = run.config, searched_examples(run, data)
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

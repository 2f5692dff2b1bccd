"""What a generated architecture has to keep: budgets that vary, and the hard limits of the job.

A budget is a number from 0 to 1: the log of a metric between the cheapest and the dearest architecture of the
space. 1 is no budget at all.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nas.limits import Limit
from nas.proposals.problem import Metrics
from search_spaces import SearchSpace
from search_spaces.space import Codes

Floats = NDArray[np.float64]

PROBES = 4096
SMALLEST = 1e-9  # of a metric: a predicted latency may come out as 0
UPPER = ("<=", "<", "==")


@dataclass(frozen=True, eq=False)
class Requirements:
    """The indicator of all hard requirements, and how far outside of them an architecture is.

    metrics: codes -> what is known of architectures before an evaluation, by name, (n,) each.
    names: the metrics that have budgets, those of the search first.  low, span: logs of a metric.
    distance: codes -> how far each is from the hard limits, which hold whatever the budgets are, (n,).
    """

    space: SearchSpace
    metrics: Metrics
    names: tuple[str, ...]
    low: Floats
    span: Floats
    distance: Callable[[Codes], Floats]

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        metrics: Metrics,
        *,
        first: Iterable[str],
        distance: Callable[[Codes], Floats],
    ) -> Self:
        """Ranges are taken from random architectures and the space's ends; a metric without one is left out.

        first: names of the metrics that the search is about.
        """
        codes = np.concatenate(
            [
                space.encode(space.uniform(16)),
                space.sample_choices(np.random.default_rng(0), PROBES),
            ]
        )
        logs = {name: _logs(values) for name, values in metrics(codes).items()}
        wanted = dict.fromkeys([*(name for name in first if name in logs), *logs])
        names = tuple(name for name in wanted if np.ptp(logs[name]) > 0)
        low = np.array([logs[name].min() for name in names])
        span = np.array([np.ptp(logs[name]) for name in names])
        return cls(space, metrics, names, low, span, distance)

    def costs(self, codes: Codes) -> Floats:
        """Metrics as budgets that they just keep, (n, names)."""
        values = self.metrics(codes)
        columns = [_logs(values[name]) for name in self.names]
        stacked = np.stack(columns, axis=1) if columns else np.zeros((len(codes), 0))
        return np.clip((stacked - self.low) / self.span, 0, 1)

    def budgets(self, limits: Iterable[Limit]) -> Floats:
        """The budgets (names,) that the upper ones among the limits leave."""
        budgets = np.ones(len(self.names))
        for limit in limits:
            if limit.name in self.names and limit.operator in UPPER:
                i = self.names.index(limit.name)
                value = float((_logs([limit.value])[0] - self.low[i]) / self.span[i])
                budgets[i] = min(budgets[i], max(value, 0.0))
        return budgets

    def excess(self, codes: Codes, budgets: Floats) -> Floats:
        """How far each architecture is from its budgets (n, names) and from the limits, (n,); 0: kept."""
        return over(self.costs(codes), budgets) + self.distance(codes)


def over(costs: Floats, budgets: Floats) -> Floats:
    """How far costs (n, names) are over budgets (n, names) or (names,), (n,)."""
    # No budget at all: what lies beyond the random architectures' range counts as 1, too.
    excess: Floats = np.where(budgets < 1, np.maximum(costs - budgets, 0), 0).sum(axis=1)
    return excess


def _logs(values: Any) -> Floats:
    logs: Floats = np.log(np.maximum(np.asarray(values, dtype=np.float64), SMALLEST))
    return logs

"""What a generated architecture has to keep: budgets that vary, and the hard limits of the job.

A budget is a number from 0 to 1: the log of a metric between the cheapest and the dearest architecture of the
space. 1 is no budget at all.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nas.conditions import Condition, distance
from search_spaces import SearchSpace
from search_spaces._space import Codes

Floats = NDArray[np.float64]
Metrics = Callable[[Codes], Mapping[str, Any]]

PROBES = 4096
SMALLEST = 1e-9  # of a metric: a predicted latency may come out as 0
UPPER = ("<=", "<", "==")


@dataclass(frozen=True, eq=False)
class Requirements:
    """The indicator of all hard requirements, and how far outside of them an architecture is.

    metrics: codes -> what is known of architectures before an evaluation, by name, (n,) each.
    names: the metrics that have budgets, those of the search first.  low, span: logs of a metric.
    limits: hard limits that hold whatever the budgets are.
    outside: codes -> how far they are from keeping the limits (n,); None: the limits tell.
    """

    space: SearchSpace
    metrics: Metrics
    names: tuple[str, ...]
    low: Floats
    span: Floats
    limits: tuple[Condition, ...] = ()
    outside: Callable[[Codes], Floats] | None = None

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        metrics: Metrics,
        *,
        first: Iterable[str] = (),
        limits: tuple[Condition, ...] = (),
        outside: Callable[[Codes], Floats] | None = None,
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
        known = {name: _logs(values) for name, values in metrics(codes).items()}
        wanted = dict.fromkeys([*(name for name in first if name in known), *known])
        names = tuple(name for name in wanted if np.ptp(known[name]) > 0)
        low = np.array([known[name].min() for name in names])
        span = np.array([np.ptp(known[name]) for name in names])
        return cls(space, metrics, names, low, span, limits, outside)

    def costs(self, codes: Codes) -> Floats:
        """Metrics as budgets that they just keep, (n, names)."""
        known = self.metrics(codes)
        columns = [_logs(known[name]) for name in self.names]
        stacked = np.stack(columns, axis=1) if columns else np.zeros((len(codes), 0))
        return np.clip((stacked - self.low) / self.span, 0, 1)

    def budgets(self, conditions: Iterable[Condition]) -> Floats:
        """The budgets (names,) that the upper limits among the conditions leave."""
        budgets = np.ones(len(self.names))
        for condition in conditions:
            if condition.name in self.names and condition.operator in UPPER:
                i = self.names.index(condition.name)
                value = float((_logs([condition.value])[0] - self.low[i]) / self.span[i])
                budgets[i] = min(budgets[i], max(value, 0.0))
        return budgets

    def violation(self, codes: Codes, budgets: Floats) -> Floats:
        """How far each architecture is from its budgets (n, names) and from the limits, (n,); 0: kept."""
        return over(self.costs(codes), budgets) + self.beyond(codes)

    def beyond(self, codes: Codes) -> Floats:
        """How far each is from the hard limits alone, (n,)."""
        if self.outside is not None:
            return np.asarray(self.outside(codes), dtype=np.float64)
        return distance(self.limits, self.metrics(codes), len(codes))


def over(costs: Floats, budgets: Floats) -> Floats:
    """How far costs (n, names) are over budgets (n, names) or (names,), (n,)."""
    # No budget at all: what lies beyond the random architectures' range counts as 1, too.
    excess: Floats = np.where(budgets < 1, np.maximum(costs - budgets, 0), 0).sum(axis=1)
    return excess


def _logs(values: Any) -> Floats:
    logs: Floats = np.log(np.maximum(np.asarray(values, dtype=np.float64), SMALLEST))
    return logs

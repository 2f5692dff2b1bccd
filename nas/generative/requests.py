"""What a generator is asked for: budgets, and weights of the objectives where there are several.

A request is a row: the budgets in the order of `Requirements.names`, then the weights.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.generative.requirements import Requirements
from search_spaces.space import Codes

Floats = NDArray[np.float64]

SLACK = 0.02, 0.12  # how far a budget lies above what a known architecture needs
KEPT_MAIN, KEPT_OTHER = 0.65, 0.4  # probability that a budget is asked for at all
AT_HOME = 0.3  # share of the requests that ask for the job's own limits and nothing else


@dataclass(frozen=True, eq=False)
class Requests:
    """Requests that are drawn, spread, or answered by architectures after the fact.

    costed: how many of the first budgets are objectives.  main: how many of the first are objectives or
    limited.  home: the budgets of the hard limits (names,).  objectives: how many are learned.
    """

    requirements: Requirements
    costed: int
    main: int
    home: Floats
    objectives: int

    @property
    def width(self) -> int:
        """Numbers in a request."""
        return len(self.home) + (self.objectives if self.objectives > 1 else 0)

    def split(self, requests: Floats) -> tuple[Floats, Floats]:
        """Budgets (B, names) and weights (B, objectives)."""
        count = len(self.home)
        weights = requests[:, count:] if self.objectives > 1 else np.ones((len(requests), 1))
        return requests[:, :count], weights

    def drawn(self, rng: np.random.Generator, costs: Floats) -> Floats:
        """Requests that architectures with these costs (B, names) answer, unless they ask for less."""
        budgets = self._slackened(rng, costs)
        at_home = rng.random(len(costs)) < AT_HOME
        budgets[at_home] = self.home
        return self._weighted(rng, budgets)

    def answered(self, rng: np.random.Generator, costs: Floats) -> Floats:
        """Hindsight: requests that architectures with these costs (B, names) do answer."""
        return self._weighted(rng, np.maximum(self._slackened(rng, costs), np.minimum(costs, 1)))

    def spread(self, rng: np.random.Generator, count: int, lowest: Floats) -> Floats:
        """Requests evenly from the `lowest` budgets (names,) of the objectives to the limits."""
        budgets = np.tile(self.home, (count, 1))
        for i in range(self.costed):
            steps = (rng.permutation(count) + rng.random(count)) / count
            budgets[:, i] = lowest[i] + steps * (self.home[i] - lowest[i])
        return self._weighted(rng, budgets)

    def of(self, budgets: Floats) -> Floats:
        """The request for these budgets (names,), all objectives alike, as one row."""
        weights = np.full(self.width - len(budgets), 1 / max(self.objectives, 1))
        return np.concatenate([budgets, weights])[None]

    def excess(self, codes: Codes, requests: Floats) -> Floats:
        """See `Requirements.excess`."""
        return self.requirements.excess(codes, self.split(requests)[0])

    def _slackened(self, rng: np.random.Generator, costs: Floats) -> Floats:
        keep = np.where(np.arange(costs.shape[1]) < self.main, KEPT_MAIN, KEPT_OTHER)
        budgets = costs + rng.uniform(*SLACK, size=costs.shape)
        budgets = np.where(rng.random(costs.shape) < keep, budgets, 1.0)
        return np.minimum(budgets, self.home)

    def _weighted(self, rng: np.random.Generator, budgets: Floats) -> Floats:
        if self.objectives < 2:
            return budgets
        weights = rng.dirichlet(np.ones(self.objectives), size=len(budgets))
        return np.concatenate([budgets, weights], axis=1)

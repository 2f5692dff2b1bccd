"""The quick generator: choices independent of each other, moved towards the best by the cross-entropy method.

Source: Rubinstein and Kroese, "The Cross-Entropy Method" (2004). Ours: one distribution for each of a few
levels, between which requests interpolate by their tightest budget, whatever metric it is for.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from nas.searchers._policy import Floats, exists, prototype_logits
from search_spaces import Architecture, SearchSpace
from search_spaces._space import INACTIVE, Codes


class FactorisedPolicy:
    """A `Policy`: for every choice a table (levels, options) of probabilities."""

    def __init__(
        self, space: SearchSpace, prototype: Architecture, *, levels: int, budgets: int | None = None
    ) -> None:
        """`budgets`: how many of the first numbers of a request are budgets; None: all."""
        self.space, self._budgets = space, budgets
        rows = [np.exp(row) / np.exp(row).sum() for row in prototype_logits(space, prototype)]
        self.tables: list[Floats] = [np.tile(row, (levels, 1)) for row in rows]

    @property
    def levels(self) -> Floats:
        """The budget that each level stands for; the last is none."""
        return np.linspace(0, 1, len(self.tables[0]) + 1)[1:]

    def adjust(self, level: int, elites: Codes, *, rate: float, floor: float) -> None:
        """Moves a level towards the options of elites (n, C); no option falls below floor / options."""
        for i, table in enumerate(self.tables):
            chosen = elites[elites[:, i] != INACTIVE, i]
            if len(chosen):
                seen = np.bincount(chosen, minlength=table.shape[1]) / len(chosen)
                moved = (1 - rate) * table[level] + rate * seen
                table[level] = (1 - floor) * moved + floor / table.shape[1]

    def sample(self, requests: Floats, rng: np.random.Generator, *, temperature: float = 1.0) -> Codes:
        return self._decided(requests, lambda shape: temperature * rng.gumbel(size=shape))

    def mode(self, requests: Floats) -> Codes:
        return self._decided(requests, np.zeros)

    def tensors(self) -> dict[str, Tensor]:
        return {f"choice.{i}": torch.as_tensor(table.copy()) for i, table in enumerate(self.tables)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        names = [f"choice.{i}" for i in range(len(self.tables))]
        loaded = [tensors[name].numpy().copy() for name in names if name in tensors]
        if [table.shape for table in loaded] != [table.shape for table in self.tables]:
            raise RuntimeError("these are the distributions of another space")
        self.tables = loaded

    def _decided(self, requests: Floats, noise: Callable[[tuple[int, ...]], Floats]) -> Codes:
        shares = self._shares(requests)
        codes = np.full((len(requests), len(self.tables)), INACTIVE, dtype=np.int64)
        for i, table in enumerate(self.tables):
            logits = np.log(shares @ table)
            codes[:, i] = (logits + noise(logits.shape)).argmax(axis=1)
            codes[:, i] = np.where(exists(self.space, codes, i), codes[:, i], INACTIVE)
        return codes

    def _shares(self, requests: Floats) -> Floats:
        """How much of each level goes into each request, (B, levels)."""
        levels = self.levels
        first = requests[:, : self._budgets].min(axis=1, initial=1.0)
        shares = np.zeros((len(requests), len(levels)))
        shares[:, 0] = first <= levels[0]
        for (i, below), (j, above) in pairwise(enumerate(levels)):
            between = (first > below) & (first <= above)
            part = (first - below) / (above - below)
            shares[:, i] += np.where(between, 1 - part, 0)
            shares[:, j] += np.where(between, part, 0)
        return shares

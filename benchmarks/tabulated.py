"""Search problems whose answer is known: every architecture of a space has a made-up quality.

A quality is a weighted sum with diminishing returns over the choices; `interacting` ones add products of
pairs of choices, `rugged` ones waves across the whole space as well. Costs are the space's own.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas import searchers
from nas.limits import Limit, distance
from nas.searchers import SearchProblem
from search_spaces import SearchSpace
from search_spaces.space import Codes

Floats = NDArray[np.float64]
KINDS = ("additive", "interacting", "rugged")
BATCH = 16
POPULATION, TOURNAMENT = 32, 8  # of regularised evolution


@dataclass(frozen=True, eq=False)
class Tabulated:
    """The best quality under limits on costs; `seed` makes another truth of the same kind."""

    space: SearchSpace
    limits: tuple[Limit, ...]
    kind: str
    seed: int

    @cached_property
    def codes(self) -> Codes:
        """All architectures that keep the limits (n, choices)."""
        every = self.space.all_codes()
        return every[distance(self.limits, self.metrics(every), len(every)) == 0]

    @cached_property
    def qualities(self) -> Floats:
        """Of `codes` (n,), from 0 (worst) to 1 (best)."""
        raw = self._raw(self.codes)
        return (raw - raw.min()) / np.ptp(raw)

    @cached_property
    def _row(self) -> dict[bytes, int]:
        return {code.tobytes(): i for i, code in enumerate(self.codes)}

    def quality(self, code: NDArray[np.int64]) -> float:
        """Of one architecture (choices,) that keeps the limits."""
        return float(self.qualities[self._row[code.tobytes()]])

    def metrics(self, codes: Codes) -> dict[str, Any]:
        """Exact costs by name, (n,) each."""
        costs = self.space.costs(codes)
        return {"params": costs["params"], "macs": costs["macs"]}

    def problem(self, budget: int) -> SearchProblem:
        """What a searcher is told."""
        return SearchProblem(
            self.space,
            {"accuracy": "maximize"},
            self.metrics,
            self.metrics,
            limits=self.limits,
            seed=self.seed,
            budget=budget,
        )

    def _raw(self, codes: Codes) -> Floats:
        rng = np.random.default_rng(self.seed)
        sizes = np.array([len(choice.options) for choice in self.space.choices])
        levels, count = np.where(codes < 0, 0, codes + 1) / sizes, len(sizes)
        raw = levels ** rng.uniform(0.3, 1, count) @ rng.uniform(0.3, 1, count)
        if self.kind != "additive":
            pairs = 0.3 * rng.normal(size=(count, count)) * (rng.random((count, count)) < 0.3)
            raw = raw + np.einsum("ni,ij,nj->n", levels, pairs, levels)
        if self.kind == "rugged":
            waves, shift = rng.normal(size=(count, 16)), rng.uniform(0, 6, 16)
            raw = raw + np.cos(3 * levels @ waves + shift).mean(axis=1)
        return raw


def regrets(found: Floats) -> Floats:
    """How much the best of the first 1, 2, ... qualities falls short of the best there is, (n,)."""
    return 1 - np.maximum.accumulate(found)


def searched(name: str, truth: Tabulated, budget: int, **options: Any) -> tuple[Floats, Any]:
    """Qualities (budget,) in the order in which the searcher evaluates, and the searcher."""
    searcher = searchers.build(name, truth.problem(budget), **options)
    qualities: list[float] = []
    while len(qualities) < budget:
        codes = searcher.ask(min(BATCH, budget - len(qualities)))
        if not len(codes):
            break
        of_batch = [truth.quality(code) for code in codes]
        searcher.tell(codes, np.array(of_batch)[:, None])
        qualities += of_batch
    return np.array(qualities), searcher


def random_search(truth: Tabulated, budget: int) -> Floats:
    """Qualities (budget,) of random ones that keep the limits, none twice."""
    return np.random.default_rng(truth.seed).permutation(truth.qualities)[:budget]


def regularised_evolution(truth: Tabulated, budget: int) -> Floats:
    """Qualities (budget,) of regularised evolution in the order in which it evaluates."""
    sizes = {"population": POPULATION, "tournament": TOURNAMENT}
    return searched("evolution", truth, budget, scheme="regularised", **sizes)[0]

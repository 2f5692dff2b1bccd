"""A first population that is pruned into the limits: from the largest heads and FFNs, one option at a time.

Widths, depths and whether blocks are there are drawn uniformly, and drawn again while the network at its
largest heads and FFNs breaks a lower limit. Then heads and FFNs of random blocks, absent ones among them,
shrink until the upper limits hold; what has shrunk below a lower limit is thrown away.
Source: the released search of ViT-ResNAS (Liao, Karaman and Sze, arXiv 2109.00642). Ours: it gives up where
nothing is found, and leaves the rest to `_repair`.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nas.conditions import Condition
from nas.searchers import SearchProblem
from search_spaces._errors import UsageError
from search_spaces._space import Codes

PRUNED = ("num_heads", "mlp_hidden", "mlp_ratio")
PRUNINGS = 100  # of heads and FFNs; then everything may shrink
MOST = 1000
DRAWS = 64  # of widths and blocks, again and again
ROUNDS = 100
LOT = 8

Mask = NDArray[np.bool_]


class Pruned:
    """Draws architectures inside the limits of a search problem.

    Raises UsageError for a space without heads and FFNs to prune, and where there is no upper limit.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem, self._space = problem, problem.space
        groups = [choice.name.partition(".")[0] for choice in self._space.choices]
        self._sizes = np.array([len(choice.options) for choice in self._space.choices])
        self._is_pruned = np.array([group in PRUNED for group in groups])
        if not self._is_pruned.any():
            raise UsageError(
                f"search.options.first: pruned is about heads and FFNs; space '{self._space.name}' has none.",
                "Leave it out: the first population is then drawn uniformly.",
            )
        self._upper = tuple(c for c in problem.limits if c.operator.startswith("<"))
        self._lower = tuple(c for c in problem.limits if not c.operator.startswith("<"))
        if not self._upper:
            raise UsageError(
                "search.options.first: pruned prunes until upper limits hold, and the job has none.",
                "Give one, such as constraints: [macs<=1794400000].",
            )

    def __call__(self, rng: np.random.Generator) -> Codes:
        """Up to LOT architectures (n, choices); none where the limits are not found into."""
        codes = self._large_enough(rng)
        for pruning in range(MOST):
            outside = np.flatnonzero(self._breaks(self._upper, codes))
            if not len(outside):
                break
            codes[outside] = self._pruned_once(codes[outside], rng, everything=pruning >= PRUNINGS)
        canonical = self._space.canonical(codes)
        return canonical[self._problem.feasible(canonical)]

    def _large_enough(self, rng: np.random.Generator) -> Codes:
        """LOT of random widths and blocks under the largest heads and FFNs; absent blocks have some, too."""
        found: list[Codes] = []
        for _ in range(ROUNDS):
            codes = rng.integers(0, self._sizes, size=(DRAWS, len(self._sizes)))
            codes = np.where(self._is_pruned, self._sizes - 1, codes)
            found.append(codes[~self._breaks(self._lower, codes)])
            if sum(map(len, found)) >= LOT:
                break
        return np.concatenate(found)[:LOT]

    def _breaks(self, limits: tuple[Condition, ...], codes: Codes) -> Mask:
        canonical = self._space.canonical(codes)
        known = self._problem.metrics or self._space.costs
        values = known(canonical) if limits else {}
        broken = np.zeros(len(codes), dtype=np.bool_)
        for limit in limits:
            broken |= ~limit.mask(values)
        return broken

    def _pruned_once(self, codes: Codes, rng: np.random.Generator, *, everything: bool) -> Codes:
        """Each with one choice of a random entry one option smaller, where it is not the smallest yet."""
        entries = self._entries if everything else self._blocks
        codes = codes.copy()
        for row in codes:
            entry = entries[rng.integers(len(entries))]
            choice = entry[rng.integers(len(entry))]
            if self._space.choices[choice].yes_or_no and rng.random() < 0.5:
                continue  # a block that is drawn for leaving out is left out every second time
            row[choice] = max(0, row[choice] - 1)
        return codes

    @cached_property
    def _blocks(self) -> list[list[int]]:
        """Heads and FFN of each block, as places of choices; those of all blocks at once are a block."""
        blocks: dict[str, list[int]] = {}
        for i in np.flatnonzero(self._is_pruned).tolist():
            blocks.setdefault(self._space.choices[i].name.partition(".")[2], []).append(i)
        return list(blocks.values())

    @cached_property
    def _entries(self) -> list[list[int]]:
        """Blocks with whether they are there, and every other choice alone."""
        places = {choice.name: i for i, choice in enumerate(self._space.choices)}
        entries = [list(block) for block in self._blocks]
        for i, choice in enumerate(self._space.choices):
            if self._is_pruned[i]:
                continue
            number = choice.name.partition(".")[2]
            block = next((e for e in entries if places.get(f"num_heads.{number}") == e[0]), None)
            if choice.yes_or_no and block is not None:
                block.append(i)
            else:
                entries.append([i])
        return entries

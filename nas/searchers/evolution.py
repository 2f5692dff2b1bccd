"""Evolutionary search, as in ViT-ResNAS: mutants and crossovers of the best of everything seen so far.

A random population begins. Then every iteration takes the best evaluated architectures, whenever they were
found, as parents of as many mutants and crossovers. All of them keep the hard limits, such as a window of
costs.
Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers" (arXiv 2109.00642),
the released search. Ours: the random population draws every choice uniformly, unless `first` says that it is
pruned as in the release; a block that comes back has heads and neurons drawn anew, where the
release keeps those that it had; with several objectives the best are those of the first non-dominated
fronts, sparse regions first; and no architecture comes twice.

`nas.proposals.regularised` has another scheme.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nas.limits import Limit
from nas.proposals.problem import SearchProblem
from nas.proposals.regularised import Regularised, ageing
from nas.proposals.selection import LOT, Evolving, best
from search_spaces.errors import UsageError, did_you_mean
from search_spaces.space import INACTIVE, Codes

PUBLISHED = {"initial": 500, "parents": 75, "mutants": 75, "crossovers": 75}
PUBLISHED_EVALUATIONS = 3350  # 500, and 19 times 75 + 75
LEAST = 4  # of each, where a small budget shrinks them
MUTATION = 0.3
SCHEMES = ("vit_resnas", "regularised")
FIRST = ("uniform", "pruned")

PRUNED = ("num_heads", "mlp_hidden", "mlp_ratio")
PRUNINGS = 100  # of heads and FFNs; then everything may shrink
MOST_PRUNINGS = 1000
DRAWS, MOST_DRAWS = 64, 100  # of widths and blocks: at once, and how often
PRUNED_LOT = 8

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scheme:
    """Sizes of the first population and of an iteration; the probability that a mutation redraws a choice."""

    initial: int
    parents: int
    mutants: int
    crossovers: int
    mutation: float = MUTATION

    def __post_init__(self) -> None:
        """Raises UsageError for sizes and probabilities that are none."""
        for name, least in {"initial": 1, "parents": 2, "mutants": 0, "crossovers": 0}.items():
            if type(value := getattr(self, name)) is not int or value < least:
                raise UsageError(
                    f"search.options.{name} = {value!r} is not a whole number of at least {least}."
                )
        if self.mutants + self.crossovers < 1:
            raise UsageError("search.options: an iteration without mutants and crossovers finds nothing.")
        if type(self.mutation) not in (int, float) or not 0 < self.mutation <= 1:
            raise UsageError(f"search.options.mutation = {self.mutation!r} is no probability above 0.")


def build(
    problem: SearchProblem,
    *,
    scheme: str = SCHEMES[0],
    initial: int | None = None,
    parents: int | None = None,
    mutants: int | None = None,
    crossovers: int | None = None,
    mutation: float | None = None,
    first: str | None = None,
    population: int | None = None,
    tournament: int | None = None,
) -> Evolving:
    """Evolution by the scheme of ViT-ResNAS, or `regularised` (see `nas.proposals.regularised`).

    scheme: `vit_resnas` or `regularised`.
    initial, parents, mutants, crossovers: sizes of the first scheme: of the random population, and of every
    iteration. By default the published ones (500, 75, 75, 75) where the budget is the published 3,350 or
    more; a smaller budget shrinks all of them alike.
    mutation: of the first scheme, the probability that a choice of a mutant is drawn anew; by default 0.3.
    first: of the first scheme, whether the random population is drawn `uniform` (the default), or `pruned`
    into the limits as in the release.
    population, tournament: sizes of the second scheme: how many are alive, and of how many the best is a
    parent; by default by the budget.
    Raises UsageError for sizes that are impossible, and for those of the other scheme.
    """
    vit_resnas = {"initial": initial, "parents": parents, "mutants": mutants, "crossovers": crossovers}
    regularised = {"population": population, "tournament": tournament}
    if scheme not in SCHEMES:
        raise UsageError(
            f"search.options.scheme = {scheme!r} is unknown.", did_you_mean(str(scheme), SCHEMES)
        )
    others = regularised if scheme == SCHEMES[0] else vit_resnas | {"mutation": mutation, "first": first}
    for name in (name for name, value in others.items() if value is not None):
        raise UsageError(f"search.options.{name} is no option of evolution by the scheme '{scheme}'.")
    if scheme == SCHEMES[1]:
        sizes = ageing(problem.budget, population, tournament)
        return Regularised(problem, sizes)
    share = min(1.0, (problem.budget or PUBLISHED_EVALUATIONS) / PUBLISHED_EVALUATIONS)
    shrunk = {
        name: max(LEAST, round(share * PUBLISHED[name])) if size is None else size
        for name, size in vit_resnas.items()
    }
    published = Scheme(**shrunk, mutation=MUTATION if mutation is None else mutation)
    begins = _first(problem, FIRST[0] if first is None else first)
    return Evolution(problem, published, begins)


def _first(problem: SearchProblem, how: str) -> "Pruned | None":
    if how not in FIRST:
        raise UsageError(f"search.options.first = {how!r} is unknown.", did_you_mean(str(how), FIRST))
    return Pruned(problem) if how == "pruned" else None


class Evolution(Evolving):
    """Mutants of the best so far, then children of two of them."""

    def __init__(self, problem: SearchProblem, scheme: Scheme, begins: "Pruned | None") -> None:
        super().__init__(problem)
        self.scheme, self._begins = scheme, begins

    def _lot(self, number: int, rng: np.random.Generator) -> Codes:
        scheme = self.scheme
        iteration, place = divmod(number - scheme.initial, scheme.mutants + scheme.crossovers)
        before = scheme.initial + iteration * (scheme.mutants + scheme.crossovers)
        parents = self._parents(before) if iteration >= 0 else self.space.encode([])
        if len(parents) < 2:
            pruned = self.space.encode([]) if self._begins is None else self._begins(rng)
            return pruned if len(pruned) else self.space.sample_choices(rng, LOT)
        if place < scheme.mutants:
            return self._mutants(parents[rng.integers(len(parents), size=LOT)], rng)
        fathers = rng.integers(len(parents), size=LOT)
        mothers = (fathers + rng.integers(1, len(parents), size=LOT)) % len(parents)
        return self.space.crossed(rng, parents[fathers], parents[mothers])

    def _parents(self, before: int) -> Codes:
        """The best of the trials with lower numbers that are finished."""
        done = self.trials.finished(before)
        return done.codes[best(done.values, self.scheme.parents)]

    def _mutants(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Each choice redrawn with the scheme's probability; whether something exists is flipped."""
        which = rng.random(codes.shape) < self.scheme.mutation
        yes_or_no = np.array([set(choice.options) == {False, True} for choice in self.space.choices])
        flipped = np.where(which & yes_or_no & (codes != INACTIVE), 1 - codes, codes)
        return self.space.redrawn(rng, flipped, which & ~yes_or_no)


class Pruned:
    """A first population, pruned into the limits from the largest heads and FFNs, one option at a time.

    Widths, depths and whether blocks are there are drawn uniformly, and drawn again while the network at its
    largest heads and FFNs breaks a lower limit. Then heads and FFNs of random blocks, absent ones among them,
    shrink until the upper limits hold; what has shrunk below a lower limit is thrown away.
    Source: as of this module. Ours: it gives up where nothing is found; then the population is drawn
    uniformly.
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
        self._upper = tuple(limit for limit in problem.limits if limit.operator.startswith("<"))
        self._lower = tuple(limit for limit in problem.limits if not limit.operator.startswith("<"))
        if not self._upper:
            raise UsageError(
                "search.options.first: pruned prunes until upper limits hold, and the job has none.",
                "Give one, such as constraints: [macs<=1794400000].",
            )

    def __call__(self, rng: np.random.Generator) -> Codes:
        """Up to PRUNED_LOT architectures (n, choices); none where the limits are not found into."""
        codes = self._large_enough(rng)
        for pruning in range(MOST_PRUNINGS):
            too_large = np.flatnonzero(self._breaks(self._upper, codes))
            if not len(too_large):
                break
            codes[too_large] = self._pruned_once(codes[too_large], rng, everything=pruning >= PRUNINGS)
        canonical = self._space.canonical(codes)
        return canonical[self._problem.within_limits(canonical)]

    def _large_enough(self, rng: np.random.Generator) -> Codes:
        """PRUNED_LOT of random widths and blocks under the largest heads and FFNs, absent blocks included."""
        large: list[Codes] = []
        for _ in range(MOST_DRAWS):
            codes = rng.integers(0, self._sizes, size=(DRAWS, len(self._sizes)))
            codes = np.where(self._is_pruned, self._sizes - 1, codes)
            large.append(codes[~self._breaks(self._lower, codes)])
            if sum(map(len, large)) >= PRUNED_LOT:
                break
        return np.concatenate(large)[:PRUNED_LOT]

    def _breaks(self, limits: tuple[Limit, ...], codes: Codes) -> Mask:
        canonical = self._space.canonical(codes)
        limited = self._problem.limited(canonical) if limits else {}
        broken = np.zeros(len(codes), dtype=np.bool_)
        for limit in limits:
            broken |= ~limit.mask(limited)
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

"""Evolutionary search, as in ViT-ResNAS: mutants and crossovers of the best of everything seen so far.

A random population begins. Then every iteration takes the best evaluated architectures, whenever they were
found, as parents of as many mutants and crossovers. All of them keep the hard limits, such as a window of
costs.
Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers" (arXiv 2109.00642),
the released search. Ours: the random population draws every choice uniformly, unless `first` says that it is
pruned as in the release (`_pruned.py`); a block that comes back has heads and neurons drawn anew, where the
release keeps those that it had; with several objectives the best are those of the first non-dominated
fronts, sparse regions first; and no architecture comes twice.

`_regularised.py` has another scheme.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from optuna.samplers import BaseSampler
from optuna.study import Study

from nas.searchers import SearchProblem
from nas.searchers._distinct import DistinctSampler, architecture
from nas.searchers._pruned import Pruned
from nas.searchers._regularised import Regularised, ageing
from nas.searchers._selection import LOT, Evolving, best, finished
from search_spaces._errors import UsageError, did_you_mean
from search_spaces._space import INACTIVE, Codes

PUBLISHED = {"initial": 500, "parents": 75, "mutants": 75, "crossovers": 75}
PUBLISHED_EVALUATIONS = 3350  # 500, and 19 times 75 + 75
LEAST = 4  # of each, where a small budget shrinks them
MUTATION = 0.3
SCHEMES = ("vit_resnas", "regularised")
FIRST = ("uniform", "pruned")


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
) -> BaseSampler:
    """Evolution by the scheme of ViT-ResNAS, or `regularised` (see `_regularised.py`).

    Of the first, sizes are the published ones (500, 75, 75, 75) where the budget is the published 3,350 or
    more; a smaller budget shrinks all of them alike. first: whether the first population is drawn `uniform`
    (the default), or `pruned` into the limits as in the release. population, tournament: sizes of the second.
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
        return DistinctSampler(problem, partial(Regularised, problem, sizes), always=False)
    share = min(1.0, (problem.budget or PUBLISHED_EVALUATIONS) / PUBLISHED_EVALUATIONS)
    shrunk = {
        name: max(LEAST, round(share * PUBLISHED[name])) if size is None else size
        for name, size in vit_resnas.items()
    }
    published = Scheme(**shrunk, mutation=MUTATION if mutation is None else mutation)
    begins = _first(problem, FIRST[0] if first is None else first)
    return DistinctSampler(problem, partial(_Evolution, problem, published, begins), always=False)


def _first(problem: SearchProblem, how: str) -> Pruned | None:
    if how not in FIRST:
        raise UsageError(f"search.options.first = {how!r} is unknown.", did_you_mean(str(how), FIRST))
    return Pruned(problem) if how == "pruned" else None


class _Evolution(Evolving):
    """Mutants of the best so far, then children of two of them."""

    def __init__(self, problem: SearchProblem, scheme: Scheme, begins: Pruned | None, seed: int) -> None:
        super().__init__(problem, seed)
        self._scheme, self._begins = scheme, begins

    def _lot(self, study: Study, number: int) -> Codes:
        """LOT architectures (LOT, choices) of the kind that this trial is to propose."""
        scheme, rng = self._scheme, self._rng
        iteration, place = divmod(number - scheme.initial, scheme.mutants + scheme.crossovers)
        before = scheme.initial + iteration * (scheme.mutants + scheme.crossovers)
        parents = self._parents(study, before) if iteration >= 0 else self._space.encode([])
        if len(parents) < 2:
            pruned = self._space.encode([]) if self._begins is None else self._begins(rng)
            return pruned if len(pruned) else self._space.sample_choices(rng, LOT)
        if place < scheme.mutants:
            return self._mutants(parents[rng.integers(len(parents), size=LOT)])
        fathers = rng.integers(len(parents), size=LOT)
        mothers = (fathers + rng.integers(1, len(parents), size=LOT)) % len(parents)
        return self._space.crossed(rng, parents[fathers], parents[mothers])

    def _parents(self, study: Study, before: int) -> Codes:
        """The best of the trials with lower numbers that are finished."""
        done, values = finished(study, before)
        if not done:
            return self._space.encode([])
        chosen = best(values, self._scheme.parents)
        return self._space.encode([architecture(self._space, done[i].params) for i in chosen])

    def _mutants(self, codes: Codes) -> Codes:
        """Each choice redrawn with the scheme's probability; whether something exists is flipped."""
        which = self._rng.random(codes.shape) < self._scheme.mutation
        yes_or_no = np.array([set(choice.options) == {False, True} for choice in self._space.choices])
        flipped = np.where(which & yes_or_no & (codes != INACTIVE), 1 - codes, codes)
        return self._space.redrawn(self._rng, flipped, which & ~yes_or_no)

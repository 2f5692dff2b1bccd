"""Regularised evolution: the oldest die, and a tournament's winner has a child that differs in one choice.

Source: Real, Aggarwal, Huang and Le, "Regularized Evolution for Image Classifier Architecture Search" (arXiv
1802.01548). Ours: with several objectives the winner is the first by non-dominated front, then by crowding
distance; no architecture comes twice; children of a batch have the parents that were finished before it.
"""

from dataclasses import dataclass

import numpy as np

from nas.proposals.problem import SearchProblem
from nas.proposals.selection import LOT, Evolving, best
from search_spaces.errors import UsageError
from search_spaces.moves import changed
from search_spaces.space import Codes

PUBLISHED = 100  # alive at a time
LEAST = 16
GENERATIONS = 8  # that a small budget is to hold


@dataclass(frozen=True)
class Ageing:
    """How many are alive at a time, and how many of them meet in a tournament."""

    population: int
    tournament: int

    def __post_init__(self) -> None:
        """Raises UsageError for sizes that are none."""
        for name in ("population", "tournament"):
            if type(value := getattr(self, name)) is not int or value < 2:
                raise UsageError(f"search.options.{name} = {value!r} is not a whole number of at least 2.")


def ageing(budget: int | None, population: int | None, tournament: int | None) -> Ageing:
    """The published sizes (100, and a quarter of them in a tournament), smaller where the budget is small."""
    if population is None:
        affordable = PUBLISHED if budget is None else budget // GENERATIONS
        population = max(LEAST, min(PUBLISHED, affordable))
    return Ageing(population, max(2, population // 4) if tournament is None else tournament)


class Regularised(Evolving):
    """Of living ones the winner of a tournament has a lot of children."""

    def __init__(self, problem: SearchProblem, sizes: Ageing) -> None:
        super().__init__(problem)
        self.sizes = sizes

    def _lot(self, number: int, rng: np.random.Generator) -> Codes:
        """LOT children (LOT, choices) of one parent; random ones until the population is complete."""
        done, population = self.trials.finished(number), self.sizes.population
        if len(done) < population:
            return self.space.sample_choices(rng, LOT)
        alive, values = done.codes[-population:], done.values[-population:]
        rank = {place: rank for rank, place in enumerate(best(values, population))}
        drawn = rng.integers(population, size=self.sizes.tournament).tolist()
        parent = alive[min(drawn, key=rank.__getitem__)]
        return changed(self.space, np.repeat(parent[None], LOT, axis=0), rng)

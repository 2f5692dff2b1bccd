"""A whole search, one proposal after the other."""

from collections.abc import Callable, Sequence
from typing import Any

import optuna

from nas import searchers
from nas.searchers import SearchProblem
from nas.searchers._distinct import architecture, distributions
from search_spaces import Architecture

Values = Callable[[Architecture], float | list[float]]


def search(
    name: str, problem: SearchProblem, count: int, values: Values, directions: Sequence[str], **options: Any
) -> list[Architecture]:
    """What the searcher proposes, `count` times, being told the `values` of each before it is asked again."""
    sampler = searchers.build(name, problem, **options)
    study = optuna.create_study(directions=list(directions), sampler=sampler)
    found = []
    for _ in range(count):
        trial = study.ask(distributions(problem.space))
        found.append(architecture(problem.space, trial.params))
        study.tell(trial, values(found[-1]))
    return found

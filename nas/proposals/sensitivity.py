"""What each choice of a trained network is worth, and where a search begins that knows it.

Networks of which one choice alone is at its smallest option tell what that choice costs; networks in which
all choices of a kind are half-way and at their smallest, how it grows on the way. The sum of what all
choices cost is what is believed of any architecture before it is evaluated: crude, but of a network that was
trained as a whole most of the truth (`docs/language.md`). Ours; layers one by one as in Molchanov et al.,
"LANA: Latency Aware Network Acceleration" (arXiv 2107.10624).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nas.limits import Limit
from nas.proposals.problem import Code, SearchProblem
from search_spaces import SearchSpace
from search_spaces.architecture import group_of
from search_spaces.space import Codes

Floats = NDArray[np.float64]

POWERS = (1.0, 3.0)  # between which what a choice costs grows with how far it goes
FEWEST = 4  # choices of a kind, by which a single one is judged
SPREAD = 1.4826  # standard deviations of a normal distribution in its median absolute deviation
SURE = 1e-3  # least variance between the logarithms of what choices of a kind cost
COUNT = 8  # architectures with which a search begins


@dataclass(frozen=True, eq=False)
class Design:
    """The networks that are evaluated: codes (n, choices), of which the first is the largest.

    alone: choice -> row in which it alone is at its smallest.  halves, ends: kind -> row in which all of its
    choices are half-way, and at their smallest.
    """

    codes: Codes
    alone: dict[int, int]
    halves: dict[str, int]
    ends: dict[str, int]

    @classmethod
    def of(cls, space: SearchSpace) -> Self:
        """About one network for each choice that has several options and does something in the largest."""
        top = space.encode([space.largest])[0]
        places = [i for i, choice in enumerate(space.choices) if len(choice.options) > 1 and top[i] > 0]
        rows, alone = [top], dict[int, int]()
        for place in places:
            alone[place] = len(rows)
            rows.append(_with(top, [place], 0))
        halves, ends = dict[str, int](), dict[str, int]()
        last = np.array([len(choice.options) - 1 for choice in space.choices])
        for kind, of_kind in kinds(space, places).items():
            if last[of_kind].max() > 1:
                halves[kind] = len(rows)
                rows.append(_with(top, of_kind, last[of_kind] // 2))
            ends[kind] = len(rows)
            rows.append(_with(top, of_kind, 0))
        return cls(space.canonical(np.array(rows)), alone, halves, ends)


@dataclass(frozen=True, eq=False)
class Sensitivities:
    """What is believed of the losses of a space's architectures, against that of the largest.

    worth: of each choice at its smallest option (choices,), 0 where it costs nothing.  powers: of how far a
    choice is from its largest option, 0 to 1, with which that grows (choices,).
    """

    space: SearchSpace
    worth: Floats
    powers: Floats

    @classmethod
    def of(cls, space: SearchSpace, design: Design, losses: Floats) -> Self:
        """losses: of the design's networks on several samples of examples, (n, samples)."""
        rises = losses - losses[0]
        mean, count = rises.mean(axis=1), losses.shape[1]
        error = rises.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else np.abs(mean)
        worth, powers = np.zeros(len(space.choices)), np.ones(len(space.choices))
        for kind, places in kinds(space, list(design.alone)).items():
            rows = [design.alone[place] for place in places]
            worth[places] = shrunk(mean[rows], error[rows])
            if kind in design.halves:
                half, end = design.halves[kind], design.ends[kind]
                share = float(np.mean([shares(space)[place][design.codes[half, place]] for place in places]))
                powers[places] = _power(mean[half], mean[end], share)
        return cls(space, worth, powers)

    @classmethod
    def from_dict(cls, space: SearchSpace, data: dict[str, Any]) -> Self:
        """Of plain data, as `to_dict` makes it."""
        return cls(space, np.array(data["worth"]), np.array(data["powers"]))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the choices' names are for those who read it."""
        names = [choice.name for choice in self.space.choices]
        return {"choices": names, "worth": self.worth.tolist(), "powers": self.powers.tolist()}

    def expected(self, codes: Codes) -> Floats:
        """By how much architectures (n, choices) are believed to lose against the largest, (n,)."""
        columns = [table[codes[:, i]] for i, table in enumerate(self._tables)]
        expected: Floats = np.sum(columns, axis=0)
        return expected

    def start(self, problem: SearchProblem, count: int = COUNT) -> Codes:
        """At most `count` architectures within the limits, on the way from the largest to the smallest on
        which each step gives up least for what it saves; evenly by what they cost, the dearest first.

        What is saved are the costs that are objectives or have limits. None where there is no such cost;
        where the quality alone is optimised, the dearest alone.
        """
        names = _costs(problem)
        if not names:
            return self.space.encode([])
        path = self._path(problem, names)
        inside = problem.within_limits(path)
        path, costs = path[inside], self._cost(problem, names, path[inside])
        if len(path) < 2 or len(problem.objectives) == 1:
            return path[:1]
        wanted = np.linspace(costs[0], costs[-1], count)
        nearest = np.abs(costs[:, None] - wanted).argmin(axis=0)
        chosen: Codes = path[np.unique(nearest)]
        return chosen

    def guiding(self, problem: SearchProblem) -> SearchProblem:
        """The same problem, begun and modelled with what is believed here."""
        first = self.space.decode(self.start(problem))
        return replace(problem, start=(*first, *problem.start), expected=self.expected)

    def _path(self, problem: SearchProblem, names: list[str]) -> Codes:
        code = self.space.encode([self.space.largest])
        path = [code[0]]
        while True:
            lower = _one_lower(self.space, code[0])
            both = np.concatenate([code, lower])
            lost, cost = self.expected(both), self._cost(problem, names, both)
            saved = cost[0] - cost[1:]
            useful = np.flatnonzero(saved > 0)
            if not len(useful):
                return np.array(path)
            rates = (lost[1:] - lost[0])[useful] / saved[useful]
            code = lower[useful[[int(np.argmin(rates))]]]
            path.append(code[0])

    def _cost(self, problem: SearchProblem, names: list[str], codes: Codes) -> Floats:
        """The costs as shares of those of the largest, added up, (n,)."""
        top = self.space.encode([self.space.largest])
        costs, most = problem.costs(codes), problem.costs(top)
        columns = [np.asarray(costs[name], dtype=np.float64) / float(most[name][0]) for name in names]
        total: Floats = np.sum(columns, axis=0)
        return total

    @cached_property
    def _tables(self) -> list[Floats]:
        """For each choice what its options cost; the last entry is of one that does not exist: nothing."""
        return [
            np.append(worth * share**power, 0.0)
            for worth, power, share in zip(self.worth, self.powers, shares(self.space), strict=True)
        ]


def _with(code: Code, places: list[int], options: NDArray[np.int64] | int) -> Code:
    """The code with other options at some places."""
    changed = code.copy()
    changed[places] = options
    return changed


def kinds(space: SearchSpace, places: list[int]) -> dict[str, list[int]]:
    """The choices at these places by what they choose: those of all layers are of one kind."""
    by_kind: dict[str, list[int]] = {}
    for place in places:
        by_kind.setdefault(group_of(space.choices[place].name)[0], []).append(place)
    return by_kind


def shares(space: SearchSpace) -> list[Floats]:
    """For each choice how far its options are from the largest, 1 to 0: by value, where they have one."""
    tables = []
    for choice in space.choices:
        values = np.arange(len(choice.options), dtype=np.float64)
        if all(type(option) in (int, float) for option in choice.options):
            values = np.array(choice.options, dtype=np.float64)
        span = values[-1] - values[0]
        tables.append((values[-1] - values) / span if span else np.zeros(len(values)))
    return tables


def shrunk(means: Floats, errors: Floats) -> Floats:
    """What choices of one kind cost (n,), each moved to what is usual as far as its error says.

    By their logarithms, since a few cost many times what is usual; what seems to cost less than its error is
    taken to cost that much. Few choices stay as they are, but for those below 0.
    """
    least = np.maximum(errors, 1e-12)
    if len(means) < FEWEST:
        return np.maximum(means, 0.0)
    logs, noise = np.log(np.maximum(means, least)), np.square(least / np.maximum(means, least))
    off = logs - np.median(logs)
    usual = (SPREAD * float(np.median(np.abs(off)))) ** 2
    between = max(usual - float(np.median(noise)), SURE)
    # Who is far off, for its noise and for what is usual, is no draw from the usual.
    apart = np.square(off) > 9 * (between + noise)
    kept = np.where(apart, 1 - noise / np.maximum(np.square(off), noise), between / (between + noise))
    moved: Floats = np.exp(np.median(logs) + kept * off)
    return moved


def _power(half: float, end: float, share: float) -> float:
    """Of a curve through 0, the rise where a share of the way is gone, and that at the end."""
    if not (0 < half < end and 0 < share < 1):
        return POWERS[1] if end > 0 >= half else POWERS[0]
    return float(np.clip(np.log(half / end) / np.log(share), *POWERS))


def _one_lower(space: SearchSpace, code: NDArray[np.int64]) -> Codes:
    """The architectures in which one choice is an option lower."""
    places = np.flatnonzero(code > 0)
    rows = np.repeat(code[None], len(places), axis=0)
    rows[np.arange(len(places)), places] -= 1
    return space.canonical(rows)


def _costs(problem: SearchProblem) -> list[str]:
    """The names of the costs that are objectives or have limits from above."""
    costs = problem.costs(problem.space.encode([problem.space.largest]))
    limited = [limit.name for limit in problem.limits if _is_from_above(limit)]
    return [name for name in dict.fromkeys([*problem.objectives, *limited]) if name in costs]


def _is_from_above(limit: Limit) -> bool:
    return limit.operator in ("<", "<=")

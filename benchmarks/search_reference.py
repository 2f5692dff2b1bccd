"""The best that there is of a search problem: its front, by brute force where that is possible."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import moocore
import numpy as np
from search_problems import MAT_LAYERS, MAT_RATIOS, Floats, Problem

from nas.proposals.selection import best
from search_spaces.space import Codes

CORNER = 1.1  # the reference point of the hypervolume, where the front's box ends at 1
SHARES = (0.25, 0.5, 0.75)  # of the range of costs on the front, for the latency-limited pick
POPULATION, GENERATIONS, RESTARTS = 400, 400, 3
CLIMBS, CLIMBERS = 60, 200
DENSE = 3000  # members of a front of several costs, from which on it is not climbed any further


@dataclass(frozen=True, eq=False)
class Reference:
    """A front (n, objectives), all minimised, without noise.

    exact: whether nothing better exists; otherwise it is the best that long searches found.
    """

    front: Floats
    exact: bool

    def _scaled(self, values: Floats) -> Floats:
        low, high = self.front.min(axis=0), self.front.max(axis=0)
        return (values - low) / np.maximum(high - low, 1e-12)

    @cached_property
    def _whole(self) -> float:
        return self._volume(self.front)

    def _volume(self, values: Floats) -> float:
        return float(moocore.hypervolume(self._scaled(values), ref=np.full(values.shape[1], CORNER)))

    def hypervolume(self, values: Floats) -> float:
        """Of values (n, objectives) without noise, as a share of the front's."""
        return self._volume(values) / self._whole if len(values) else 0.0

    def limits(self) -> Floats:
        """The limits of the first cost at SHARES of its range on the front."""
        low, high = self.front[:, 1].min(), self.front[:, 1].max()
        return low + np.array(SHARES) * (high - low)

    def regrets(self, told: Floats, truth: Floats) -> list[float]:
        """Accuracy (a share) that is lost at each limit by the subnet that looks best among those evaluated.

        It is the best by what was told; what it loses is by the truth. NaN: none is within the limit.
        """
        lost = []
        for limit in self.limits():
            within = np.flatnonzero(truth[:, 1] <= limit)
            optimum = self.front[self.front[:, 1] <= limit, 0].min()
            pick = within[told[within, 0].argmin()] if len(within) else None
            lost.append(float("nan") if pick is None else float(truth[pick, 0] - optimum))
        return lost


def reference(problem: Problem, folder: Path) -> Reference:
    """The problem's front; found once, then read from the folder."""
    path = folder / f"front-{problem.name}.json"
    exact = problem.name == "mat" or problem.space.listable
    if not path.exists():
        codes = _front(problem)
        path.write_text(json.dumps(codes.tolist()), encoding="utf-8")
    codes = np.array(json.loads(path.read_text(encoding="utf-8")), dtype=np.int64)
    return Reference(problem.truth(codes), exact)


def _front(problem: Problem) -> Codes:
    if problem.name == "mat":
        return _mat_front(problem)
    if problem.space.listable:
        return _best_of(problem, problem.space.all_codes())[0]
    return _searched_front(problem)


def _best_of(problem: Problem, codes: Codes) -> tuple[Codes, Floats]:
    """Those within the limits, non-dominated, among codes, with their objectives."""
    codes = codes[problem.within_limits(codes)]
    values = problem.truth(codes)
    front = moocore.is_nondominated(values)
    return codes[front], values[front]


def _mat_front(problem: Problem) -> Codes:
    """By looking at all 4^12, a part at a time."""
    half = MAT_LAYERS // 2
    rest = np.indices([len(MAT_RATIOS)] * half).reshape(half, -1).T
    found: Codes = np.empty((0, MAT_LAYERS), dtype=np.int64)
    for start in range(0, len(rest), 64):
        first = rest[start : start + 64]
        block = np.concatenate([np.repeat(first, len(rest), axis=0), np.tile(rest, (len(first), 1))], axis=1)
        found, _ = _best_of(problem, np.concatenate([found, block]))
    return found


def _searched_front(problem: Problem) -> Codes:
    """Long runs of NSGA-II on the truth without noise, then Pareto local search from what they found."""
    rng = np.random.default_rng(0)
    found: Codes = problem.space.encode(problem.space.uniform(8))
    for _ in range(RESTARTS):
        found, _ = _best_of(problem, np.unique(np.concatenate([found, _nsga2(problem, rng)]), axis=0))
    tried: set[bytes] = set()
    for _ in range(CLIMBS):
        fresh = [code for code in found if code.tobytes() not in tried][:CLIMBERS]
        if not fresh or len(found) > DENSE:
            break
        tried.update(code.tobytes() for code in fresh)
        near = np.concatenate([_neighbours(problem, code, rng) for code in fresh])
        found, _ = _best_of(problem, np.unique(np.concatenate([found, near]), axis=0))
    return found


def _nsga2(problem: Problem, rng: np.random.Generator) -> Codes:
    """The last population; architectures beyond the limits are worse the farther they are."""
    space = problem.space
    start = np.concatenate([space.encode(space.uniform(8)), space.sample_choices(rng, POPULATION)])
    alive = np.unique(start, axis=0)
    rate = 1 / len(space.choices)
    for _ in range(GENERATIONS):
        a, b = (alive[rng.integers(len(alive), size=POPULATION)] for _ in range(2))
        children = space.crossed(rng, a, b)
        children = space.redrawn(rng, children, rng.random(children.shape) < rate)
        alive = np.unique(np.concatenate([alive, children]), axis=0)
        values, outside = problem.truth(alive), problem.outside(alive)
        worst = values.max(axis=0)
        values = np.where(outside[:, None] > 0, worst + outside[:, None] * np.abs(worst), values)
        alive = alive[best(values, POPULATION)]
    return alive


def _neighbours(problem: Problem, code: np.ndarray, rng: np.random.Generator) -> Codes:
    """All that differ in one choice; what comes into being with one is drawn."""
    counts = np.array([len(choice.options) for choice in problem.space.choices])
    place = np.repeat(np.arange(len(code)), counts)
    option = np.concatenate([np.arange(count) for count in counts])
    other = (code[place] >= 0) & (code[place] != option)
    codes = np.where(place[other, None] == np.arange(len(code)), option[other, None], code)
    return problem.space.redrawn(rng, codes, np.zeros(codes.shape, dtype=np.bool_))

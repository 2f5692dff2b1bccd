"""A searcher for each member of a union: a batch is divided among them by what they have gained lately.

For searchers that predict nothing, whose proposals cannot be compared before they are evaluated. Half of a
batch is divided equally; the other half by how much hypervolume the front would lose without what a member's
searcher proposed last. Ours.
"""

from collections.abc import Mapping
from typing import Protocol

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.proposals.inner_search import REFERENCE
from nas.proposals.problem import SearchProblem
from nas.proposals.trials import Finished, Trials
from search_spaces.space import Codes

RECENT = 2  # batches, of which it counts what they gained

Floats = NDArray[np.float64]


class Asked(Protocol):
    """Of a `nas.searchers.Searcher` what is needed of it here."""

    def ask(self, count: int) -> Codes: ...

    def tell(self, codes: Codes, values: Floats | None, errors: Floats | None = None) -> None: ...


class InEachMember:
    """A `nas.searchers.Searcher` of a union made of one for each member, by the members' names.

    Nothing is asked of one that is not proposed. A share depends on what was told only, so that a search
    which is told again what it was told goes on as if it had never stopped.
    """

    def __init__(self, problem: SearchProblem, searchers: Mapping[str, Asked]) -> None:
        self._problem, self._searchers, self._trials = problem, searchers, Trials(problem)

    def ask(self, count: int) -> Codes:
        """See `nas.searchers.Searcher`."""
        space, wanted, codes = self._problem.space, self._shares(count), [self._problem.space.encode([])]
        left = list(self._searchers)
        while left and any(wanted.values()):
            for name in list(left):
                proposed = self._searchers[name].ask(wanted[name]) if wanted[name] else None
                if proposed is None:
                    continue
                codes.append(space.joined_codes(name, proposed))
                wanted[name] -= len(proposed)
                if wanted[name]:  # it has no more: others propose in its place
                    left.remove(name)
            missing = sum(wanted.values())
            wanted = dict.fromkeys(self._searchers, 0) | _equal(left, missing)
        whole = np.concatenate(codes)
        for code in whole:
            self._trials.add(code)
        return whole

    def tell(self, codes: Codes, values: Floats | None, errors: Floats | None = None) -> None:
        """See `nas.searchers.Searcher`."""
        space = self._problem.space
        for name, searcher in self._searchers.items():
            of_member = space.is_of(name, codes)
            if of_member.any():
                searcher.tell(
                    space.own_codes(name, codes[of_member]),
                    None if values is None else values[of_member],
                    None if errors is None else errors[of_member],
                )
        for i, code in enumerate(codes):
            if code.tobytes() not in self._trials.numbers:
                self._trials.add(code)
            if values is not None:
                error = np.full(values.shape[1], np.nan) if errors is None else errors[i]
                self._trials.tell(code, values[i], error)

    def _shares(self, count: int) -> dict[str, int]:
        """How many of a batch each member's searcher proposes; as many until something is known of each."""
        names, done = list(self._searchers), self._trials.finished()
        gains = self._gains(done)
        if gains is None or not gains.sum():
            return _equal(names, count, first=len(self._trials))
        shares = 0.5 / len(names) + 0.5 * gains / gains.sum()
        exact = count * shares
        whole = np.floor(exact).astype(int)
        for place in np.argsort(whole - exact, kind="stable")[: count - whole.sum()]:
            whole[place] += 1
        return dict(zip(names, whole.tolist(), strict=True))

    def _gains(self, done: Finished) -> Floats | None:
        """The hypervolume that the front owes to each member's latest proposals; None: not known yet."""
        of_each = [np.flatnonzero(self._problem.space.is_of(name, done.codes)) for name in self._searchers]
        if not all(map(len, of_each)):
            return None
        values = done.values
        front = values[moocore.is_nondominated(values)]
        low, high = front.min(axis=0), front.max(axis=0)
        points = (values - low) / np.where(high > low, high - low, 1.0)
        recent, whole = RECENT * self._problem.batch, _volume(points)
        return np.array([whole - _volume(np.delete(points, rows[-recent:], axis=0)) for rows in of_each])


def _volume(points: Floats) -> float:
    """The hypervolume of points (n, objectives), minimised; of one objective how far the best one reaches."""
    if points.shape[1] == 1:
        return REFERENCE - float(points.min(initial=REFERENCE))
    return float(moocore.hypervolume(points, ref=np.full(points.shape[1], REFERENCE)))


def _equal(names: list[str], count: int, *, first: int = 0) -> dict[str, int]:
    """So many for each, the rest for those whose turn it is."""
    if not names:
        return {}
    each, rest = divmod(count, len(names))
    turn = {names[(first + i) % len(names)] for i in range(rest)}
    return {name: each + (name in turn) for name in names}

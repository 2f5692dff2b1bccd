"""When a search ends before its budget, because its last batches gained nothing worth their evaluations.

What decides is read off the stored batches and nothing else, so that a resumed search ends where an
uninterrupted one ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from nas.config import StopConfig
from nas.search.objectives import Objectives, values_of
from nas.store import Evaluation


@dataclass(frozen=True)
class Gains:
    """How the hypervolume has grown, batch by batch, as far as `rule` looks back.

    volumes: before the first of these batches, and after each.
    """

    rule: StopConfig | None
    volumes: tuple[float, ...] = (0.0,)

    @classmethod
    def of(cls, rule: StopConfig | None, objectives: Objectives, stored: Sequence[Evaluation]) -> "Gains":
        """After the stored batches; the hypervolume is that of `Objectives.hypervolume`."""
        if rule is None:
            return cls(None)
        batches = [list(rows) for _, rows in groupby(stored, key=lambda evaluation: evaluation.batch)]
        values = [values_of(objectives, [row for row in rows if row.state == "ok"]) for rows in batches]
        first = max(0, len(batches) - rule.patience)
        return cls(rule, tuple(_volume(objectives, values[:end]) for end in range(first, len(batches) + 1)))

    def after(self, volume: float) -> "Gains":
        """With one more batch, after which the hypervolume is this one."""
        if self.rule is None:
            return self
        return Gains(self.rule, (*self.volumes, volume)[-self.rule.patience - 1 :])

    @property
    def reason(self) -> str | None:
        """Why the search ends now, in words behind "because"; None while it goes on.

        It ends when each of the last `patience` batches gained less than `gain` of the hypervolume before it.
        """
        if self.rule is None or len(self.volumes) <= self.rule.patience:
            return None
        if not all(map(self._is_little, self.volumes, self.volumes[1:])):
            return None
        count = self.rule.patience
        batches = f"each of the last {count} batches" if count > 1 else "the last batch"
        return f"{batches} gained less than {100 * self.rule.gain:g} % of hypervolume"

    def _is_little(self, before: float, after: float) -> bool:
        assert self.rule is not None
        return after <= before or after - before < self.rule.gain * before


def _volume(objectives: Objectives, batches: Sequence[NDArray[np.float64]]) -> float:
    return objectives.hypervolume(np.concatenate(batches)) if batches else 0.0

"""How long something may take before it counts as hung: many times what the slowest of its kind took."""

from dataclasses import dataclass, field

SHORTEST_SECONDS = 60.0
FIRST_SECONDS = 3600.0
FACTOR = 30.0


@dataclass
class Deadlines:
    """Deadlines that follow from what was seen so far.

    shortest: seconds below which nothing counts as hung.  first: seconds that the first of a kind has.
    factor: times the slowest of the kind, per unit of work.
    """

    shortest: float = SHORTEST_SECONDS
    first: float = FIRST_SECONDS
    factor: float = FACTOR
    _slowest: dict[str, float] = field(default_factory=dict)

    def seconds(self, kind: str, work: float = 1.0) -> float:
        """That so much work of a kind may take."""
        if kind not in self._slowest:
            return max(self.first, self.shortest)
        return max(self.shortest, self.factor * self._slowest[kind] * work)

    def took(self, kind: str, seconds: float, work: float = 1.0) -> None:
        """Notes how long so much work has taken."""
        self._slowest[kind] = max(self._slowest.get(kind, 0.0), seconds / max(work, 1.0))

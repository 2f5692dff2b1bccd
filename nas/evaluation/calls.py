"""What a worker is asked, and whose turn it is."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from search_spaces import Architecture


@dataclass(frozen=True)
class Call:
    """A method of an `EvaluationWorker` for some subnets; `worker`: who had best do it.

    examples: to each subnet, which tells with their number how much work it is.
    """

    method: str
    archs: list[Architecture]
    rest: tuple[Any, ...]
    worker: int
    examples: int = 1

    @property
    def work(self) -> float:
        return float(len(self.archs) * self.examples)

    def halves(self) -> "list[Call]":
        """The two, or itself."""
        middle = (len(self.archs) + 1) // 2
        parts = (self.archs[:middle], self.archs[middle:])
        return [replace(self, archs=part) for part in parts if part]


@dataclass(frozen=True)
class Attempt:
    """The number of the call of which this is a part, and how often it has failed."""

    number: int
    call: Call
    failures: int = 0


def next_attempt(waiting: Sequence[deque[Attempt]], place: int) -> Attempt | None:
    """A worker's own next task; or the last of who has most left, so that none is idle while others toil."""
    if waiting[place]:
        return waiting[place].popleft()
    longest = max(waiting, key=len)
    return longest.pop() if longest else None

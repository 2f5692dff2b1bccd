"""Activations behind the first steps of networks, kept across batches of architectures within a byte budget.

Eviction: Cao and Irani, "Cost-Aware WWW Proxy Caching Algorithms" (1997), GreedyDual-Size.
"""

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from typing import Any


@dataclass(slots=True)
class _Entry:
    value: Any
    size: int
    worth: float
    priority: float
    turn: int


class PrefixCache:
    """Values by key, at most `budget` bytes of them.

    A value's priority is what a byte of it costs to compute again, on top of a floor that rises to the
    priority of whatever was evicted last: what is cheap or large, and has not been used for long, goes first.
    Whoever fills it makes keys that tell all that a value depends on: examples, weights, steps.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.used = budget, 0
        self.hits = self.misses = 0
        self._floor = 0.0
        self._entries: dict[Hashable, _Entry] = {}
        self._queue: list[tuple[float, int, Hashable]] = []
        self._turns = count()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Any | None:
        """The value, which counts as used now, or None."""
        entry = self._entries.get(key)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._refresh(key, entry)
        return entry.value

    def put(self, key: Hashable, value: Any, *, size: int, cost: float) -> None:
        """Keeps a new value of `size` bytes, unless it is larger than the budget.

        cost: of computing it again, in any unit that all values have in common.
        """
        assert key not in self._entries, "whoever fills the cache has looked first"
        if size > self.budget:
            return
        self.used += size
        while self.used > self.budget:
            self._evict()
        entry = self._entries[key] = _Entry(value, size, cost / max(size, 1), 0.0, 0)
        self._refresh(key, entry)

    def _refresh(self, key: Hashable, entry: _Entry) -> None:
        entry.priority, entry.turn = self._floor + entry.worth, next(self._turns)
        heapq.heappush(self._queue, (entry.priority, entry.turn, key))
        # Every use leaves an outdated line behind.
        if len(self._queue) > 4 * len(self._entries) + 64:
            self._queue = [(e.priority, e.turn, k) for k, e in self._entries.items()]
            heapq.heapify(self._queue)

    def _evict(self) -> None:
        while True:
            priority, turn, key = heapq.heappop(self._queue)
            entry = self._entries.get(key)
            if entry is not None and entry.turn == turn:
                break
        self._floor = priority
        self.used -= entry.size
        del self._entries[key]

"""What pages ask that takes predictors: the command line and the server, which may load them, answer."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

MOST_KEPT = 60  # answers
Subnet = str | dict[str, Any]  # a key, or an architecture as plain data


class WhatIf(Protocol):
    """The document of `nas what-if --json`. Raises NASError."""

    def __call__(self, job_id: int, *, limits: list[str], device: str | None) -> dict[str, Any]: ...


class Explain(Protocol):
    """The document of `nas explain --json`. Raises NASError."""

    def __call__(
        self, job_id: int, subnet: Subnet, *, other: Subnet | None, device: str | None
    ) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Asks:
    """Who answers; None: nobody does, and pages do not offer to ask."""

    what_if: WhatIf | None = None
    explain: Explain | None = None


NOBODY = Asks()


class Answers:
    """Answers by what they depend on. Threads may share them, and wait for none but their own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, ask: Callable[[], Any]) -> Any:
        """The answer for this key, which is asked for if it is not there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        answer = ask()
        with self._lock:
            self._kept[key] = answer
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return answer

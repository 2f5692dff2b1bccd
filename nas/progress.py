"""How a job tells what it is doing, whoever listens, and how long the rest takes."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

MOST_POINTS = 512


class Progress(Protocol):
    """Somebody who wants to know how far a job is."""

    def stage(self, name: str) -> None:
        """A stage begins, and the one before is over."""

    def update(self, done: int, total: int, **info: object) -> None:
        """`done` of `total` units of the stage; `info` is worth seeing, such as loss or hypervolume."""

    def warn(self, message: str) -> None:
        """Something went wrong that the job survives."""


class Silent:
    """A `Progress` that nobody reads."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def update(self, done: int, total: int, **info: object) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """Nothing."""


class Pace:
    """When how much of a stage was done, from which follows how long the rest takes."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []
        self._total = 0

    def left(self, seconds: float, done: int, total: int) -> float | None:
        """Seconds left, `done` of `total` being over at `seconds`; another total is other work."""
        if total != self._total or (self._points and done < self._points[-1][1]):
            self._points, self._total = [], total
        self._points.append((seconds, done))
        if len(self._points) > MOST_POINTS:
            self._points = [*self._points[:-1:2], self._points[-1]]
        return seconds_left(self._points, total)


def seconds_left(points: Sequence[tuple[float, int]], total: int) -> float | None:
    """How long the rest takes at the pace of the last half of what was seen; None while there is no pace.

    points: (seconds, units done), in order. The first half may have been slow for reasons that are gone: what
    had to be started, a front that was not known yet.
    """
    if not points:
        return None
    end, done = points[-1]
    halfway = (points[0][1] + done) / 2
    began, before = points[max(0, bisect_right(points, halfway, key=lambda point: point[1]) - 1)]
    if done <= before or end <= began:
        return None
    return (end - began) * max(0, total - done) / (done - before)

"""How a job tells what it is doing, whoever listens."""

from typing import Protocol


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

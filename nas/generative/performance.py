"""The universal performance function: what a generator maximises where all requirements are kept.

Source of the idea: Wong et al., "FermiNets" (arXiv 1809.05989) and "NetScore" (arXiv 1806.05512).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import UsageError, did_you_mean

Floats = NDArray[np.float64]
Function = Callable[[Floats, Mapping[str, Any]], Floats]


def quality_alone(quality: Floats, metrics: Mapping[str, Any]) -> Floats:
    """The quality; what it may cost is the budgets' business."""
    return quality


def netscore(quality: Floats, metrics: Mapping[str, Any]) -> Floats:
    """20 log10(a^2 / sqrt(p m)): accuracy a in %, parameters p in millions, MACs m in billions."""
    accuracy = 100 * np.maximum(quality, 1e-6)
    params = np.asarray(metrics["params"], dtype=np.float64) / 1e6
    macs = np.asarray(metrics["macs"], dtype=np.float64) / 1e9
    return 20 * np.log10(accuracy**2 / np.sqrt(params * macs))


FUNCTIONS: Mapping[str, Function] = {"quality": quality_alone, "netscore": netscore}


@dataclass(frozen=True)
class Performance:
    """A performance function and the quality that a network must have at least, or None."""

    name: str = "quality"
    floor: float | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for an unknown function, and for NetScore without a floor."""
        if not isinstance(self.name, str) or self.name not in FUNCTIONS:
            raise UsageError(
                f"search.options.performance = {self.name!r} is unknown.",
                did_you_mean(str(self.name), FUNCTIONS),
            )
        if self.floor is not None and (
            isinstance(self.floor, bool) or not isinstance(self.floor, int | float) or not 0 < self.floor < 1
        ):
            raise UsageError(
                f"search.options.accuracy_floor = {self.floor!r} is not a number between 0 and 1."
            )
        if self.name == "netscore" and self.floor is None:
            raise UsageError(
                "NetScore alone prefers tiny networks that have learned nothing.",
                "Set search.options.accuracy_floor, too, such as 0.7.",
            )

    def __call__(self, quality: Floats, metrics: Mapping[str, Any]) -> Floats:
        """Performance (n,) of qualities (n,) and metrics by name, (n,) each."""
        return FUNCTIONS[self.name](quality, metrics)

    def below(self, quality: Floats) -> Floats:
        """How far qualities (n,) are below the floor, (n,); 0: they are not."""
        return np.zeros(len(quality)) if self.floor is None else np.maximum(self.floor - quality, 0)

"""Numbers of several fronts in one box: hypervolume, and which share of one the others beat, with errors.

Errors are those that the standard errors of the qualities make: all qualities are drawn anew within them, and
the numbers computed again (a parametric bootstrap: Efron and Tibshirani, "An Introduction to the Bootstrap",
1993).
"""

from collections.abc import Callable
from dataclasses import dataclass

import moocore
import numpy as np
import pandas as pd
from numpy.typing import NDArray

DRAWS = 1000
SEED = 0
BEYOND = 1.1  # the worst cost of a box over that of the costliest subnet, so that this one counts, too

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error; 0 where no quality of the fronts has one."""

    value: float
    stderr: float

    def to_dict(self) -> dict[str, float]:
        """Plain data."""
        return {"value": self.value, "stderr": self.stderr}


@dataclass(frozen=True, eq=False)
class Boxed:
    """Members of all fronts in the box: everything from 0, the best, to 1, the worst that counts.

    losses, errors: of quality, (n,).  costs: (n, costs).  same: for each the first member that is the same
    subnet with the same quality, whose draws it shares, (n,).  fronts: which front each is of, (n,), from 0.
    """

    losses: Floats
    errors: Floats
    costs: Floats
    same: NDArray[np.int64]
    fronts: NDArray[np.int64]

    def drawn(self, rng: np.random.Generator) -> Floats:
        """Losses (n,) as they might have been, within their errors."""
        noise: Floats = rng.standard_normal(len(self.losses))[self.same]
        return np.maximum(self.losses + self.errors * noise, 0.0)


@dataclass(frozen=True)
class Numbers:
    """Of fronts in a box.

    hypervolumes: shares of the box.  beaten: of each the share of its members that one of another front
    beats.  together: the hypervolume of all.  differences: of the first front's and each one's.
    """

    hypervolumes: tuple[Estimate, ...]
    beaten: tuple[Estimate, ...]
    together: Estimate
    differences: tuple[Estimate, ...]


def numbers(boxed: Boxed, *, draws: int = DRAWS) -> Numbers:
    """Everything that is told of the fronts, as shown, with its spread over the draws."""
    cheaper, cheapest = _cheaper(boxed.costs)
    count = int(boxed.fronts.max()) + 1
    of_front = [boxed.fronts == i for i in range(count)]
    everyone = np.ones(len(boxed.losses), dtype=np.bool_)

    def of_losses(losses: Floats) -> dict[str, float]:
        volumes = [_hypervolume(losses, boxed.costs, which) for which in of_front]
        beaten = _beats(losses, cheaper, cheapest)
        shares = [float(beaten[~of][:, of].any(axis=0).mean()) for of in of_front]
        return {
            **{f"hypervolume {i}": volume for i, volume in enumerate(volumes)},
            "together": _hypervolume(losses, boxed.costs, everyone),
            **{f"difference {i}": volumes[0] - volume for i, volume in enumerate(volumes)},
            **{f"beaten {i}": share for i, share in enumerate(shares)},
        }

    estimates = _with_errors(of_losses, boxed, draws)
    of_each = {
        name: tuple(estimates[f"{name} {i}"] for i in range(count))
        for name in ("hypervolume", "beaten", "difference")
    }
    return Numbers(of_each["hypervolume"], of_each["beaten"], estimates["together"], of_each["difference"])


def _with_errors(
    numbers: Callable[[Floats], dict[str, float]], boxed: Boxed, draws: int
) -> dict[str, Estimate]:
    shown = numbers(boxed.losses)
    if not boxed.errors.any():
        return {name: Estimate(value, 0.0) for name, value in shown.items()}
    rng = np.random.default_rng(SEED)
    drawn = pd.DataFrame([numbers(boxed.drawn(rng)) for _ in range(draws)])
    return {name: Estimate(value, float(drawn[name].std(ddof=1))) for name, value in shown.items()}


def _cheaper(costs: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether one costs nowhere more than another, and whether besides somewhere less: (n, n) each."""
    apart = costs[:, None] - costs[None]
    cheaper: NDArray[np.bool_] = np.all(apart <= 0, axis=2)
    return cheaper, cheaper & np.any(apart < 0, axis=2)


def _beats(losses: Floats, cheaper: NDArray[np.bool_], cheapest: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether one beats another, (n, n): worse in nothing, better in something."""
    apart = losses[:, None] - losses[None]
    return (cheaper & (apart < 0)) | (cheapest & (apart <= 0))


def _hypervolume(losses: Floats, costs: Floats, which: NDArray[np.bool_]) -> float:
    values = np.minimum(np.column_stack([losses, costs])[which], 1.0)
    return float(moocore.hypervolume(values, ref=np.ones(values.shape[1])))

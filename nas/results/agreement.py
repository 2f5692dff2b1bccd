"""Whether two qualities put subnets in the same order: Kendall's tau with its confidence interval."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEWEST = 3
FEWEST_FOR_INTERVAL = 8  # in each group; below, the bootstrap's interval covers too little
RESAMPLES = 2000
CONFIDENCE = 0.95
NOISE = 0.4  # tau below which the halves of a split do not agree on a ranking


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b over `count` subnets; `low` and `high` enclose 95 % of its bootstrap distribution.

    They are None where there are too few subnets to tell; also where all are in one order, of which every
    sample says the same.
    """

    tau: float
    low: float | None
    high: float | None
    count: int

    @property
    def is_noise(self) -> bool:
        """Whether the two agree too little to order anything by: the tau is small, or may be none at all."""
        return self.tau < NOISE or (self.low is not None and self.low <= 0)

    def to_dict(self) -> dict[str, float | None]:
        """Plain data."""
        return asdict(self)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.tau:.2f} ({self.count} subnets: too few for an interval)"
        return f"{self.tau:.2f} (95 % interval {self.low:.2f} to {self.high:.2f}, {self.count} subnets)"


def agreement(
    groups: Sequence[tuple[Sequence[float], Sequence[float]]], *, seed: int = 0
) -> Agreement | None:
    """Of two qualities of the same subnets, in one group or, by the mean of their taus, in several.

    The interval is that of the percentile bootstrap over the subnets of each group. None without groups, and
    where one has fewer than three subnets.
    """
    pairs = [(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)) for a, b in groups]
    if not pairs or min(len(a) for a, _ in pairs) < FEWEST:
        return None
    whole = float(np.mean([taus_of_samples(a, b, np.ones((1, len(a)))) for a, b in pairs]))
    count = sum(len(a) for a, _ in pairs)
    if min(len(a) for a, _ in pairs) < FEWEST_FOR_INTERVAL or abs(whole) == 1:
        return Agreement(whole, None, None, count)
    rng = np.random.default_rng(seed)
    draws = np.mean([taus_of_samples(a, b, bootstrap_samples(len(a), rng)) for a, b in pairs], axis=0)
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Agreement(whole, float(low), float(high), count)


def bootstrap_samples(count: int, rng: np.random.Generator) -> Floats:
    """How often each subnet is in each of RESAMPLES bootstrap samples."""
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)


def taus_of_samples(a: Floats, b: Floats, times: Floats) -> Floats:
    """Tau-b of samples (n, subnets) that hold each subnet so many times; 0 where one side is constant.

    All at once: scipy would take seconds for a bootstrap.
    """
    x, y = np.sign(a[:, None] - a), np.sign(b[:, None] - b)
    both, of_x, of_y = (((times @ m) * times).sum(axis=1) for m in (x * y, x * x, y * y))
    taus: Floats = both / np.maximum(np.sqrt(of_x * of_y), 1)
    return taus

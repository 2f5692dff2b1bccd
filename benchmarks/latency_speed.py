"""What predictors cost in CPU time: a fit on 20 networks, and a million predictions in every space.

The tables of a space, made once when it is first asked for, are not counted.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

import search_spaces
from predictors.predictor import Predictor
from search_spaces import SearchSpace
from search_spaces.registry import load
from search_spaces.space import Codes

FITTED = 20
MILLION = 1_000_000
SMALLEST_SPACE = 1_000
PART = 10_000  # architectures of which slow predictors are extrapolated from
SLOW_S = 0.1  # a fit, or predictions for a part, that is not repeated or not made for a million
FITS = 9
SLOW_SPACES = ("matformer_vit_b16", "turbovit", "vit_resnas_small")


@dataclass(frozen=True)
class Speed:
    """CPU seconds of a fit (median) and of a million predictions.

    extrapolated: whether the million was made of fewer.
    """

    fit_s: float
    million_s: float
    extrapolated: bool


def cpu_s(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def sample(space: SearchSpace) -> tuple[Codes, np.ndarray]:
    """Networks with made-up latencies: 20 ms per GMAC and 3 % noise."""
    rng = np.random.default_rng(0)
    codes = np.unique(space.sample_choices(rng, 4 * FITTED), axis=0)
    codes = codes[rng.permutation(len(codes))[:FITTED]]
    return codes, space.costs(codes)["macs"] * 2e-8 * np.exp(rng.normal(0, 0.03, len(codes))) + 1


def speed(name: str, space: SearchSpace) -> Speed:
    codes, latency_ms = sample(space)
    built: Predictor = load("predictors.latency", name).build(space)
    fitted = built.fit(codes, latency_ms)
    fits = [cpu_s(lambda: built.fit(codes, latency_ms))]
    if fits[0] < SLOW_S:
        fits += [cpu_s(lambda: built.fit(codes, latency_ms)) for _ in range(FITS - 1)]
    drawn = space.sample_choices(np.random.default_rng(1), PART)
    part_s = cpu_s(lambda: fitted.predict(drawn))
    if part_s > SLOW_S:
        return Speed(median(fits), part_s * MILLION / PART, True)
    many = space.sample_choices(np.random.default_rng(2), MILLION)
    return Speed(median(fits), cpu_s(lambda: fitted.predict(many)), False)


def print_speeds(names: Sequence[str], slow: Sequence[str]) -> None:
    """Of `names` in every space that is large enough, of those that are `slow` in a few."""
    spaces = {name: search_spaces.get(name) for name in search_spaces.names()}
    large = [name for name, space in spaces.items() if space.size >= SMALLEST_SPACE]
    quick = [name for name in names if name not in slow]
    print("# CPU time\n\nSeconds of a million predictions, features included (~: extrapolated from 10,000) /")
    print(f"milliseconds of a fit on {FITTED} networks with left-out errors and intervals (median of {FITS};")
    print("slow ones are timed once).")
    for some, titles in ((quick, large), ([name for name in names if name in slow], SLOW_SPACES)):
        print(f"\n| space | architectures | {' | '.join(some)} |\n|---|---|{'---|' * len(some)}")
        for title in titles:
            found = [speed(name, spaces[title]) for name in some]
            cells = [f"{'~' * s.extrapolated}{s.million_s:.2f} / {1e3 * s.fit_s:.1f}" for s in found]
            print(f"| `{title}` | {spaces[title].size:.3g} | {' | '.join(cells)} |", flush=True)

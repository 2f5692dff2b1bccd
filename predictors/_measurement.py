"""Latencies that repeat on a busy machine: interleaved rounds, each timing between two of a reference net.

A machine's slow-downs last some 100 ms and hit all networks alike. The ratio of a timing to the reference
timings right before and after it is free of them; the median of the ratios over all rounds is the label.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from predictors._metrics import Floats, rank_correlation
from predictors.devices import Device, Example, Run
from search_spaces._errors import JobFailedError, UsageError

if TYPE_CHECKING:
    from torch import nn

CLEAN_QUANTILE = 0.05
SIGMA_PER_IQR = 1 / 1.349
MEDIAN_ERROR_PER_SIGMA = math.sqrt(math.pi / 2)

Factory: TypeAlias = "Callable[[], nn.Module]"


@dataclass(frozen=True, slots=True)
class Measurement:
    """The latency of one subnet on one device.

    latency_ms: of one batch; median over the rounds of timing / mean of its two reference timings, times
        `reference_ms`.
    spread_ms: interquartile range of the rounds' values of the same.
    reference_ms: the reference network's clean time, a low quantile of all its timings in the session.
    raw: per round [seconds, reference seconds before, reference seconds after].
    """

    latency_ms: float
    spread_ms: float
    reference_ms: float
    rounds: int
    raw: list[list[float]]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a subnet has no latency."""

    reason: str


@dataclass(frozen=True, slots=True)
class Repeatability:
    """Odd against even rounds: the noise ceiling that no predictor can be seen to pass.

    mape: mean of |odd - even| / their mean, a fraction.  tau: Kendall's rank correlation.
    """

    mape: float
    tau: float


class ReferenceFailedError(JobFailedError):
    """The reference network cannot be timed, so nothing can."""


def measure(
    device: Device,
    subnets: Mapping[str, Factory],
    example: Example,
    *,
    reference: Factory,
    seed: int,
    rounds: int = 5,
    max_rounds: int = 20,
    target_error: float = 0.015,
    cache_bytes: int = 2**30,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Measurement | Failure]:
    """The latencies of all `subnets` (name -> factory of its module), in their order.

    reference: what every subnet is compared with; it should take at least 5 % of the slowest subnet's time,
        and be the same one wherever latencies are compared.
    rounds, max_rounds: the fewest and the most timings of each subnet; in between, the first round that
        brings the median of the subnets' relative standard errors below `target_error` is the last.
    cache_bytes: weights of modules that are kept between rounds; the others are built anew for every timing.
    progress: called after every timing with the timings done and the most there can be; may raise to stop.
    Raises ReferenceFailedError, and UsageError for impossible rounds or a wrong example. A subnet that cannot
    be built or timed is a Failure.
    """
    if not 2 <= rounds <= max_rounds:
        raise UsageError(f"Cannot measure {rounds} to {max_rounds} rounds.", "The fewest are 2.")
    rng = np.random.default_rng(seed)
    with ExitStack() as stack:
        stack.enter_context(device.session())
        reference_run = stack.enter_context(device.prepare(reference(), example))
        session = _Session(device, example, reference_run, stack, cache_bytes, {name: [] for name in subnets})
        session.reference_seconds()
        for turn in range(max_rounds):
            for visit, name in enumerate(session.order(rng), start=1):
                session.visit(name, subnets[name])
                if progress:
                    progress(turn * len(subnets) + visit, max_rounds * len(subnets))
            if turn + 1 >= rounds and session.relative_error() < target_error:
                break
    return _labels(session.raw, session.failures)


@dataclass
class _Session:
    """A measurement while it runs: prepared networks, which end with `stack`, and the timings so far."""

    device: Device
    example: Example
    reference_run: Run
    stack: ExitStack
    free_bytes: int
    raw: dict[str, list[list[float]]]
    failures: dict[str, Failure] = field(default_factory=dict)
    kept: dict[str, Run] = field(default_factory=dict)

    def order(self, rng: np.random.Generator) -> list[str]:
        """The subnets that have not failed, shuffled."""
        live = [name for name in self.raw if name not in self.failures]
        return [live[i] for i in rng.permutation(len(live))]

    def visit(self, name: str, factory: Factory) -> None:
        """One more round of one subnet."""
        try:
            with ExitStack() as visit:
                run = self.kept[name] if name in self.kept else self._prepare(name, factory, visit)
                self.raw[name].append(self._bracketed(run))
        except ReferenceFailedError:
            raise
        except Exception as error:
            self.failures[name] = Failure(f"{type(error).__name__}: {error}")

    def _prepare(self, name: str, factory: Factory, visit: ExitStack) -> Run:
        """Keeps the run for the session while there is room, else for this visit."""
        module = factory()
        size = sum(t.numel() * t.element_size() for t in chain(module.parameters(), module.buffers()))
        if size > self.free_bytes:
            return visit.enter_context(self.device.prepare(module, self.example))
        self.kept[name] = self.stack.enter_context(self.device.prepare(module, self.example))
        self.free_bytes -= size
        return self.kept[name]

    def _bracketed(self, run: Run) -> list[float]:
        self.device.seconds(run)
        before = self.reference_seconds()
        seconds = _positive(self.device.seconds(run))
        return [seconds, before, self.reference_seconds()]

    def reference_seconds(self) -> float:
        """One timing of the reference network."""
        try:
            return _positive(self.device.seconds(self.reference_run))
        except Exception as error:
            raise ReferenceFailedError(
                f"The reference network cannot be timed on device '{self.device.name}': {error}."
            ) from error

    def relative_error(self) -> float:
        """Median over the subnets that did not fail; 0 when all did."""
        live = (rows for name, rows in self.raw.items() if name not in self.failures)
        errors = [_relative_error(_ratios(rows)) for rows in live]
        return float(np.median(errors)) if errors else 0.0


def _positive(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"a timing of {seconds} s")
    return float(seconds)


def _ratios(raw: list[list[float]]) -> Floats:
    """Timing over the mean of its two reference timings, one per round."""
    seconds, before, after = np.array(raw).T
    ratios: Floats = 2 * seconds / (before + after)
    return ratios


def _relative_error(ratios: Floats) -> float:
    """Standard error of the median over the median, from the interquartile range of normal noise."""
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return float(MEDIAN_ERROR_PER_SIGMA * SIGMA_PER_IQR * (high - low) / math.sqrt(len(ratios)) / middle)


def _labels(
    raw: Mapping[str, list[list[float]]], failures: Mapping[str, Failure]
) -> dict[str, Measurement | Failure]:
    brackets = [bracket for rows in raw.values() for row in rows for bracket in row[1:]]
    clean_ms = 1e3 * float(np.quantile(brackets, CLEAN_QUANTILE)) if brackets else math.nan
    return {name: failures.get(name) or _label(rows, clean_ms) for name, rows in raw.items()}


def _label(rows: list[list[float]], reference_ms: float) -> Measurement:
    low, middle, high = np.quantile(_ratios(rows), [0.25, 0.5, 0.75]) * reference_ms
    return Measurement(float(middle), float(high - low), reference_ms, len(rows), rows)


def repeatability(measurements: Iterable[Measurement]) -> Repeatability:
    """How well the labels from odd rounds agree with those from even rounds of the same session.

    Raises UsageError for fewer than two measurements.
    """
    halves = [
        [float(np.median(ratios[start::2])) * m.reference_ms for start in (0, 1)]
        for m in measurements
        for ratios in [_ratios(m.raw)]
    ]
    if len(halves) < 2:
        raise UsageError("Repeatability needs at least two measured subnets.")
    odd, even = np.array(halves).T
    return Repeatability(float((2 * np.abs(odd - even) / (odd + even)).mean()), rank_correlation(odd, even))

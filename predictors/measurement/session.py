"""A measuring session while it runs: visits to subnets, each run between two timings of the calibrator."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from predictors.devices import Device, Example, Run, Timing
from predictors.measurement.deadlines import Deadlines
from predictors.measurement.labels import Failure, Row, ratios, relative_error
from search_spaces.errors import NASError

if TYPE_CHECKING:
    from torch import nn

Factory: TypeAlias = "Callable[[], nn.Module]"

CALIBRATOR_SHARE = 0.04  # of the run: below it, the machine changes more during the run than the bracket sees
SHORTEST_CALIBRATION_S = 1e-3  # accelerators pass the calibrator faster than they time it well
MOST_PASSES = 100
SHORTEST_RUN_S = (
    2e-3  # a shorter run is repeated: alone it would measure how cold the calibrator left the caches
)
MOST_RUNS = 50
TIMINGS = 2  # in a visit
BAD_TIMINGS = 5  # of one thing in one visit, after which there is no more trying
WARM_UP_RUNS = (2, 10)  # of a network just prepared: at least the first, at most the second
WARM_UP_S = 0.05  # in between, until they have taken so long


FIRST, LATER, EXTRAS = "first visit", "later visit", "extras"  # kinds of work with deadlines of their own


class Within(Protocol):
    """A limit on how long something may last; `about`: what else is known of it."""

    def __call__(self, what: str, seconds: float, **about: Any) -> AbstractContextManager[None]: ...


def unlimited(what: str, seconds: float, **about: Any) -> AbstractContextManager[None]:
    """It may last as long as it likes."""
    return nullcontext()


class ReferenceFailedError(NASError):
    """The calibrator cannot be timed, so nothing can."""


class ClockError(Exception):
    """Timings that cannot be."""


@dataclass
class Session:
    """Prepared networks, which end with `stack`, and the rows of the timings so far (see `labels.RAW`)."""

    device: Device
    example: Example
    calibrator_run: Run
    stack: ExitStack
    free_bytes: int
    raw: dict[str, list[Row]]
    within: Within = unlimited
    deadlines: Deadlines = field(default_factory=Deadlines)
    failures: dict[str, Failure] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    kept: dict[str, Run] = field(default_factory=dict)
    kept_stacks: dict[str, ExitStack] = field(default_factory=dict)

    def live(self) -> list[str]:
        """The subnets that have not failed."""
        return [name for name in self.raw if name not in self.failures]

    def order(self, rng: np.random.Generator) -> list[str]:
        """The same, shuffled."""
        live = self.live()
        return [live[i] for i in rng.permutation(len(live))]

    def visit(self, name: str, factory: Factory, place: tuple[int, int]) -> None:
        """Two more timings of one subnet; place: the round, and the visit's position in it."""
        try:
            with ExitStack() as visit, self.limited(name, FIRST if name not in self.kept else LATER):
                new = name not in self.kept
                run = self._prepare(name, factory, visit) if new else self.kept[name]
                self._ready(name, run, new=new)
                self.raw[name] += self._timings(run, self.runs[name], self.passes[name], place)
        except ReferenceFailedError:
            raise
        except Exception as error:
            self._fail(name, error)

    @contextmanager
    def limited(self, name: str, kind: str) -> Iterator[None]:
        """TimeoutError inside where a subnet takes far longer than others of this kind did."""
        began = time.monotonic()
        what = f"Subnet {name} on device '{self.device.name}'"
        with self.within(what, self.deadlines.seconds(kind), subnet=name):
            yield
        self.deadlines.took(kind, time.monotonic() - began)

    def calibrate(self, passes: int) -> Timing:
        """One timing of the calibrator, the sum over its passes. Raises ReferenceFailedError."""
        try:
            each = [self._timed(self.calibrator_run) for _ in range(passes)]
        except Exception as error:
            raise calibrator_failed(self.device, error) from error
        return _total(each, share=1.0)

    def relative_error(self) -> float:
        """Median over the subnets that did not fail; 0 when all did."""
        errors = [relative_error(ratios(self.raw[name])) for name in self.live()]
        return float(np.median(errors)) if errors else 0.0

    def _prepare(self, name: str, factory: Factory, visit: ExitStack) -> Run:
        """Keeps the run for the session while there is room, else for this visit."""
        module = factory()
        size = sum(t.numel() * t.element_size() for t in chain(module.parameters(), module.buffers()))
        if size > self.free_bytes:
            return visit.enter_context(self.device.prepare(module, self.example))
        ends_alone = self.stack.enter_context(ExitStack())
        self.kept[name] = ends_alone.enter_context(self.device.prepare(module, self.example))
        self.kept_stacks[name] = ends_alone
        self.free_bytes -= size
        return self.kept[name]

    def _ready(self, name: str, run: Run, *, new: bool) -> None:
        """Calibrator, calibrator, warm-up; tells on the first visit how often both are run in a timing."""
        self.calibrate(1)
        unit = self.calibrate(1)
        fewest, most = WARM_UP_RUNS if new else (1, 1)
        spent = 0.0
        for count in range(1, most + 1):
            timing = self._timed(run)
            spent += timing.wall_s
            if count >= fewest and spent >= WARM_UP_S:
                break
        if name not in self.passes:
            self.passes[name], self.runs[name] = passes_for(timing, unit), runs_for(timing)

    def _timings(self, run: Run, runs: int, passes: int, place: tuple[int, int]) -> list[Row]:
        """Runs that each stand between two calibrator timings; a bad timing is dropped and made again."""
        rows: list[Row] = []
        before = self.calibrate(passes)
        for _ in range(TIMINGS + BAD_TIMINGS - 1):
            timing = self._repeated(run, runs)
            after = self.calibrate(passes)
            if is_good(timing):
                sides = (timing, before, after)
                rows.append([*place, *chain.from_iterable((t.wall_s, t.cpu_s) for t in sides), passes])
            if len(rows) == TIMINGS:
                return rows
            before = after
        raise _no_clock(timing)

    def _repeated(self, run: Run, runs: int) -> Timing:
        """The mean of some runs in a row, of several without the first; bad if one of them is."""
        if runs == 1:
            return self.device.time(run)
        each = [self.device.time(run) for _ in range(1 + runs)][1:]
        return next((timing for timing in each if not is_good(timing)), _total(each, share=1 / runs))

    def _timed(self, run: Run) -> Timing:
        """The first good timing. Raises ClockError after too many bad ones."""
        for _ in range(BAD_TIMINGS):
            timing = self.device.time(run)
            if is_good(timing):
                return timing
        raise _no_clock(timing)

    def _fail(self, name: str, error: Exception) -> None:
        """Notes why, and lets go of the network: what it occupies may be what the others lack."""
        self.failures[name] = Failure(f"{type(error).__name__}: {error}")
        self.kept.pop(name, None)
        with suppress(Exception):  # of a network that has failed already
            self.kept_stacks.pop(name, ExitStack()).close()


def passes_for(run: Timing, calibrator: Timing) -> int:
    """Calibrator passes in one timing beside such a run; `calibrator` is of one pass."""
    wanted = max(CALIBRATOR_SHARE * run.seconds, SHORTEST_CALIBRATION_S)
    return min(math.ceil(wanted / calibrator.seconds), MOST_PASSES)


def runs_for(run: Timing) -> int:
    """Runs in one timing of a network of which one takes so long."""
    return min(max(1, math.ceil(SHORTEST_RUN_S / run.seconds)), MOST_RUNS)


def _total(each: Sequence[Timing], *, share: float) -> Timing:
    """A share of the sum, in both clocks if all have both."""
    cpu = [timing.cpu_s for timing in each if timing.cpu_s is not None]
    wall_s = share * sum(timing.wall_s for timing in each)
    return Timing(wall_s, share * sum(cpu) if len(cpu) == len(each) else None)


def calibrator_failed(device: Device, error: Exception) -> ReferenceFailedError:
    """What is raised when the calibrator cannot be prepared or timed."""
    return ReferenceFailedError(
        f"The calibrator cannot be timed on device '{device.name}': {type(error).__name__}: {error}.",
        "Latencies are ratios to it, so the backend must take a plain transformer block.",
    )


def is_good(timing: Timing) -> bool:
    """Whether it is of positive finite seconds in both clocks."""
    clocks = (timing.wall_s, timing.wall_s if timing.cpu_s is None else timing.cpu_s)
    return all(math.isfinite(seconds) and seconds > 0 for seconds in clocks)


def _no_clock(last: Timing) -> ClockError:
    return ClockError(f"{BAD_TIMINGS} timings are no positive seconds, the last is {last.seconds}")

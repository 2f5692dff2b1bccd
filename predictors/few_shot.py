"""Few measurements on one device, and a table of the same architectures on others.

From some ten architectures that were measured on the target, all others of the table are predicted: by what
they do (a roofline), by the other devices (a non-negative stack, pulled towards equal shares), or by a stack
of the two. Which of these is used says the error on left-out architectures, so that other devices are never
followed where they mislead.
Source: Breiman, "Stacked Regressions" (1996).
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.any_model import fit_rows
from predictors.regression.features import ONE_SAMPLE, Workload
from predictors.regression.intervals import Intervals
from predictors.regression.linear import fit_linear
from predictors.regression.metrics import Floats, relative_errors
from search_spaces.errors import UsageError
from search_spaces.layers import Layer

FEWEST = 3
BETTER = 0.9  # a later candidate must bring the left-out error down to this share of an earlier one's
TIGHTNESS = (3.0, 0.3, 0.03)  # with which the shares in a stack are pulled towards each other
ROOFLINE, SOURCES, BOTH = "roofline", "sources", "roofline and sources"


@dataclass(frozen=True, eq=False)
class Table:
    """Architectures by name on devices by name: `latency_ms` `(architectures, devices)`, all positive."""

    names: tuple[str, ...]
    devices: tuple[str, ...]
    latency_ms: Floats

    @classmethod
    def of(cls, frame: Any) -> Self:
        """Of a data frame: its index are the architectures, its columns the devices.

        Raises UsageError for what is no table of positive numbers, and for a name that is there twice.
        """
        try:
            names, devices = tuple(map(str, frame.index)), tuple(map(str, frame.columns))
            latency_ms = np.asarray(frame.to_numpy(), dtype=np.float64)
        except (AttributeError, TypeError, ValueError) as error:
            raise UsageError(f"The table of latencies cannot be read: {error}.") from error
        return cls(names, devices, latency_ms).checked()

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Of a CSV file: the first column names the architectures, the first row the devices.

        Raises UsageError as `of` does.
        """
        try:
            with Path(path).open(encoding="utf-8", newline="") as file:
                head, *rows = [row for row in csv.reader(file) if row]
            latency_ms = np.array([[float(cell) for cell in row[1:]] for row in rows], dtype=np.float64)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise UsageError(f"The table '{path}' cannot be read: {error}.") from error
        return cls(tuple(row[0] for row in rows), tuple(head[1:]), latency_ms).checked()

    def checked(self) -> Self:
        """Itself. Raises UsageError as `of` does."""
        if self.latency_ms.shape != (len(self.names), len(self.devices)) or not self.latency_ms.size:
            raise UsageError("The table of latencies is empty, or its rows are not equally long.")
        if not (np.isfinite(self.latency_ms) & (self.latency_ms > 0)).all():
            row, column = np.argwhere(~(np.isfinite(self.latency_ms) & (self.latency_ms > 0)))[0]
            raise UsageError(
                f"The latency of '{self.names[row]}' on '{self.devices[column]}' is not a positive number.",
                "Leave out architectures that a device lacks.",
            )
        for kind, names in (("architecture", self.names), ("device", self.devices)):
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise UsageError(f"The {kind} '{twice}' is in the table twice.")
        return self


@dataclass(frozen=True, eq=False)
class FewShot:
    """What all architectures of a table take on the target: means and standard deviations in ms `(n,)`.

    taken: which candidate.  errors: mean relative error on left-out architectures by candidate.
    """

    names: tuple[str, ...]
    mean_ms: Floats
    std_ms: Floats
    taken: str
    errors: Mapping[str, float]

    @property
    def why(self) -> str:
        """Which candidate was taken, and by what errors."""
        tried = ", ".join(f"{name} {100 * error:.1f} %" for name, error in self.errors.items())
        return f"{self.taken}: leave-one-out errors are {tried}"

    def of(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation in ms of one architecture. Raises UsageError for one that it lacks."""
        if name not in self.names:
            raise UsageError(f"The table has no architecture '{name}'.")
        place = self.names.index(name)
        return float(self.mean_ms[place]), float(self.std_ms[place])


@dataclass(frozen=True, eq=False)
class _Candidate:
    """What a model says of all architectures `(n,)`, and of the measured ones when each is left out."""

    every: Floats
    left_out: Floats
    spread: Floats
    spread_of_measured: Floats


def few_shot(
    table: Table,
    measured: Mapping[str, float],
    *,
    work: Floats | None = None,
    networks: Iterable[Iterable[Layer]] | None = None,
    workload: Workload = ONE_SAMPLE,
) -> FewShot:
    """The latencies of all architectures of the table on a target on which some were measured.

    measured: ms by the architecture's name, of at least 3; some 10 are enough where they differ.
    networks: the layers of every architecture, in the order of the table; or work: what each does, as numbers
    `(n, kinds)` that are not negative, such as FLOPs and bytes. Without either only the sources are asked.
    Raises UsageError for architectures that the table lacks, too few of them, and impossible numbers.
    """
    table.checked()
    places, latency_ms = _measured(table, measured)
    candidates: dict[str, _Candidate] = {}
    if networks is not None or work is not None:
        candidates[ROOFLINE] = _roofline(table, places, latency_ms, work, networks, workload)
    candidates[SOURCES] = _sources(table.latency_ms, places, latency_ms)
    if ROOFLINE in candidates:
        candidates[BOTH] = _stacked(candidates[ROOFLINE], candidates[SOURCES], latency_ms)
    errors = {
        name: float(relative_errors(one.left_out, latency_ms).mean()) for name, one in candidates.items()
    }
    taken = next(iter(candidates))
    for name in candidates:
        if errors[name] < BETTER * errors[taken]:
            taken = name
    best = candidates[taken]
    intervals = Intervals.of(best.left_out, latency_ms, best.spread_of_measured)
    return FewShot(table.names, best.every, intervals.std(best.every, best.spread), taken, errors)


def _measured(table: Table, measured: Mapping[str, float]) -> tuple[NDArray[np.intp], Floats]:
    by_name = {name: place for place, name in enumerate(table.names)}
    if missing := next((name for name in measured if name not in by_name), None):
        raise UsageError(f"The table has no architecture '{missing}', which was measured.")
    latency_ms = np.array(list(measured.values()), dtype=np.float64)
    if len(measured) < FEWEST:
        raise UsageError(f"{len(measured)} architectures are measured, and {FEWEST} are needed.")
    if not (np.isfinite(latency_ms) & (latency_ms > 0)).all():
        raise UsageError("A measured latency is not a positive number.")
    return np.array([by_name[name] for name in measured]), latency_ms


def _roofline(
    table: Table,
    places: NDArray[np.intp],
    latency_ms: Floats,
    work: Floats | None,
    networks: Iterable[Iterable[Layer]] | None,
    workload: Workload,
) -> _Candidate:
    if networks is not None:
        every = [list(layers) for layers in networks]
        _check_count(table, len(every))
        rows, fitted = fit_rows(every, places, latency_ms, workload)
        mean, spread = fitted.model.predict(rows)
        return _Candidate(mean, fitted.left_out, spread, fitted.spread)
    rows = np.asarray(work, dtype=np.float64)
    _check_count(table, len(rows))
    if rows.ndim != 2 or not (np.isfinite(rows) & (rows >= 0)).all():
        raise UsageError("work holds rows of numbers that are not negative, one row for each architecture.")
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    linear, left_out, spread = fit_linear(rows[places], latency_ms, np.eye(rows.shape[1]))
    mean, of_every = linear.predict(rows)
    return _Candidate(mean, left_out, of_every, spread)


def _check_count(table: Table, count: int) -> None:
    if count != len(table.names):
        raise UsageError(f"The table has {len(table.names)} architectures, and {count} are described.")


def _sources(table_ms: Floats, places: NDArray[np.intp], latency_ms: Floats) -> _Candidate:
    """The non-negative stack of the other devices."""
    return _stack(table_ms[places], table_ms, latency_ms)


def _stacked(roofline: _Candidate, sources: _Candidate, latency_ms: Floats) -> _Candidate:
    """Both, weighted by what they say of architectures that were left out."""
    columns = np.stack([roofline.left_out, sources.left_out], axis=1)
    return _stack(columns, np.stack([roofline.every, sources.every], axis=1), latency_ms)


def _stack(columns: Floats, of_every: Floats, latency_ms: Floats) -> _Candidate:
    """A weighted sum of the columns, as tight as left-out architectures want; of all architectures, too."""
    best: tuple[float, float, Floats] | None = None
    for tight in TIGHTNESS:
        left_out = _stack_left_out(columns, latency_ms, tight)
        error = float(relative_errors(left_out, latency_ms).mean())
        if best is None or error < BETTER * best[0]:
            best = error, tight, left_out
    assert best is not None
    every = of_every @ _shares(columns, latency_ms, best[1])
    return _Candidate(every, best[2], np.ones(len(every)), np.ones(len(columns)))


def _stack_left_out(columns: Floats, latency_ms: Floats, tight: float) -> Floats:
    left_out = np.empty(len(columns))
    for i in range(len(columns)):
        others: Sequence[int] = [j for j in range(len(columns)) if j != i]
        left_out[i] = columns[i] @ _shares(columns[others], latency_ms[others], tight)
    return np.maximum(left_out, np.finfo(np.float64).tiny)


def _shares(columns: Floats, latency_ms: Floats, tight: float) -> Floats:
    """What a ms of each column counts for: none negative, all pulled towards an equal part of the whole."""
    from scipy.optimize import nnls  # noqa: PLC0415 - takes long to import

    relative = columns / latency_ms[:, None]
    norms = np.linalg.norm(relative, axis=0)
    size = len(norms)
    matrix = np.block(
        [
            [relative / norms, np.zeros((len(relative), 1))],
            [tight * np.eye(size), np.full((size, 1), -tight)],
        ]
    )
    weights: Floats = nnls(matrix, np.append(np.ones(len(relative)), np.zeros(size)))[0]
    shares: Floats = weights[:size] / norms
    return shares

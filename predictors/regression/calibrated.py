"""A latency predictor made of an encoding and a regression, with intervals from left-out networks.

A predictor's own file says how architectures become rows and how rows become milliseconds; everything else
(checks, chunks, intervals, saving) is the same for all of them and stands here.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import numpy as np

from predictors.devices import JSON
from predictors.predictor import OtherVersionError, check_training, space_digest
from predictors.regression.intervals import Intervals
from predictors.regression.metrics import Floats, relative_errors
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.space import Codes

CHUNK = 8_192
LONGEST = 80  # characters of a value in a message

Encoding: TypeAlias = Callable[[SearchSpace, Codes], Floats]


class Model(Protocol):
    """A fitted regression."""

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """Means in ms, and how little is known of each compared with others (see `Intervals`), `(n,)`."""

    def to_json(self) -> dict[str, JSON]:
        """All of it as plain data."""


class Fitted(NamedTuple):
    """A model, and what it says of its own networks when each is left out: ms `(n,)`, spread `(n,)`.

    why: one line for people on what was chosen in the fit, and by what errors.
    """

    model: Model
    left_out: Floats
    spread: Floats
    why: str


class Regression(Protocol):
    """From rows `(n, features)` to milliseconds."""

    @property
    def minimum(self) -> int:
        """The fewest different networks that it takes."""

    def fit(self, rows: Floats, latency_ms: Floats) -> Fitted:
        """The model of rows `(n, features)` and latencies `(n,)`."""

    def from_json(self, data: Mapping[str, Any]) -> Model:
        """The model that `to_json` wrote; raises ValueError, KeyError or TypeError for damage."""


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A `Predictor`; see the module.

    kind: the name of its file.  version: of what it saves.  identity: settings that a saved one must share.
    count: networks that it was fitted on.  why: see `Fitted`.  error: mean relative error on left-out ones.
    """

    kind: str
    version: int
    space: SearchSpace
    encode: Encoding
    regression: Regression
    identity: Mapping[str, JSON] = field(default_factory=dict)
    model: Model | None = None
    intervals: Intervals | None = None
    count: int = 0
    why: str = ""
    error: float = np.inf

    def takes(self, codes: Codes) -> bool:
        """Whether these are enough networks for a fit."""
        return len(np.unique(codes, axis=0)) >= self.regression.minimum

    def fit(self, codes: Codes, latency_ms: Floats) -> Self:
        """See `Predictor.fit`."""
        latency_ms = np.asarray(latency_ms, dtype=np.float64)
        check_training(codes, latency_ms, minimum=self.regression.minimum)
        model, left_out, spread, why = self.regression.fit(self.encode(self.space, codes), latency_ms)
        intervals = Intervals.of(left_out, latency_ms, spread)
        error = float(relative_errors(left_out, latency_ms).mean())
        return replace(self, model=model, intervals=intervals, count=len(codes), why=why, error=error)

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """See `Predictor.predict`."""
        model, intervals = self._fitted()
        mean, spread = np.empty(len(codes)), np.empty(len(codes))
        for start in range(0, len(codes), CHUNK):
            rows = slice(start, start + CHUNK)
            mean[rows], spread[rows] = model.predict(self.encode(self.space, codes[rows]))
        return mean, intervals.std(mean, spread)

    def to_json(self) -> dict[str, JSON]:
        """See `Predictor.to_json`."""
        model, intervals = self._fitted()
        state: dict[str, JSON] = {
            "model": model.to_json(),
            "intervals": asdict(intervals),
            "count": self.count,
        }
        return self._identity() | state | {"why": self.why, "error": self.error}

    def from_json(self, data: dict[str, Any]) -> Self:
        """See `Predictor.from_json`."""
        for key, value in self._identity().items():
            if data.get(key) != value:
                kind = OtherVersionError if key == "version" else UsageError
                raise kind(
                    f"The saved latency predictor does not fit: {key} is {_short(data.get(key))}, "
                    f"not {_short(value)}.",
                    "Fit it again on measurements of this space: start the job anew.",
                )
        try:
            model = self.regression.from_json(data["model"])
            saved = data["intervals"]
            intervals = Intervals(float(saved["half_width"]), float(saved["typical"]))
            if not (0 <= intervals.half_width < np.inf and 0 < intervals.typical < np.inf):
                raise ValueError(f"the intervals are {saved}")
            count, why, error = int(data["count"]), str(data["why"]), float(data["error"])
            return replace(self, model=model, intervals=intervals, count=count, why=why, error=error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"The saved latency predictor is damaged: {error}.", "Fit it again.") from error

    def _identity(self) -> dict[str, JSON]:
        identity: dict[str, JSON] = {
            "predictor": self.kind,
            "version": self.version,
            "space": self.space.name,
        }
        return identity | {"space_digest": space_digest(self.space)} | dict(self.identity)

    def _fitted(self) -> tuple[Model, Intervals]:
        if self.model is None or self.intervals is None:
            raise UsageError("The latency predictor is not fitted.", "Use what `fit` or `from_json` returns.")
        return self.model, self.intervals


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def left_out_by_folds(
    fit: Callable[[Floats, Floats], Model], rows: Floats, latency_ms: Floats, *, folds: int
) -> Floats:
    """Latencies in ms `(n,)`, each predicted by a fit without its fold; equal rows share a fold."""
    group = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.random.default_rng(0).permutation(int(group.max()) + 1)
    fold = order[group] % folds
    predicted = np.empty(len(rows))
    for held_out in np.unique(fold):
        test = fold == held_out
        predicted[test] = fit(rows[~test], latency_ms[~test]).predict(rows[test])[0]
    return predicted


def left_out_error(left_out: Floats, latency_ms: Floats) -> str:
    """The mean relative error on left-out networks, in words."""
    return f"mean error on left-out networks {100 * relative_errors(left_out, latency_ms).mean():.1f} %"

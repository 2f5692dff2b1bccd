"""What every latency predictor offers, and how it is scored on subnets that it has not seen."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, Protocol, Self

import numpy as np

from predictors.devices import JSON
from predictors.regression.metrics import Floats
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.space import Codes

BUILD_OPTIONS = ("batch", "element_bytes", "table")  # what saved predictors were built with


class OtherVersionError(UsageError):
    """A saved predictor that another version of this program wrote; its measurements can be fitted again."""


class Predictor(Protocol):
    """Architecture -> milliseconds on one device, for the architectures of one space.

    A predictor's module offers `build(space, **options) -> Predictor`. A predictor is a value: `fit` and
    `from_json` return a new one, so `build(space).fit(codes, latency_ms).predict(codes)`.
    """

    @property
    def space(self) -> SearchSpace:
        """The space whose codes it takes."""

    @property
    def why(self) -> str:
        """One line for people on what the fit chose and by what errors; empty before it."""

    def fit(self, codes: Codes, latency_ms: Floats) -> Self:
        """A predictor fitted on measured subnets: codes `(n, choices)` and their latencies `(n,)` in ms.

        Raises UsageError for too few subnets and for latencies that are not positive and finite.
        """

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation in ms, each `(n,)`, never negative; raises UsageError before `fit`."""

    def to_json(self) -> dict[str, JSON]:
        """Everything that was fitted, as plain data; raises UsageError before `fit`."""

    def from_json(self, data: dict[str, Any]) -> Self:
        """The predictor that `to_json` wrote; raises UsageError for another space or version, or damage."""


def rebuilt(build: Callable[..., Predictor], space: SearchSpace, state: dict[str, Any]) -> Predictor:
    """The predictor that `to_json` wrote, of this `build`; raises what `from_json` raises."""
    options = {name: state[name] for name in BUILD_OPTIONS if name in state}
    return build(space, **options).from_json(state)


def check_training(codes: Codes | Floats, latency_ms: Floats, *, minimum: int) -> None:
    """Raises UsageError unless there are `minimum` different subnets, each with a positive finite latency."""
    if len(codes) != len(latency_ms):
        raise UsageError(f"There are {len(codes)} subnets but {len(latency_ms)} latencies.")
    if not (np.isfinite(latency_ms) & (np.asarray(latency_ms) > 0)).all():
        raise UsageError(
            "A latency to fit is not a positive number.", "Leave subnets out whose measurement failed."
        )
    different = len(np.unique(codes, axis=0)) if len(codes) else 0
    if different < minimum:
        raise UsageError(
            f"The latency predictor needs at least {minimum} different measured subnets, not {different}.",
            "Measure more subnets.",
        )


def space_digest(space: SearchSpace) -> str:
    """A short name of the space's choices and options, in which two spaces of one name can differ."""
    plain = [[[choice.name, choice.options, choice.needs] for choice in space.choices], dict(space.options)]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:16]


def held_out(
    build: Callable[[SearchSpace], Predictor],
    space: SearchSpace,
    codes: Codes,
    latency_ms: Floats,
    *,
    seed: int,
    folds: int = 10,
) -> Floats:
    """Predictions in ms `(n,)`, each by a fit that has not seen the subnet, nor any other of its fold.

    Rows of one architecture stay in one fold. Raises what `fit` raises when the training folds are too small.
    """
    check_training(codes, latency_ms, minimum=2)
    group = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    count = int(group.max()) + 1
    fold = np.random.default_rng(seed).permutation(count)[group] % min(folds, count)
    predicted = np.empty(len(codes))
    for left_out in range(min(folds, count)):
        test = fold == left_out
        predicted[test] = build(space).fit(codes[~test], latency_ms[~test]).predict(codes[test])[0]
    return predicted

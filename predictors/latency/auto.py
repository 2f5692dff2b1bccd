"""The predictor with the least error on left-out networks: all quick ones are fitted, and one is taken.

The roofline is taken unless another one is clearly better: on all devices so far it was the best or close to
it, and of five estimates from few networks the least is often least by luck.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from predictors.devices import JSON
from predictors.latency import additive, flops, gbm, gp, roofline
from predictors.predictor import OtherVersionError, check_training
from predictors.regression.calibrated import Calibrated
from predictors.regression.metrics import Floats
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.space import Codes

VERSION = 1
FEWEST = 3
BETTER = 0.8  # a later candidate must bring the error down to this share of the one taken so far


def build(
    space: SearchSpace,
    *,
    batch: int = 1,
    element_bytes: int = 4,
    source: Mapping[str, Any] | None = None,
) -> "Best":
    """The best of roofline, flops, gp, additive and gbm for networks of `space`, not fitted yet.

    batch, element_bytes: how the device runs the networks.  source: see `roofline.build`.
    """
    candidates = {
        "roofline": roofline.build(space, batch=batch, element_bytes=element_bytes, source=source),
        "flops": flops.build(space, batch=batch, element_bytes=element_bytes),
        "gp": gp.build(space, batch=batch, element_bytes=element_bytes),
        "additive": additive.build(space, batch=batch, element_bytes=element_bytes),
        "gbm": gbm.build(space, batch=batch, element_bytes=element_bytes),
    }
    return Best(space, candidates)


@dataclass(frozen=True, eq=False)
class Best:
    """A `Predictor` that is one of its candidates, by name, the preferred one first."""

    space: SearchSpace
    candidates: Mapping[str, Calibrated]
    name: str | None = None
    why: str = ""

    def fit(self, codes: Codes, latency_ms: Floats) -> Self:
        """See `Predictor.fit`; candidates that need more networks than there are stay out."""
        check_training(codes, latency_ms, minimum=FEWEST)
        fitted: dict[str, Calibrated] = {}
        for name, candidate in self.candidates.items():
            if candidate.takes(codes):
                fitted[name] = candidate.fit(codes, latency_ms)
        taken = next(iter(fitted))
        for name, candidate in fitted.items():
            if candidate.error < BETTER * fitted[taken].error:
                taken = name
        tried = ", ".join(f"{name} {100 * candidate.error:.1f} %" for name, candidate in fitted.items())
        why = f"{taken}: mean errors on left-out networks are {tried}. {taken}: {fitted[taken].why}"
        return replace(self, candidates={**self.candidates, taken: fitted[taken]}, name=taken, why=why)

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """See `Predictor.predict`."""
        return self.taken.predict(codes)

    @property
    def taken(self) -> Calibrated:
        """The candidate that was taken; raises UsageError before `fit`."""
        if self.name is None:
            raise UsageError("The latency predictor is not fitted.", "Use what `fit` or `from_json` returns.")
        return self.candidates[self.name]

    def to_json(self) -> dict[str, JSON]:
        """See `Predictor.to_json`."""
        taken = self.taken.to_json()
        built = {name: taken[name] for name in ("batch", "element_bytes")}
        return {"predictor": "auto", "version": VERSION, **built, "taken": taken, "why": self.why}

    def from_json(self, data: dict[str, Any]) -> Self:
        """See `Predictor.from_json`."""
        for key, value in (("predictor", "auto"), ("version", VERSION)):
            if data.get(key) != value:
                kind = OtherVersionError if key == "version" else UsageError
                raise kind(
                    f"The saved latency predictor does not fit: {key} is {data.get(key)!r}, not {value!r}.",
                    "Fit it again on measurements of this space.",
                )
        taken = data.get("taken")
        name = str(taken.get("predictor")) if isinstance(taken, dict) else ""
        if not isinstance(taken, dict) or name not in self.candidates or not isinstance(data.get("why"), str):
            raise UsageError(
                "The saved latency predictor is damaged: what it took is unknown.", "Fit it again."
            )
        loaded = self.candidates[name].from_json(taken)
        return replace(self, candidates={**self.candidates, name: loaded}, name=name, why=data["why"])

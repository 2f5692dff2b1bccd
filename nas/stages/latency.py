"""Stage `latency`: a sample of subnets is measured on the device, and a predictor is fitted to it.

Latency does not depend on weights. The stage therefore stands before the training: a limit that no subnet
can keep is found in seconds.
"""

from dataclasses import dataclass
from typing import Any

from nas.config import JobConfig
from nas.spaces import check_limits, exact_metrics
from nas.stages._latency_fit import MEMORY, measure_and_fit
from nas.stages._measuring import build_device, check_same_device
from nas.stages._run import Run
from nas.store import Device as DeviceRow
from nas.store import Job, Store, frames
from predictors import _memory as memory
from predictors._intervals import interval
from predictors._predictor import Predictor, rebuilt, restored
from search_spaces import SearchSpace
from search_spaces._space import Codes


@dataclass(frozen=True)
class Latency:
    """The device of a job and what was fitted to its measurements.

    margin: standard deviations that limits on predictions are kept by.
    memory: predicts peak memory in bytes, on devices that can tell it.
    """

    device: DeviceRow
    predictor: Predictor
    margin: float = 0.0
    memory: Predictor | None = None

    def predict(self, codes: Codes) -> Any:
        """Milliseconds (n,)."""
        return self.predictor.predict(codes)[0]

    def bound(self, codes: Codes) -> Any:
        """Milliseconds (n,) to which limits are applied: the prediction with its one-sided margin."""
        return self._bound(self.predictor, codes)

    def metrics(self, codes: Codes) -> dict[str, Any]:
        """Everything that is predicted, by name, `(n,)` each."""
        told = {"latency_ms": self.predict(codes)}
        return told if self.memory is None else told | {MEMORY: self.memory.predict(codes)[0]}

    def bounds(self, codes: Codes) -> dict[str, Any]:
        """What limits on predictions are applied to, by name, `(n,)` each."""
        told = {"latency_ms": self.bound(codes)}
        return told if self.memory is None else told | {MEMORY: self._bound(self.memory, codes)}

    def intervals(self, codes: Codes) -> dict[str, Any]:
        """The predicted latency and the ends of its 90 % interval in ms, by name, `(n,)` each."""
        mean, std = self.predictor.predict(codes)
        return dict(zip(frames.PREDICTED, (mean, *interval(mean, std)), strict=True))

    def _bound(self, predictor: Predictor, codes: Codes) -> Any:
        mean, std = predictor.predict(codes)
        return mean + self.margin * std


def latency(run: Run, space: SearchSpace) -> Latency:
    """Measures and fits, or finds both done; raises UsageError when no subnet keeps the limits on latency."""
    device = build_device(run)
    row = run.store.register_device(device.name, device.fingerprint())
    check_same_device(run, row)
    inputs = {"predictor": run.config.predictor.inputs()}
    run.once("latency", inputs, lambda: measure_and_fit(run, space, device, row))
    fitted = stored_latency(run.store, run.lease.job, run.config, space, row)
    assert fitted is not None, "the stage is done"
    check_limits(space, run.config.limits, lambda codes: exact_metrics(space, codes) | fitted.bounds(codes))
    return fitted


def stored_latency(
    store: Store, job: Job, config: JobConfig, space: SearchSpace, device: DeviceRow
) -> Latency | None:
    """The job's predictors for the device, or None when there is none yet."""
    stored = store.predictor(job, device.id)
    if stored is None:
        return None
    predictor = restored(space, stored.kind, stored.state)
    peak = store.predictor(job, device.id, metric=MEMORY)
    return Latency(
        device,
        predictor,
        config.search.latency_margin,
        None if peak is None else rebuilt(memory.build, space, peak.state),
    )

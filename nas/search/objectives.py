"""What a search optimises: a quality against exact costs and what was predicted from measurements."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.config import JobConfig
from nas.limits import ACCURACY, kind_of
from nas.measuring.latency import Latency, stored_latencies
from nas.results import job_devices
from nas.spaces.job_space import exact_metrics, space_of
from nas.store import Evaluation, Job, NewEvaluation, Store
from search_spaces import SearchSpace
from search_spaces.space import Codes
from supernet.tasks import QualityKind


@dataclass(frozen=True)
class Objectives:
    """What is optimised: the quality towards its goal, every cost (exact, or predicted) is minimised.

    latency: of the job's first device.  others: of its other devices.  quality: its name.
    """

    names: tuple[str, ...]
    space: SearchSpace
    latency: Latency
    others: tuple[Latency, ...] = ()
    quality: str = ACCURACY

    @property
    def kind(self) -> QualityKind:
        """What the quality is."""
        return kind_of(self.quality)

    @property
    def latencies(self) -> tuple[Latency, ...]:
        """Of all devices of the job."""
        return (self.latency, *self.others)

    def costs(self, codes: Codes) -> dict[str, Any]:
        """Everything that is known of architectures before they are evaluated, by name, `(n,)` each."""
        return self._with_exact(codes, (latency.metrics(codes) for latency in self.latencies))

    def costs_alone(self, costs: Mapping[str, Any]) -> NDArray[np.float64]:
        """Of what is known of architectures the costs that are objectives: `(n, costs)`, all minimised."""
        columns = [np.asarray(costs[name], dtype=np.float64) for name in self.names if name != self.quality]
        return np.column_stack([np.empty((len(costs["params"]), 0)), *columns])

    def bounds(self, codes: Codes) -> dict[str, Any]:
        """What limits are applied to, by name, `(n,)` each: predictions with a margin, all else exactly."""
        return self._with_exact(codes, (latency.limited(codes) for latency in self.latencies))

    def intervals(self, codes: Codes) -> dict[str, Any]:
        """Predicted latencies and the ends of their 90 % intervals in ms, by name, `(n,)` each."""
        return {name: ms for latency in self.latencies for name, ms in latency.intervals(codes).items()}

    def minimised(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows of objective values between 0 (best) and 1 (the worst quality, cost of the largest subnet).

        Of several spaces each cost is that of the one whose largest subnet costs most.
        """
        costs = self.costs(self.space.encode(self.space.largest_of_each))
        columns = [
            self.kind.lost(values[:, i])
            if name == self.quality
            else values[:, i] / float(np.max(costs[name]))
            for i, name in enumerate(self.names)
        ]
        return np.stack(columns, axis=1)

    def hypervolume(self, values: NDArray[np.float64]) -> float:
        """The share of the box between (the best quality, cost 0) and (the worst, cost of the largest subnet)
        that is dominated. With one objective, the quality alone, that is the best one's.
        """
        return hypervolume(self.minimised(values)) if len(values) else 0.0

    def _with_exact(self, codes: Codes, predicted: Iterable[dict[str, Any]]) -> dict[str, Any]:
        costs: dict[str, Any] = exact_metrics(self.space, codes)
        for predictions in predicted:
            costs |= predictions
        return costs


def stored_objectives(store: Store, job: Job, config: JobConfig) -> Objectives:
    """Those that a job has searched with, out of the store; its latency stages are done."""
    space = space_of(store, job)
    rows = {device.id: device for device in store.devices()}
    devices = {name: rows[device_id] for name, device_id in job_devices.searched_for(store, job).items()}
    first, *others = stored_latencies(store, job, config, space, devices)
    return Objectives(config.objectives, space, first, tuple(others), config.quality)


def hypervolume(points: NDArray[np.float64]) -> float:
    """The share of the box from 0 to 1 that points (n, objectives), minimised, dominate; of one objective the
    best.
    """
    if not len(points):
        return 0.0
    clipped = np.clip(points, 0, 1)
    if clipped.shape[1] == 1:
        return float(1 - clipped.min())
    return float(moocore.hypervolume(clipped, ref=np.ones(clipped.shape[1])))


def values_of(
    objectives: Objectives, evaluations: Sequence[Evaluation | NewEvaluation]
) -> NDArray[np.float64]:
    """Objective values `(n, objectives)`, finite where the evaluation succeeded."""
    rows = [[e.objectives.get(name) for name in objectives.names] for e in evaluations]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives.names))

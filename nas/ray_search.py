"""The searchers under Ray Tune, for those who run their evaluations there.

Either way a trial's config holds every choice of the space (`architecture(space, config)` is its
architecture), and `metric` and `mode` name what the trainable reports, here and not in `TuneConfig`:

    search = SubnetSearch(problem, "nsga2", metric=["accuracy", "macs"], mode=["max", "min"])
    search = optuna_search(problem, "nsga2", metric=["accuracy", "macs"], mode=["max", "min"])
    tuner = tune.Tuner(trainable, tune_config=tune.TuneConfig(search_alg=search, num_samples=100))

Both keep their state as JSON: what was asked and told, in order. That is all that a searcher's proposals
depend on, and a file of it can be read by a later version and by people. Nothing here unpickles. Tune itself
does (`Tuner.restore` loads what it has pickled): restore its experiments from folders that you trust only.
Tune asks and tells in the order in which trials happen to end;
`ConcurrencyLimiter(search, 8, batch=True)` asks for a batch when the one before has ended.
"""

import json
import logging
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from nas import searchers
from nas.errors import ConflictError
from nas.proposals.optuna_adapters import (
    SearcherSampler,
    SpaceExhausted,
    architecture,
    distributions,
    parameters,
)
from nas.proposals.problem import Code
from nas.searchers import SearchProblem
from search_spaces.errors import UsageError

__all__ = ["SubnetSearch", "architecture", "optuna_search"]

VERSION = 1
DIRECTIONS = {"max": "maximize", "min": "minimize"}
log = logging.getLogger(__name__)

Names = str | Sequence[str]


class SubnetSearch(Searcher):
    """A searcher of ours as Ray Tune's `Searcher`; it ends the run when the space is exhausted.

    metric, mode: names in the trainable's results of the problem's objectives, in their order, and `max` or
    `min` for each.  options: the searcher's.
    A trial that fails, or reports no finite value, is not proposed again.
    Raises UsageError for modes that are none or do not go with the metrics and objectives, and what the
    searcher raises.
    """

    def __init__(
        self,
        problem: SearchProblem,
        searcher: str = "surrogate",
        *,
        metric: Names,
        mode: Names,
        **options: Any,
    ) -> None:
        metrics, modes = _named(metric, mode)
        # Ray takes lists, too, and says so in words only.
        several: Any = list(metrics), list(modes)
        super().__init__(*several)
        self._search = _Search(problem, searcher, options, metrics, modes)
        self._begin([])

    def suggest(self, trial_id: str) -> Any:
        """The config of a new trial, or `Searcher.FINISHED`."""
        codes, space = self._searcher.ask(1), self._search.problem.space
        if not len(codes):
            return Searcher.FINISHED
        self._asked[trial_id], arch = codes[0], space.decode(codes)[0]
        self._events.append({"asked": trial_id, "architecture": arch.to_dict()})
        return parameters(space, arch)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Nothing: only the last result of a trial counts."""

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the searcher what a trial has reported last."""
        if trial_id not in self._asked:
            # After a crash Tune may know trials that it began after it had saved this searcher.
            log.warning("Trial %s was not proposed by this searcher, or has ended before.", trial_id)
            return
        values: list[Any] = [
            None if error or not result else result.get(name) for name in self._search.metrics
        ]
        self._tell(trial_id, list(map(float, values)) if all(map(_finite, values)) else None)

    def get_state(self) -> dict[str, Any]:
        """What was asked and told, as plain data."""
        return self._search.state(self._events)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state of the same search.

        Raises ConflictError for one of another version, space, searcher or seed, or with other options,
        metrics or modes.
        """
        self._begin(self._search.events(state))

    def save(self, checkpoint_path: str) -> None:
        """Writes the state to a JSON file, whatever its ending is."""
        Path(checkpoint_path).write_text(json.dumps(self.get_state(), allow_nan=False), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Goes on from a file that `save` wrote. Raises ConflictError for one of another search."""
        self._begin(self._search.events(_read(checkpoint_path)))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles searchers, too; what proposes is made again."""
        made = {"_searcher", "_asked"}
        return {name: value for name, value in self.__dict__.items() if name not in made}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin(self._events)

    def _begin(self, events: Sequence[Mapping[str, Any]]) -> None:
        """A searcher that was told of these events; what was proposed stays so, and is not searched again."""
        self._searcher = self._search.searcher()
        self._asked: dict[str, Code] = {}
        self._events: list[dict[str, Any]] = []
        space = self._search.problem.space
        for event in events:
            if "asked" in event:
                codes = space.encode([space.architecture(event["architecture"])])
                self._searcher.tell(codes, None)
                self._asked[event["asked"]] = codes[0]
                self._events.append(dict(event))
            else:
                self._tell(event["told"], event["values"])

    def _tell(self, trial_id: str, values: list[float] | None) -> None:
        failed = [math.nan] * len(self._search.metrics)
        code = self._asked.pop(trial_id)
        self._searcher.tell(code[None], np.array([failed if values is None else values]))
        self._events.append({"told": trial_id, "values": values})


def optuna_search(
    problem: SearchProblem, searcher: str = "surrogate", *, metric: Names, mode: Names, **options: Any
) -> OptunaSearch:
    """A searcher of ours under Ray's own `OptunaSearch`; arguments and errors as of `SubnetSearch`."""
    return _SubnetOptunaSearch(_Search(problem, searcher, options, *_named(metric, mode)))


@dataclass(frozen=True)
class _Search:
    """What a searcher under Ray is made of, and what it is saved with."""

    problem: SearchProblem
    name: str
    options: Mapping[str, Any]
    metrics: tuple[str, ...]
    modes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises UsageError for modes that are not those of the problem's objectives."""
        if [DIRECTIONS[mode] for mode in self.modes] != list(self.problem.objectives.values()):
            objectives = ", ".join(f"{way} {name}" for name, way in self.problem.objectives.items())
            raise UsageError(
                f"The modes {', '.join(self.modes)} are not those of the problem: {objectives}.",
                "Give a metric and a mode for each objective, in their order.",
            )

    def state(self, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What was asked and told, as plain data, and of which search."""
        space = self.problem.space
        return {
            "version": VERSION,
            "space": space.name,
            "space options": json.loads(json.dumps(dict(space.options))),
            "searcher": self.name,
            "options": json.loads(json.dumps(dict(self.options))),
            "seed": self.problem.seed,
            "metrics": list(self.metrics),
            "modes": list(self.modes),
            "events": [dict(event) for event in events],
        }

    def events(self, state: object) -> list[dict[str, Any]]:
        """The events of a state. Raises ConflictError for one of another search."""
        saved = state if isinstance(state, Mapping) else {}
        for name, ours in self.state([]).items():
            if name != "events" and saved.get(name) != ours:
                raise ConflictError(
                    f"The saved search has {name} {saved.get(name)!r}; this one has {ours!r}.",
                    "Build the searcher as it was when it was saved.",
                )
        events: list[dict[str, Any]] = saved["events"]
        return events

    def searcher(self) -> searchers.Searcher:
        """A new one."""
        return searchers.build(self.name, self.problem, **self.options)

    def sampler(self, events: Sequence[Mapping[str, Any]]) -> SearcherSampler:
        """The searcher in a study, to which it proposes again what it has proposed in these events."""
        space = self.problem.space
        archs = [space.architecture(event["architecture"]) for event in events if "asked" in event]
        return SearcherSampler(self.problem, self.searcher, history=space.encode(archs))


class _SubnetOptunaSearch(OptunaSearch):
    """Ends the run when the space is exhausted, where Ray's would let the sampler's exception through.

    It is saved as JSON and made again from what it was told, where Ray's is pickled.
    """

    def __init__(self, search: _Search) -> None:
        self._search = search
        self._begin([])

    def suggest(self, trial_id: str) -> Any:
        try:
            config = super().suggest(trial_id)
        except SpaceExhausted:
            return Searcher.FINISHED
        assert config is not None, "the space has choices"
        arch = architecture(self._search.problem.space, config)
        self._events.append({"asked": trial_id, "architecture": arch.to_dict()})
        return config

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        if trial_id not in self._ot_trials or trial_id in self._completed_trials:
            # After a crash Tune may know trials that it began after it had saved this searcher.
            log.warning("Trial %s was not proposed by this searcher, or has ended before.", trial_id)
            return
        values: list[Any] = [(result or {}).get(name) for name in self._search.metrics]
        finite = list(map(float, values)) if all(map(_finite, values)) and not error else None
        # An outcome without values ends in Ray's as a pruned trial, which some samplers cannot read.
        super().on_trial_complete(trial_id, self._result(finite), error=finite is None)
        self._events.append({"told": trial_id, "values": finite})

    def save(self, checkpoint_path: str) -> None:
        state = self._search.state(self._events)
        Path(checkpoint_path).write_text(json.dumps(state, allow_nan=False), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        self._begin(self._search.events(_read(checkpoint_path)))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles searchers, too; the study and its sampler are made again."""
        return {"_search": self._search, "_events": self._events}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._search = state["_search"]
        self._begin(state["_events"])

    def _begin(self, events: Sequence[Mapping[str, Any]]) -> None:
        """As new, and then everything that was asked and told once more."""
        search = self._search
        one = len(search.metrics) == 1
        super().__init__(
            distributions(search.problem.space),
            metric=search.metrics[0] if one else list(search.metrics),
            mode=search.modes[0] if one else list(search.modes),
            sampler=search.sampler(events),
        )
        self._events: list[dict[str, Any]] = []
        for event in events:
            if "asked" in event:
                self.suggest(event["asked"])
            else:
                self.on_trial_complete(event["told"], self._result(event["values"]))

    def _result(self, values: Sequence[float] | None) -> dict[str, float] | None:
        return None if values is None else dict(zip(self._search.metrics, values, strict=True))


def _read(path: str) -> object:
    """The JSON in a file of a saved search. Raises UsageError for anything else."""
    try:
        state: object = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        hint = "One that an earlier version has pickled is not read."
        raise UsageError(f"'{path}' is no saved search: it is not JSON.", hint) from error
    return state


def _named(metric: Names, mode: Names) -> tuple[tuple[str, ...], tuple[str, ...]]:
    metrics = (metric,) if isinstance(metric, str) else tuple(metric)
    modes = (mode,) if isinstance(mode, str) else tuple(mode)
    if len(metrics) != len(modes) or not metrics:
        raise UsageError(
            f"{len(metrics)} metrics and {len(modes)} modes do not go together.",
            "Give a mode for each metric.",
        )
    for name in modes:
        if name not in DIRECTIONS:
            raise UsageError(f"The mode {name!r} is unknown.", f"Known: {', '.join(DIRECTIONS)}.")
    return metrics, modes


def _finite(value: object) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)

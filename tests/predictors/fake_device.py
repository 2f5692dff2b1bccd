"""A device whose clock is computed, latencies whose truth is known, and a small space of real modules."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from predictors.devices import Timing
from predictors.regression.metrics import Floats
from search_spaces import Architecture, Choice, Part, SearchSpace
from search_spaces.layers import Layer, activation, linear
from search_spaces.space import Codes

FEATURES_IN = 16
CLASSES = 10
NS_PER_MAC = {"linear": 0.02, "conv2d": 0.05, "attention": 0.2}


@dataclass(frozen=True)
class PreparedRun:
    """Notes its network's name."""

    name: str
    events: list[str]

    def __call__(self) -> None:
        self.events.append(self.name)


@dataclass
class FakeDevice:
    """Runs a network in `seconds_of[its name]` of its own time, which the slow-downs stretch.

    slowdown: factor of the n-th timing.  slow_at: factor at a time of the device's clock, every millisecond.
    wall_per_cpu: None for a device without CPU time.  What it ran is in `events`.
    """

    seconds_of: Mapping[str, float]
    slowdown: Callable[[int], float] = lambda count: 1.0
    slow_at: Callable[[float], float] | None = None
    wall_per_cpu: Callable[[int], float] | None = None
    memory: Callable[[str], int | None] = lambda name: None
    watts: float | None = None
    name: str = "fake"
    batch: int = 1
    threads: int = 8
    now: float = 0.0
    events: list[str] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    most_prepared: int = 0

    def fingerprint(self) -> dict[str, Any]:
        return {"backend": "fake"}

    @contextmanager
    def session(self) -> Iterator[None]:
        before, self.threads = self.threads, 1
        try:
            yield
        finally:
            self.threads = before

    @contextmanager
    def prepare(self, module: nn.Module, example: Any) -> Iterator[Callable[[], None]]:
        name = module.name if isinstance(module, Named) else "calibrator"
        self.prepared.append(name)
        self.most_prepared = max(self.most_prepared, len(self.prepared))
        try:
            yield PreparedRun(name, self.events)
        finally:
            self.prepared.remove(name)

    def time(self, run: Callable[[], None]) -> Timing:
        assert self.threads == 1, "timed outside a session"
        assert isinstance(run, PreparedRun), "some backends can time only what they prepared"
        run()
        count = len(self.events)
        seconds = self._stretched(self.seconds_of[self.events[-1]]) * self.slowdown(count)
        if self.wall_per_cpu is None:
            return Timing(seconds)
        return Timing(seconds * self.wall_per_cpu(count), seconds)

    def peak_memory(self, module: nn.Module, example: Any) -> int | None:
        assert self.threads == 1, "asked outside a session"
        return self.memory(module.name)

    def joules(self) -> float | None:
        return None if self.watts is None else self.watts * self.now

    def _stretched(self, work: float) -> float:
        """Seconds on the clock, which goes on, for seconds of work."""
        start, slow = self.now, self.slow_at or (lambda now: 1.0)
        while math.isfinite(work) and work > 0:
            factor = slow(self.now)
            step = min(work, 1e-3 / factor)
            work, self.now = work - step, self.now + step * factor
        return self.now - start if self.now > start else work


class Named(nn.Module):
    """A module of 4,000 bytes that the fake device knows by its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.weight = nn.Parameter(nn.init.zeros_(nn.Linear(10, 100, bias=False).weight))


def mlp_space(
    widths: tuple[int, ...] = (64, 128, 192, 256), depths: tuple[int, ...] = (1, 2, 3)
) -> SearchSpace:
    """Multilayer perceptrons with a width for every hidden layer."""
    choices = [Choice("depth", depths)]
    choices += [
        Choice(f"width.{i}", widths, ("depth", tuple(d for d in depths if d > i))) for i in range(max(depths))
    ]

    def hidden(index: int) -> Callable[[Mapping[str, Any]], tuple[Layer, ...]]:
        def layers(values: Mapping[str, Any]) -> tuple[Layer, ...]:
            width = values[f"width.{index}"]
            if width is None:
                return ()
            n_in = values[f"width.{index - 1}"] if index else FEATURES_IN
            if n_in is None:
                return ()
            return linear(f"fc{index}", 1, n_in, width), activation(f"act{index}", 1, width)

        return layers

    def head(values: Mapping[str, Any]) -> tuple[Layer, ...]:
        width = values[f"width.{values['depth'] - 1}"]
        return () if width is None else (linear("head", 1, width, CLASSES),)

    all_widths = [f"width.{i}" for i in range(max(depths))]
    parts = [Part(tuple(all_widths[max(i - 1, 0) : i + 1]), hidden(i)) for i in range(max(depths))]
    options = {"widths": widths, "depths": depths}
    return SearchSpace("mlp", "mlp", tuple(choices), (*parts, Part(("depth", *all_widths), head)), options)


def mlp(space: SearchSpace, arch: Architecture) -> nn.Sequential:
    """The module of one architecture, from its layer list."""
    modules: list[nn.Module] = []
    for layer in space.layers(arch):
        modules.append(nn.Linear(*layer.shape[1:]) if layer.kind == "linear" else nn.GELU())
    return nn.Sequential(*modules)


def nanoseconds(layer: Layer) -> tuple[float]:
    """A device that pays for launches, for MACs by kind and for numbers read and written."""
    moved = layer.input_elements + layer.output_elements
    return (2000 + NS_PER_MAC.get(layer.kind, 0) * layer.macs + 0.3 * moved,)


def latencies(space: SearchSpace, codes: Codes) -> Floats:
    return 0.01 + space.totals(codes, nanoseconds)[:, 0] * 1e-6


def measured(space: SearchSpace, count: int, *, seed: int = 0, noise: float = 0.02) -> tuple[Codes, Floats]:
    rng = np.random.default_rng(seed)
    ends = space.encode([space.smallest, space.largest])
    codes = np.unique(np.concatenate([ends, space.sample_choices(rng, 4 * count)]), axis=0)
    codes = rng.permutation(codes)[:count]
    return codes, latencies(space, codes) * np.exp(rng.normal(0, noise, count))

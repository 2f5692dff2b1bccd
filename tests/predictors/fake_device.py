"""A device whose clock is computed, latencies whose truth is known, and a small space of real modules."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from predictors._metrics import Floats
from search_spaces import Architecture, Choice, Part, SearchSpace
from search_spaces._layers import Layer, activation, linear
from search_spaces._space import Codes

FEATURES_IN = 16
CLASSES = 10
NS_PER_MAC = {"linear": 0.02, "conv2d": 0.05, "attention": 0.2}


@dataclass
class FakeDevice:
    """Times a network as `seconds_of[its name] * slowdown(timings so far)`; what it did is in `events`."""

    seconds_of: Mapping[str, float]
    slowdown: Callable[[int], float] = lambda count: 1.0
    name: str = "fake"
    batch: int = 1
    threads: int = 8
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
        assert isinstance(module, Named)
        self.prepared.append(module.name)
        self.most_prepared = max(self.most_prepared, len(self.prepared))
        try:
            yield lambda: self.events.append(module.name)
        finally:
            self.prepared.remove(module.name)

    def seconds(self, run: Callable[[], None]) -> float:
        assert self.threads == 1, "timed outside a session"
        run()
        return self.seconds_of[self.events[-1]] * self.slowdown(len(self.events))


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

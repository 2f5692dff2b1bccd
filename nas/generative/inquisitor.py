"""The inquisitor: learns from probed networks what in an architecture helps, and advises the generator.

Source of the idea: Wong et al., "FermiNets" (arXiv 1809.05989); how it is done is ours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.generative.performance import Performance
from predictors.accuracy import AccuracyEnsemble
from search_spaces import Architecture, SearchSpace
from search_spaces.space import Codes

Floats = NDArray[np.float64]
Reactions = Mapping[str, float]
Probe = Callable[[Sequence[Architecture]], Sequence[Reactions]]

LEAST_IMPORTANCE, MOST_IMPORTANCE = 0.25, 4.0
MEAN_PART = 0.1  # of the weighted mean beside the worst objective, so that ties are broken


@dataclass(frozen=True, eq=False)
class Inquisitor:
    """What is believed of architectures after some were evaluated.

    models: one for each learned objective, all maximised.  low, span: of each objective so far.
    importance: of every choice (C,), 1 on average: how strongly the blocks react that depend on it.
    metrics: codes -> what is known of architectures anyway.
    """

    models: tuple[AccuracyEnsemble, ...]
    low: Floats
    span: Floats
    importance: Floats
    performance: Performance
    metrics: Callable[[Codes], Mapping[str, Any]]

    def beliefs(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the objectives, (B, objectives) each."""
        means, stds = zip(*(model.predict(codes) for model in self.models), strict=True)
        return np.stack(means, axis=1), np.stack(stds, axis=1)

    def means(self, codes: Codes) -> Floats:
        """Means of the objectives (B, objectives)."""
        return np.stack([model.mean(codes) for model in self.models], axis=1)

    def worth(self, codes: Codes, values: Floats, weights: Floats) -> Floats:
        """Performance (B,) of objectives (B, objectives); of several, the worst by weight (Chebyshev)."""
        if len(self.models) == 1:
            return self.performance(values[:, 0], self.metrics(codes))
        weighted = weights * (values - self.low) / self.span
        worst: Floats = weighted.min(axis=-1) + MEAN_PART * weighted.sum(axis=-1)
        return worst

    def below(self, values: Floats) -> Floats:
        """How far objectives (B, objectives) are below the required quality, (B,)."""
        return self.performance.below(values[:, 0])


def importance(space: SearchSpace, probed: Mapping[Architecture, Reactions]) -> Floats:
    """Of every choice (C,), 1 on average: the mean reaction of the blocks whose layers depend on it.

    probed: architecture -> stage of its forward pass -> its reaction.
    A choice of which no reaction tells anything has the importance 1.
    """
    total, count = np.zeros(len(space.choices)), np.zeros(len(space.choices))
    places = {choice.name: i for i, choice in enumerate(space.choices)}
    for arch, reactions in probed.items():
        values = dict(arch.values)
        whole = sum(reactions.values()) or 1.0
        for part in space.parts:
            layers = part.layers({name: values.get(name) for name in (*part.depends_on, *part.named_by)})
            stages = {s for layer in layers for s in reactions if f"{layer.name}.".startswith(f"{s}.")}
            if stages:
                share = sum(reactions[stage] for stage in stages) / whole * len(reactions)
                for name in part.depends_on:
                    total[places[name]] += share
                    count[places[name]] += 1
    mean = np.divide(total, count, out=np.ones(len(total)), where=count > 0)
    of_reacting = mean[count > 0]
    mean[count > 0] = of_reacting / (of_reacting.mean() or 1.0) if len(of_reacting) else of_reacting
    return np.clip(mean, LEAST_IMPORTANCE, MOST_IMPORTANCE)

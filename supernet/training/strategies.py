"""Which architectures one optimiser step trains: small objects with a `draw`.

The draw is a pure function of the generator it is given, which the trainer seeds from (seed, step); every
rank of a data-parallel group therefore draws alike, and a resumed training draws what the interrupted one
would have drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search_spaces import Architecture, SearchSpace
from search_spaces.choices import Choice
from search_spaces.errors import UsageError
from search_spaces.space import Codes
from supernet.training.resource_groups import Groups


class ByExamples:
    """Losses of a step count by how many examples they are of."""

    def shares(self, counts: Sequence[int]) -> Sequence[float]:
        return [count / sum(counts) for count in counts]


class OnWholeBatch(ByExamples):
    """Every architecture of a step sees all examples of the batch."""

    lots = 1

    def share(self, count: int, archs: int) -> Sequence[slice]:
        return [slice(None)] * archs


class InBlocks(ByExamples):
    """Each sees its own share: one architecture's examples, then the next one's."""

    lots = 1

    def share(self, count: int, archs: int) -> Sequence[slice]:
        ends = [count * i // archs for i in range(archs + 1)]
        return [slice(*ends[i : i + 2]) for i in range(archs)]


class Interleaved(ByExamples):
    """Each sees its own share, dealt out in turns: the halves of a batch may be mixed unlike.

    With several lots each lot of architectures has its own block of the batch, dealt out inside.
    """

    lots = 1

    def share(self, count: int, archs: int) -> Sequence[slice]:
        lots = min(self.lots, archs)
        ends = [count * i // lots for i in range(lots + 1)]
        each = archs // lots
        return [slice(start + i, end, each) for start, end in pairwise(ends) for i in range(each)]


class Strategy(Protocol):
    """Draws the architectures of one step; with distillation the first one teaches the others.

    lots: into how many blocks, one behind the other, a batch falls that may be mixed apart from each other.
    """

    @property
    def lots(self) -> int: ...

    def share(self, count: int, archs: int) -> Sequence[slice]:
        """Which of the `count` examples of a batch each of the architectures sees."""

    def shares(self, counts: Sequence[int]) -> Sequence[float]:
        """What the loss of each architecture counts; counts: how many examples it is of."""

    def draw(self, space: SearchSpace, rng: np.random.Generator) -> list[Architecture]: ...


@dataclass(frozen=True)
class SinglePath(OnWholeBatch):
    """One architecture a step: the smallest or the largest with the given probabilities, else a random one.

    Source: single-path one-shot (Guo et al., arXiv 1904.00420); drawing the ends often is our answer to the
    bell shape of random sampling, which hardly ever visits them (MatFormer paper, OFA baseline).
    """

    smallest: float = 0.1
    largest: float = 0.2

    def draw(self, space: SearchSpace, rng: np.random.Generator) -> list[Architecture]:
        u = rng.random()
        if u < self.smallest:
            return [space.smallest]
        if u < self.smallest + self.largest:
            return [space.largest]
        return _random(space, rng, 1)


@dataclass(frozen=True)
class Sandwich(OnWholeBatch):
    """The largest, the smallest and `random` random architectures on the same batch.

    Source: Yu and Huang, "Universally Slimmable Networks" (arXiv 1903.05134).
    """

    random: int = 2

    def draw(self, space: SearchSpace, rng: np.random.Generator) -> list[Architecture]:
        return [space.largest, space.smallest, *_random(space, rng, self.random)]


@dataclass(frozen=True)
class Weighted(OnWholeBatch):
    """One uniform architecture a step: every choice at one granularity, drawn with `weights`, smallest first.

    The default puts more weight on the largest (MatFormer paper, table 6: .20/.22/.24/.34 leaves it no worse
    than trained alone).
    """

    weights: Sequence[float] = field(default=(0.20, 0.22, 0.24, 0.34))

    def draw(self, space: SearchSpace, rng: np.random.Generator) -> list[Architecture]:
        points = _granularities(space, self.weights)
        weights = np.asarray(self.weights, dtype=np.float64)
        return [points[rng.choice(len(points), p=weights / weights.sum())]]


@dataclass(frozen=True)
class Joint(OnWholeBatch):
    """Every uniform granularity on the same batch, largest first (as the released MatFormer code trains).

    weights: of their losses, smallest first; None: all count the same. They are divided by their sum.
    """

    granularities: int = 4
    weights: Sequence[float] | None = None

    def draw(self, space: SearchSpace, rng: np.random.Generator) -> list[Architecture]:
        if self.weights is None:
            return space.uniform(self.granularities)[::-1]
        return _granularities(space, self.weights)[::-1]

    def shares(self, counts: Sequence[int]) -> Sequence[float]:
        # The counts are equal; there may be others in a step than all granularities: the largest first.
        if self.weights is None or len(counts) != len(self.weights):
            return super().shares(counts)
        return [weight / sum(self.weights) for weight in reversed(self.weights)]


@dataclass(frozen=True)
class FixedSubnets(OnWholeBatch):
    """One of these architectures a step: the first one with probability `largest`, else any of them.

    teaches: the first one in every step, with one of the others on the same batch.
    """

    archs: Sequence[Architecture]
    largest: float = 0.0
    teaches: bool = False

    def draw(self, space: SearchSpace, rng: np.random.Generator) -> list[Architecture]:
        first, *others = self.archs
        if self.teaches:
            return [first, others[int(rng.integers(len(others)))]] if others else [first]
        if rng.random() < self.largest:
            return [first]
        return [self.archs[int(rng.integers(len(self.archs)))]]


@dataclass(frozen=True)
class ResourceConstrained(InBlocks):
    """`paths` architectures, each by a group drawn uniformly and a member of it drawn uniformly.

    groups: of architectures of like cost, made by `supernet.training.resource_groups`. Each
    architecture learns from its own share of the batch: the published training draws one for each of its GPUs
    (Pan et al., "Stitched ViTs are Flexible Vision Backbones", arXiv 2307.00154).
    """

    groups: Groups
    paths: int = 4

    def draw(self, space: SearchSpace, rng: np.random.Generator) -> list[Architecture]:
        groups = [self.groups[i] for i in rng.integers(len(self.groups), size=self.paths)]
        return [group[rng.integers(len(group))] for group in groups]


@dataclass(frozen=True)
class MultiArchitectural(Interleaved):
    """`paths` architectures that differ as much as they can, each on its own share of the batch.

    Every choice hands its options out in random order, none twice before all have been used. Source: Liao et
    al., "Searching for Efficient Multi-Stage Vision Transformers" (arXiv 2109.00642), multi-architectural
    sampling; there with masks in one pass, here sliced, one after the other.
    at_once: how many of them differ so, drawn apart from the next ones, with a block of the batch of their
    own (the released training: two, on each of eight GPUs); None: all. It divides `paths`.
    """

    paths: int = 4
    at_once: int | None = None

    @property
    def lots(self) -> int:  # type: ignore[override]
        return 1 if self.at_once is None else self.paths // self.at_once

    def draw(self, space: SearchSpace, rng: np.random.Generator) -> list[Architecture]:
        drawn = [self._lot(space, rng, self.paths // self.lots) for _ in range(self.lots)]
        return space.decode(space.canonical(np.concatenate(drawn)))

    def _lot(self, space: SearchSpace, rng: np.random.Generator, count: int) -> Codes:
        return np.stack([_dealt(choice, count, rng) for choice in space.choices], axis=1)


def _dealt(choice: Choice, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The places of `count` options, in rounds that use each of them once, or as often as it counts."""
    entries = np.repeat(np.arange(len(choice.options)), choice.copies or 1)
    rounds = -(-count // len(entries))
    return np.concatenate([entries[rng.permutation(len(entries))] for _ in range(rounds)])[:count]


def _granularities(space: SearchSpace, weights: Sequence[float]) -> list[Architecture]:
    """One for each weight, smallest first. Raises UsageError where the space has not so many."""
    points = space.uniform(len(weights))
    if len(points) != len(weights):
        raise UsageError(
            f"{len(weights)} sampling weights are given, but space '{space.name}' has "
            f"{len(points)} uniform granularities.",
            "Give one weight for each, or choose another strategy.",
        )
    return points


def _random(space: SearchSpace, rng: np.random.Generator, count: int) -> list[Architecture]:
    return space.decode(space.sample_choices(rng, count))

"""What is learnt: the loss of a batch, a score for every example, the qualities that are made of scores.

What a task says of its qualities is told without torch, which tasks import where they compute.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from search_spaces import registry

if TYPE_CHECKING:
    from torch import Tensor

Scores = NDArray[np.bool_ | np.float32]  # of examples: who is right, or what a loss is
TASK = "classification"  # of data sets that do not say theirs


@dataclass(frozen=True, slots=True)
class QualityKind:
    """A sum of scores over a count of what they are of: by default the mean of the examples' scores.

    name: as job files, stores and fronts call it.  unit: of its values.  goal: which of two is better.
    balanced: whether all classes of examples count the same, however many examples they have.
    per: which of the data set's counts the sum is divided by; "": how many examples there are.
    scale: a factor on that.  exponential: whether it is e to the power of that.
    best, worst: between which a front's hypervolume counts.  most: that a value can be; the least is 0.
    searched: whether a job can search for it; others are told beside one that it can.
    """

    name: str
    unit: str
    goal: Literal["max", "min"]
    balanced: bool = False
    per: str = ""
    scale: float = 1.0
    exponential: bool = False
    best: float = 1.0
    worst: float = 0.0
    most: float = 1.0
    searched: bool = True

    @property
    def sign(self) -> float:
        """What makes values ones of which the greater is better."""
        return 1.0 if self.goal == "max" else -1.0

    @property
    def span(self) -> float:
        """How far the worst that counts is from the best."""
        return abs(self.best - self.worst)

    def lost(self, values: Any) -> Any:
        """Values as shares of the way from the best, 0, to the worst that counts, 1."""
        return (self.best - values) / (self.best - self.worst)


class Task(ABC):
    """What outputs of a network are compared with, and how.

    outputs: of a batch, examples first.  targets: what the data say of the same examples.
    sizes: the names of what data of the task decide of every network (`nas.spaces.job_space.data_sizes`).
    examples, choices: in words, several of the data's and of what outputs decide between.
    qualities: what a job can search for, and what is told beside it; the first unless it names another.
    recipe: training defaults below those of a family.
    """

    examples: str
    choices: str
    sizes: Sequence[str]
    qualities: Sequence[QualityKind]
    recipe: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def sizes_of(self, shape: tuple[int, ...], choices: int) -> dict[str, Any]:
        """The `sizes` by their names, of data with inputs of a shape and so many choices."""

    @abstractmethod
    def loss(self, outputs: "Tensor", targets: "Tensor", *, smoothing: float = 0.0) -> "Tensor":
        """The mean loss of outputs to targets, or to answers; `smoothing`: of targets, from 0 to 1."""

    @abstractmethod
    def answers(self, outputs: "Tensor", targets: "Tensor", *, hard: bool) -> "Tensor":
        """What a network says, as targets of another one's loss; `hard`: without how sure it is.

        targets: of the same examples, which tell where there is nothing to be said.
        """

    @abstractmethod
    def scores(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """One number for every example (B,)."""

    @abstractmethod
    def baseline(self, targets: "Tensor", counts: "Mapping[str, Tensor]") -> dict[str, Any]:
        """What needs no learning, of all targets of a split and the data set's counts of them."""

    @abstractmethod
    def problem(self, recipe: Any) -> str | None:
        """Why a recipe (`supernet.training.recipe.Recipe`) does not fit the task, and what does."""


@cache
def get(name: str = TASK) -> Task:
    """The task of that name. Raises NotFoundError for one that there is not."""
    task: Task = registry.call(__name__, name)
    return task


def names() -> list[str]:
    """The tasks that there are."""
    return registry.names(__name__)


@cache
def kinds() -> dict[str, QualityKind]:
    """The qualities of all tasks by their names."""
    return {kind.name: kind for name in names() for kind in get(name).qualities}


def of_quality(name: str) -> str:
    """The task that a quality is of."""
    return next(task for task in names() if name in (kind.name for kind in get(task).qualities))

"""What is learnt: the loss of a batch, a score for every example, the qualities that are means of scores."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from search_spaces.registry import call

if TYPE_CHECKING:
    from torch import Tensor

TASK = "classification"  # of every data set so far


@dataclass(frozen=True, slots=True)
class QualityKind:
    """A mean of scores.

    name: as job files, stores and fronts call it.  unit: of its values.  goal: which of two is better.
    balanced: whether all classes of examples count the same, however many examples they have.
    """

    name: str
    unit: str
    goal: Literal["max", "min"]
    balanced: bool = False


class Task(ABC):
    """What outputs of a network are compared with, and how.

    outputs: of a batch, examples first.  targets: what the data say of the same examples.
    qualities: what a job can search for; the first unless it names another.
    """

    qualities: Sequence[QualityKind]

    @abstractmethod
    def loss(self, outputs: "Tensor", targets: "Tensor", *, smoothing: float = 0.0) -> "Tensor":
        """The mean loss of outputs to targets, or to answers; `smoothing`: of targets, from 0 to 1."""

    @abstractmethod
    def answers(self, outputs: "Tensor", *, hard: bool) -> "Tensor":
        """What a network says, as targets of another one's loss; `hard`: without how sure it is."""

    @abstractmethod
    def scores(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """One number for every example (B,)."""

    @abstractmethod
    def baseline(self, targets: "Tensor") -> dict[str, Any]:
        """What needs no learning, of all targets of a split."""


@cache
def get(name: str = TASK) -> Task:
    """The task of that name. Raises NotFoundError for one that there is not."""
    task: Task = call(__name__, name)
    return task

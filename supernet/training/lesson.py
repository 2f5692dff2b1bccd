"""What one optimiser step learns from: inputs, and what is to be said of them."""

from dataclasses import dataclass

from torch import Tensor

from supernet.tasks import Task


@dataclass(frozen=True)
class Lesson:
    """Inputs, examples first, and what every architecture is to say of its share of them.

    targets: as the task has them; of mixed images the shares of the classes (B, classes).
    patch_labels: the shares of the classes in every patch (B, P, classes), if the patches are labelled.
    answers: of a teacher, as `Task.answers` gives them.
    """

    inputs: Tensor
    targets: Tensor
    patch_labels: Tensor | None = None
    answers: Tensor | None = None

    def part(self, which: slice | Tensor) -> "Lesson":
        """Some of the examples."""
        patch_labels = None if self.patch_labels is None else self.patch_labels[which]
        answers = None if self.answers is None else self.answers[which]
        return Lesson(self.inputs[which], self.targets[which], patch_labels, answers)

    def loss(self, task: Task, logits: Tensor, *, smoothing: float, teacher_weight: float) -> Tensor:
        """The task's loss of logits to the targets and, by its weight, to the answers."""
        loss = task.loss(logits, self.targets, smoothing=smoothing)
        if self.answers is None:
            return loss
        return (1 - teacher_weight) * loss + teacher_weight * task.loss(logits, self.answers)

    def patch_loss(self, task: Task, logits: Tensor, *, smoothing: float) -> Tensor:
        """The task's loss of the patches' logits (B, P, classes) to their labels."""
        assert self.patch_labels is not None
        return task.loss(logits.flatten(0, 1), self.patch_labels.flatten(0, 1), smoothing=smoothing)

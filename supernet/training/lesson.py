"""What one optimiser step learns from: images, and what is to be said of them."""

from dataclasses import dataclass

from torch import Tensor

from supernet.tasks import Task


@dataclass(frozen=True)
class Lesson:
    """Images (B, C, height, width) and what every architecture is to say of its share of them.

    labels: classes (B,), or their shares (B, classes).
    patch_labels: the shares of the classes in every patch (B, P, classes), if the patches are labelled.
    answers: of a teacher, as `Task.answers` gives them.
    """

    images: Tensor
    labels: Tensor
    patch_labels: Tensor | None = None
    answers: Tensor | None = None

    def part(self, which: slice) -> "Lesson":
        """Some of the examples."""
        patch_labels = None if self.patch_labels is None else self.patch_labels[which]
        answers = None if self.answers is None else self.answers[which]
        return Lesson(self.images[which], self.labels[which], patch_labels, answers)

    def loss(self, task: Task, logits: Tensor, *, smoothing: float, teacher_weight: float) -> Tensor:
        """The task's loss of logits (B, classes) to the labels and, by its weight, to the answers."""
        loss = task.loss(logits, self.labels, smoothing=smoothing)
        if self.answers is None:
            return loss
        return (1 - teacher_weight) * loss + teacher_weight * task.loss(logits, self.answers)

    def patch_loss(self, task: Task, logits: Tensor, *, smoothing: float) -> Tensor:
        """The task's loss of the patches' logits (B, P, classes) to their labels."""
        assert self.patch_labels is not None
        return task.loss(logits.flatten(0, 1), self.patch_labels.flatten(0, 1), smoothing=smoothing)

"""Classification: one label an example, right or wrong."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from supernet.tasks import QualityKind, Task


def build() -> "Classification":
    """The task of classifiers."""
    return Classification()


class Classification(Task):
    """Outputs are logits (B, classes), targets labels (B,) or shares of the classes (B, classes)."""

    qualities = (
        QualityKind("accuracy", "share of the examples", "max"),
        QualityKind("balanced_accuracy", "share of the examples, mean of the classes", "max", balanced=True),
    )

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """The cross entropy."""
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def answers(self, outputs: Tensor, *, hard: bool) -> Tensor:
        """Labels, or probabilities of the classes."""
        return outputs.argmax(dim=-1) if hard else outputs.softmax(dim=-1)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Booleans: which examples are classified right."""
        return outputs.argmax(dim=-1) == targets

    def baseline(self, targets: Tensor) -> dict[str, Any]:
        """The commonest label and its share, and how many labels there are."""
        labels, counts = targets.cpu().unique(return_counts=True)
        commonest = int(counts.argmax())
        return {
            "examples": int(counts.sum()),
            "classes": len(counts),
            "majority": int(counts[commonest]) / int(counts.sum()),
            "majority_class": int(labels[commonest]),
        }

"""Classification: one label an example, right or wrong."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from supernet.tasks import QualityKind, Task

if TYPE_CHECKING:
    from torch import Tensor


def build() -> "Classification":
    """The task of classifiers."""
    return Classification()


class Classification(Task):
    """Outputs are logits (B, classes), targets labels (B,) or shares of the classes (B, classes)."""

    examples, choices = "images", "classes"
    sizes = ("image_size", "in_chans", "num_classes")
    qualities = (
        QualityKind("accuracy", "share of the examples", "max"),
        QualityKind("balanced_accuracy", "share of the examples, mean of the classes", "max", balanced=True),
    )

    def sizes_of(self, shape: tuple[int, ...], choices: int) -> dict[str, Any]:
        """Of images (channels, height, width)."""
        channels, height, width = shape
        return {"image_size": (height, width), "in_chans": channels, "num_classes": choices}

    def loss(self, outputs: "Tensor", targets: "Tensor", *, smoothing: float = 0.0) -> "Tensor":
        """The cross entropy."""
        from torch.nn import functional as F  # noqa: PLC0415 - heavy

        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def answers(self, outputs: "Tensor", targets: "Tensor", *, hard: bool) -> "Tensor":
        """Labels, or probabilities of the classes."""
        return outputs.argmax(dim=-1) if hard else outputs.softmax(dim=-1)

    def scores(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """Booleans: which examples are classified right."""
        return outputs.argmax(dim=-1) == targets

    def baseline(self, targets: "Tensor", counts: "Mapping[str, Tensor]") -> dict[str, Any]:
        """The commonest label and its share, and how many labels there are."""
        labels, times = targets.cpu().unique(return_counts=True)
        commonest = int(times.argmax())
        return {
            "examples": int(times.sum()),
            "classes": len(times),
            "majority": int(times[commonest]) / int(times.sum()),
            "majority_class": int(labels[commonest]),
        }

    def problem(self, recipe: Any) -> None:
        """Recipes were made for it."""

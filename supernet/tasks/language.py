"""Language: the next token after each token of a block."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from supernet.tasks import QualityKind, Task

if TYPE_CHECKING:
    from torch import Tensor

NO_TARGET = -100  # where nothing is to be said: behind the end of a text
PARTS = 1024  # of a nat, to which scores are rounded
UNIFORM_BITS = 8.0  # a byte that could be any


def build() -> "Language":
    """The task of language models."""
    return Language()


class Language(Task):
    """Outputs are logits (B, T, vocabulary), targets the next tokens (B, T), NO_TARGET where there is none.

    Answers are of the same shape, or probabilities of the tokens (B, T, vocabulary), all 0 where there is no
    target. Counts of a data set: the `tokens` and `bytes` of the targets of each block.
    """

    examples, choices = "blocks", "tokens"
    sizes = ("context", "vocabulary")
    qualities = (
        QualityKind(
            "bits_per_byte",
            "bits per byte of text",
            "min",
            per="bytes",
            scale=1 / math.log(2),
            best=0.0,
            worst=UNIFORM_BITS,
            most=math.inf,
        ),
        QualityKind(
            "loss", "nats per token", "min", per="tokens", best=0.0, worst=1.0, most=math.inf, searched=False
        ),
        QualityKind(
            "perplexity",
            "tokens to choose from",
            "min",
            per="tokens",
            exponential=True,
            best=1.0,
            worst=2.0,
            most=math.inf,
            searched=False,
        ),
    )
    recipe = MappingProxyType({"label_smoothing": 0.0})

    def sizes_of(self, shape: tuple[int, ...], choices: int) -> dict[str, Any]:
        """Of blocks (tokens,)."""
        (context,) = shape
        return {"context": context, "vocabulary": choices}

    def loss(self, outputs: "Tensor", targets: "Tensor", *, smoothing: float = 0.0) -> "Tensor":
        """The cross entropy in nats, a mean over the tokens that have a target."""
        from torch.nn import functional as F  # noqa: PLC0415 - heavy

        if targets.dim() == outputs.dim():
            chances = outputs.float().log_softmax(dim=-1)
            targets = targets.float()
            if smoothing:
                asked = targets.sum(dim=-1, keepdim=True)
                targets = (1 - smoothing) * targets + smoothing * asked / targets.shape[-1]
            return -(targets * chances).sum() / targets.sum().clamp_min(1.0)
        if not bool((targets != NO_TARGET).any()):
            return outputs.sum() * 0.0
        return F.cross_entropy(
            outputs.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET, label_smoothing=smoothing
        )

    def answers(self, outputs: "Tensor", targets: "Tensor", *, hard: bool) -> "Tensor":
        """Tokens, or probabilities of the tokens, where there is a target."""
        asked = targets != NO_TARGET
        if hard:
            return outputs.argmax(dim=-1).masked_fill(~asked, NO_TARGET)
        return outputs.softmax(dim=-1) * asked[..., None]

    def scores(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """The sum of the losses of each block in nats, rounded to 1/1024 nat.

        So rounded, sums of scores are exact in double precision, in whatever order they are added.
        """
        from torch.nn import functional as F  # noqa: PLC0415 - heavy

        losses = F.cross_entropy(
            outputs.float().flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET, reduction="none"
        )
        sums = losses.view_as(targets).double().sum(dim=1)
        return ((sums * PARTS).round() / PARTS).float()

    def baseline(self, targets: "Tensor", counts: "Mapping[str, Tensor]") -> dict[str, Any]:
        """What a model pays for each byte that knows no more than how often each token comes."""
        tokens = targets[targets != NO_TARGET]
        times = tokens.bincount().double()
        shares = times[times > 0] / len(tokens)
        nats = -float((shares * shares.log()).sum()) * len(tokens)
        of_bytes = int(counts["bytes"].sum())
        return {
            "examples": len(targets),
            "tokens": len(tokens),
            "bytes": of_bytes,
            "bits_per_byte": nats / math.log(2) / of_bytes,
        }

    def problem(self, recipe: Any) -> str | None:
        """Images are mixed, and timm teaches what they show; the loss of text is nothing without its unit."""
        if recipe.patch_mixup:
            return "train.patch_mixup mixes images, and there are none: set it to false."
        if recipe.mixes:
            return "train.mixup and train.cutmix mix images, and there are none: leave them out."
        if getattr(recipe.teacher, "timm", None) is not None:
            return "train.teacher names a classifier of images: leave it out, or set it to {init: true}."
        if recipe.label_smoothing:
            return "train.label_smoothing makes losses of text that are no nats per token: set it to 0."
        return None

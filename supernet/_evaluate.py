"""Quality of many architectures with shared weights: a trie over their steps computes equal prefixes once."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from search_spaces import Architecture
from supernet._base import Supernet
from supernet._prefix_cache import PrefixCache
from supernet._standard_errors import MeanErrors
from supernet._steps import Steps, shared_steps
from supernet._trie import Descent


@dataclass(frozen=True, slots=True)
class Quality:
    """Accuracy, or balanced accuracy, with its standard error over `count` examples."""

    value: float
    stderr: float
    count: int


def correct(
    supernet: Supernet,
    archs: Sequence[Architecture],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    siblings: bool = False,
    steps: Steps | None = None,
    cache: PrefixCache | None = None,
    ids: Iterable[Hashable] | None = None,
) -> dict[Architecture, Tensor]:
    """For each architecture which examples it classifies right: booleans `(examples,)`.

    Each gets bit for bit what it would get alone, whichever others are there and whatever the cache holds.
    siblings: FFNs that differ only in width run as one, which changes logits by rounding (1e-6) against the
    extracted network.  steps: of the supernet, to be used again as long as its weights stay as they are.
    cache: of activations, which holds as long; needs `ids`, one for each batch, that tell its images.
    """
    if (cache is None) != (ids is None):
        raise ValueError("A cache needs the ids of the image batches, and nothing else does.")
    descent = Descent(steps or shared_steps(supernet), siblings=siblings, cache=cache)
    hits: dict[Architecture, list[Tensor]] = {arch: [] for arch in archs}
    numbered = zip(batches, repeat(None) if ids is None else ids, strict=ids is not None)
    with torch.inference_mode():
        for (x, labels), batch in numbered:
            for arch, logits in descent.run(x, list(hits), batch=batch):
                hits[arch].append(logits.argmax(dim=-1) == labels)
    return {arch: torch.cat(parts) for arch, parts in hits.items()}


def quality(hits: Tensor, sources: Tensor | None = None, classes: Tensor | None = None) -> Quality:
    """Mean of `hits` (examples,) and its standard error.

    sources: ids (examples, k) of the items an example was made from. Examples that share an item are
    correlated, which the error takes into account (`MeanErrors`).
    classes: labels (examples,) for balanced accuracy, the mean of the accuracies of the classes.
    """
    values = hits.double().cpu()
    values = values if classes is None else values * class_weights(classes)
    (error,) = MeanErrors.over(len(values), sources, classes).of_means(values[:, None]).tolist()
    return Quality(float(values.mean()), error, len(values))


def class_weights(labels: Tensor) -> Tensor:
    """What each example (n,) counts in a mean in which all classes that are there count the same; mean 1."""
    _, places, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    return (len(labels) / (len(counts) * counts.double()))[places]

"""The quality of a subnet on all images, told from those that it has seen."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.evaluation import Hits
from supernet.evaluation.scores import Quality, class_weights
from supernet.evaluation.standard_errors import MeanErrors

Floats = NDArray[np.float64]


class Images:
    """All `count` images that a quality is told of: what each counts, and how sure means over the first are.

    sources: ids (count, k) of the items that images were made from; None: they share none.
    classes: labels (count,) where the quality is balanced accuracy.
    weights: (count,) what an image counts, 1 in the mean; None: all count the same.
    errors: the standard errors of means over the first images, by their number.
    """

    def __init__(self, count: int, sources: Tensor | None = None, classes: Tensor | None = None) -> None:
        self.count = count
        self.weights: Floats | None = None if classes is None else class_weights(classes).numpy()

        def errors(first: int) -> MeanErrors:
            # How many images a class has is given of all images, and chance in a part of them.
            strata = classes if first == count else None
            return MeanErrors.over(first, None if sources is None else sources[:first], strata)

        self.errors = lru_cache(None)(errors)

    def weighed(self, values: Floats) -> Floats:
        """Values of the first images (..., first) with what these count."""
        return values if self.weights is None else values * self.weights[: values.shape[-1]]

    def qualities(self, hits: Hits, ease: Floats) -> list[Quality]:
        """`whole_qualities` of these images."""
        return whole_qualities(hits, ease, self.errors, weights=self.weights)


def whole_qualities(
    hits: Hits, ease: Floats, errors: Callable[[int], MeanErrors], *, weights: Floats | None = None
) -> list[Quality]:
    """Quality on all images of subnets that have seen the first of them, (n, first), with standard errors.

    ease: (images,) the share of other subnets, which have seen all, that classify each image right.
    errors: the standard errors of means over the first images, by their number.
    weights: (images,) what each image counts, 1 in the mean; None: all count the same.
    The first images may be easier than the others; how much is known from `ease`, the control variate of a
    regression estimator (Cochran, "Sampling Techniques", 1977, chapter 7). Nothing is estimated of who has
    seen all.
    """
    seen, images = hits.shape[1], len(ease)
    values = hits.astype(np.float64).T
    if weights is not None:
        values, ease = values * weights[:seen, None], ease * weights
    if seen == images:
        means, error = values.mean(axis=0), _errors_of(values, errors)
    else:
        apart = ease[:seen] - ease[:seen].mean()
        spread = float(apart @ apart)
        slopes = apart @ values / spread if spread > 0 else np.zeros(len(hits))
        left = values - slopes * ease[:seen, None]
        means = np.clip(left.mean(axis=0) + slopes * ease.mean(), 0, 1)
        of_ease = _errors_of(ease[:, None], errors) if spread > 0 else np.zeros(1)
        error = np.hypot(_errors_of(left, errors), np.abs(slopes) * of_ease)
    return [Quality(float(v), float(e), seen) for v, e in zip(means, error, strict=True)]


def _errors_of(values: Floats, errors: Callable[[int], MeanErrors]) -> Floats:
    standard_errors: Floats = errors(len(values)).of_means(torch.from_numpy(values)).numpy()
    return standard_errors

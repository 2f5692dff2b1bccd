"""The quality of a subnet on all examples, told from those that it has seen."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.evaluation import Scores
from supernet import tasks
from supernet.evaluation.scores import Quality, class_weights
from supernet.evaluation.standard_errors import MeanErrors
from supernet.tasks import QualityKind

Floats = NDArray[np.float64]
Errors = Callable[[int], MeanErrors]


class Examples:
    """All `count` examples that a quality is told of: what each counts, how sure means over the first are.

    sources: ids (count, k) of the items that examples were made from; None: they share none.
    classes: labels (count,) where the quality is balanced over them.
    sizes: (count,) of what scores are sums, where the quality is told per that.
    kind: the quality; accuracy unless given.
    weights: (count,) factors on scores, which make the quality a mean of them; None: it is one.
    relative: (count,) sizes, 1 in the mean; None: all are of one size.
    errors: the standard errors of means over the first examples, by their number.
    """

    def __init__(
        self,
        count: int,
        sources: Tensor | None = None,
        classes: Tensor | None = None,
        *,
        sizes: Tensor | None = None,
        kind: QualityKind | None = None,
    ) -> None:
        self.count, self.kind = count, kind or tasks.get().qualities[0]
        self.weights: Floats | None = None if classes is None else class_weights(classes).numpy()
        self.relative: Floats | None = None
        if sizes is not None:
            mean = float(sizes.double().mean())
            self.weights = np.full(count, self.kind.scale / mean)
            self.relative = sizes.double().numpy() / mean

        def errors(first: int) -> MeanErrors:
            # How many examples a class has is given of all examples, and chance in a part of them.
            strata = classes if first == count else None
            return MeanErrors.over(first, None if sources is None else sources[:first], strata)

        self.errors = lru_cache(None)(errors)

    def means(self, scores: Scores) -> Floats:
        """The qualities (n,) of scores on all examples (n, count)."""
        values = self._weighed(scores.astype(np.float64))
        means: Floats = values.mean(axis=1)
        return means

    def qualities(self, scores: Scores, ease: Floats) -> list[Quality]:
        """`whole_qualities` of these examples."""
        return whole_qualities(
            scores, ease, self.errors, weights=self.weights, relative=self.relative, most=self.kind.most
        )

    def leads(self, scores: Scores, others: Scores) -> tuple[Floats, Floats]:
        """How much better each subnet (n,) is than another on the same first examples, and how sure that is.

        scores, others: (n, first).  Positive: better. The errors are those of the paired differences.
        """
        stop, kind = scores.shape[1], self.kind
        ahead = (kind.sign * self._weighed(scores.astype(np.float64) - others)).T
        relative = None if self.relative is None else self.relative[:stop]
        variance = np.square(_errors_of(_residuals(ahead, relative), self.errors))
        if scores.dtype == np.bool_:
            # Half an example more in each cell of the fourfold table: a few must not look certain.
            example = np.mean(self._weighed(np.ones(stop)) ** 2)
            variance += example / stop**2
        return _torch_means(ahead, relative), np.sqrt(variance)

    def _weighed(self, values: Floats) -> Floats:
        """Values of the first examples (..., first) with what these count."""
        return values if self.weights is None else values * self.weights[: values.shape[-1]]


def whole_qualities(
    scores: Scores,
    ease: Floats,
    errors: Errors,
    *,
    weights: Floats | None = None,
    relative: Floats | None = None,
    most: float = 1.0,
) -> list[Quality]:
    """Quality on all examples of subnets that have seen the first of them, (n, first), with standard errors.

    ease: (examples,) the mean score of other subnets, which have seen all, on each example.
    errors: the standard errors of means over the first examples, by their number.
    weights: (examples,) what each example counts; None: all count the same.
    relative: (examples,) sizes, 1 in the mean, if the quality is told per size.  most: that it can be.
    The first examples may be easier than the others; how much is known from `ease`, the control variate of a
    regression estimator (Cochran, "Sampling Techniques", 1977, chapter 7). Nothing is estimated of who has
    seen all.
    """
    seen, examples = scores.shape[1], len(ease)
    values = scores.astype(np.float64).T
    first = None if relative is None else relative[:seen]
    if weights is not None:
        values, ease = values * weights[:seen, None], ease * weights
    if seen == examples:
        means, error = _means(values, first), _errors_of(_residuals(values, first), errors)
    else:
        apart = ease[:seen] - ease[:seen].mean()
        spread = float(apart @ apart)
        slopes = apart @ values / spread if spread > 0 else np.zeros(len(scores))
        left = values - slopes * ease[:seen, None]
        means = np.clip(_means(left, first) + slopes * ease.mean(), 0, most)
        of_ease = _errors_of(_residuals(ease[:, None], relative), errors) if spread > 0 else np.zeros(1)
        error = np.hypot(_errors_of(_residuals(left, first), errors), np.abs(slopes) * of_ease)
    return [Quality(float(v), float(e), seen) for v, e in zip(means, error, strict=True)]


def _means(values: Floats, relative: Floats | None) -> Floats:
    """The means (n,) of columns (first, n); of sizes that differ those per size."""
    means: Floats = values.mean(axis=0) if relative is None else values.sum(axis=0) / relative.sum()
    return means


def _torch_means(values: Floats, relative: Floats | None) -> Floats:
    """The same, as torch adds up: races that were raced so end as they did."""
    if relative is not None:
        return _means(values, relative)
    means: Floats = torch.from_numpy(values).mean(dim=0).numpy()
    return means


def _residuals(values: Floats, relative: Floats | None) -> Floats:
    """Columns (first, n) whose means are as uncertain as `_means`: of a ratio what it does not explain."""
    if relative is None:
        return values
    residuals: Floats = (values - _means(values, relative) * relative[:, None]) / relative.mean()
    return residuals


def _errors_of(values: Floats, errors: Errors) -> Floats:
    standard_errors: Floats = errors(len(values)).of_means(torch.from_numpy(values)).numpy()
    return standard_errors

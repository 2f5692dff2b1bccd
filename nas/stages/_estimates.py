"""The quality of a subnet on all images, told from those that it has seen."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from nas.evaluation import Hits
from supernet._evaluate import Quality
from supernet._standard_errors import MeanErrors

Floats = NDArray[np.float64]


def whole_qualities(hits: Hits, ease: Floats, errors: Callable[[int], MeanErrors]) -> list[Quality]:
    """Accuracy on all images of subnets that have seen the first of them, (n, first), with standard errors.

    ease: (images,) the share of other subnets, which have seen all, that classify each image right.
    errors: the standard errors of means over the first images, by their number.
    The first images may be easier than the others; how much is known from `ease`, the control variate of a
    regression estimator (Cochran, "Sampling Techniques", 1977, chapter 7). Nothing is estimated of who has
    seen all.
    """
    seen, images = hits.shape[1], len(ease)
    values = hits.astype(np.float64).T
    if seen == images:
        told, error = values.mean(axis=0), _errors_of(values, errors)
    else:
        apart = ease[:seen] - ease[:seen].mean()
        spread = float(apart @ apart)
        slopes = apart @ values / spread if spread > 0 else np.zeros(len(hits))
        left = values - slopes * ease[:seen, None]
        told = np.clip(left.mean(axis=0) + slopes * ease.mean(), 0, 1)
        of_ease = _errors_of(ease[:, None], errors) if spread > 0 else np.zeros(1)
        error = np.hypot(_errors_of(left, errors), np.abs(slopes) * of_ease)
    return [Quality(float(v), float(e), seen) for v, e in zip(told, error, strict=True)]


def _errors_of(values: Floats, errors: Callable[[int], MeanErrors]) -> Floats:
    found: Floats = errors(len(values)).of_means(torch.from_numpy(values)).numpy()
    return found

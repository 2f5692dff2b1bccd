"""The quality of a subnet on all images, told from those that it has seen."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from nas.evaluation import Hits
from supernet._evaluate import Quality
from supernet._standard_errors import MeanErrors

Floats = NDArray[np.float64]


def whole_quality(hits: Hits, ease: Floats, errors: Callable[[int], MeanErrors]) -> Quality:
    """Accuracy on all images of a subnet that has seen the first of them, with its standard error.

    ease: (images,) the share of other subnets, which have seen all, that classify each image right.
    errors: the standard errors of means over the first images, by their number.
    The first images may be easier than the others; how much is known from `ease`, the control variate of a
    regression estimator (Cochran, "Sampling Techniques", 1977, chapter 7). Nothing is estimated of who has
    seen all.
    """
    seen, images = len(hits), len(ease)
    values = hits.astype(np.float64)
    if seen == images:
        return Quality(float(values.mean()), _error(values, errors), seen)
    apart = ease[:seen] - ease[:seen].mean()
    spread = float(apart @ apart)
    slope = float(apart @ values) / spread if spread > 0 else 0.0
    left = values - slope * ease[:seen]
    value = float(left.mean() + slope * ease.mean())
    error = np.hypot(_error(left, errors), abs(slope) * _error(ease, errors))
    return Quality(min(max(value, 0.0), 1.0), float(error), seen)


def _error(values: Floats, errors: Callable[[int], MeanErrors]) -> float:
    return float(errors(len(values)).of_means(torch.from_numpy(values)[:, None]))

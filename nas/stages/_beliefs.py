"""What is believed of evaluated subnets: the accuracy predictor's mean, and not the luckiest evaluation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.searchers._one_thread import one_thread
from nas.stages._objectives import Objectives, values_of
from nas.store import Evaluation
from predictors import accuracy

Floats = NDArray[np.float64]

FEWEST = 10  # evaluations; of fewer a predictor knows no better


def believed(objectives: Objectives, evaluations: Sequence[Evaluation]) -> Floats:
    """Objective values (n, objectives) of evaluations that succeeded, qualities being posterior means."""
    values = values_of(objectives, evaluations)
    if len(evaluations) < FEWEST or objectives.quality not in objectives.names:
        return values
    space, place = objectives.space, objectives.names.index(objectives.quality)
    codes = space.encode([space.architecture(e.subnet.architecture) for e in evaluations])
    errors = [e.stderr for e in evaluations if e.stderr is not None]
    known = np.array(errors) if len(errors) == len(evaluations) else None
    with one_thread():
        values[:, place] = accuracy.fit(space, codes, values[:, place], stderr=known).mean(codes)
    return values

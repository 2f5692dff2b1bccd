"""What is believed of subnets by all that a job has evaluated, and not by the luckiest evaluation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.proposals.one_thread import one_thread
from nas.search.objectives import Objectives, values_of
from nas.store import Evaluation
from predictors import accuracy
from predictors.accuracy import AccuracyPredictor
from search_spaces import SearchSpace
from search_spaces.space import Codes

FEWEST = 10  # evaluations; of fewer a predictor knows no better

Floats = NDArray[np.float64]


def fitted(
    space: SearchSpace, codes: Codes, qualities: Sequence[float], stderrs: Sequence[float | None]
) -> AccuracyPredictor:
    """The accuracy predictor of evaluations: codes (n, choices), qualities and standard errors (n,)."""
    errors = [stderr for stderr in stderrs if stderr is not None]
    stderr = np.array(errors) if len(errors) == len(codes) else None
    with one_thread():
        return accuracy.fit(space, codes, np.array(qualities), stderr=stderr)


def believed(objectives: Objectives, evaluations: Sequence[Evaluation]) -> Floats:
    """Objective values (n, objectives) of evaluations that succeeded.

    A quality is what the accuracy predictor believes on average.
    """
    values = values_of(objectives, evaluations)
    if len(evaluations) < FEWEST or objectives.quality not in objectives.names:
        return values
    space, place = objectives.space, objectives.names.index(objectives.quality)
    codes = space.encode([space.architecture(e.subnet.architecture) for e in evaluations])
    model = fitted(space, codes, values[:, place].tolist(), [e.stderr for e in evaluations])
    with one_thread():
        values[:, place] = model.mean(codes)
    return values

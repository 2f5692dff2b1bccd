"""Which subnets are measured for a latency predictor, and when there are enough of them.

The sample grows in batches. The first ones come from experimental design; later ones are by turns designed
and random, so that the errors on left-out subnets speak for the whole space.
"""

from itertools import islice

import numpy as np

from predictors._design import next_to_measure
from predictors._features import Workload
from predictors._predictor import Predictor
from search_spaces import Architecture, SearchSpace
from search_spaces._space import Codes

FIRST = 10  # subnets before the first fit
GROWTH = 5  # subnets from one fit to the next
POOL = 1_000  # random architectures from which designed ones are taken


def first_sample(space: SearchSpace, workload: Workload, *, count: int, seed: int) -> list[Architecture]:
    """The smallest, the largest, and those that tell most beside them: `count`, or all there are."""
    ends = dict.fromkeys([space.smallest, space.largest])
    chosen = list(islice(ends, count))
    codes = next_to_measure(
        space, pool(space, seed=seed), space.encode(chosen), workload, count=count - len(chosen)
    )
    return [*chosen, *space.decode(codes)]


def further_sample(
    space: SearchSpace, workload: Workload, measured: Codes, *, count: int, seed: int
) -> list[Architecture]:
    """`count` more, every second one designed and the others random; fewer when the space is exhausted."""
    candidates = pool(space, seed=seed)
    designed = next_to_measure(space, candidates, measured, workload, count=(count + 1) // 2)
    known = {tuple(code) for code in np.concatenate([measured, designed]).tolist()}
    fresh = [code for code in candidates.tolist() if tuple(code) not in known]
    rng = np.random.default_rng([seed, len(measured)])
    picked = rng.permutation(len(fresh))[: count - len(designed)]
    random = np.array([fresh[i] for i in picked], dtype=np.int64).reshape(-1, measured.shape[1])
    return space.decode(np.concatenate([designed, random]))


def pool(space: SearchSpace, *, seed: int) -> Codes:
    """Different architectures of all sizes, the same for a seed; all of a small space."""
    if space.listable and space.size <= POOL:
        return space.all_codes()
    uniform = space.encode(space.uniform(16))
    drawn = space.sample_choices(np.random.default_rng(seed), POOL)
    return np.unique(np.concatenate([uniform, drawn]), axis=0)


def enough(space: SearchSpace, predictor: Predictor, *, noise: float, seed: int) -> bool:
    """Whether the predictor's own error on the space is within the noise of one measurement.

    noise: relative standard deviation of a label. A prediction's uncertainty holds the noise of labels and
    the predictor's error; at sqrt(2) times the noise both are the same.
    """
    mean, std = predictor.predict(pool(space, seed=seed))
    return bool(np.median(std / mean) <= np.sqrt(2) * noise)

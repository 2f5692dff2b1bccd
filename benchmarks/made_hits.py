"""Which images the subnets of a space would classify right, were their accuracies these: a made truth.

Accuracy grows with the MACs and with what each option does by itself; images differ in difficulty, and share
it where they share a source item.
"""

import numpy as np
from numpy.typing import NDArray

from nas.datasets import DataSet
from search_spaces import SearchSpace

SPLITS = ("search", "report")


def made_hits(space: SearchSpace, data: DataSet, *, seed: int) -> dict[str, NDArray[np.bool_]]:
    """Scores (all subnets, images) by split."""
    codes, rng = space.all_codes(), np.random.default_rng(seed)
    macs = np.log(space.costs(codes)["macs"].astype(np.float64))
    skill = -1.2 + 3.6 * ((macs - macs.min()) / np.ptp(macs)) ** 0.8
    effects = [rng.normal(0, 0.12, size=len(choice.options)) for choice in space.choices]
    for column, effect in zip(codes.T, effects, strict=True):
        skill += np.where(column >= 0, effect[np.maximum(column, 0)], 0)
    skill += rng.normal(0, 0.08, size=len(codes))
    hits = {}
    for split in SPLITS:
        hard = rng.normal(0, 1.5, size=data.sizes[split])
        sources = data.sources(split)
        if sources is not None:
            items, places = np.unique(sources.numpy(), return_inverse=True)
            hard += rng.normal(0, 1.2, size=len(items))[places.reshape(sources.shape)].sum(axis=1)
        chance = 1 / (1 + np.exp(hard - 1.8 * skill[:, None]))
        hits[split] = rng.random(chance.shape) < chance
    return hits

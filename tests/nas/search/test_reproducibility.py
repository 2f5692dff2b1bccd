"""How far halves of the search split agree, and how the predictor of accuracy is scored."""

import numpy as np
import torch
from raced import IMAGES, QUALITY, SPACE, table

from nas.results.agreement import agreement
from nas.search.reproducibility import halves, scores


def test_halves_share_no_source() -> None:
    sources = torch.randint(40, (300, 2), generator=torch.Generator().manual_seed(0))
    first, second = halves(300, sources)
    assert not set(sources[first].flatten().tolist()) & set(sources[second].flatten().tolist())
    assert min(first.sum(), second.sum()) > 40
    even, odd = halves(7, None)
    assert (even.sum(), odd.sum(), (even & odd).any()) == (4, 3, False)


def test_a_handful_of_images_ranks_nothing() -> None:
    codes = SPACE.all_codes()
    assert scores(SPACE, codes, [row[:31] for row in table(QUALITY)], None) == {}
    sources = torch.tensor([[0, 1], [1, 2], [2, 0]]).repeat(40, 1)
    assert scores(SPACE, codes, [row[:120] for row in table(QUALITY)], sources) == {}


def test_a_ranking_of_equals_is_noise_and_a_clear_one_is_not() -> None:
    codes = SPACE.all_codes()
    clear = scores(SPACE, codes, list(table(QUALITY)), None)
    noise = scores(SPACE, codes, list(table(np.full(len(codes), 0.7))), None)
    assert clear["images"] == [IMAGES // 2, IMAGES // 2]
    assert clear["ranking"]["tau"] > 0.6 > 0.3 > noise["ranking"]["tau"]
    assert clear["predictor"]["tau"] > 0.5 > 0.3 > noise["predictor"]["tau"]


def test_the_predictor_is_scored_on_images_that_its_labels_did_not_use() -> None:
    """Scores on the first half that say the opposite of those on the second teach the opposite."""
    codes = SPACE.all_codes()
    good, bad = table(QUALITY), table(1 - QUALITY, seed=1)
    mixed = good.copy()
    mixed[:, ::2] = bad[:, ::2]
    told = scores(SPACE, codes, list(mixed), None)
    assert told["ranking"]["tau"] < -0.5
    assert told["predictor"]["tau"] < -0.5


def test_stopped_ones_teach_the_predictor_but_are_not_ranked() -> None:
    codes = SPACE.all_codes()
    hits = table(QUALITY)
    stopped = [row if i % 3 == 0 else row[:128] for i, row in enumerate(hits)]
    told = scores(SPACE, codes, stopped, None)
    assert told["ranking"]["count"] == len(hits[::3])
    ours = hits[::3, ::2].mean(axis=1), hits[::3, 1::2].mean(axis=1)
    expected = agreement([(ours[0].tolist(), ours[1].tolist())])
    assert expected is not None
    assert told["ranking"] == expected.to_dict()
    assert told["predictor"]["tau"] > 0.4

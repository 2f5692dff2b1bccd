"""Scores that are losses: their quality from a part, races on paired differences, and how they are stored."""

import math

import numpy as np
import pytest
import torch

from nas.errors import StoreError
from nas.evaluation.estimates import Examples
from nas.limits import kind_of
from nas.search.racing import Race, rungs
from nas.store.results import packed, unpacked
from search_spaces import Architecture
from supernet.evaluation.scores import quality_of
from supernet.evaluation.standard_errors import MeanErrors

BLOCKS, SUBNETS = 512, 12
KIND = kind_of("bits_per_byte")
ARCHS = [Architecture((("number", number),)) for number in range(SUBNETS)]


def made(seed: int = 0) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Losses (subnets, blocks), each .01 nats a byte worse than the one before; bytes and documents."""
    rng = np.random.default_rng(seed)
    documents = np.repeat(np.arange(64), 8)
    sizes = rng.integers(50, 200, BLOCKS)
    hard = 1.5 + rng.normal(0, 0.5, 64)[documents] + rng.normal(0, 0.1, BLOCKS)
    apart = 0.01 * np.arange(SUBNETS)[:, None] + rng.normal(0, 0.01, (SUBNETS, BLOCKS))
    order = rng.permutation(BLOCKS)
    scores = np.round((hard + apart) * sizes * 1024)[:, order] / 1024
    return (
        scores.astype(np.float32),
        torch.from_numpy(sizes[order]),
        torch.from_numpy(documents[order])[:, None],
    )


def test_a_quality_is_the_ratio_of_sums_and_its_error_that_of_a_ratio() -> None:
    scores, sizes, documents = made()
    one = torch.from_numpy(scores[0])
    told = quality_of(KIND, one, sources=documents, counts={"bytes": sizes})
    assert told.value == pytest.approx(float(one.double().sum() / sizes.sum() / math.log(2)), rel=1e-14)
    # By drawing documents again and again.
    rng, by_document = np.random.default_rng(1), [np.flatnonzero(documents[:, 0] == i) for i in range(64)]
    drawn = []
    for _ in range(2000):
        places = np.concatenate([by_document[i] for i in rng.integers(64, size=64)])
        drawn.append(scores[0, places].sum() / sizes.numpy()[places].sum() / math.log(2))
    assert told.stderr == pytest.approx(np.std(drawn), rel=0.1)
    independent = quality_of(KIND, one, counts={"bytes": sizes})
    assert told.stderr > 1.5 * independent.stderr


def test_examples_say_what_the_quality_of_all_is() -> None:
    scores, sizes, documents = made()
    counted = Examples(BLOCKS, documents, sizes=sizes, kind=KIND)
    (whole,) = counted.qualities(scores[:1], np.zeros(BLOCKS))
    told = quality_of(KIND, torch.from_numpy(scores[0]), sources=documents, counts={"bytes": sizes})
    assert whole.value == pytest.approx(told.value, rel=1e-12)
    assert whole.stderr == pytest.approx(told.stderr, rel=1e-12)
    assert counted.means(scores[:1])[0] == pytest.approx(told.value, rel=1e-12)


def test_a_part_with_the_ease_of_others_tells_nearly_what_all_would() -> None:
    errors, alone = [], []
    for seed in range(30):
        scores, sizes, documents = made(seed)
        counted = Examples(BLOCKS, documents, sizes=sizes, kind=KIND)
        ease = scores[4:].mean(axis=0, dtype=np.float64)
        (part,) = counted.qualities(scores[:1, :64], ease)
        (blind,) = counted.qualities(scores[:1, :64], np.zeros(BLOCKS))
        (whole,) = counted.qualities(scores[:1], ease)
        errors.append((part.value - whole.value) / part.stderr)
        alone.append(abs(blind.value - whole.value))
        assert abs(part.value - whole.value) < 0.02
    assert np.mean(alone) > 0.05
    assert np.abs(errors).max() < 4


def test_leads_are_the_paired_differences_themselves() -> None:
    scores, sizes, documents = made()
    counted = Examples(BLOCKS, documents, sizes=sizes, kind=KIND)
    ahead, error = counted.leads(scores[:1, :128], scores[5:6, :128])
    difference = (scores[5, :128].astype(np.float64) - scores[0, :128]) / math.log(2)
    bytes_seen = sizes[:128].double().numpy()
    assert ahead[0] == pytest.approx(difference.sum() / bytes_seen.sum())
    left = (difference - ahead[0] * bytes_seen) / bytes_seen.mean()
    expected = MeanErrors.over(128, documents[:128]).of_means(torch.from_numpy(left)[:, None])
    assert error[0] == pytest.approx(float(expected))
    assert ahead[0] > 5 * error[0]
    apart = counted.qualities(scores[[0, 5], :128], np.zeros(BLOCKS))
    assert apart[1].value - apart[0].value < math.hypot(apart[0].stderr, apart[1].stderr)


class Table:
    """An evaluator that looks losses up."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores, self.seen = scores, 0

    def scored(self, archs, split, images=None):  # type: ignore[no-untyped-def]
        part = self.scores[[arch["number"] for arch in archs], images or slice(None)]
        self.seen += part.size
        return list(part)


def test_a_race_keeps_those_of_the_least_loss() -> None:
    scores, sizes, documents = made()
    table = Table(scores)
    counted = Examples(BLOCKS, documents, sizes=sizes, kind=KIND)
    race = Race(table, rungs(BLOCKS), rate=0.05, counted=counted, quality=KIND.name)  # type: ignore[arg-type]
    costs = np.ones((SUBNETS, 1))
    raced = race.run(ARCHS, costs)
    whole = [i for i, one in enumerate(raced) if len(one.scores) == BLOCKS]
    assert 0 in whole
    assert max(whole) <= 3
    assert table.seen < 0.6 * scores.size
    assert all(one.scores.dtype == np.float32 for one in raced)
    values = [one.value for one in raced]
    assert values == sorted(values)  # also of those that were stopped early
    # Against the front of an earlier batch.
    race.remember([one.scores for one in raced], [{KIND.name: one.value, "macs": 1.0} for one in raced])
    again = race.run(ARCHS[6:], costs[6:])
    assert all(len(one.scores) < BLOCKS for one in again)


def test_equal_networks_are_as_good_as_each_other() -> None:
    scores, sizes, documents = made()
    same = np.repeat(scores[:1], 4, axis=0)
    counted = Examples(BLOCKS, documents, sizes=sizes, kind=KIND)
    race = Race(Table(same), rungs(BLOCKS), rate=0.05, counted=counted, quality=KIND.name)  # type: ignore[arg-type]
    raced = race.run(ARCHS[:4], np.ones((4, 1)))
    assert any(len(one.scores) == BLOCKS for one in raced)
    assert len({round(one.value or 0, 9) for one in raced if len(one.scores) == BLOCKS}) == 1


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 1000])
def test_stored_scores_come_back_as_they_went_in(count: int) -> None:
    rng = np.random.default_rng(count)
    for scores in (rng.random(count) < 0.5, rng.random(count).astype(np.float32) * 1e5):
        content = packed(scores)
        again = unpacked(content, count)
        assert np.array_equal(scores, again)
        assert again.dtype == scores.dtype or not count
        assert len(content) == (-(-count // 8) if scores.dtype == np.bool_ else 4 * count)


def test_scores_of_another_length_are_damaged() -> None:
    with pytest.raises(StoreError, match="5 bytes tell nothing of 3 examples"):
        unpacked(b"12345", 3)


def test_sums_of_rounded_losses_are_exact_in_any_order() -> None:
    scores, *_ = made()
    forwards = sum(scores.astype(np.float64), np.zeros(BLOCKS))
    backwards = sum(scores[::-1].astype(np.float64), np.zeros(BLOCKS))
    assert np.array_equal(forwards, backwards)

"""The rank correlation and its interval."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from nas.results.agreement import agreement, bootstrap_samples, taus_of_samples


def test_the_same_order_and_the_opposite_one_which_have_no_interval() -> None:
    """Every sample of a perfect order is one, too: that the interval is a point would claim too much."""
    values = [0.1, 0.3, 0.2, 0.7, 0.5, 0.6, 0.9, 0.8]
    same = agreement([(values, [2 * v for v in values])])
    assert same is not None
    assert (same.tau, same.low, same.high, same.count) == (1, None, None, 8)
    opposite = agreement([(values, [-v for v in values])])
    assert opposite is not None
    assert (opposite.tau, opposite.low) == (-1, None)


def test_few_subnets_have_no_interval() -> None:
    found = agreement([([1, 2, 3, 4], [1, 2, 4, 3])])
    assert found is not None
    assert found.tau == pytest.approx(2 / 3)
    assert (found.low, found.high, found.count) == (None, None, 4)
    assert str(found) == "0.67 (4 subnets: too few for an interval)"
    seven, eight = [1, 2, 3, 4, 5, 7, 6], [1, 2, 3, 4, 5, 6, 8, 7]
    assert agreement([(range(7), seven)]).low is None  # type: ignore[union-attr]
    assert agreement([(range(8), eight)]).low is not None  # type: ignore[union-attr]
    assert agreement([(range(8), eight), (range(7), seven)]).low is None  # type: ignore[union-attr]


@pytest.mark.parametrize("count", [8, 25])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(count: int) -> None:
    """Pairs with a known correlation: Kendall's tau of a Gaussian pair is 2/pi arcsin(r)."""
    rng, hits, told, r = np.random.default_rng(0), 0, 0, 0.6
    truth = 2 / np.pi * np.arcsin(r)
    for _ in range(200):
        a = rng.normal(size=count)
        b = r * a + np.sqrt(1 - r * r) * rng.normal(size=count)
        found = agreement([(a.tolist(), b.tolist())])
        assert found is not None
        if found.low is not None and found.high is not None:
            told += 1
            hits += found.low <= truth <= found.high
    assert told >= 190  # the others are in one order
    assert hits / told >= 0.9  # of 95 %; a binomial is below that once in five hundred times


def test_the_taus_of_samples_are_those_of_scipy() -> None:
    """With ties in the values and those that a sample makes by taking a subnet twice."""
    rng = np.random.default_rng(3)
    a, b = rng.integers(6, size=9).astype(float), rng.integers(4, size=9).astype(float)
    times = bootstrap_samples(9, rng)
    assert (times.sum(axis=1) == 9).all()
    for row, tau in list(zip(times.astype(int), taus_of_samples(a, b, times), strict=True))[:200]:
        assert tau == pytest.approx(kendalltau(np.repeat(a, row), np.repeat(b, row)).statistic)
    assert not taus_of_samples(a, np.ones(9), times).any()


def test_several_groups_are_averaged_and_narrow_the_interval() -> None:
    rng = np.random.default_rng(1)
    groups = []
    for _ in range(3):
        a = rng.normal(size=10)
        groups.append((a.tolist(), (a + rng.normal(size=10)).tolist()))
    one, three = agreement(groups[:1]), agreement(groups)
    assert one is not None
    assert three is not None
    assert three.count == 30
    widths = [told.high - told.low for told in (three, one) if told.high is not None and told.low is not None]
    assert widths[0] < widths[1]
    assert agreement(groups) == three


def test_two_subnets_tell_nothing() -> None:
    assert agreement([([1, 2], [1, 2])]) is None
    assert agreement([]) is None
    assert agreement([([1, 2, 3], [1, 2, 3]), ([1], [1])]) is None


def test_it_is_told_in_words() -> None:
    found = agreement([(range(9), [0, 1, 2, 3, 4, 5, 6, 8, 7])])
    assert str(found).startswith("0.94 (95 % interval 0.")
    assert str(found).endswith(", 9 subnets)")

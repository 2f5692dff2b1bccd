"""The rank correlation and its interval."""

import numpy as np
import pytest

from nas.agreement import agreement


def test_the_same_order_and_the_opposite_one() -> None:
    values = [0.1, 0.3, 0.2, 0.7, 0.5, 0.6]
    same = agreement([(values, [2 * v for v in values])])
    assert same is not None
    assert (same.tau, same.high, same.count) == (pytest.approx(1), pytest.approx(1), 6)
    assert same.low > 0.9
    opposite = agreement([(values, [-v for v in values])])
    assert opposite is not None
    assert opposite.tau == pytest.approx(-1)


def test_one_swap_of_four() -> None:
    found = agreement([([1, 2, 3, 4], [1, 2, 4, 3])])
    assert found is not None
    assert found.tau == pytest.approx(2 / 3)
    assert found.low < found.tau <= found.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Pairs with a known correlation: Kendall's tau of a Gaussian pair is 2/pi arcsin(r)."""
    rng, hits, r = np.random.default_rng(0), 0, 0.6
    truth = 2 / np.pi * np.arcsin(r)
    for _ in range(40):
        a = rng.normal(size=25)
        b = r * a + np.sqrt(1 - r * r) * rng.normal(size=25)
        found = agreement([(a.tolist(), b.tolist())])
        assert found is not None
        hits += found.low <= truth <= found.high
    assert hits >= 33  # 95 % of 40 is 38; a binomial with p = .9 is below 33 once in fifty times


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
    assert three.high - three.low < one.high - one.low
    assert agreement(groups) == three


def test_two_subnets_tell_nothing() -> None:
    assert agreement([([1, 2], [1, 2])]) is None
    assert agreement([]) is None
    assert agreement([([1, 2, 3], [1, 2, 3]), ([1], [1])]) is None


def test_it_is_told_in_words() -> None:
    found = agreement([([1, 2, 3, 4], [1, 2, 4, 3])])
    assert str(found).startswith("0.67 (95 % interval ")
    assert str(found).endswith(", 4 subnets)")

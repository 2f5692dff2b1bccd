"""Scores of predictions."""

import numpy as np
import pytest

from predictors.regression.metrics import Score, rank_correlation, score


def test_score_counts_by_hand() -> None:
    measured = np.array([1.0, 2.0, 4.0, 10.0])
    predicted = np.array([1.04, 2.16, 3.2, 10.0])
    got = score(predicted, measured)
    assert got == Score(mape=pytest.approx(0.08), within_10=0.75, within_5=0.5, tau=1.0, count=4)


def test_errors_are_relative_to_the_measurement() -> None:
    assert score(np.array([3.0, 1.0]), np.array([2.0, 2.0])).mape == 0.5


def test_rank_correlation_has_a_sign_and_needs_an_order() -> None:
    rising = np.arange(5.0)
    assert rank_correlation(rising, -rising) == pytest.approx(-1.0)
    assert rank_correlation(rising, np.ones(5)) == 0.0
    assert rank_correlation(rising[:1], rising[:1]) == 0.0

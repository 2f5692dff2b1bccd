"""Factors that grow: those of the whole matrix, with the same bits whatever they grew from."""

import numpy as np
import pytest
from numpy.linalg import LinAlgError

from predictors.block_cholesky import BLOCK, Factor

COUNT = 2 * BLOCK + 9


def matrix(count: int) -> np.ndarray:
    columns = np.random.default_rng(0).normal(size=(count, 40))
    return columns @ columns.T + 0.1 * np.eye(count)


def grown(factor: Factor, whole: np.ndarray) -> Factor:
    for start in range(BLOCK * len(factor.blocks), len(whole), BLOCK):
        stop = min(start + BLOCK, len(whole))
        factor = factor.grown(whole[start:stop, :stop])
    return factor


def test_it_solves_what_the_matrix_does() -> None:
    whole = matrix(COUNT)
    factor = grown(Factor(), whole)
    values = np.random.default_rng(1).normal(size=COUNT)
    np.testing.assert_allclose(factor.divided(values), np.linalg.solve(whole, values), rtol=1e-9)
    lower = np.linalg.cholesky(whole)
    np.testing.assert_allclose(
        factor.solved(values[:, None])[:, 0], np.linalg.solve(lower, values), rtol=1e-9
    )


def test_rows_that_are_added_change_no_bit() -> None:
    whole = matrix(COUNT)
    once, first = grown(Factor(), whole), grown(Factor(), whole[: BLOCK + 5, : BLOCK + 5])
    later = grown(Factor(first.blocks[:1]), whole)
    for block, other in zip(once.blocks, later.blocks, strict=True):
        np.testing.assert_array_equal(block, other)


def test_what_is_not_positive_is_refused() -> None:
    with pytest.raises(LinAlgError):
        Factor().grown(-np.eye(3))

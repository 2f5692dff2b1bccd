"""Cholesky factors to which rows are added without computing again what is there.

Rows come in blocks that begin at the multiples of BLOCK: a factor that has grown has the same bits as one of
the whole matrix. Source: Golub and Van Loan, "Matrix Computations" (2013), section 4.2.9, row by row.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky
from scipy.linalg.lapack import dtrtrs  # solve_triangular's own checks take longer than a block

Floats = NDArray[np.float64]

BLOCK = 64


@dataclass(frozen=True, eq=False)
class Factor:
    """The lower factor of a positive matrix; each block has some of its rows, up to the diagonal."""

    blocks: tuple[Floats, ...] = ()

    def grown(self, rows: Floats) -> "Factor":
        """That of the matrix with more rows (m, n + m), which reach to the new diagonal.

        Raises LinAlgError where the matrix is not positive.
        """
        before = rows.shape[1] - len(rows)
        left = self.solved(rows[:, :before].T).T
        corner = cholesky(rows[:, before:] - left @ left.T, lower=True, check_finite=False)
        return Factor((*self.blocks, np.concatenate([left, corner], axis=1)))

    def solved(self, columns: Floats) -> Floats:
        """The factor's inverse times columns (n, m)."""
        solved = np.empty(columns.shape)
        for block in self.blocks:
            end = block.shape[1]
            begin = end - len(block)
            left = columns[begin:end] - block[:, :begin] @ solved[:begin]
            solved[begin:end] = dtrtrs(block[:, begin:], left, lower=1)[0]
        return solved

    def divided(self, values: Floats) -> Floats:
        """The matrix' inverse times values (n,)."""
        solved = self.solved(values[:, None])[:, 0]
        for block in reversed(self.blocks):
            end = block.shape[1]
            begin = end - len(block)
            part = dtrtrs(block[:, begin:], solved[begin:end], lower=1, trans=1)[0]
            solved[begin:end] = part
            solved[:begin] -= part @ block[:, :begin]
        return solved

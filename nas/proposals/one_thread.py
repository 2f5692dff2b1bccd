"""Sums in the same order on any machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, NumPy and SciPy.

    More would change the last bits of sums, and with them what a search proposes that is resumed elsewhere.
    """
    torch = sys.modules.get("torch")  # where nobody has imported it, nobody computes with it
    before = 1 if torch is None else torch.get_num_threads()
    if torch is not None:
        torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)

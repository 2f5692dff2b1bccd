"""Draws from the generators that a process has once, which libraries use, as functions of a seed."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random import mtrand

_one_at_a_time = threading.Lock()
_lent = np.random.MT19937(0)  # to numpy's functions, whose own state takes long to be read and written


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the generators of `random`, numpy and torch (CPU) are those of the seed; then as before.

    One thread at a time: each would draw what another one was to get. Of numpy the second of a pair of normal
    numbers is forgotten, if one was left.
    """
    with _one_at_a_time:
        before = random.getstate(), mtrand.get_bit_generator(), torch.get_rng_state()
        random.seed(seed)
        mtrand.set_bit_generator(_lent)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)  # the others of torch's are of devices
        try:
            yield
        finally:
            random.setstate(before[0])
            mtrand.set_bit_generator(before[1])
            torch.set_rng_state(before[2])

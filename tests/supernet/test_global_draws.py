"""Generators that libraries share are lent for a while."""

import random
from contextlib import suppress

import numpy as np
import torch

from supernet.global_draws import seeded


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_inside_it_is_the_seed_and_afterwards_as_before() -> None:
    with seeded(1):
        drawn()
        expected = drawn()
    with seeded(7):
        inside = drawn(), drawn()
    with seeded(1):
        drawn()
    before = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002
    with suppress(ZeroDivisionError), seeded(7):
        assert (drawn(), drawn()) == inside
        raise ZeroDivisionError
    after = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002
    assert before[0] == after[0]
    assert (before[1]["state"]["key"] == after[1]["state"]["key"]).all()
    assert before[1]["state"]["pos"] == after[1]["state"]["pos"]
    assert torch.equal(before[2], after[2])
    with seeded(1):
        drawn()
        assert drawn() == expected
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    assert (drawn(), drawn()) == inside

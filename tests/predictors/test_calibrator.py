"""The calibrator: the same everywhere, and what runtimes can take."""

import pytest
import torch

from predictors.measurement.calibrator import calibrator, calibrator_example


def test_it_is_the_same_block_every_time_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first, again = calibrator(), calibrator()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))
    assert torch.equal(calibrator_example(), calibrator_example())
    assert not first.training


def test_its_size_is_fixed_as_latencies_in_stores_are_made_with_it() -> None:
    block, example = calibrator(), calibrator_example()
    with torch.inference_mode():
        out = block(example)
    assert example.shape == out.shape == (1, 197, 192)
    assert sum(p.numel() for p in block.parameters()) == 297_024
    assert float(out.std()) == pytest.approx(float(example.std()), rel=0.1)

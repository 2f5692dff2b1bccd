"""The calibrator: the same everywhere, and what runtimes can take."""

from pathlib import Path

import pytest
import torch

from predictors._calibrator import calibrator, calibrator_example


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_runs_in_onnxruntime(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    block, example, path = calibrator(), calibrator_example(), tmp_path / "calibrator.onnx"
    torch.onnx.export(block, (example,), path, dynamo=True, verbose=False)
    run = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = run.run(None, {run.get_inputs()[0].name: example.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), block(example), rtol=1e-3, atol=1e-4)

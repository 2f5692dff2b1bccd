"""Slices of a Gemma 3n: a small one that transformers builds, with random weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from running import Nas
from torch import Tensor

from nas.exported.slices.folders import rules_of, write_slice
from nas.exported.slices.gemma3n import PUBLISHED, Rules, Slice
from nas.exported.sums import verify
from search_spaces.errors import UsageError

transformers = pytest.importorskip("transformers")
LAYERS, SHARED, WIDTH = 7, 2, 48
TYPES = ["sliding_attention", "full_attention"] * 3 + ["sliding_attention"]
E4B: dict[str, Any] = {"num_hidden_layers": 35, "intermediate_size": 16384, "num_kv_shared_layers": 15}
# Half of an FFN, and what a layer without its half of the FFN has (effective, in millions).
HALF, WITHOUT = 50.331648, 61.7


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.Gemma3nTextConfig(
        vocab_size=64,
        vocab_size_per_layer_input=64,
        hidden_size=32,
        hidden_size_per_layer_input=4,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        sliding_window=8,
        num_kv_shared_layers=SHARED,
        laurel_rank=4,
        layer_types=TYPES,
        activation_sparsity_pattern=[0.0] * LAYERS,
    )
    made = transformers.Gemma3nForCausalLM(config).eval()
    with torch.no_grad():
        for weights in made.parameters():
            if weights.ndim > 1:
                weights.normal_(std=0.3)
    return made


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gemma") / "model"
    model.save_pretrained(path, max_shard_size="60KB")  # several files
    (path / "tokenizer_config.json").write_text("{}")
    (path / "modeling.py").write_text("raise SystemExit('this was run')")
    return path


def loaded(path: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(path).eval()


def ids() -> Tensor:
    return torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def expected(model: Any, widths: dict[int, int], skipped: tuple[int, ...]) -> Tensor:
    """By hand in the whole model: neurons beyond the width give nothing, skipped layers change nothing."""
    layers = model.model.layers
    undone = []
    for layer, width in widths.items():
        weights = layers[layer].mlp.down_proj.weight
        undone.append((weights, weights.clone()))
        weights[:, width:] = 0
    passing = {layer: layers[layer].forward for layer in skipped}
    for layer in skipped:
        layers[layer].forward = lambda hidden, *_, **__: hidden
    try:
        outputs: Tensor = model(ids(), use_cache=False).logits
    finally:
        for weights, before in undone:
            weights.copy_(before)
        for layer, forward in passing.items():
            layers[layer].forward = forward
    return outputs


@pytest.mark.parametrize(
    ("widths", "skipped"),
    [
        ((48,) * 7, ()),
        ((48, 16, 24, 48, 40, 1, 48), ()),
        ((48, 16, 24, 40, 8), (1, 5)),
        ((16, 24, 40, 48, 8), (0, 6)),
        ((16, 24, 40), (0, 1, 5, 6)),
    ],
)
def test_stock_transformers_computes_what_the_whole_model_does_without_the_rest(
    model: Any, folder: Path, tmp_path: Path, widths: tuple[int, ...], skipped: tuple[int, ...]
) -> None:
    wanted = Slice(widths, skipped)
    written = write_slice(folder, tmp_path / "slice", wanted)
    kept = [layer for layer in range(LAYERS) if layer not in skipped]
    made = loaded(tmp_path / "slice")
    with torch.no_grad():
        outputs = made(ids(), use_cache=False).logits
    by_hand = expected(model, dict(zip(kept, widths, strict=True)), skipped)
    torch.testing.assert_close(outputs, by_hand, rtol=1e-5, atol=1e-5 * float(by_hand.abs().max()))
    assert written.params[1] == sum(weights.numel() for weights in made.parameters())
    assert written.layers == (LAYERS, len(kept))
    config = json.loads((tmp_path / "slice" / "config.json").read_text())
    assert config["layer_types"] == [TYPES[layer] for layer in kept]
    assert config["num_kv_shared_layers"] == sum(layer >= LAYERS - SHARED for layer in kept)
    assert config["sliced_from"] == {"layers": kept}
    assert set(verify(tmp_path / "slice").values()) == {"ok"}
    names = {path.name for path in (tmp_path / "slice").iterdir()}
    assert "tokenizer_config.json" in names
    assert "modeling.py" not in names


def test_sparse_layers_stay_those_that_were(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["activation_sparsity_pattern"] = [0.95, 0.5, 0.0, 0.25, 0.0, 0.0, 0.0]
    path.write_text(json.dumps(config))
    write_slice(tmp_path / "model", tmp_path / "slice", Slice((8,) * 5, (1, 2)))
    made = json.loads((tmp_path / "slice" / "config.json").read_text())
    assert made["activation_sparsity_pattern"] == [0.95, 0.25, 0.0, 0.0, 0.0]


def test_published_slices_have_the_published_sizes() -> None:
    """Effective parameters of the table, within its rounding, from those of E4B."""
    for name, wanted in PUBLISHED.items():
        halves = sum(width == 8192 for width in wanted.widths) + len(wanted.skipped)
        effective = 3.98 - HALF * halves / 1e3 - WITHOUT * len(wanted.skipped) / 1e3
        rules = Rules.of(E4B)
        rules.check(wanted)
        config = rules.sliced(wanted)
        assert len(config["intermediate_size"]) == config["num_hidden_layers"] == 35 - len(wanted.skipped)
        if name[0] == "E" and "." in name:
            says = 3.74 if name == "E3.79B block" else float(name[1:5])
            assert effective == pytest.approx(says, abs=0.03), name
    e2b = Rules.of(E4B).sliced(PUBLISHED["E2B"])
    assert e2b["num_kv_shared_layers"] == 10
    assert e2b["layer_types"] == (["sliding_attention"] * 4 + ["full_attention"]) * 6
    assert e2b["activation_sparsity_pattern"] == [0.95] * 10 + [0.0] * 20
    assert Rules.of(E4B).needed() == {18: 20, 19: 24}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--widths", "8,8"], "7 layers are kept, and 2 widths are given."),
        (["--widths", "49"], "Layer 0 cannot have 49 FFN neurons: it has 48."),
        (["--widths", "0"], "Layer 0 cannot have 0 FFN neurons"),
        (["--widths", "2048*3.5"], "--widths '2048*3.5' is no list of integers."),
        (["--widths", "8", "--skip", "4"], "Layer 4 cannot be left out: layer 6 uses its keys and values."),
        (["--widths", "8", "--skip", "3"], "Layer 3 cannot be left out: layer 5 uses its keys and values."),
        (["--widths", "8", "--skip", "7"], "There is no layer 7."),
        (["--widths", "8", "--skip", "1,1"], "A layer is to be left out twice: 1, 1."),
        (["--widths", "8", "--skip", "x"], "--skip 'x' is no list of integers."),
        ([], "Say which slice: --widths, perhaps with --skip, or --published alone."),
        (["--published", "E2C"], "There is no published slice 'E2C'."),
        (["--published", "E2B"], "There is no layer 20."),
    ],
)
def test_what_is_no_slice_is_refused(
    words: list[str], sentence: str, folder: Path, tmp_path: Path, run_nas: Nas
) -> None:
    ran = run_nas("slice", folder, *words, "-o", tmp_path / "out")
    assert ran.code == 2
    assert sentence in ran.err
    assert not any(tmp_path.iterdir())


def test_from_the_command_line(folder: Path, tmp_path: Path, run_nas: Nas) -> None:
    ran = run_nas("slice", folder, "--widths", "16", "--skip", "1", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "6 of 7 layers and " in ran.err
    loaded(tmp_path / "out")
    again = run_nas("slice", folder, "--widths", "16", "-o", tmp_path / "out")
    assert again.code == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "gemma4"}, "Gemma 3n alone was trained to be sliced so"),
        ({"quantization_config": {"bits": 4}}, "is quantised, which is not supported"),
        ({"intermediate_size": [48] * 3}, "does not say intermediate_size for each of 7 layers"),
        ({"intermediate_size": 50}, "have 48 neurons, and not 50"),
        ({"layer_types": ["full_attention"]}, "does not say layer_types for each of 7 layers"),
        ({"num_hidden_layers": "7"}, "has num_hidden_layers '7'"),
        ({"num_kv_shared_layers": 7}, "num_kv_shared_layers 7"),
    ],
)
def test_other_and_damaged_models_are_refused(
    change: dict[str, Any], sentence: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=sentence):
        write_slice(tmp_path / "model", tmp_path / "out", Slice((8,) * 7))
    assert [one.name for one in tmp_path.iterdir()] == ["model"]


def test_weights_that_are_cut_off_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    file = sorted((tmp_path / "model").glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError):
        write_slice(tmp_path / "model", tmp_path / "out", Slice((8,) * 7))
    assert not (tmp_path / "out").exists()
    assert rules_of(folder).widths == (WIDTH,) * LAYERS

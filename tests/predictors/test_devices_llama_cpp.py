"""What llama.cpp computes of decoders, which it takes, and what is said of those that it does not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from predictors.devices import Device, llama_cpp
from predictors.measurement.rounds import Measurement, measure
from search_spaces.errors import UsageError
from search_spaces.families import autoformer, matlm
from search_spaces.union import union
from supernet.plain.decoder import Decoder
from supernet.plain.vit import ViT

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")
BATCH, TOKENS = 3, 20
SIZES: dict[str, Any] = {"vocabulary": 256, "context": 24, "embed_dim": 32, "head_dim": 8, "heads_per_kv": 2}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "deci": {"mlp_hidden": [64, 96], "num_heads": [8, 4]},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
}


def decoder(**others: Any) -> Decoder:
    torch.manual_seed(0)
    module = Decoder(**SIZES | {"num_heads": [4, 4], "mlp_hidden": [64, 64]} | others).eval()
    with torch.no_grad():
        for weights in module.parameters():
            nn.init.normal_(weights, std=0.2)
    return module


def computed(device: Device, module: nn.Module, x: Tensor) -> Tensor:
    with device.session(), device.computing(module, x) as compute:
        return compute(x)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_step_of_decoding_has_the_logits_of_the_whole_text(kind: str) -> None:
    """Of every network that llama.cpp knows, also for another last token than the one that was prepared."""
    device, module = llama_cpp.build(batch=BATCH), decoder(**KINDS[kind])
    texts = module.some_input(BATCH, TOKENS)
    whole = computed(device, module, texts)
    torch.testing.assert_close(whole, module(texts), rtol=0, atol=2e-3 * whole.abs().max().item())
    step, other = module.as_run(BATCH, TOKENS, is_step=True), texts.clone()
    other[:, -1] = 7
    with device.session(), device.computing(step, texts[:, -1:]) as compute:
        for text in (texts, other, texts):
            expected = module(text)[:, -1:]
            error = (compute(text[:, -1:]) - expected).abs().max() / expected.abs().max()
            assert error < 2e-3


def test_latencies_are_ratios_to_a_block_under_llama_cpp() -> None:
    device = llama_cpp.build(batch=1, precision="q8_0")
    modules = {str(width): lambda width=width: decoder(mlp_hidden=[width] * 2) for width in (32, 2048)}
    results = measure(device, modules, decoder().some_input(1, TOKENS), seed=0, rounds=2, max_rounds=2)
    narrow, wide = results.values()
    assert isinstance(narrow, Measurement), narrow
    assert isinstance(wide, Measurement), wide
    assert narrow.latency_ms < wide.latency_ms
    assert wide.reference_ms == narrow.reference_ms > 0
    assert (narrow.peak_memory_bytes or 0) < (wide.peak_memory_bytes or 0)


def test_networks_that_it_does_not_take() -> None:
    device = llama_cpp.build(batch=1, precision="q4_0")
    sizes: Any = {"image_size": (16, 16), "in_chans": 3, "num_classes": 5, "patch_size": 4, "head_dim": 8}
    vit = ViT(**sizes, embed_dim=16, num_heads=[2], mlp_hidden=[32])
    for module, words in (
        (vit, "runs language models, and this is another network"),
        (nn.Linear(4, 4), "runs language models, and this is another network"),
        (decoder(mlp_hidden=[64, 72]), "rows of blocks.1.mlp.fc2.weight have 72"),
        (decoder(act="gelu"), "has no such network"),
    ):
        with pytest.raises(UsageError, match=words), device.session():
            computed(device, module, torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(UsageError, match="takes 256 texts at once, and the batch is 257"):
        computed(device, decoder(), torch.zeros(257, 4, dtype=torch.long))


def test_another_network_than_the_module_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of queries in the wrong order, which moves little where a network attends to all tokens alike."""
    module = decoder()
    with monkeypatch.context() as patch:
        patch.setattr("predictors.runtimes.gguf.files.TURNED", ("attn_q.weight",))
        with pytest.raises(UsageError, match=r"outputs differ from the module's by .* of the largest"):
            computed(llama_cpp.build(), module, module.some_input(1, TOKENS))
    other = decoder(mlp_hidden=[64, 48])
    monkeypatch.setattr(other, "forward", module.forward)
    with pytest.raises(UsageError, match=r"llama\.cpp's logits are off by"):
        computed(llama_cpp.build(precision="fp16"), other, module.some_input(1, TOKENS))


def test_a_file_that_it_cannot_load(tmp_path: Path) -> None:
    """The reason is the one that llama.cpp writes into its log."""
    from predictors.runtimes.gguf.files import GGUFFile  # noqa: PLC0415 - needs what may be missing

    (tmp_path / "it.gguf").write_bytes(b"no network")
    with pytest.raises(UsageError, match=r"does not take the network: .*magic"):
        computed(llama_cpp.build(), GGUFFile(tmp_path / "it.gguf", 256), torch.zeros(1, 4, dtype=torch.long))


def test_a_library_with_another_interface_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictors.runtimes.sessions.llama_cpp.DEFAULTS", {0: 0, 1: 2048})
    with pytest.raises(UsageError, match=r"'it' does not know the llama.cpp of xllamacpp 20"):
        llama_cpp.build(name="it")


@pytest.mark.parametrize(
    ("options", "precision", "words"),
    [
        (
            {"mlp_hidden": (32, 72)},
            "q8_0",
            "q8_0 takes 32 numbers at a time, and the rows of blocks.0.mlp.fc2",
        ),
        ({"embed_dim": (48, 64)}, "q4_0", "the rows of embed.weight have 48"),
        ({"embed_dim": (32, 64), "mlp_ratio": (0.5, 1)}, "q4_0", "blocks.0.mlp.fc2.weight have 16"),
        (
            {"qk_norm": True, "mlp_hidden": (32, 64)},
            "fp32",
            "of networks of Llama's kind alone, and this is one of qwen3",
        ),
        ({"gated": False}, "fp16", "FFNs gated by SiLU are needed"),
        ({"num_heads": (1, 2), "head_dim": 16}, "q4_0", "blocks.0.attn.proj.weight have 16"),
    ],
)
def test_spaces_with_networks_that_it_lacks(options: dict[str, Any], precision: str, words: str) -> None:
    """Where they can be known from the space."""
    space = matlm.build(
        **{"head_dim": 32, "mlp_hidden": (64,) if "mlp_ratio" not in options else None} | options
    )
    with pytest.raises(UsageError, match=words) as refused:
        llama_cpp.check_space(union({"it": space}), name="pi", precision=precision)
    assert refused.value.message.startswith("Device 'pi' cannot run subnet ")
    if precision.startswith("q"):
        assert refused.value.hint.startswith("The nearest that it takes ")
        llama_cpp.check_space(space, name="pi", precision="fp16")


def test_spaces_that_it_takes() -> None:
    llama_cpp.check_space(matlm.build(mlp_hidden=(64, 96), head_dim=32), name="pi", precision="q4_0")
    alike = matlm.build(mlp_hidden=(64, 96), head_dim=32, qk_norm=True, per_layer=())
    llama_cpp.check_space(alike, name="pi", precision="q4_0")
    with pytest.raises(UsageError, match="the networks of family 'autoformer' are run on images"):
        llama_cpp.check_space(autoformer.build(), name="pi", precision="fp32")

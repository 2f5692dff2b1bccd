"""Texts as blocks of tokens: nothing lost, nothing twice, and a sentence for what is no text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made_text import make_text, texts

from nas import datasets
from nas.config.paths import with_absolute_paths
from nas.text.blocks import Document, packed
from nas.text.tokens import tokenizer_of
from search_spaces.errors import UsageError
from supernet.tasks.language import NO_TARGET

SPLITS = ("train", "search", "report")


def document(name: str, count: int) -> Document:
    ids = np.arange(1, count + 1, dtype=np.int32)
    return Document(name, ids, np.arange(2, 2 * count + 2, 2, dtype=np.int64))


def test_every_token_is_a_target_once_behind_the_one_before_it() -> None:
    blocks = packed([document("a", 9), document("b", 2), document("c", 4)], context=4, begin=0)
    pieces = [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [9, 1, 2, NO_TARGET]]
    assert blocks.targets.tolist() == pieces
    assert blocks.inputs.tolist() == [[0, 1, 2, 3], [0, 5, 6, 7], [0, 1, 2, 3], [0, 0, 1, 0]]
    assert blocks.tokens.tolist() == [4, 4, 4, 3]
    assert blocks.bytes.tolist() == [8, 8, 8, 6]
    # What shares a block is one group: c alone is another.
    groups = blocks.sources[:, 0].tolist()
    assert groups[0] == groups[1] == groups[3] != groups[2]


def test_the_last_piece_of_a_long_document_is_alone() -> None:
    blocks = packed([document("a", 17), document("b", 1), document("c", 2)], context=4, begin=0)
    assert blocks.tokens.tolist() == [4, 4, 4, 4, 1, 3]
    assert blocks.sources[:, 0].tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("context", [1, 5, 64, 300])
def test_blocks_have_the_bytes_of_the_documents(tmp_path: Path, context: int) -> None:
    data = datasets.build("text", files=[str(make_text(tmp_path))], context=context)
    told = sum(int(data.counts(split)["bytes"].sum()) for split in SPLITS)
    assert told == sum(len(text.encode()) for text in texts())
    for split in SPLITS:
        targets = torch.cat([y for _, y in data.batches(split, 7)]) if split != "train" else None
        if targets is not None:
            assert torch.equal((targets != NO_TARGET).sum(dim=1), data.counts(split)["tokens"])


def test_blocks_of_two_documents_share_no_group_unless_a_block(tmp_path: Path) -> None:
    data = datasets.build("text", files=[str(make_text(tmp_path))], context=48)
    groups = [set(data.sources(split).flatten().tolist()) for split in ("search", "report")]
    assert all(groups)
    assert not groups[0] & groups[1]


def make_tokenizer(folder: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts(), trainer)
    file = folder / "tokenizer.json"
    made.save(str(file))
    return file


def test_a_tokenizer_of_a_file_counts_the_same_bytes(tmp_path: Path) -> None:
    file, tokens = make_text(tmp_path), make_tokenizer(tmp_path)
    data = datasets.build("text", files=[str(file)], tokenizer=str(tokens), context=32)
    bytes_alone = datasets.build("text", files=[str(file)], context=32)
    assert 256 < data.num_classes <= 320
    told = [sum(int(one.counts(split)["bytes"].sum()) for split in SPLITS) for one in (data, bytes_alone)]
    assert told[0] == told[1]
    assert data.counts("train")["tokens"].sum() < bytes_alone.counts("train")["tokens"].sum()
    wider = datasets.build("text", files=[str(file)], tokenizer=str(tokens), context=32, vocabulary=512)
    assert wider.num_classes == 512
    with pytest.raises(UsageError, match=r"has 3\d\d tokens, and vocabulary is 300") as caught:
        datasets.build("text", files=[str(file)], tokenizer=str(tokens), vocabulary=300)
    assert "trained with" in caught.value.hint


def test_ends_of_tokens_that_share_a_character_never_go_back(tmp_path: Path) -> None:
    read = tokenizer_of(str(make_tokenizer(tmp_path)))
    for text in ("für дом 。", "\U0001d518 x", "ascii only"):
        ids, ends = read.split(text)
        assert len(ids) == len(ends)
        assert (np.diff(ends) >= 0).all()
        assert ends[-1] == len(text.encode())


def test_all_types_of_files_hold_the_same_documents(tmp_path: Path) -> None:
    made = texts(12)
    pd.DataFrame({"text": made}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t, "id": 1}) for t in made))
    (tmp_path / "a.txt").write_text("\n---\n".join(made), encoding="utf-8")
    options = {"context": 16, "separator": "\n---\n"}
    digests = {
        datasets.build("text", files=[str(tmp_path / f"a.{kind}")], **options).digest
        for kind in ("parquet", "jsonl", "txt")
    }
    assert len(digests) == 1
    files = []
    for number, text in enumerate(made):
        files.append(tmp_path / f"{number:02d}.txt")
        files[-1].write_text(text, encoding="utf-8")
    assert datasets.build("text", files=list(map(str, files)), context=16).digest in digests


def written(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", b"", {}, "There is no text in .*: all is empty"),
        ("a.jsonl", b"\n\n", {}, "There is no text in .*: all is empty"),
        ("a.txt", b"good \xff bad", {}, r"is not UTF-8: byte 5 is no part of a character"),
        ("a.txt", b"one\0two", {}, "holds a byte 0"),
        ("a.txt", b"one document", {}, "The text is 1 document: each of the splits"),
        ("a.txt", b"a\n\nb\n\nc", {"separator": "\n\n"}, "have 1 tokens in all, fewer than a block of 256"),
        ("a.pdf", b"text", {}, "is of no known type: files of text end in .txt, .jsonl, .parquet"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"txt": "b"}',
            {},
            "Line 2 of .* is no JSON object with a text in 'text'",
        ),
        ("a.jsonl", b"[1", {}, "Line 1 of"),
        ("a.jsonl", b'{"text": "\\ud800"}', {}, "The text in line 1 of .* holds half a character"),
        ("a.parquet", b"PAR1", {}, "cannot be read as .parquet with a column 'text'"),
        ("a.txt", b"text", {"tokenizer": "/no/tokenizer.json"}, "The tokenizer '/no/tokenizer.json' cannot"),
        ("a.txt", b"text", {"tokenizer": 3}, "tokenizer = 3 is neither 'bytes' nor a path"),
        ("a.txt", b"text", {"context": 0}, "context = 0 is not a positive integer"),
        (
            "a.txt",
            b"text",
            {"vocabulary": 100},
            "The tokenizer 'bytes' has 256 tokens, and vocabulary is 100",
        ),
        ("a.txt", b"text", {"search": 0.6, "report": 0.5}, "together less than 1"),
        ("a.txt", b"text", {"search": 0}, "search = 0 is no share"),
        ("a.txt", b"text", {"separator": ""}, "separator = '' is no text"),
    ],
)
def test_what_is_no_text_is_told_in_a_sentence(
    tmp_path: Path, name: str, content: bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        datasets.build("text", files=[written(tmp_path, name, content)], **options)


@pytest.mark.parametrize("files", [[], "", 3, [3], None])
def test_files_have_to_be_named(files: object) -> None:
    with pytest.raises(UsageError):
        datasets.build("text", files=files)


def test_missing_files_and_the_same_one_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        datasets.build("text", files=[str(tmp_path / "a.txt")])
    file = str(make_text(tmp_path))
    with pytest.raises(UsageError, match=r"names .* twice"):
        datasets.build("text", files=[file, file])


def test_patterns_name_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "texts [old]"
    (folder / "more").mkdir(parents=True)
    made = texts(12)
    for number, text in enumerate(made):
        (folder / ("more" if number > 8 else "") / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    (folder / "readme.md").write_text("no text")
    every = [str(folder / f"{number:02d}.txt") for number in range(9)]
    every += [str(folder / "more" / f"{number:02d}.txt") for number in range(9, 12)]
    named = datasets.build("text", files=every, context=16)
    for files in ([str(folder / "*.txt"), str(folder / "more" / "*.txt")], [str(folder / "**" / "*.txt")]):
        assert datasets.build("text", files=files, context=16).digest == named.digest
    assert [row[0] for row in named.manifest()] == [str(Path(file).relative_to(folder)) for file in every]
    (folder / "00.txt").write_text(made[0] + " and more", encoding="utf-8")
    assert datasets.build("text", files=[str(folder / "**" / "*.txt")], context=16).digest != named.digest


def test_a_file_may_be_called_like_a_pattern(tmp_path: Path) -> None:
    file = tmp_path / "a[1].jsonl"
    make_text(tmp_path).rename(file)
    assert datasets.build("text", files=[str(file)], context=16).paths == [file]


def test_a_pattern_of_no_file_and_one_of_a_file_that_is_named_are_refused(tmp_path: Path) -> None:
    file = make_text(tmp_path)
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UsageError, match=r"No file is called '.*/\*\.txt'"):
        datasets.build("text", files=[str(tmp_path / "*.txt")])
    with pytest.raises(UsageError, match=r"names '.*some\.jsonl' twice"):
        datasets.build("text", files=[str(file), str(tmp_path / "*.jsonl")])
    (tmp_path / "readme.md").write_text("no text")
    with pytest.raises(UsageError, match="is of no known type"):
        datasets.build("text", files=[str(tmp_path / "*")])


@pytest.mark.parametrize("content", [b"{}", b"not json", b"\xff"])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    file = written(tmp_path, "tokenizer.json", content)
    with pytest.raises(UsageError, match=r"is no tokenizer|cannot be read"):
        datasets.build("text", files=[str(make_text(tmp_path))], tokenizer=file)


def test_paths_in_a_job_file_are_taken_from_its_folder(tmp_path: Path) -> None:
    data = {"name": "text", "files": ["a.txt", "/b.txt"], "tokenizer": "t.json"}
    located = with_absolute_paths({"data": data}, tmp_path)["data"]
    assert located["files"] == [str(tmp_path / "a.txt"), "/b.txt"]
    assert located["tokenizer"] == str(tmp_path / "t.json")
    assert (
        with_absolute_paths({"data": data | {"tokenizer": "bytes"}}, tmp_path)["data"]["tokenizer"] == "bytes"
    )


def test_the_documentation_is_pythons_and_none_of_its_tests() -> None:
    data = datasets.build("python_docs", documents=80, context=128)
    assert data.facts["origin"].startswith("documentation of Python 3.")
    assert sum(data.facts["documents"].values()) <= 80
    shown = b"".join(bytes(row[row >= 0].tolist()) for row in data.labels("report"))
    assert shown.decode(errors="replace").isprintable() is False  # lines have ends
    assert b"the" in shown
    whole = datasets.build("python_docs", documents=81, context=128)
    assert whole.digest != data.digest

"""Text of one's own, in files, as blocks of tokens: for language."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.artifacts import sha256
from nas.text.blocks import LONGEST_CONTEXT, TextBlocks, documents_of
from nas.text.files import documents_in, files_of, folder_of
from nas.text.tokens import BYTES, tokenizer_of
from search_spaces.bounds import positive, short
from search_spaces.errors import UsageError

TASK = "language"


def build(
    *,
    files: Sequence[str],
    tokenizer: str = BYTES,
    context: int = 256,
    vocabulary: int | None = None,
    separator: str | None = None,
    split_seed: int = 0,
    search: float = 0.1,
    report: float = 0.1,
) -> "Text":
    """The documents of .txt (each one, or divided by `separator`), .jsonl (field `text`) and .parquet files.

    files: paths, or patterns of them.
    tokenizer: `bytes`, or where one is (extra `llm`): a tokenizer.json, a folder with one, a GGUF file, or
    `package:NAME`. A job file may also say `init`: that of the model that its supernet begins with.
    context: tokens of a block.  split_seed: by which documents are divided.
    separator: what stands between the documents of a .txt; without one it is one document.
    vocabulary: of the network, where it has more tokens than the tokenizer.
    search, report: shares of the text that the splits have at least; splits have whole documents.
    Raises UsageError for files that are not there or no text, a tokenizer that is none or does not fit, and
    for too little text.
    """
    named = _named(files)
    paths = files_of(named)
    positive("context", context, most=LONGEST_CONTEXT)
    if separator is not None and not (isinstance(separator, str) and separator):
        raise UsageError(f"separator = {short(separator)} is no text that stands between documents.")
    if type(split_seed) is not int or split_seed < 0:
        raise UsageError(f"split_seed = {short(split_seed)} is no whole number from 0 on.")
    shares = [_share("report", report), _share("search", search)]
    if sum(shares) >= 1:
        raise UsageError("search and report are shares of the text: together less than 1.")
    read = tokenizer_of(tokenizer, vocabulary=vocabulary)
    texts = (one for path in paths for one in documents_in(path, separator=separator))
    documents = documents_of(texts, read)
    if not documents:
        raise UsageError(f"There is no text in {', '.join(map(repr, map(str, paths[:3])))}: all is empty.")
    data = Text(documents, read, name="text", context=context, split_seed=split_seed, shares=shares)
    data.folder, data.paths = folder_of(named), paths
    return data


def moved(options: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The same options with the files, and a tokenizer that lies with them, in another folder."""
    named = _named(options["files"])
    folder = folder_of(named)
    changed = dict(options) | {"files": [str(root / path.relative_to(folder)) for path in named]}
    tokenizer = Path(str(options.get("tokenizer", BYTES)))
    if tokenizer.is_relative_to(folder):
        changed["tokenizer"] = str(root / tokenizer.relative_to(folder))
    return changed


class Text(TextBlocks):
    """Documents out of files, which may change; `paths` below `folder`.

    splits_anew: another document moves others from one split to another.
    """

    splits_anew = True
    folder: Path
    paths: Sequence[Path]

    def manifest(self) -> list[list[Any]]:
        """See `DataSet`; no file is of one split."""
        names = [path.relative_to(self.folder).as_posix() for path in self.paths]
        return [[name, sha256(self.folder / name), "the files", True] for name in names]


def _named(files: object) -> list[Path]:
    listed = [files] if isinstance(files, str | Path) else files
    if (
        not isinstance(listed, list | tuple)
        or not listed
        or not all(isinstance(f, str | Path) for f in listed)
    ):
        raise UsageError(f"files = {short(files)} names no files.", "Example: files: [a.txt, b.jsonl]")
    return [Path(one).expanduser() for one in listed]


def _share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise UsageError(f"{name} = {short(value)} is no share of the text between 0 and 1.")
    return float(value)

"""Documents in files: a .txt is one, a .jsonl has one a line, a .parquet one a row."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nas.artifacts import open_regular
from search_spaces.bounds import short
from search_spaces.errors import UsageError

FIELD = "text"  # of a line, or the column, that holds a document


def documents_in(path: Path, *, separator: str | None) -> Iterator[tuple[str, str]]:
    """The name and the text of each document of a file.

    separator: what stands between documents of a .txt; None: it is one.
    Raises UsageError for a file that is missing, of another type, or does not hold what its type says.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"'{path}' is of no known type: files of text end in {', '.join(READERS)}.",
            "Convert it, or rename it if it is of one of these.",
        )
    for place, text in enumerate(reader(path, separator)):
        if "\0" in text:
            raise UsageError(f"'{path}' holds a byte 0, which no text has.", "Give files of plain text.")
        yield f"{path.name}:{place}", text


def _txt(path: Path, separator: str | None) -> Iterator[str]:
    text = _decoded(path)
    yield from [text] if separator is None else text.split(separator)


def _jsonl(path: Path, separator: str | None) -> Iterator[str]:
    for number, line in enumerate(_decoded(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        text = row.get(FIELD) if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise UsageError(f"Line {number} of '{path}' is no JSON object with a text in '{FIELD}'.")
        yield _whole(text, f"line {number} of '{path}'")


def _parquet(path: Path, separator: str | None) -> Iterator[str]:
    import pyarrow as pa  # noqa: PLC0415 - heavy
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

    try:
        with open_regular(path) as file:
            table = pq.read_table(file, columns=[FIELD])
            texts = table.column(FIELD).to_pylist()
    except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"'{path}' cannot be read as .parquet with a column '{FIELD}': {reason}.") from error
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(f"Row {row} of '{path}' has {short(text)} in column '{FIELD}', and no text.")
        yield text


def _decoded(path: Path) -> str:
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise UsageError(
            f"'{path}' cannot be read: {error.strerror or error}.", "Give the paths of files in data.files."
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"'{path}' is not UTF-8: byte {error.start:,} is no part of a character.", "Convert it to UTF-8."
        ) from error


def _whole(text: str, where: str) -> str:
    """The text. Raises UsageError for half a character, which JSON can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"The text in {where} holds half a character.", "Write it anew.") from error
    return text


READERS: Mapping[str, Callable[[Path, str | None], Iterator[str]]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}

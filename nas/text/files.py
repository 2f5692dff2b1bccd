"""Documents in files: a .txt is one, a .jsonl has one a line, a .parquet one a row; which files there are."""

import glob
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.artifacts import open_regular
from search_spaces.bounds import short
from search_spaces.errors import UsageError

FIELD = "text"  # of a line, or the column, that holds a document


def files_of(patterns: Sequence[Path]) -> list[Path]:
    """The files of paths, of which some are patterns (`*`, `?`, `[...]`, `**` for folders in folders).

    Those of a pattern come in the order of their names. Raises UsageError for a pattern of no file, and for a
    file that is there twice.
    """
    paths: list[Path] = []
    for pattern in patterns:
        folder, rest = _divided(pattern)
        if not rest:
            paths.append(pattern)
            continue
        matched = sorted(folder / name for name in glob.glob(rest, root_dir=folder, recursive=True))
        files = [path for path in matched if not path.is_dir()]
        if not files:
            raise UsageError(f"No file is called '{pattern}'.", "Give the paths of files in data.files.")
        paths += files
    twice = next((path for path, times in Counter(paths).items() if times > 1), None)
    if twice is not None:
        raise UsageError(f"files names '{twice}' twice.", "Documents of one split must not be in another.")
    return paths


def folder_of(patterns: Sequence[Path]) -> Path:
    """The folder below which all files of paths and patterns lie."""
    return Path(
        os.path.commonpath([_divided(one)[0] if _divided(one)[1] else one.parent for one in patterns])
    )


def _divided(path: Path) -> tuple[Path, str]:
    """The folder of a pattern, and what is to be matched in it; nothing, where it is the name of a file."""
    if path.exists() or not glob.has_magic(str(path)):
        return path, ""
    # A folder may be called as if it were a pattern.
    folder = next(parent for parent in path.parents if parent.is_dir() or not glob.has_magic(str(parent)))
    return folder, str(path.relative_to(folder))


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
        reason = " ".join(str(error).split())[:200].rstrip(".")
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

"""The documentation in the running Python's own library, as blocks of tokens: for language, always there.

A document is a topic of the help (`pydoc_data.topics`), or the documentation strings of one module. Other
versions of Python have other text: the digest says which one it is.
"""

import ast
import hashlib
import importlib
import platform
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nas.text.blocks import LONGEST_CONTEXT, TextBlocks, documents_of
from nas.text.tokens import BYTES, tokenizer_of
from search_spaces.bounds import positive, short
from search_spaces.errors import UsageError

TASK = "language"
LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})
TOPICS = "pydoc_data"
SHARE = 0.1  # of the text, for each of `search` and `report`
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def build(
    *, tokenizer: str = BYTES, context: int = 256, split_seed: int = 0, documents: int | None = None
) -> TextBlocks:
    """Blocks of `context` tokens; a tenth of the text is for the search, a tenth for the report.

    context: tokens of a block.  split_seed: by which documents are divided.
    tokenizer: as of data set `text`; bytes unless given.
    documents: how many of them, chosen by a hash of their names, where a part is enough; None: all.
    Raises UsageError for options that are wrong, and where the library is not there as files.
    """
    positive("context", context, most=LONGEST_CONTEXT)
    if type(split_seed) is not int or split_seed < 0:
        raise UsageError(f"split_seed = {short(split_seed)} is no whole number from 0 on.")
    texts = _sources(Path(sysconfig.get_path("stdlib")))
    if documents is not None:
        positive("documents", documents)
        chosen = sorted(texts, key=lambda name: hashlib.sha256(name.encode()).digest())[:documents]
        texts = {name: texts[name] for name in chosen}
    read, version = tokenizer_of(tokenizer), platform.python_version()
    data = TextBlocks(
        documents_of(((name, texts[name]()) for name in sorted(texts)), read),
        read,
        name="python_docs",
        context=context,
        split_seed=split_seed,
        shares=[SHARE, SHARE],
        version=f"Python {version}",
    )
    data.facts |= {"origin": f"documentation of Python {version}"}
    return data


def _sources(library: Path) -> dict[str, Callable[[], str]]:
    """What reads each document, by the document's name. Raises UsageError where there are no files."""
    topics: dict[str, Any] = importlib.import_module(f"{TOPICS}.topics").topics
    sources: dict[str, Callable[[], str]] = {
        f"topic {name}": partial(_without_zeros, text) for name, text in topics.items()
    }
    names = [path.relative_to(library) for path in library.rglob("*.py")]
    names = [name for name in names if not LEFT_OUT & set(name.parts) and name.parts[0] != TOPICS]
    if not names:
        raise UsageError(
            f"Python's library in '{library}' has no files with documentation.",
            "Use `data: {name: text, files: [...]}` with text of your own.",
        )
    return sources | {f"module {name.as_posix()}": partial(_documentation, library / name) for name in names}


def _documentation(path: Path) -> str:
    return _without_zeros("\n\n".join(_docstrings(path)))


def _docstrings(path: Path) -> Iterator[str]:
    """Of a module, its classes and functions, in the order of the file; none of what is no Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    nodes = [node for node in ast.walk(tree) if isinstance(node, DOCUMENTED)]
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        if docstring := ast.get_docstring(node):
            yield docstring


def _without_zeros(text: str) -> str:
    """As UTF-8 can hold it; the byte 0 begins every piece and stands nowhere else."""
    return text.encode(errors="ignore").decode().replace("\0", "")

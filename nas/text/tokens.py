"""From a document's text to its tokens: its bytes, or what the tokenizer of a language model makes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.artifacts import open_regular
from nas.text.gguf_tokenizers import in_gguf
from search_spaces.bounds import positive, short
from search_spaces.errors import UsageError
from supernet.pretrained.gguf_files import PACKAGE

BYTES = "bytes"  # the tokenizer that needs no file
IN_FOLDER, GGUF = "tokenizer.json", ".gguf"
MOST_BYTES = 2**28  # of a tokenizer's file
BEGINNINGS = ("<|begin_of_text|>", "<bos>", "<s>", "<|endoftext|>", "<|im_start|>", "[BOS]", "[CLS]")
EXTRA = "Install the extra `llm`: pip install 'elastiform[llm]'."
Ids = NDArray[np.int32]
Ends = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """How text becomes tokens below `vocabulary`; `begin` stands before every piece of a text.

    split: from a text to its tokens, and at which byte of the text each of them ends.  join: from tokens to
    their text.  as_json: what a tokenizer.json has of it; None for bytes.
    """

    vocabulary: int
    begin: int
    split: Callable[[str], tuple[Ids, Ends]]
    join: Callable[[Sequence[int]], str]
    as_json: Callable[[], str] | None = None


def tokenizer_of(name: object, *, vocabulary: int | None = None) -> Tokenizer:
    """The tokenizer of a job file: `bytes`, or that in a tokenizer.json, a folder with one, or a GGUF file.

    name: a path, or `package:NAME` for the one GGUF file in an installed package.
    vocabulary: of the network that is to read the tokens, where it is given: at least the tokenizer's.
    Raises UsageError for a file that is missing or none, and for a vocabulary that it does not fit.
    """
    if vocabulary is not None:
        positive("vocabulary", vocabulary)
    if not isinstance(name, str | Path) or not str(name):
        raise UsageError(f"tokenizer = {short(name)} is neither '{BYTES}' nor a path.")
    made = _of_bytes() if name == BYTES else _of_others(str(name))
    if vocabulary is None or vocabulary == made.vocabulary:
        return made
    if vocabulary < made.vocabulary:
        raise UsageError(
            f"The tokenizer '{name}' has {made.vocabulary:,} tokens, and vocabulary is {vocabulary:,}.",
            "Take the tokenizer that the network was trained with, or leave vocabulary out.",
        )
    return replace(made, vocabulary=vocabulary)


def _of_bytes() -> Tokenizer:
    """The bytes of a text; the one that no text has, 0, begins every piece."""

    def split(text: str) -> tuple[Ids, Ends]:
        values = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)
        return values, np.arange(1, len(values) + 1)

    return Tokenizer(256, 0, split, lambda ids: bytes(ids).decode(errors="replace"))


def _of_others(name: str) -> Tokenizer:
    try:
        import tokenizers  # noqa: F401, PLC0415 - of an extra
    except ImportError as error:
        raise UsageError(f"The tokenizer '{name}' needs the package tokenizers.", EXTRA) from error
    path = Path(name).expanduser()
    if name.startswith(PACKAGE) or path.suffix.lower() == GGUF:
        read: Any = in_gguf(name)
    else:
        read = _in_json(path / IN_FOLDER if path.is_dir() else path)
    read.no_truncation()
    read.no_padding()
    begin = next((i for i in map(read.token_to_id, BEGINNINGS) if i is not None), None)
    if begin is None:
        raise UsageError(
            f"The tokenizer '{name}' has no token with which a text begins.",
            f"Known are {', '.join(BEGINNINGS)}.",
        )
    vocabulary = 1 + max(read.get_vocab().values())
    return Tokenizer(
        vocabulary,
        begin,
        lambda text: _encoded(read, text),
        lambda ids: str(read.decode(list(ids), skip_special_tokens=False)),
        lambda: str(read.to_str()),
    )


def _in_json(path: Path) -> Any:
    import tokenizers  # noqa: PLC0415 - see above

    try:
        with open_regular(path) as file:
            content = file.read(MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(
            f"The tokenizer '{path}' cannot be read: {reason}.",
            f"Give the path of a tokenizer.json, or `tokenizer: {BYTES}`.",
        ) from error
    try:
        return tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the package raises no other kind
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"'{path}' is no tokenizer: {reason}.", "A tokenizer.json is one.") from error


def _encoded(read: Any, text: str) -> tuple[Ids, Ends]:
    encoding = read.encode(text, add_special_tokens=False)
    widths = np.array([len(character.encode()) for character in text], dtype=np.int64)
    in_bytes = np.concatenate([[0], np.cumsum(widths)])
    last = np.array([end for _, end in encoding.offsets], dtype=np.int64)
    # Tokens may share a character, and what a tokenizer leaves out belongs to the token behind it.
    ends = np.maximum.accumulate(in_bytes[last]) if len(last) else in_bytes[:0]
    if len(ends):
        ends[-1] = in_bytes[-1]
    return np.array(encoding.ids, dtype=np.int32), ends

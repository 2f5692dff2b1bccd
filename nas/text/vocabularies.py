"""The tokenizer of a network's texts as a GGUF file tells it to llama.cpp, out of the file that has it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.text.gguf_tokenizers import CONTROL, CUTS, MODEL, USER_DEFINED, built
from nas.text.tokens import in_file, is_gguf, tokenizer_of
from search_spaces.errors import UsageError
from supernet.pretrained.gguf_files import read_tokenizer

TOKENS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
NORMAL, UNUSED = 1, 5  # types of tokens
# Words, numbers, spaces, lines, signs, shortenings, composed and other characters: where cuts differ.
TEXTS = (
    "The answer's 42, isn't it? I'LL say: 1234567 (or 3.14).\n\n\tdef f(x):\n        return x ** 2  # both  ",
    "größer — ✓ café 日本語 нет\r\n\r\n   x\n",
    "a_b-c/d@e...!!! \u00a0 ½ ٣ 👍🏽",
    "cafe\u0301",
)
UNLIKE = "it is no byte-level BPE that cuts text in a way that is known here"


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF says of a tokenizer, by the whole keys, and the tokens that the data make of a text."""

    settings: Mapping[str, Any]
    split: Callable[[str], list[int]]

    def of_size(self, vocabulary: int) -> dict[str, Any]:
        """The settings for a network with so many tokens, of which those behind the tokenizer's are in no
        text.
        """
        tokens = list(self.settings[TOKENS])
        types = list(self.settings.get(TYPES) or [NORMAL] * len(tokens))
        spare = range(len(tokens), vocabulary)
        tokens += [f"<token {number}>" for number in spare]
        return {**self.settings, TOKENS: tokens, TYPES: types + [UNUSED] * len(spare)}

    @property
    def letter(self) -> int:
        """A token that is a letter."""
        return next(i for i, token in enumerate(self.settings[TOKENS]) if len(token) == 1 and token.isalpha())


def vocabulary_of(name: str) -> Vocabulary:
    """That of a tokenizer of a job file, which is not `bytes`.

    Raises UsageError, which names no file, where it cannot be read any more or GGUF has none like it.
    """
    try:
        read = in_file(name)
        settings = read_tokenizer(name) if is_gguf(name) else _settings(read, tokenizer_of(name).begin)
    except UsageError as error:
        reason = UNLIKE if error.message == UNLIKE else "its file cannot be read"
        raise UsageError(reason) from error

    def split(text: str) -> list[int]:
        ids: list[int] = read.encode(text, add_special_tokens=False).ids
        return ids

    return Vocabulary(settings, split)


def _settings(read: Any, begin: int) -> dict[str, Any]:
    """Of a tokenizer of the package, whose texts begin with that token."""
    said = json.loads(read.to_str())
    model, places = said["model"], read.get_vocab(with_added_tokens=True)
    if model.get("type") != "BPE":
        raise UsageError(UNLIKE)
    by_place = {place: token for token, place in places.items()}
    size = 1 + max(by_place)
    tokens = [by_place.get(place, f"<token {place}>") for place in range(size)]
    types = [NORMAL if place in by_place else UNUSED for place in range(size)]
    for added in said["added_tokens"]:
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    settings = {
        "tokenizer.ggml.model": MODEL,
        "tokenizer.ggml.pre": _cut_of(read, tokens, merges, types),
        TOKENS: tokens,
        TYPES: types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": begin,
        "tokenizer.ggml.eos_token_id": begin,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
    unknown = places.get(model.get("unk_token"))
    return settings if unknown is None else {**settings, "tokenizer.ggml.unknown_token_id": unknown}


def _cut_of(read: Any, tokens: Sequence[str], merges: Sequence[str], types: Sequence[int]) -> str:
    """By which name GGUF knows how a tokenizer cuts text: the one that makes the same of all texts."""
    expected = [read.encode(text, add_special_tokens=False).ids for text in TEXTS]
    for name, cut in CUTS.items():
        try:
            other = built(cut, tokens, merges, types, None)
        except Exception as error:  # the package raises no other kind
            raise UsageError(UNLIKE) from error
        if [other.encode(text, add_special_tokens=False).ids for text in TEXTS] == expected:
            return name
    raise UsageError(UNLIKE)

"""The tokenizer in a GGUF file, which lists its tokens and says by a name how text is cut beforehand.

Byte-level BPE, the tokenizer of nearly all recent models, is supported with the cuts in `CUTS`; the package
`tokenizers` does the work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from search_spaces.bounds import short
from search_spaces.errors import UsageError
from supernet.pretrained.gguf_files import file_of, read_settings
from supernet.pretrained.language_models import lowered

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KEYS = ("model", "pre", "tokens", "merges", "token_type", "unknown_token_id")
MODEL = "gpt2"  # what GGUF calls byte-level BPE
CONTROL, USER_DEFINED = 3, 4  # types of tokens that are found before text is cut
HINT = "Give the path of the model's tokenizer.json as data.tokenizer."
# Shortenings, a word behind whatever stands before it, digits, signs, and spaces up to the one of a word.
LATER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Cut:
    """How text is cut into words, inside of which tokens are found.

    pattern: of the words; None: those of GPT-2.  single_digits: whether each digit is one.
    composed: whether characters are composed first (NFC).  whole: whether a word that is a token is one
    without any merge.
    """

    pattern: str | None = None
    single_digits: bool = False
    composed: bool = False
    whole: bool = False


CUTS: Mapping[str, Cut] = {
    "gpt-2": Cut(),
    "smollm": Cut(single_digits=True),
    "llama-bpe": Cut(LATER.format(digits=r"\p{N}{1,3}"), whole=True),
    "qwen2": Cut(LATER.format(digits=r"\p{N}"), composed=True),
}


def in_gguf(name: str) -> "Tokenizer":
    """The tokenizer in the file.

    name: a path, or `package:NAME` for the one GGUF file in an installed package.
    Raises UsageError for a file that is missing, damaged or without a tokenizer, and for one whose tokenizer
    is of a kind that is not supported.
    """
    path = file_of(name)
    what = f"The file '{path}'"
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    model, pre, *numbers = _settings(name, changed)
    if model is None:
        raise UsageError(f"{what} holds no tokenizer.", HINT)
    if model != MODEL:
        raise UsageError(
            f"{what} has a tokenizer of the kind {short(model)}, and '{MODEL}' alone is supported.", HINT
        )
    if pre not in CUTS:
        raise UsageError(
            f"{what} has a tokenizer that cuts text as {short(pre)}, which is not supported.",
            f"Supported are {', '.join(CUTS)}. {HINT}",
        )
    for key, value in zip(KEYS[2:4], numbers, strict=False):
        if not isinstance(value, list):
            raise UsageError(f"{what} does not list the {key} of its tokenizer.", HINT)
    try:
        return built(CUTS[pre], *numbers)
    except Exception as error:  # the package raises no other kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"The tokenizer of {lowered(what)} is damaged: {reason}.", HINT) from error


@lru_cache(1)  # data are built several times in a process, and reading takes seconds
def _settings(name: str, changed: int) -> tuple[Any, ...]:
    """What the file, which was changed at that time, says of its tokenizer."""
    return tuple(read_settings(name, *(f"tokenizer.ggml.{key}" for key in KEYS)))


def built(
    cut: Cut, tokens: Sequence[str], merges: Sequence[str], types: Sequence[int] | None, unknown: int | None
) -> "Tokenizer":
    """The tokenizer with these tokens, which cuts text so.

    unknown: the token of bytes that no token has, which would cost nothing if they were left out.
    Raises ValueError, or an Exception of the package's, for what makes none.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers  # noqa: PLC0415 - of an extra

    places = {token: place for place, token in enumerate(tokens)}
    if len(places) < len(tokens):
        raise ValueError("a token is there twice")
    pairs: Any = [tuple(merge.split(" ")) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("a merge is not of two tokens")
    others = None if unknown is None else tokens[unknown]
    made = Tokenizer(models.BPE(vocab=places, merges=pairs, unk_token=others, ignore_merges=cut.whole))
    if cut.composed:
        made.normalizer = normalizers.NFC()
    made.pre_tokenizer = _cutting(cut)
    made.decoder = decoders.ByteLevel()
    kinds = dict(zip(tokens, types or (), strict=bool(types)))
    for kind, is_special in ((CONTROL, True), (USER_DEFINED, False)):
        made.add_tokens(
            [
                AddedToken(token, special=is_special, normalized=False)
                for token, of_kind in kinds.items()
                if of_kind == kind
            ]
        )
    return made


def _cutting(cut: Cut) -> Any:
    from tokenizers import Regex, pre_tokenizers  # noqa: PLC0415 - of an extra

    parts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if cut.single_digits else []
    if cut.pattern is not None:
        parts.append(pre_tokenizers.Split(Regex(cut.pattern), behavior="isolated"))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut.pattern is None))
    return pre_tokenizers.Sequence(parts)

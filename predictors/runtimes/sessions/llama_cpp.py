"""A GGUF file loaded by llama.cpp; imports no torch, so that memory can be measured without it.

The package xllamacpp serves texts, and tells of one next token at a time. The library inside of it is all of
llama.cpp: here its C interface is called, which computes the logits of every token of a batch in the calling
thread.
"""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp
from numpy.typing import NDArray

from predictors.runtimes.resident import Arrays

POINTER, INT, COUNT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32
MOST_TEXTS = 256  # that llama.cpp takes at once
CELLS = 256  # of keys and values, of which it reserves a multiple for each text
TOKENS_AT_ONCE = 512  # what it computes in one pass of a longer text, as by default
ERROR = 4  # the level of a line in its log
# Parameters of a context that are set here, by their places, and what they are by default. The rest stays.
SIZES = {0: 512, 1: 2048, 2: TOKENS_AT_ONCE, 3: 1}  # n_ctx, n_batch, n_ubatch, n_seq_max
FLASH, KEYS, VALUES = 13, 26, 27  # flash_attn_type, type_k, type_v
DEFAULTS = {**SIZES, FLASH: 2**32 - 1, KEYS: 1, VALUES: 1}  # flash attention where it can be; both in fp16
EXACT = {FLASH: 0, KEYS: 0, VALUES: 0}  # none, both in fp32


class _Parameters(ctypes.Structure):
    """Room for more parameters than any version has: those of a model, or of a context."""

    _fields_ = [("words", COUNT * 256)]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", INT),
        *((name, POINTER) for name in ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")),
    ]


# Name: result, arguments.
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "llama_backend_init": (None,),
    "llama_model_default_params": (_Parameters,),
    "llama_context_default_params": (_Parameters,),
    "llama_model_load_from_file": (POINTER, ctypes.c_char_p, _Parameters),
    "llama_init_from_model": (POINTER, POINTER, _Parameters),
    "llama_n_ctx_seq": (COUNT, POINTER),
    "llama_n_batch": (COUNT, POINTER),
    "llama_n_seq_max": (COUNT, POINTER),
    "llama_set_n_threads": (None, POINTER, INT, INT),
    "llama_decode": (INT, POINTER, _Batch),
    "llama_synchronize": (None, POINTER),
    "llama_get_logits": (POINTER, POINTER),
    "llama_get_memory": (POINTER, POINTER),
    "llama_memory_clear": (None, POINTER, ctypes.c_bool),
    "llama_memory_seq_rm": (ctypes.c_bool, POINTER, INT, INT, INT),
    "llama_model_get_vocab": (POINTER, POINTER),
    "llama_tokenize": (INT, POINTER, ctypes.c_char_p, INT, POINTER, INT, ctypes.c_bool, ctypes.c_bool),
    "llama_free": (None, POINTER),
    "llama_model_free": (None, POINTER),
}
_said: list[str] = []  # errors that llama.cpp wrote into its log, since somebody asked for something


def _note(level: int, text: bytes, _: object) -> None:
    if level == ERROR:
        _said.append(text.decode(errors="replace").strip())


_noting = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, POINTER)(_note)  # as long as the library


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(library, name, None)
        if function is None:
            raise ImportError(f"the library in xllamacpp has no {name}")
        function.restype, function.argtypes = result, arguments
    library.llama_backend_init()
    return library


LLAMA = _library()


class LlamaCppRun:
    """One run on fixed texts (B, T): of all their tokens, or of the last one of each behind the others."""

    def __init__(
        self,
        file: Path,
        texts: NDArray[Any],
        *,
        vocabulary: int,
        is_step: bool,
        threads: int,
        exact: bool,
    ) -> None:
        self.vocabulary, self.is_step, self.length = vocabulary, is_step, texts.shape[1]
        self.model: int | None = None
        self.context: int | None = None
        try:
            self._open(file, texts, threads, EXACT if exact else {})
        except RuntimeError:
            self.close()
            raise
        self.memory = LLAMA.llama_get_memory(self.context)
        if is_step and self.length > 1:
            self._decode(_Tokens(texts[:, :-1], begin=0, last_only=True))
        self.tokens = _Tokens(texts[:, -1:], begin=self.length - 1) if is_step else _Tokens(texts, begin=0)

    def __call__(self) -> None:
        self._run(self.tokens)

    def outputs(self) -> list[NDArray[Any]]:
        """The logits (B, T, vocabulary), or (B, 1, vocabulary) of a step."""
        return self.computed([self.tokens.ids])

    def computed(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Those of other texts of the same shape, or of other last tokens."""
        (ids,) = inputs
        self._run(_Tokens(ids, begin=self.tokens.begin))
        shape = (*ids.shape, self.vocabulary)
        at = ctypes.cast(LLAMA.llama_get_logits(self.context), ctypes.POINTER(ctypes.c_float))
        return [np.ctypeslib.as_array(at, shape).copy()]

    def close(self) -> None:
        """Gives its memory back."""
        for free, held in ((LLAMA.llama_free, self.context), (LLAMA.llama_model_free, self.model)):
            if held:
                free(held)
        self.model = self.context = None

    def _open(self, file: Path, texts: NDArray[Any], threads: int, others: Mapping[int, int]) -> None:
        self.model = _model(file)
        self.context = LLAMA.llama_init_from_model(self.model, _room(others, *texts.shape))
        self._check(*texts.shape)
        LLAMA.llama_set_n_threads(self.context, threads, threads)

    def _run(self, tokens: "_Tokens") -> None:
        """Keys and values of what is run are forgotten, and computed again."""
        if self.is_step:
            for text in range(len(tokens.ids)):
                LLAMA.llama_memory_seq_rm(self.memory, text, self.length - 1, -1)
        else:
            LLAMA.llama_memory_clear(self.memory, False)
        self._decode(tokens)

    def _decode(self, tokens: "_Tokens") -> None:
        if LLAMA.llama_decode(self.context, tokens.batch):
            raise RuntimeError(_why("it cannot be run"))
        LLAMA.llama_synchronize(self.context)

    def _check(self, texts: int, tokens: int) -> None:
        """That the context is what was asked for: llama.cpp promises no layout of its parameters."""
        if not self.context:
            raise RuntimeError(_why("there is no room for the texts"))
        reserved = [
            getattr(LLAMA, f"llama_n_{name}")(self.context) for name in ("ctx_seq", "batch", "seq_max")
        ]
        if reserved[0] < tokens or reserved[1] < texts * tokens or reserved[2] != texts:
            raise RuntimeError(f"asked for {texts} texts of {tokens} tokens, it reserves {reserved}")


class _Tokens:
    """Token ids (B, T), of a text each, from position `begin` on, as llama.cpp takes them.

    last_only: whether only the last token of each text gets logits.
    """

    def __init__(self, ids: NDArray[Any], *, begin: int, last_only: bool = False) -> None:
        texts, tokens = ids.shape
        self.ids, self.begin = np.ascontiguousarray(ids, dtype=np.int32), begin
        self._places = np.tile(np.arange(begin, begin + tokens, dtype=np.int32), texts)
        self._ones = np.ones(ids.size, dtype=np.int32)
        self._texts = np.repeat(np.arange(texts, dtype=np.int32), tokens)
        self._at = self._texts.ctypes.data + self._texts.itemsize * np.arange(ids.size, dtype=np.uint64)
        self._asked = np.full(ids.shape, not last_only, dtype=np.int8)
        self._asked[:, -1] = 1
        arrays = (self.ids, None, self._places, self._ones, self._at, self._asked)
        self.batch = _Batch(ids.size, *(None if one is None else one.ctypes.data for one in arrays))


def loaded(
    file: Path, inputs: Arrays, *, vocabulary: int, is_step: bool, threads: int, exact: bool = False
) -> LlamaCppRun:
    """The network in the file, ready for the texts `texts` of the inputs.

    exact: attends in fp32, which by default is done in fp16 whatever the weights are.
    """
    how: Any = {"vocabulary": vocabulary, "is_step": is_step, "threads": threads, "exact": exact}
    return LlamaCppRun(file, inputs["texts"], **how)


def tokenized(file: Path, text: str) -> list[int]:
    """What the file's tokenizer makes of a text, without a token in front of it."""
    model = _model(file)
    try:
        content = text.encode()
        ids = np.zeros(len(content) + 16, dtype=np.int32)
        vocabulary = LLAMA.llama_model_get_vocab(model)
        count = LLAMA.llama_tokenize(
            vocabulary, content, len(content), ids.ctypes.data, len(ids), False, True
        )
        if count < 0:
            raise RuntimeError("it makes more tokens of a text than there are bytes")
        made: list[int] = ids[:count].tolist()
        return made
    finally:
        LLAMA.llama_model_free(model)


def is_as_expected() -> bool:
    """Whether the parameters of a context lie where they are set here."""
    words = LLAMA.llama_context_default_params().words
    return all(words[place] == value for place, value in DEFAULTS.items())


def versions() -> dict[str, str]:
    """Of the package, which brings llama.cpp, and what that was compiled for."""
    features = " ".join(xllamacpp.get_system_info().replace("|", " ").split())
    return {"xllamacpp": xllamacpp.__version__, "features": features}


def _model(file: Path) -> int:
    LLAMA.llama_log_set(_noting, None)  # each time: a server of xllamacpp in this process takes the log over
    _said.clear()
    model: int | None = LLAMA.llama_model_load_from_file(
        str(file).encode(), LLAMA.llama_model_default_params()
    )
    if not model:
        raise RuntimeError(_why("it cannot be loaded"))
    return model


def _room(others: Mapping[int, int], texts: int, tokens: int) -> _Parameters:
    """Parameters of a context: others by their places, and room for texts of so many tokens at once."""
    parameters: _Parameters = LLAMA.llama_context_default_params()
    cells = texts * CELLS * -(-tokens // CELLS)
    sizes = (cells, texts * tokens, min(TOKENS_AT_ONCE, texts * tokens), texts)
    for place, value in {**dict(zip(SIZES, sizes, strict=True)), **others}.items():
        parameters.words[place] = value
    return parameters


def _why(otherwise: str) -> str:
    """The first error in the log, which is told once; those behind it follow from it."""
    reason = _said[0] if _said else otherwise
    _said.clear()
    return reason

